//! `mkimage flash`: lists the cards of this machine, or writes an image to one after checking and asking.

use std::fs::{self, File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::fcntl::OFlag;

use crate::card::{self, Writing};
use crate::disks::{Disk, Host};
use crate::owner;
use crate::packed::{Content, Format};
use crate::recipe::image_path;
use crate::show::{mib, step};
use crate::tools;

#[derive(Args)]
pub(crate) struct FlashArgs {
    /// The board whose image is written.
    #[arg(long, required_unless_present_any = ["image", "list"])]
    board: Option<String>,
    /// Where images are built; `boards/<board>/disk.img` below it.
    #[arg(long, default_value = "build")]
    out: PathBuf,
    /// Write this image (.img, .img.xz, .img.zst) instead of the board's.
    #[arg(long)]
    image: Option<PathBuf>,
    /// The disk to write to, such as /dev/sdb, or an ordinary file; without it, cards are listed.
    #[arg(long)]
    dev: Option<PathBuf>,
    /// List all disks with what they are used for.
    #[arg(long)]
    list: bool,
    /// The copepod.yaml to put on the card.
    #[arg(long)]
    settings: Option<PathBuf>,
    /// Write to this disk although it is not removable; a disk in use is never written.
    #[arg(long, value_name = "DEV")]
    force: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// An image as it is to lie on the card.
struct Image {
    file: File,
    /// Holds what was unpacked or changed, while it is written.
    _copy: Option<tempfile::NamedTempFile>,
}

pub(crate) fn run(args: &FlashArgs) -> Result<()> {
    let host = Host::default();
    let Some(dev) = args.dev.as_deref().filter(|_| !args.list) else {
        return list(&host, args);
    };
    let settings = args.settings.as_deref();
    // Before anything long begins: what is wrong for every image.
    settings.map(|path| owner::read(path, owner::ANY_IMAGE)).transpose()?;
    let source = source(args);
    ensure!(
        source.is_file(),
        "{} does not exist; build it with: make image BOARD={}",
        source.display(),
        args.board.as_deref().unwrap_or("...")
    );
    let image = prepare(&source, args.settings.as_deref())?;
    let length = image.file.metadata()?.len();
    let (zero, table) =
        card::survey(&image.file).with_context(|| format!("{} is no image", source.display()))?;
    let works = card::plan(&zero, &table);
    let (target, card_bytes) = open(&host, dev, length, args)?;
    println!("==> write {} to {}", source.display(), dev.display());
    Writing { image: &image.file, card: &target, works: &works, card_bytes }
        .run()
        .with_context(|| format!("write {}", dev.display()))?;
    drop(target);
    println!("{}", next_steps(dev, settings.is_some()));
    Ok(())
}

fn source(args: &FlashArgs) -> PathBuf {
    match (&args.image, &args.board) {
        (Some(image), _) => image.clone(),
        (None, board) => {
            image_path(&args.out.join("boards").join(board.as_deref().unwrap_or_default()))
        }
    }
}

/// Unpacks the image and puts the settings on it, in a copy that only its owner can read: settings may hold a token.
///
/// The settings go into the copy and not onto the written card, so that they are read back and compared like the rest
/// and nothing else (a desktop that mounts cards by itself) can be in the way.
fn prepare(source: &Path, settings: Option<&Path>) -> Result<Image> {
    if Format::of(source).is_none() && settings.is_none() {
        let file = File::open(source).with_context(|| format!("open {}", source.display()))?;
        return Ok(Image { file, _copy: None });
    }
    let doing = step("prepare the image");
    let mut copy = tempfile::Builder::new().prefix("copepod-").suffix(".img").tempfile_in(
        // Beside the image: /tmp may be memory.
        source.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    )?;
    Content::open(source)?.copy_to(copy.as_file_mut())?;
    if let Some(path) = settings {
        tools::check(&[("mcopy", "mtools")])?;
        // Again: only now it is known what the image has.
        let text = owner::read(path, &owner::of_image(copy.path()))?;
        owner::replace(copy.path(), &text)?;
    }
    let file = File::open(copy.path())?;
    doing.done(mib(file.metadata()?.len()));
    Ok(Image { file, _copy: Some(copy) })
}

/// Opens what is to be written, once it may be and the person agrees; also says how long it is.
fn open(host: &Host, dev: &Path, needed: u64, args: &FlashArgs) -> Result<(File, u64)> {
    let kind = fs::metadata(dev).with_context(|| format!("find {}", dev.display()))?.file_type();
    if kind.is_file() {
        let file = OpenOptions::new().read(true).write(true).open(dev)?;
        file.set_len(needed)?;
        return Ok((file, needed));
    }
    ensure!(kind.is_block_device(), "{} is neither a disk nor an ordinary file", dev.display());
    let disk = host.disk_at(dev)?;
    let force = args.force.as_ref().map(|path| fs::canonicalize(path).unwrap_or(path.clone()));
    disk.check(needed, force.as_deref())?;
    if !args.yes {
        ask(&disk)?;
    }
    // The kernel refuses an exclusive opening while anything of the disk is in use, also what we cannot see.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_EXCL.bits())
        .open(&disk.path)
        .with_context(|| format!("open {} for writing (it takes root)", disk.path.display()))?;
    Ok((file, disk.bytes))
}

fn ask(disk: &Disk) -> Result<()> {
    ensure!(std::io::stdin().is_terminal(), "nobody is there to ask; add --yes to write {disk}");
    print!("{disk}\nEverything on this disk will be lost. Type yes to write to it: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(()) } else { bail!("not written") }
}

fn list(host: &Host, args: &FlashArgs) -> Result<()> {
    let disks = host.disks()?;
    let shown: Vec<&Disk> =
        disks.iter().filter(|disk| args.list || (disk.removable && disk.bytes > 0)).collect();
    for disk in &shown {
        println!("{disk}");
    }
    if shown.is_empty() {
        println!("There is no removable disk here. Put the card in, then try again.");
    }
    if !args.list {
        let board = args.board.as_deref().unwrap_or("...");
        println!("\nWrite to one with: make flash BOARD={board} DEV=/dev/...");
    }
    Ok(())
}

fn next_steps(dev: &Path, has_settings: bool) -> String {
    let settings = match has_settings {
        true => "The settings are on it.",
        false => {
            "To change settings first (name, role, network), edit copepod.yaml on its first partition."
        }
    };
    format!(
        "\n{} holds the image and was compared with it.\n{settings}\n\
         Put it into the board and switch the board on: the console shows its name and address.\n\
         With `kubeconfig: boot-partition` in copepod.yaml a server then puts its kubeconfig beside that file;\n\
         docs/flashing.md, \"The kubeconfig\", has the rest.",
        dev.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::layout::Sizes;
    use std::process::Command;

    const MIB: u64 = 1024 * 1024;

    fn args(dir: &Path) -> FlashArgs {
        FlashArgs {
            board: None,
            out: dir.to_owned(),
            image: Some(dir.join("disk.img")),
            dev: Some(dir.join("card")),
            list: false,
            settings: None,
            force: None,
            yes: false,
        }
    }

    /// An image with a FAT boot partition and a settings file.
    fn image(dir: &Path) {
        let path = dir.join("disk.img");
        let table = Sizes { boot: 40, root: 2, data: 2 }.table(7).unwrap();
        let mut file = File::create(&path).unwrap();
        file.set_len(50 * MIB).unwrap();
        file.write_all(&table.encode().unwrap()).unwrap();
        let made = Command::new("/usr/sbin/mkfs.vfat")
            .args(["-F", "32", "--offset", "8192"])
            .arg(&path)
            .arg("40960")
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        owner::replace(&path, "#nothing\n").unwrap();
    }

    fn settings_on(disk: &Path) -> String {
        let partition = owner::boot_partition(disk).unwrap();
        tools::run(tools::tool("mtype", 0).args(["-i", &partition, "::copepod.yaml"])).unwrap()
    }

    #[test]
    fn a_card_gets_the_image_with_the_owners_settings() {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        let settings = dir.path().join("mine.yaml");
        fs::write(&settings, "hostname: kitchen\n").unwrap();
        let card = dir.path().join("card");
        fs::write(&card, [7; 100]).unwrap();
        run(&FlashArgs { settings: Some(settings.clone()), ..args(dir.path()) }).unwrap();
        assert_eq!(settings_on(&card), "hostname: kitchen\n");
        assert_eq!(settings_on(&dir.path().join("disk.img")), "#nothing\n");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            3,
            "no copy with settings stays behind"
        );

        run(&args(dir.path())).unwrap();
        assert!(fs::read(&card).unwrap() == fs::read(dir.path().join("disk.img")).unwrap());
    }

    #[test]
    fn nothing_is_written_when_something_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        let wrong = dir.path().join("wrong.yaml");
        fs::write(&wrong, "rolle: agent\n").unwrap();
        let card = dir.path().join("card");
        fs::write(&card, "kept").unwrap();
        let base = || args(dir.path());
        let rows = [
            (FlashArgs { settings: Some(wrong.clone()), ..base() }, "rolle"),
            (FlashArgs { image: Some(wrong.clone()), ..base() }, "is no image"),
            (FlashArgs { image: Some(dir.path().join("none.img")), ..base() }, "make image"),
            (FlashArgs { dev: Some("/dev/null".into()), ..base() }, "neither a disk nor"),
            (FlashArgs { dev: Some(dir.path().join("none")), ..base() }, "find"),
        ];
        for (args, reason) in rows {
            let error = format!("{:#}", run(&args).unwrap_err());
            assert!(error.contains(reason), "{error}");
            assert_eq!(fs::read_to_string(&card).unwrap(), "kept");
        }
    }
}
