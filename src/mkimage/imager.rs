//! Images for download, and the list of them that Raspberry Pi Imager reads (`rpi-imager --repo URL`).
//!
//! Fields and meanings are those of `os-list-schema.json` in Raspberry Pi Imager's sources.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use jiff::Timestamp;
use ring::digest::{Context as Hash, SHA256};
use serde::Serialize;

use crate::board::{self, Board};
use crate::packed::{Content, Format, pack};
use crate::recipe::{self, image_path};
use crate::release::ReleaseArgs;
use crate::show::{mib, step};
use crate::{ImageArgs, Place, sbom};

const FILE: &str = "os_list.json";
const NAME_START: &str = "copepod-";

#[derive(Args)]
pub(crate) struct ImagesArgs {
    /// Where the packed images go.
    #[arg(long, default_value = "build/images")]
    dir: PathBuf,
    /// How they are packed.
    #[arg(long, value_enum, default_value_t = Format::Xz)]
    compress: Format,
    /// Folder with programs that are built already, named as cross/build.sh names them; built when not given.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Only these boards.
    #[arg(long)]
    board: Vec<String>,
    /// Where images and all intermediate files go.
    #[arg(long, default_value = "build")]
    out: PathBuf,
    /// The project's root.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    #[command(flatten)]
    release: ReleaseArgs,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    /// The folder with packed images; the list is written into it.
    #[arg(long, default_value = "build/images")]
    dir: PathBuf,
    /// The address under which that folder can be downloaded.
    #[arg(long)]
    base_url: String,
    /// Address of the icon, or the name of one of Imager's own.
    #[arg(long, default_value = "icons/use_custom.png")]
    icon: String,
    /// The project's root.
    #[arg(long, default_value = ".")]
    root: PathBuf,
}

#[derive(Debug, Serialize)]
struct List {
    os_list: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    description: String,
    icon: String,
    url: String,
    extract_size: u64,
    extract_sha256: String,
    image_download_size: u64,
    image_download_sha256: String,
    release_date: String,
    /// Tags of the models; Imager shows the entry for these only.
    devices: Vec<String>,
    architecture: &'static str,
    /// Settings are ours, in copepod.yaml: Imager's own would change nothing.
    init_format: &'static str,
}

/// `mkimage images`: builds and packs the image of every board.
pub(crate) fn images(args: &ImagesArgs) -> Result<()> {
    fs::create_dir_all(&args.dir).with_context(|| format!("create {}", args.dir.display()))?;
    let boards = if args.board.is_empty() { board::ids(&args.root)? } else { args.board.clone() };
    for board in boards {
        let place = Place {
            board: board.clone(),
            variant: board::RELEASE.to_owned(),
            out: args.out.clone(),
            root: args.root.clone(),
        };
        let cross = place.read_board()?.cross;
        let built = |name: &str| Some(args.programs.as_ref()?.join(format!("{name}-{cross}")));
        let place_dir = place.dir();
        let image = image_path(&place_dir);
        recipe::build(&ImageArgs {
            place,
            binary: built("copepod"),
            stage1: built("stage1"),
            settings: None,
            update_lock: false,
            release: args.release.clone(),
        })?;
        let target = args.dir.join(file_name(&board, args.compress));
        let doing = step("pack the image");
        pack(&image, &target, args.compress)?;
        let bill = args.dir.join(format!("{NAME_START}{board}.{}", sbom::FILE));
        fs::copy(place_dir.join(sbom::FILE), bill)?;
        doing.done(format!("{}: {}", target.display(), mib(fs::metadata(&target)?.len())));
    }
    Ok(())
}

/// `mkimage imager-json`: lists the images of a folder whose boards are Raspberry Pis.
pub(crate) fn list(args: &ListArgs) -> Result<()> {
    ensure!(
        ["https://", "http://"].iter().any(|start| args.base_url.starts_with(start)),
        "--base-url {:?} is no http or https address",
        args.base_url
    );
    let mut os_list = Vec::new();
    for path in packed(&args.dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(id) = board_of(&name) else { continue };
        let board = Board::read(&args.root, id).with_context(|| path.display().to_string())?;
        if let Some(entry) = entry(args, &board, &path, &name)? {
            println!(
                "    {name}: {}, {} unpacked",
                mib(entry.image_download_size),
                mib(entry.extract_size)
            );
            os_list.push(entry);
        }
    }
    ensure!(!os_list.is_empty(), "{} holds no packed image of a Raspberry Pi", args.dir.display());
    let target = args.dir.join(FILE);
    let text = serde_json::to_string_pretty(&List { os_list })? + "\n";
    fs::write(&target, text).with_context(|| format!("write {}", target.display()))?;
    println!("{}; use it with: rpi-imager --repo {}", target.display(), url(&args.base_url, FILE));
    Ok(())
}

/// None for a board that Imager does not know.
fn entry(args: &ListArgs, board: &Board, path: &Path, name: &str) -> Result<Option<Entry>> {
    let Some(imager) = &board.imager else { return Ok(None) };
    let (download_size, download_sha256) = digest(Content::plain(path)?)?;
    let (extract_size, extract_sha256) = digest(Content::open(path)?)?;
    let epoch = i64::try_from(recipe::epoch(&args.root)?)?;
    Ok(Some(Entry {
        name: format!("Copepod for {}", board.name),
        description: imager.description.clone(),
        icon: args.icon.clone(),
        url: url(&args.base_url, name),
        extract_size,
        extract_sha256,
        image_download_size: download_size,
        image_download_sha256: download_sha256,
        release_date: Timestamp::from_second(epoch)?.strftime("%Y-%m-%d").to_string(),
        devices: imager.devices.clone(),
        architecture: if board.debian_arch == "armhf" { "armhf" } else { "armv8" },
        init_format: "none",
    }))
}

/// Length and SHA-256 of a content.
fn digest(content: Content) -> Result<(u64, String)> {
    let (mut length, mut hash) = (0, Hash::new(&SHA256));
    content.each(|chunk| {
        length += chunk.len() as u64;
        hash.update(chunk);
        Ok(())
    })?;
    Ok((length, hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// The packed images of a folder, in the order of their names.
fn packed(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| Format::of(path).is_some()).collect();
    paths.sort();
    Ok(paths)
}

fn file_name(board: &str, format: Format) -> String {
    format!("{NAME_START}{board}.img.{}", format.extension())
}

fn board_of(file_name: &str) -> Option<&str> {
    file_name.strip_prefix(NAME_START)?.split_once(".img.").map(|(board, _)| board)
}

fn url(base: &str, name: &str) -> String {
    format!("{}/{name}", base.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::pack;

    #[test]
    fn names_lead_to_boards() {
        let rows = [
            ("copepod-rpi4.img.xz", Some("rpi4")),
            ("copepod-rpi-zero2w.img.zst", Some("rpi-zero2w")),
            ("other-rpi4.img.xz", None),
            ("copepod-rpi4.xz", None),
        ];
        for (name, board) in rows {
            assert_eq!(board_of(name), board, "{name}");
        }
        assert_eq!(board_of(&file_name("rpi4", Format::Zstd)), Some("rpi4"));
    }

    #[test]
    fn an_entry_tells_both_sizes_and_both_digests() {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let plain = dir.path().join("disk.img");
        fs::write(&plain, vec![0; 2 << 20]).unwrap();
        let name = file_name("rpi4", Format::Xz);
        let path = dir.path().join(&name);
        pack(&plain, &path, Format::Xz).unwrap();
        let mut board = Board::read(&root, "qemu-arm64").unwrap();
        let args = ListArgs {
            dir: dir.path().to_owned(),
            base_url: "https://example.org/images/".to_owned(),
            icon: "icon.svg".to_owned(),
            root,
        };
        assert!(entry(&args, &board, &path, &name).unwrap().is_none());
        board.imager = Some(board::Imager {
            description: "A node".to_owned(),
            devices: vec!["pi4-64bit".to_owned()],
        });
        let entry = entry(&args, &board, &path, &name).unwrap().unwrap();
        let json = serde_json::to_value(&entry).unwrap();
        // Those that the schema requires, and those that choose the models and switch off Imager's settings.
        let mut names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let expected = "architecture description devices extract_sha256 extract_size icon image_download_sha256 \
                        image_download_size init_format name release_date url";
        assert_eq!(names.join(" "), expected);
        assert_eq!(json["url"], "https://example.org/images/copepod-rpi4.img.xz");
        assert_eq!(json["extract_size"], 2 << 20);
        // SHA-256 of 2 MiB of zeros.
        assert_eq!(
            json["extract_sha256"],
            "5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee"
        );
        assert_eq!(json["image_download_size"], fs::metadata(&path).unwrap().len());
        assert_eq!(json["devices"][0], "pi4-64bit");
        assert_eq!(
            (&json["init_format"], &json["architecture"]),
            (&"none".into(), &"armv8".into())
        );
        assert_eq!(json["release_date"].as_str().unwrap().len(), "2026-01-31".len());
    }

    #[test]
    fn a_folder_without_images_and_an_address_of_another_kind_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [("https://example.org", "no packed image"), ("ftp://example.org", "no http")];
        for (base_url, reason) in rows {
            let args = ListArgs {
                dir: dir.path().to_owned(),
                base_url: base_url.to_owned(),
                icon: String::new(),
                root: ".".into(),
            };
            let error = list(&args).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
