//! The boot partition: firmware, boot loader and its script, slot state, owner's settings, and a folder per slot.
//!
//! A board either has U-Boot, which runs the script, or its firmware loads the kernel of the slot that config.txt names
//! (and once, when asked to, of the one in tryboot.txt).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use disk::environment;
use disk::slot::{Slot, Verity, kernel_arguments};
use disk::state::{FILES, State};

use crate::board::{Board, Uboot};
use crate::owner;
use crate::slot_files::SlotFiles;
use crate::sources::Sources;
use crate::tools::{run, tool};

const SCRIPT: &str = "image/boot.cmd";
/// U-Boot's own variables and the size it is compiled for.
const ENVIRONMENT: &str = "uboot.env";
const ENVIRONMENT_LEN: usize = 0x4000;
/// What the firmware reads at each start, and at one that was asked for; the latter tells the board that the firmware takes
/// the slot, not U-Boot.
const CONFIG: [(Slot, &str); 2] = [(Slot::A, "config.txt"), (Slot::B, "tryboot.txt")];
const ARGUMENTS: &str = "cmdline.txt";
/// Text of `copepod.yaml` on the boot partition, for its owner to fill in.
const OWNER_FILE: &str = "# Settings of this board; they come before the image's. Remove the # to use one.\n\
    #hostname: kitchen\n#role: agent\n#server: https://192.168.1.10:6443\n#token: K10...\n#labels: {room: kitchen}\n\
    #network: {address: 192.168.1.20/24, gateway: 192.168.1.1}\n";

/// Fills the board's facts into the boot script.
fn script(template: &str, disk: u32, uboot: &Uboot) -> Result<String> {
    let words = [
        ("@SCRATCH@", &uboot.scratch),
        ("@UNPACK@", &uboot.unpack),
        ("@KERNEL@", &uboot.kernel),
        ("@INITRD@", &uboot.initrd),
        ("@FDT@", &uboot.fdt),
        ("@BOOT@", &uboot.boot),
        ("@DISK@", &format!("{disk:08x}")),
    ];
    let text =
        words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(word, value));
    ensure!(!text.contains('@'), "a word between @ signs in {SCRIPT} has no value");
    Ok(text)
}

/// Makes the files of the boot partition in `dir`: common ones and those of slot a. Slot b stays empty.
pub(crate) fn build(
    dir: &Path,
    root: &Path,
    board: &Board,
    sources: &Sources,
    slot: &SlotFiles,
    verity: &Verity,
    epoch: u64,
) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    for slot in Slot::ALL {
        fs::create_dir_all(dir.join(slot.name()))?;
    }
    copy_folder(&slot.boot, &dir.join(Slot::A.name()))?;
    for (name, place) in &board.boot.files {
        fs::copy(sources.file(place)?, dir.join(name)).with_context(|| format!("make {name}"))?;
    }
    match &board.uboot {
        Some(uboot) => uboot_files(dir, root, board, uboot, sources, epoch)?,
        None => firmware_files(dir, board, verity)?,
    }
    fs::write(dir.join(owner::NAME), OWNER_FILE)?;
    Ok(())
}

fn uboot_files(
    dir: &Path,
    root: &Path,
    board: &Board,
    uboot: &Uboot,
    sources: &Sources,
    epoch: u64,
) -> Result<()> {
    let template = root.join(SCRIPT);
    let template =
        fs::read_to_string(&template).with_context(|| format!("read {}", template.display()))?;
    let source = dir.with_extension("cmd");
    fs::write(&source, script(&template, board.disk.id()?, uboot)?)?;
    let mut mkimage = tool("mkimage", epoch);
    mkimage.args(["-A", &uboot.arch, "-T", "script", "-C", "none", "-n", "copepod", "-d"]);
    run(mkimage.arg(&source).arg(dir.join("boot.scr")))?;
    for name in FILES {
        fs::write(dir.join(name), State::default().encode()?)?;
    }
    let variables: Vec<(&str, &str)> =
        uboot.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    if !variables.is_empty() {
        fs::write(dir.join(ENVIRONMENT), environment::encode(&variables, ENVIRONMENT_LEN)?)?;
    }
    for name in &board.boot.device_trees {
        fs::copy(sources.device_tree(name)?, dir.join(format!("{name}.dtb")))?;
    }
    if !board.boot.config.is_empty() {
        fs::write(dir.join(CONFIG[0].1), config_text(board, None))?;
    }
    Ok(())
}

fn firmware_files(dir: &Path, board: &Board, verity: &Verity) -> Result<()> {
    for (slot, name) in CONFIG {
        fs::write(dir.join(name), config_text(board, Some(slot)))?;
    }
    let arguments = kernel_arguments(Slot::A, board.disk.id()?, verity, &board.kernel.args);
    fs::write(dir.join(Slot::A.name()).join(ARGUMENTS), arguments + "\n")?;
    Ok(())
}

/// The firmware's settings; with a slot, those that make it load that slot's kernel.
fn config_text(board: &Board, slot: Option<Slot>) -> String {
    let lines = board.boot.config.values().flatten().cloned();
    lines.chain(slot.map(|slot| format!("os_prefix={slot}/"))).map(|line| line + "\n").collect()
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Puts the files into a FAT file system of `mib` MiB.
pub(crate) fn file_system(
    image: &Path,
    dir: &Path,
    board: &Board,
    mib: u64,
    epoch: u64,
) -> Result<()> {
    fs::File::create(image)?.set_len(mib * 1024 * 1024)?;
    let serial = format!("{:08x}", board.disk.id()?);
    run(tool("mkfs.vfat", epoch)
        .args(["-F", "32", "-n", "COPEPOD", "--invariant", "-i", &serial])
        .arg(image))?;
    let mut files: Vec<PathBuf> = Vec::new();
    collect(dir, &mut files)?;
    touch(&files, epoch)?;
    let top: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    let mut top = top;
    top.sort();
    run(tool("mcopy", epoch).args(["-s", "-m", "-i"]).arg(image).args(top).arg("::"))?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files)?;
        }
        files.push(entry.path());
    }
    Ok(())
}

/// Sets the date of all files, so that it is the same in every build.
fn touch(files: &[PathBuf], epoch: u64) -> Result<()> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch);
    for file in files {
        fs::File::open(file)?.set_modified(time)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn the_boot_script_gets_all_its_words() {
        let board = Board::read(&root(), "qemu-arm64").unwrap();
        let template = fs::read_to_string(root().join(SCRIPT)).unwrap();
        let uboot = board.uboot.as_ref().unwrap();
        let text = script(&template, board.disk.id().unwrap(), uboot).unwrap();
        assert!(text.contains("copepod.disk=434f5044"));
        assert!(text.contains("booti 0x50000000 0x58000000:${filesize} ${fdtcontroladdr}"));
        assert!(script("x @OTHER@", 1, uboot).is_err());
    }

    #[test]
    fn firmware_that_loads_the_kernel_is_told_the_slot() {
        let board = Board::read(&root(), "rpi5").unwrap();
        let text = config_text(&board, Some(Slot::B));
        assert!(text.contains("kernel=kernel\n") && text.ends_with("os_prefix=b/\n"), "{text}");
    }

    /// U-Boot's commands as a shell's functions: the state's files are assignments, writing fails where `readonly` is.
    const COMMANDS: &str = r#"
        setenv() { _name=$1; shift; eval "$_name=\$*"; }
        setexpr() { eval "$1=$(($2 $3 $4))"; }
        load() { _loaded=$4; filesize=1; test -f "$4"; }
        env() {
          case "$1 $2" in
            "import -c") . ./$_loaded ;;
            "export -c") printf 'order="%s"\na_left=%s\nb_left=%s\ngood=%s\n' "$order" $a_left $b_left $good >exported ;;
          esac
        }
        fatwrite() { test ! -e readonly && cp exported $4; }
        booti() { echo "starts $slot"; exit; }
        reset() { echo resets; exit; }
        devtype=virtio devnum=0 distro_bootpart=1
    "#;

    /// What the script does with a state, and the state it leaves.
    fn take_slot(state: &str, is_readonly: bool) -> (String, String) {
        let board = Board::read(&root(), "qemu-arm64").unwrap();
        let template = fs::read_to_string(root().join(SCRIPT)).unwrap();
        let text = script(&template, 1, board.uboot.as_ref().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for slot in ["a", "b"] {
            fs::create_dir(folder.path().join(slot)).unwrap();
            for name in ["kernel", "initrd"] {
                fs::write(folder.path().join(slot).join(name), "").unwrap();
            }
        }
        let words: Vec<&str> = state.split(' ').collect();
        if let [first, second, a_left, b_left, good] = words[..] {
            let text = format!(
                "order=\"{first} {second}\"\na_left={a_left}\nb_left={b_left}\ngood={}\n",
                good.trim_matches('-')
            );
            fs::write(folder.path().join("st0.env"), text).unwrap();
        }
        if is_readonly {
            fs::write(folder.path().join("readonly"), "").unwrap();
        }
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("{COMMANDS}\n{text}")])
            .current_dir(&folder)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let last = said.lines().last().unwrap_or_default().to_owned();
        let left = fs::read_to_string(folder.path().join("st0.env")).unwrap_or_default();
        let values = left.lines().filter_map(|line| line.split_once('=')).map(|(_, value)| value);
        (last, values.collect::<Vec<_>>().join(" ").replace('"', "").trim_end().to_owned())
    }

    #[test]
    fn the_boot_script_takes_the_slot_that_has_starts_left() {
        // Order, starts of a and b, confirmed slot; whether the card takes no writes; what happens; what is stored.
        let table = [
            ("a b 3 3 -", false, "starts a", "a b 2 3"),
            ("b a 3 3 a", false, "starts b", "b a 3 2 a"),
            ("b a 3 0 a", false, "starts a", "b a 2 0 a"),
            ("b a 0 0 b", false, "resets", "b a 3 3 b"),
            ("b a 3 1 b", false, "starts b", "b a 3 0 b"),
            ("", false, "starts a", "a b 2 3"),
            // Else the trial would never end.
            ("b a 3 3 a", true, "starts a", "b a 3 3 a"),
            ("b a 0 0 -", true, "starts a", "b a 0 0"),
            ("b a 3 3 -", true, "starts b", "b a 3 3"),
        ];
        for (state, is_readonly, said, left) in table {
            let found = take_slot(state, is_readonly);
            assert_eq!(found, (said.to_owned(), left.to_owned()), "{state}, {is_readonly}");
        }
    }

    #[test]
    fn both_boot_loaders_give_the_kernel_the_same_words() {
        let verity = format!("1,1,{},00", "0".repeat(64)).parse().unwrap();
        let text = kernel_arguments(Slot::A, 1, &verity, "console=ttyS1");
        let template = fs::read_to_string(root().join(SCRIPT)).unwrap();
        let line = template.lines().find(|line| line.contains("setenv bootargs")).unwrap();
        let names = |text: &str| -> Vec<String> {
            let words = text.split_whitespace().map(|word| word.trim_matches('"'));
            let named = words.filter_map(|word| word.split_once('='));
            // The Pi's firmware does not say what it started from.
            let of_one = ["console", "copepod.medium"];
            named
                .filter(|(name, _)| !of_one.contains(name))
                .map(|(name, _)| name.to_owned())
                .collect()
        };
        assert_eq!(names(&text), names(line));
    }
}
