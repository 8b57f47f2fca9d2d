//! The recipe of an image: the steps from Debian packages and our binaries to a disk, in order.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use disk::layout;
use disk::mbr::SECTOR_LEN;
use disk::slot::{BLOCK_LEN, Slot, Verity};

use crate::ImageArgs;
use crate::board::{Board, Disk};
use crate::root_tree::Ingredients;
use crate::sbom;
use crate::show::{mib, step};
use crate::slot_files::SlotFiles;
use crate::sources::Sources;
use crate::tools::{self, program, run, tool};
use crate::{archive, boot_files, owner, release, root_tree};

/// Builds our programs for an architecture and leaves them in the folder below.
const CROSS: &str = "cross/build.sh";
const BUILT: &str = "build/bin";
const APPLETS: &str = "image/busybox-applets.txt";
const IMAGE: &str = "disk.img";
const DATA: &str = "data.img";
const BUSYBOX_ARCHIVE: &str = "busybox.tar";
/// Kernel, initramfs and root of a slot together: what an update has to carry.
const SLOT_MAX: u64 = 64 * 1024 * 1024;
const COPY_LEN: usize = 1024 * 1024;

/// Where an image lies after [`build`].
pub(crate) fn image_path(dir: &Path) -> PathBuf {
    dir.join(IMAGE)
}

/// Our own programs for the board.
pub(crate) struct Programs {
    pub(crate) binary: PathBuf,
    pub(crate) stage1: PathBuf,
}

/// Builds the disk image of a board.
pub(crate) fn build(args: &ImageArgs) -> Result<()> {
    tools::check(tools::IMAGE)?;
    let root = &args.place.root;
    let board = args.place.read_board()?;
    let image = root_tree::config(&board, 0);
    let settings = args.settings.as_deref().map(|path| owner::read(path, &image)).transpose()?;
    let dir = args.place.dir();
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let epoch = epoch(root)?;
    println!("Image for {} ({}), dated {epoch}", board.id, board.name);
    let programs = programs(args, &board)?;
    let cache = args.place.out.join("debian");
    let cache = cache.join(format!("{}-{}", board.debian.suite, board.debian_arch));
    let sources = Sources::fetch(&board, root, &cache, &dir.join("packages"), args.update_lock)?;
    let (first, second) = root_tree::orders(&board, &sources.modules())?;

    let doing = step("make the initramfs");
    let initrd = root_tree::initramfs(&programs.stage1, &sources.modules(), &first)?;
    let initrd = compress(&initrd, &dir.join("initramfs.cpio"), epoch)?;
    doing.done(format!("{}, {} modules", mib(initrd.len() as u64), first.len()));

    let doing = step("make the root");
    let data_image = data(&dir, &board.disk, epoch)?;
    fill_root(&dir, root, &board, &programs, &sources, &second, epoch)?;
    release::write(&dir.join("root"), root, &args.place.name(), epoch, &args.release)?;
    let slot = SlotFiles::of(&dir);
    let verity = verified_root(&dir.join("root"), &slot.root, &board.disk, epoch)?;
    let root_len = fs::metadata(&slot.root)?.len();
    doing.done(format!("{}, {} modules", mib(root_len), second.len()));

    let doing = step("make the boot partition");
    slot.build(&board, &sources, &initrd, &verity, epoch)?;
    let (boot, boot_image) = (dir.join("boot"), dir.join("boot.img"));
    boot_files::build(&boot, root, &board, &sources, &slot, &verity, epoch)?;
    boot_files::file_system(&boot_image, &boot, &board, board.disk.sizes().boot, epoch)?;
    doing.done(format!("kernel {}", mib(slot.kernel_len()?)));

    let doing = step("put the disk together");
    let path = image_path(&dir);
    let parts = [
        (layout::BOOT, &boot_image),
        (layout::root(Slot::A), &slot.root),
        (layout::DATA, &data_image),
    ];
    assemble(&path, &board.disk, &parts)?;
    if let Some(text) = settings {
        owner::replace(&path, &text)?;
    }
    let slot_len = slot.len()?;
    ensure!(slot_len <= SLOT_MAX, "a slot of {} is larger than {}", mib(slot_len), mib(SLOT_MAX));
    let size = mib(fs::metadata(&path)?.len());
    doing.done(format!("{}: {size}, a slot has {}", path.display(), mib(slot_len)));
    Ok(())
}

/// The root's folder, with the bill of materials in it and beside it.
fn fill_root(
    dir: &Path,
    root: &Path,
    board: &Board,
    programs: &Programs,
    sources: &Sources,
    order: &[String],
    epoch: u64,
) -> Result<()> {
    let images = [(BUSYBOX_ARCHIVE, busybox(board, root, sources, epoch)?)];
    let bill = sbom::build(&sbom::Parts {
        board,
        root,
        programs: [&programs.binary, &programs.stage1],
        packages: &sources.packages,
        epoch,
    })?;
    fs::write(dir.join(sbom::FILE), &bill.text)?;
    let parts = Ingredients {
        board,
        binary: &programs.binary,
        sources,
        data: &dir.join(DATA),
        images: &images,
        documents: &bill.files,
        order,
        epoch,
    };
    root_tree::build(&dir.join("root"), &parts)
}

/// The programs as given, or freshly built for the board.
pub(crate) fn programs(args: &ImageArgs, board: &Board) -> Result<Programs> {
    if let (Some(binary), Some(stage1)) = (args.binary.clone(), args.stage1.clone()) {
        for path in [&binary, &stage1] {
            ensure!(path.is_file(), "{} does not exist", path.display());
        }
        return Ok(Programs { binary, stage1 });
    }
    cross_build(&args.place.root, board)
}

/// Builds the programs from the sources at `root`.
pub(crate) fn cross_build(root: &Path, board: &Board) -> Result<Programs> {
    println!("==> build copepod for {}", board.cross);
    let status = program(root.join(CROSS))
        .arg(&board.cross)
        .status()
        .with_context(|| format!("start {CROSS}"))?;
    ensure!(status.success(), "{CROSS} {} ended with {status}", board.cross);
    let built = |name: &str| root.join(BUILT).join(format!("{name}-{}", board.cross));
    Ok(Programs { binary: built("copepod"), stage1: built("stage1") })
}

/// The date of everything in the image: as given, or that of the last commit.
pub(crate) fn epoch(root: &Path) -> Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}"));
    }
    let mut git = tool("git", 0);
    git.env_remove("SOURCE_DATE_EPOCH").arg("-C").arg(root).args(["log", "-1", "--format=%ct"]);
    if let Some(date) = run(&mut git).ok().and_then(|text| text.trim().parse().ok()) {
        return Ok(date);
    }
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn busybox(board: &Board, root: &Path, sources: &Sources, epoch: u64) -> Result<Vec<u8>> {
    let path = sources.busybox()?;
    let binary = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let applets =
        fs::read_to_string(root.join(APPLETS)).with_context(|| format!("read {APPLETS}"))?;
    let applets: Vec<&str> = applets.lines().collect();
    // Debian's and Go's names of these architectures differ for 32 bits only.
    let arch = if board.debian_arch == "armhf" { "arm" } else { board.debian_arch.as_str() };
    archive::busybox(&binary, &applets, arch, epoch)
}

fn compress(bytes: &[u8], path: &Path, epoch: u64) -> Result<Vec<u8>> {
    fs::write(path, bytes)?;
    let target = path.with_extension("zst");
    run(tool("zstd", epoch).args(["-q", "-f", "-19", "-T1"]).arg(path).arg("-o").arg(&target))?;
    Ok(fs::read(&target)?)
}

/// Packs the tree as squashfs with its hash tree behind it.
pub(crate) fn verified_root(tree: &Path, image: &Path, disk: &Disk, epoch: u64) -> Result<Verity> {
    let _ = fs::remove_file(image);
    let mut squash = tool("mksquashfs", epoch);
    squash.arg(tree).arg(image).args([
        "-noappend",
        "-quiet",
        "-no-progress",
        "-all-root",
        "-no-xattrs",
        "-comp",
        "zstd",
    ]);
    run(squash.args(["-Xcompression-level", "19"]))?;
    let file = File::options().write(true).open(image)?;
    let blocks = file.metadata()?.len().div_ceil(BLOCK_LEN);
    file.set_len(blocks * BLOCK_LEN)?;
    let mut veritysetup = tool("veritysetup", epoch);
    veritysetup.args([
        "format",
        "--no-superblock",
        "--data-block-size=4096",
        "--hash-block-size=4096",
        "--hash=sha256",
    ]);
    veritysetup
        .arg(format!("--data-blocks={blocks}"))
        .arg(format!("--hash-offset={}", blocks * BLOCK_LEN));
    let text = run(veritysetup.arg(format!("--salt={}", disk.salt)).arg(image).arg(image))?;
    let root_hash = text.lines().find_map(|line| line.strip_prefix("Root hash:"));
    let root_hash = root_hash.context("veritysetup printed no root hash")?.trim().to_owned();
    let verity =
        Verity { data_blocks: blocks, hash_start: blocks, root_hash, salt: disk.salt.clone() };
    // Read it the way the board will.
    Ok(verity.to_string().parse()?)
}

/// The empty file system of the data partition.
fn data(dir: &Path, disk: &Disk, epoch: u64) -> Result<PathBuf> {
    let image = dir.join(DATA);
    let _ = fs::remove_file(&image);
    let mut mke2fs = tool("mke2fs", epoch);
    mke2fs.args(["-q", "-t", "ext4", "-L", "copepod-data", "-m", "1", "-U", &disk.data_uuid]);
    mke2fs.arg("-E").arg(format!(
        "hash_seed={},lazy_itable_init=1,nodiscard,root_owner=0:0",
        disk.data_hash_seed
    ));
    run(mke2fs.arg(&image).arg(format!("{}M", disk.sizes().data)))?;
    Ok(image)
}

/// Writes the partition table and copies the partitions; what is empty stays a hole.
fn assemble(path: &Path, disk: &Disk, parts: &[(usize, &PathBuf)]) -> Result<()> {
    let table = disk.sizes().table(disk.id()?)?;
    let _ = fs::remove_file(path);
    let mut image = File::create(path)?;
    image.set_len(disk.sizes().total() * 1024 * 1024)?;
    image.write_all(&table.encode()?)?;
    for (number, source) in parts {
        let partition = table.partitions.get(number - 1).copied().flatten();
        let partition = partition.with_context(|| format!("there is no partition {number}"))?;
        let length = fs::metadata(source)?.len();
        let room = u64::from(partition.sectors) * SECTOR_LEN as u64;
        ensure!(
            length <= room,
            "{} has {}, its partition {}",
            source.display(),
            mib(length),
            mib(room)
        );
        image.seek(SeekFrom::Start(u64::from(partition.start) * SECTOR_LEN as u64))?;
        copy_sparse(source, &mut image)?;
    }
    Ok(())
}

/// Copies a file to where `target` stands and leaves holes for blocks of zeros.
pub(crate) fn copy_sparse(source: &Path, target: &mut File) -> Result<()> {
    let mut source = File::open(source).with_context(|| format!("open {}", source.display()))?;
    let mut buffer = vec![0; COPY_LEN];
    loop {
        let read = source.read(&mut buffer)?;
        let bytes = &buffer[..read];
        if read == 0 {
            return Ok(());
        }
        if bytes.iter().all(|byte| *byte == 0) {
            target.seek(SeekFrom::Current(i64::try_from(read)?))?;
        } else {
            target.write_all(bytes)?;
        }
    }
}
