//! The owner's settings, `copepod.yaml`, on the boot partition of a disk or image.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use disk::layout;
use disk::mbr::{KIND_FAT32, Mbr, SECTOR_LEN};
use disk::slot::Slot;

use crate::tools::{run, tool};

pub(crate) const NAME: &str = "copepod.yaml";
/// Longer files are not read by the board either.
const LENGTH_MAX: u64 = 64 * 1024;

/// What an image can be that nothing is known of.
pub(crate) const ANY_IMAGE: &str = "parts: [ssh, wifi]\n";
/// The settings in an image's root.
const OF_IMAGE: &str = "etc/copepod/board.yaml";

/// The image's own settings, out of the root of its first slot; those of any image where that cannot be read.
pub(crate) fn of_image(disk: &Path) -> String {
    read_root(disk).unwrap_or_else(|_| ANY_IMAGE.to_owned())
}

fn read_root(disk: &Path) -> Result<String> {
    let root = table(disk)?.partitions.get(layout::root(Slot::A) - 1).copied().flatten();
    let offset = u64::from(root.context("no root")?.start) * SECTOR_LEN as u64;
    run(tool("unsquashfs", 0).args(["-o", &offset.to_string(), "-cat"]).arg(disk).arg(OF_IMAGE))
}

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
    let boot = table(disk)?.partitions.get(layout::BOOT - 1).copied().flatten();
    let boot = boot.filter(|boot| boot.kind == KIND_FAT32);
    let boot = boot.with_context(|| format!("{} has no boot partition", disk.display()))?;
    Ok(format!("{}@@{}", disk.display(), u64::from(boot.start) * SECTOR_LEN as u64))
}

fn table(disk: &Path) -> Result<Mbr> {
    let mut sector = [0; SECTOR_LEN];
    let mut file = File::open(disk).with_context(|| format!("open {}", disk.display()))?;
    file.read_exact(&mut sector).with_context(|| format!("read {}", disk.display()))?;
    Mbr::decode(&sector).with_context(|| format!("read {}", disk.display()))
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

    #[test]
    fn the_parts_of_an_image_are_read_from_it() {
        use disk::layout::Sizes;
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let (tree, packed) = (dir.path().join("tree"), dir.path().join("root"));
        fs::create_dir_all(tree.join("etc/copepod")).unwrap();
        let table = Sizes { boot: 1, root: 2, data: 2 }.table(7).unwrap();
        let start = table.partitions[layout::root(Slot::A) - 1].unwrap().start as usize;
        let disk = dir.path().join("disk.img");
        let write = |root: &[u8]| {
            let mut bytes = table.encode().unwrap().to_vec();
            bytes.resize(start * SECTOR_LEN, 0);
            bytes.extend(root);
            File::create(&disk).unwrap().write_all(&bytes).unwrap();
        };
        for parts in ["parts: []\n", "parts: [wifi]\n"] {
            fs::write(tree.join(OF_IMAGE), parts).unwrap();
            let _ = fs::remove_file(&packed);
            run(tool("mksquashfs", 0).arg(&tree).arg(&packed).arg("-quiet")).unwrap();
            write(&fs::read(&packed).unwrap());
            assert_eq!(of_image(&disk), parts);
        }
        write(&[]);
        assert_eq!(of_image(&disk), ANY_IMAGE);
    }
}
