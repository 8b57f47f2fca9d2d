//! Debian's tools: checked before the first is used, run with their output shown only when they fail.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Tool and the Debian package that has it.
pub(crate) const IMAGE: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("depmod", "kmod"),
    ("mcopy", "mtools"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mkimage", "u-boot-tools"),
    ("mksquashfs", "squashfs-tools"),
    ("readelf", "binutils"),
    ("veritysetup", "cryptsetup-bin"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

const SEARCH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where a tool is: those of the administrator count even when PATH lacks their folders.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    SEARCH.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// Says all at once which packages are missing.
pub(crate) fn check(tools: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&(&str, &str)> =
        tools.iter().filter(|(name, _)| find(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    bail!(
        "these tools are missing: {}\ninstall them with: apt-get install {}",
        names.join(" "),
        packages.join(" ")
    )
}

/// A program that ends when this one does, however that comes, and has none of its descriptors.
///
/// It is killed when the thread that starts it ends.
pub(crate) fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    sys::spawn::tie_to_caller(&mut command);
    command
}

/// A command for a tool, with the date that makes its output reproducible.
pub(crate) fn tool(name: &str, epoch: u64) -> Command {
    let mut command = program(find(name).unwrap_or_else(|| PathBuf::from(name)));
    command
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .env("E2FSPROGS_FAKE_TIME", epoch.to_string());
    command.env("MTOOLS_SKIP_CHECK", "1").env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// Runs it to its end and returns what it printed; a failure shows both of its outputs.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let arguments = command.get_args().map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    bail!(
        "{name} {arguments}\nended with {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
}
