//! The owner's settings, `copepod.yaml`, on the boot partition of a disk or image.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use disk::layout;
use disk::mbr::{KIND_FAT32, Mbr, SECTOR_LEN};

use crate::tools::{run, tool};

pub(crate) const NAME: &str = "copepod.yaml";
/// Longer files are not read by the board either.
const LENGTH_MAX: u64 = 64 * 1024;

/// What an image can be that nothing is known of.
pub(crate) const ANY_IMAGE: &str = "parts: [ssh, wifi]\n";

/// The text of a settings file that has no mistake a board with the image's settings `image` would report.
pub(crate) fn read(path: &Path, image: &str) -> Result<String> {
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("open the settings {}", path.display()))?;
    file.take(LENGTH_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("read the settings {}", path.display()))?;
    ensure!(
        text.len() as u64 <= LENGTH_MAX,
        "the settings {} are longer than {LENGTH_MAX} bytes",
        path.display()
    );
    let mistakes = init::check_settings(&text, image);
    if !mistakes.is_empty() {
        bail!("the settings {} are wrong:\n  {}", path.display(), mistakes.join("\n  "));
    }
    Ok(text)
}

/// Puts `text` in place of the settings on the boot partition of a disk.
pub(crate) fn replace(disk: &Path, text: &str) -> Result<()> {
    replace_file(disk, NAME, text)
}

/// Puts `text` in place of a file on the boot partition of a disk.
pub(crate) fn replace_file(disk: &Path, name: &str, text: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), text)?;
    let image = boot_partition(disk)?;
    run(tool("mcopy", 0).args(["-o", "-i", &image]).arg(file.path()).arg(format!("::{name}")))?;
    Ok(())
}

/// The boot partition as mtools name it: the disk and an offset into it.
pub(crate) fn boot_partition(disk: &Path) -> Result<String> {
    let mut sector = [0; SECTOR_LEN];
    let mut file = File::open(disk).with_context(|| format!("open {}", disk.display()))?;
    file.read_exact(&mut sector).with_context(|| format!("read {}", disk.display()))?;
    let table = Mbr::decode(&sector).with_context(|| format!("read {}", disk.display()))?;
    let boot = table.partitions.get(layout::BOOT - 1).copied().flatten();
    let boot = boot.filter(|boot| boot.kind == KIND_FAT32);
    let boot = boot.with_context(|| format!("{} has no boot partition", disk.display()))?;
    Ok(format!("{}@@{}", disk.display(), u64::from(boot.start) * SECTOR_LEN as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let rows = [
            ("hostname: kitchen\nrole: server\n", None),
            ("", None),
            ("hostname: kitchen\nrole: king\n", Some("copepod.yaml:2:7: role")),
            ("hostname: [\n", Some("copepod.yaml:1:11: hostname")),
            ("hostname: Not_A_Name\n", Some("Not_A_Name")),
        ];
        for (text, mistake) in rows {
            fs::write(&path, text).unwrap();
            match (read(&path, ""), mistake) {
                (Ok(read), None) => assert_eq!(read, text),
                (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
                (result, _) => panic!("{text:?}: {result:?}"),
            }
        }
        fs::write(&path, "#".repeat(70_000)).unwrap();
        assert!(read(&path, "").unwrap_err().to_string().contains("longer than"));
    }
}
