//! `mkimage reproduce`: builds an image twice under different circumstances and says what differs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use disk::layout;
use disk::mbr::{Mbr, SECTOR_LEN};
use disk::slot::Slot;

use crate::board::Board;
use crate::card::CHUNK_LEN;
use crate::recipe::{self, Programs, image_path};
use crate::show::{mib, seconds, step};
use crate::tools::{program, run, tool};
use crate::{ImageArgs, Place, ReproduceArgs, sbom};

/// Where the second image and the second programs are made; below the first ones' place.
const AGAIN: &str = "reproduce";
/// Folders that file systems of an image are made from, by partition, and whether those keep modes (FAT does not).
const FOLDERS: [(usize, &str, bool); 2] = [(layout::BOOT, "boot", false), (2, "root", true)];
/// More lines help nobody.
const DIFFERENCES_MAX: usize = 20;

pub(crate) fn check(args: &ReproduceArgs) -> Result<()> {
    let image = &args.image;
    let board = image.place.read_board()?;
    let programs = recipe::programs(image, &board)?;
    let mut differences = Vec::new();
    if args.programs {
        differences.extend(compare_programs(image, &board, &programs)?);
    }
    let (first, second) = (image.place.dir(), again(image, &programs)?);
    recipe::build(&ImageArgs {
        binary: Some(programs.binary.clone()),
        stage1: Some(programs.stage1.clone()),
        ..image.clone()
    })?;
    let doing = step("compare the two images");
    differences.extend(compare_images(&first, &second)?);
    ensure!(
        differences.is_empty(),
        "two builds of {} differ:\n  {}",
        board.id,
        differences.join("\n  ")
    );
    let what = if args.programs { "programs, image" } else { "image" };
    doing.done(format!("{what} and bill of materials are the same to the byte"));
    fs::remove_dir_all(image.place.out.join(AGAIN))?;
    Ok(())
}

/// Builds the image in another folder, time zone, language and file mode, from the same packages and programs.
fn again(image: &ImageArgs, programs: &Programs) -> Result<PathBuf> {
    let out = image.place.out.join(AGAIN);
    share_packages(&image.place.out.join("debian"), &out.join("debian"))?;
    let began = std::time::Instant::now();
    println!("==> build the image a second time, in {}", out.display());
    let mut command = program("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(std::env::current_exe()?);
    let Place { board, variant, .. } = &image.place;
    command.args(["image", "--board", board, "--variant", variant]);
    command.arg("--root").arg(&image.place.root).arg("--out").arg(&out);
    command.arg("--binary").arg(&programs.binary).arg("--stage1").arg(&programs.stage1);
    command.env("TZ", "Pacific/Chatham").env("LC_ALL", "tr_TR.UTF-8").env("LANG", "tr_TR.UTF-8");
    run(&mut command)?;
    println!("    done ({})", seconds(began.elapsed()));
    Ok(Place { out, ..image.place.clone() }.dir())
}

/// The second build takes the package files of the first, as a machine with the same mirror would.
fn share_packages(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    for arch in folder(from)? {
        let packages = from.join(&arch).join("packages");
        if !packages.is_dir() {
            continue;
        }
        let target = to.join(&arch).join("packages");
        fs::create_dir_all(&target)?;
        for name in folder(&packages)? {
            let file = target.join(&name);
            if !file.exists() && packages.join(&name).is_file() {
                fs::copy(packages.join(&name), file)?;
            }
        }
    }
    Ok(())
}

/// Builds the programs from a fresh clone of the last commit, in a folder of its own, and compares them.
fn compare_programs(image: &ImageArgs, board: &Board, first: &Programs) -> Result<Vec<String>> {
    let root = fs::canonicalize(&image.place.root)?;
    let changed = run(tool("git", 0).arg("-C").arg(&root).args(["status", "--porcelain", "-uno"]))?;
    ensure!(
        changed.is_empty(),
        "the programs of a commit are compared; commit this first:\n{changed}"
    );
    fs::create_dir_all(image.place.out.join(AGAIN))?;
    let clone = fs::canonicalize(image.place.out.join(AGAIN))?.join("source");
    if clone.exists() {
        fs::remove_dir_all(&clone)?;
    }
    println!("==> build the programs a second time, in {}", clone.display());
    run(tool("git", 0).args(["clone", "--quiet"]).arg(&root).arg(&clone))?;
    // The tools of `make setup`.
    symlink(root.join(".venv"), clone.join(".venv"))?;
    let second = recipe::cross_build(&clone, board)?;
    let pairs = [(&first.binary, &second.binary), (&first.stage1, &second.stage1)];
    let mut found = Vec::new();
    for (one, two) in pairs {
        found.extend(
            first_difference(one, two)?.map(|at| format!("{}: from byte {at}", one.display())),
        );
    }
    Ok(found)
}

/// What differs between the images in two folders, by partition and by file.
fn compare_images(one: &Path, two: &Path) -> Result<Vec<String>> {
    let images = [image_path(one), image_path(two)];
    let [first, second] = &images;
    let mut sector = [0; SECTOR_LEN];
    File::open(first)?.read_exact_at(&mut sector, 0)?;
    let table = Mbr::decode(&sector).with_context(|| format!("read {}", first.display()))?;
    let mut found = Vec::new();
    for (number, offset) in differing_partitions(first, second, &table)? {
        found.push(format!("{}: from byte {offset} of the image", region(number)));
        let folder = FOLDERS.iter().find(|(partition, ..)| Some(*partition) == number);
        if let Some((_, folder, modes)) = folder {
            found.extend(differing_files(&one.join(folder), &two.join(folder), *modes)?);
        }
    }
    if first_difference(&one.join(sbom::FILE), &two.join(sbom::FILE))?.is_some() {
        found.push(sbom::FILE.to_owned());
    }
    found.truncate(DIFFERENCES_MAX);
    Ok(found)
}

/// Partition (none: outside of all) and place of the first difference in each.
fn differing_partitions(one: &Path, two: &Path, table: &Mbr) -> Result<Vec<(Option<usize>, u64)>> {
    let lengths = [fs::metadata(one)?.len(), fs::metadata(two)?.len()];
    if lengths[0] != lengths[1] {
        bail!("one image has {}, the other {}", mib(lengths[0]), mib(lengths[1]));
    }
    let (files, mut chunks) =
        ([File::open(one)?, File::open(two)?], [vec![0; CHUNK_LEN], vec![0; CHUNK_LEN]]);
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for start in (0..lengths[0]).step_by(CHUNK_LEN) {
        let length = usize::try_from(lengths[0] - start)?.min(CHUNK_LEN);
        for (file, chunk) in files.iter().zip(&mut chunks) {
            chunk.resize(length, 0);
            file.read_exact_at(chunk, start)?;
        }
        let [a, b] = &chunks;
        if let Some(at) = a.iter().zip(b).position(|(a, b)| a != b) {
            let offset = start + at as u64;
            let number = partition_at(table, offset);
            if seen.insert(number) {
                found.push((number, offset));
            }
        }
    }
    Ok(found)
}

fn partition_at(table: &Mbr, offset: u64) -> Option<usize> {
    let sector = offset / SECTOR_LEN as u64;
    let holds = |start: u32, sectors: u32| {
        (u64::from(start)..u64::from(start) + u64::from(sectors)).contains(&sector)
    };
    let found = table.partitions.iter().position(|p| p.is_some_and(|p| holds(p.start, p.sectors)));
    found.map(|index| index + 1)
}

fn region(number: Option<usize>) -> String {
    let name = match number {
        Some(layout::BOOT) => "boot",
        Some(layout::DATA) => "data",
        Some(number) if number == layout::root(Slot::A) => "root of slot a",
        Some(_) => "root of slot b",
        None => return "outside of the partitions".to_owned(),
    };
    format!("partition {} ({name})", number.unwrap_or_default())
}

/// Files that only one folder has, or whose content, mode or link target differs.
fn differing_files(one: &Path, two: &Path, modes: bool) -> Result<Vec<String>> {
    let mut names = BTreeSet::from([PathBuf::from(".")]);
    for dir in [one, two] {
        collect(dir, Path::new(""), &mut names)?;
    }
    let mut found = Vec::new();
    for name in names {
        if let Some(what) = differing(&one.join(&name), &two.join(&name), modes)? {
            found.push(format!("  {}: {what}", name.display()));
        }
    }
    Ok(found)
}

fn differing(one: &Path, two: &Path, modes: bool) -> Result<Option<&'static str>> {
    let (Ok(a), Ok(b)) = (fs::symlink_metadata(one), fs::symlink_metadata(two)) else {
        return Ok(Some("is in one image only"));
    };
    if a.file_type() != b.file_type() {
        return Ok(Some("is not of the same kind"));
    }
    if modes && a.permissions() != b.permissions() {
        return Ok(Some("has another mode"));
    }
    if a.is_symlink() {
        return Ok((fs::read_link(one)? != fs::read_link(two)?).then_some("leads elsewhere"));
    }
    let same = a.is_dir() || first_difference(one, two)?.is_none();
    Ok((!same).then_some("has another content"))
}

fn first_difference(one: &Path, two: &Path) -> Result<Option<usize>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let (a, b) = (read(one)?, read(two)?);
    let at = a.iter().zip(&b).position(|(a, b)| a != b);
    Ok(at.or((a.len() != b.len()).then_some(a.len().min(b.len()))))
}

fn collect(base: &Path, below: &Path, names: &mut BTreeSet<PathBuf>) -> Result<()> {
    let dir = base.join(below);
    if !dir.is_dir() {
        return Ok(());
    }
    for name in folder(&dir)? {
        let name = below.join(name);
        let is_folder = fs::symlink_metadata(base.join(&name))?.is_dir();
        names.insert(name.clone());
        if is_folder {
            collect(base, &name, names)?;
        }
    }
    Ok(())
}

fn folder(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::layout::Sizes;
    use std::os::unix::fs::PermissionsExt;

    const MIB: u64 = 1024 * 1024;

    /// The folder of a built image, as far as it is compared.
    fn built(dir: &Path) {
        for (_, folder, _) in FOLDERS {
            fs::create_dir_all(dir.join(folder).join("etc")).unwrap();
            fs::write(dir.join(folder).join("etc/file"), "text").unwrap();
        }
        symlink("etc", dir.join("root/link")).unwrap();
        fs::write(dir.join(sbom::FILE), "{}").unwrap();
        let image = File::create(image_path(dir)).unwrap();
        image.set_len(10 * MIB).unwrap();
        let table = Sizes { boot: 1, root: 2, data: 1 }.table(1).unwrap();
        image.write_all_at(&table.encode().unwrap(), 0).unwrap();
    }

    /// Changes one byte of the image.
    fn poke(dir: &Path, offset: u64) {
        let image = File::options().write(true).open(image_path(dir)).unwrap();
        image.write_all_at(&[1], offset).unwrap();
    }

    type Change = fn(&Path);

    #[test]
    fn a_difference_is_named_by_partition_and_file() {
        let rows: [(Change, &[&str]); 7] = [
            (|_| {}, &[]),
            (|dir| poke(dir, 600), &["outside of the partitions: from byte 600 of the image"]),
            (
                |dir| {
                    poke(dir, 4 * MIB + 7);
                    fs::write(dir.join("boot/etc/file"), "other").unwrap();
                },
                &[
                    "partition 1 (boot): from byte 4194311 of the image",
                    "  etc/file: has another content",
                ],
            ),
            (
                |dir| {
                    poke(dir, 6 * MIB);
                    let mode = fs::Permissions::from_mode(0o600);
                    fs::set_permissions(dir.join("root/etc/file"), mode).unwrap();
                    fs::write(dir.join("root/new"), "").unwrap();
                    fs::remove_file(dir.join("root/link")).unwrap();
                    symlink("other", dir.join("root/link")).unwrap();
                },
                &[
                    "partition 2 (root of slot a): from byte 6291456 of the image",
                    "  etc/file: has another mode",
                    "  link: leads elsewhere",
                    "  new: is in one image only",
                ],
            ),
            (
                |dir| poke(dir, 8 * MIB),
                &["partition 3 (root of slot b): from byte 8388608 of the image"],
            ),
            (
                |dir| poke(dir, 10 * MIB - 1),
                &["partition 4 (data): from byte 10485759 of the image"],
            ),
            (|dir| fs::write(dir.join(sbom::FILE), "{ }").unwrap(), &[sbom::FILE]),
        ];
        for (change, expected) in rows {
            let place = tempfile::tempdir().unwrap();
            let [one, two] = ["one", "two"].map(|name| place.path().join(name));
            built(&one);
            built(&two);
            change(&two);
            assert_eq!(compare_images(&one, &two).unwrap(), expected);
        }
    }
}
