//! The boot partition: boot script, slot state, and per slot kernel, initramfs and description.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use disk::slot::{Slot, Verity};
use disk::state::{FILES, State};

use crate::board::{Board, Compression};
use crate::owner;
use crate::tools::{run, tool};

const SCRIPT: &str = "image/boot.cmd";
/// Text of `copepod.yaml` on the boot partition, for its owner to fill in.
const OWNER_FILE: &str = "# Settings of this board; they come before the image's. Remove the # to use one.\n\
    #hostname: kitchen\n#role: agent\n#server: https://192.168.1.10:6443\n#token: K10...\n#labels: {room: kitchen}\n\
    #network: {address: 192.168.1.20/24, gateway: 192.168.1.1}\n";

/// Fills the board's facts into the boot script.
pub(crate) fn script(template: &str, board: &Board) -> Result<String> {
    let uboot = &board.uboot;
    let disk = format!("{:08x}", board.disk.id()?);
    let words = [
        ("@SCRATCH@", &uboot.scratch),
        ("@UNPACK@", &uboot.unpack),
        ("@KERNEL@", &uboot.kernel),
        ("@INITRD@", &uboot.initrd),
        ("@FDT@", &uboot.fdt),
        ("@BOOT@", &uboot.boot),
        ("@DISK@", &disk),
    ];
    let text =
        words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(word, value));
    ensure!(!text.contains('@'), "a word between @ signs in {SCRIPT} has no value");
    Ok(text)
}

/// What the boot script reads about a slot.
pub(crate) fn slot_description(board: &Board, verity: &Verity) -> String {
    format!("verity={verity}\nextra={}\n", board.kernel.args)
}

/// Makes the files of the boot partition in `dir`: common ones and those of slot a. Slot b stays empty.
pub(crate) fn build(
    dir: &Path,
    root: &Path,
    board: &Board,
    kernel: &Path,
    initrd: &[u8],
    verity: &Verity,
    epoch: u64,
) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    for slot in Slot::ALL {
        fs::create_dir_all(dir.join(slot.name()))?;
    }
    let template = root.join(SCRIPT);
    let template =
        fs::read_to_string(&template).with_context(|| format!("read {}", template.display()))?;
    let source = dir.with_extension("cmd");
    fs::write(&source, script(&template, board)?)?;
    let mut mkimage = tool("mkimage", epoch);
    mkimage.args(["-A", &board.uboot.arch, "-T", "script", "-C", "none", "-n", "copepod", "-d"]);
    run(mkimage.arg(&source).arg(dir.join("boot.scr")))?;
    for name in FILES {
        fs::write(dir.join(name), State::default().encode()?)?;
    }
    fs::write(dir.join(owner::NAME), OWNER_FILE)?;
    let slot = dir.join(Slot::A.name());
    fs::write(slot.join("initrd"), initrd)?;
    fs::write(slot.join("slot.env"), slot_description(board, verity))?;
    let target = slot.join("kernel");
    fs::copy(kernel, &target)?;
    if board.kernel.compression == Compression::Gzip {
        run(tool("gzip", epoch).args(["-n", "-9"]).arg(&target))?;
        fs::rename(target.with_extension("gz"), &target)?;
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

    #[test]
    fn the_boot_script_gets_all_its_words() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let board = Board::read(&root, "qemu-arm64").unwrap();
        let template = fs::read_to_string(root.join(SCRIPT)).unwrap();
        let text = script(&template, &board).unwrap();
        assert!(text.contains("copepod.disk=434f5044"));
        assert!(text.contains("booti 0x50000000 0x58000000:${filesize} ${fdtcontroladdr}"));
        assert!(script("x @OTHER@", &board).is_err());
    }
}
