//! Budgets: what was measured of a board against the limits of `image/budgets.toml`.
//!
//! Sizes are read from a built image; everything else was recorded by the test that measured it, in `figures.toml`
//! beside the image. A figure above its limit is an error that names the row.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use crate::card::is_zero;
use crate::packed::{Format, pack};
use crate::recipe::image_path;
use crate::show::step;
use crate::slot_files::SlotFiles;

const LIMITS: &str = "image/budgets.toml";
const FIGURES: &str = "figures.toml";
/// What counts as written in an image: blocks of this length that are not all zero.
const BLOCK_LEN: usize = 4096;
/// Blocks read at once.
const READ_LEN: usize = 256 * BLOCK_LEN;

#[derive(Args)]
pub(crate) struct BudgetArgs {
    /// A board that was built and tested, or `native` for what `make bench` measured on this machine.
    #[arg(long, required = true)]
    board: Vec<String>,
    #[arg(long, default_value = "build")]
    out: PathBuf,
    /// The project's root.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Also fail when a row that has a limit for the board has no figure: after all tests that measure ran.
    #[arg(long)]
    complete: bool,
    /// Also put the boards' tables into this Markdown file, each in place of the one that is there.
    #[arg(long)]
    write: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    row: Vec<Row>,
}

/// One budget for all boards.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    what: String,
    unit: Unit,
    /// Nothing may ever exceed it.
    hard: Option<f64>,
    /// By board: the measured figure and a fifth.
    limits: BTreeMap<String, f64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum Unit {
    /// Figures are bytes, limits millions of them.
    #[serde(rename = "MB")]
    Megabytes,
    #[serde(rename = "s")]
    Seconds,
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Unit::Megabytes => format!("{:.2} MB", figure / 1e6),
            Unit::Seconds => format!("{figure:.1} s"),
        }
    }

    /// A limit of the file in the figures' unit.
    fn limit(self, value: f64) -> f64 {
        match self {
            Unit::Megabytes => value * 1e6,
            Unit::Seconds => value,
        }
    }
}

/// What a board was measured to be; names are those of the rows.
type Figures = BTreeMap<String, f64>;

#[derive(Debug, PartialEq)]
struct Line {
    what: String,
    figure: String,
    limit: String,
    hard: String,
    /// What to say when the figure is above its limit.
    exceeded: Option<String>,
}

/// Records what a test measured, for [`check`].
pub(crate) fn record(dir: &Path, name: &str, figure: f64) -> Result<()> {
    let mut figures = recorded(dir)?;
    figures.insert(name.to_owned(), figure);
    let text: String =
        figures.iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
    fs::write(dir.join(FIGURES), text)
        .with_context(|| format!("write {}", dir.join(FIGURES).display()))
}

/// `mkimage budget`.
pub(crate) fn check(args: &BudgetArgs) -> Result<()> {
    let budget = Budget::read(&args.root.join(LIMITS))?;
    let mut exceeded = Vec::new();
    for board in &args.board {
        let dir = args.out.join("boards").join(board);
        let mut figures = recorded(&dir)?;
        if image_path(&dir).is_file() {
            figures.extend(sizes(&dir)?);
        }
        ensure!(
            !figures.is_empty(),
            "nothing is measured of {board}: {} has no image",
            dir.display()
        );
        let lines = budget.lines(board, &figures);
        let table = table(&lines);
        println!("{board}\n{table}");
        if let Some(path) = &args.write {
            let text = fs::read_to_string(path).unwrap_or_default();
            fs::write(path, with_section(&text, board, &table))
                .with_context(|| format!("write {}", path.display()))?;
        }
        exceeded.extend(
            lines.into_iter().filter_map(|line| Some(format!("{board}: {}", line.exceeded?))),
        );
        if args.complete {
            let missing = budget.unmeasured(board, &figures);
            exceeded.extend(
                missing.map(|row| format!("{board}: {} ({}) was not measured", row.what, row.name)),
            );
        }
    }
    ensure!(exceeded.is_empty(), "over budget:\n  {}", exceeded.join("\n  "));
    Ok(())
}

impl Budget {
    fn read(path: &Path) -> Result<Budget> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// The rows that this board has a figure for.
    fn lines(&self, board: &str, figures: &Figures) -> Vec<Line> {
        self.row.iter().filter_map(|row| Some(row.line(board, *figures.get(&row.name)?))).collect()
    }

    /// The rows that limit this board and have no figure for it.
    fn unmeasured(&self, board: &str, figures: &Figures) -> impl Iterator<Item = &Row> {
        self.row
            .iter()
            .filter(move |row| row.limits.contains_key(board) && !figures.contains_key(&row.name))
    }
}

impl Row {
    fn line(&self, board: &str, figure: f64) -> Line {
        let own = self.limits.get(board).copied();
        let limit = own.into_iter().chain(self.hard).reduce(f64::min);
        let limit = limit.map(|limit| self.unit.limit(limit));
        let show = |limit: Option<f64>| limit.map_or("-".to_owned(), |limit| self.unit.show(limit));
        let over = limit.filter(|limit| figure > *limit);
        let shown = self.unit.show(figure);
        Line {
            exceeded: over.map(|limit| {
                format!(
                    "{} ({}): {shown}, the limit is {}",
                    self.what,
                    self.name,
                    self.unit.show(limit)
                )
            }),
            what: self.what.clone(),
            figure: shown,
            limit: show(limit),
            hard: show(self.hard.map(|hard| self.unit.limit(hard))),
        }
    }
}

fn recorded(dir: &Path) -> Result<Figures> {
    let path = dir.join(FIGURES);
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("parse {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Figures::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Sizes of a built image: what it is made of, and what is downloaded of it.
fn sizes(dir: &Path) -> Result<Figures> {
    let doing = step("pack the image");
    let image = image_path(dir);
    let packed = dir.join("download.img.xz");
    let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    let current =
        changed(&packed).is_ok_and(|made| changed(&image).is_ok_and(|built| built <= made));
    if !current {
        pack(&image, &packed, Format::Xz)?;
    }
    doing.done(if current { "as packed before" } else { "packed" });
    let files = SlotFiles::of(dir);
    let slot = folder_length(&files.boot)? + length(&files.root)?;
    let rows = [
        ("image", content(&image)?),
        ("card", length(&image)?),
        ("slot", slot),
        ("download", length(&packed)?),
        ("binary", length(&dir.join("root/usr/bin/copepod"))?),
    ];
    Ok(rows.into_iter().map(|(name, bytes)| (name.to_owned(), bytes as f64)).collect())
}

fn length(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.len())
}

/// Bytes of all files in a folder and below it.
fn folder_length(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.flatten() {
        let path = entry.path();
        total += if path.is_dir() { folder_length(&path)? } else { length(&path)? };
    }
    Ok(total)
}

/// Bytes of the blocks of an image that are not all zero.
fn content(image: &Path) -> Result<u64> {
    let file = File::open(image).with_context(|| format!("open {}", image.display()))?;
    let mut buffer = vec![0; READ_LEN];
    let (mut offset, mut blocks) = (0, 0);
    loop {
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            return Ok(blocks * BLOCK_LEN as u64);
        }
        let read_blocks = buffer.get(..read).unwrap_or_default().chunks(BLOCK_LEN);
        blocks += read_blocks.filter(|block| !is_zero(block)).count() as u64;
        offset += read as u64;
    }
}

fn table(lines: &[Line]) -> String {
    let mut text = String::from("| what | figure | limit | never above |\n|---|---|---|---|\n");
    for Line { what, figure, limit, hard, .. } in lines {
        let _ = writeln!(text, "| {what} | {figure} | {limit} | {hard} |");
    }
    text
}

/// The text with the section of this name replaced, or added at the end.
fn with_section(text: &str, name: &str, content: &str) -> String {
    let title = format!("## {name}\n");
    let section = format!("{title}\n{content}");
    let Some(start) = text.find(&title) else {
        return format!("{}\n\n{section}", text.trim_end());
    };
    let rest = text.get(start + title.len()..).unwrap_or_default();
    let rest = rest.find("\n## ").and_then(|end| rest.get(end..)).unwrap_or_default();
    format!("{}{section}{rest}", text.get(..start).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    fn row(hard: Option<f64>, limits: &[(&str, f64)]) -> Row {
        Row {
            name: "slot".to_owned(),
            what: "one slot".to_owned(),
            unit: Unit::Megabytes,
            hard,
            limits: limits.iter().map(|(board, limit)| ((*board).to_owned(), *limit)).collect(),
        }
    }

    #[test]
    fn the_lower_of_own_and_hard_limit_counts() {
        let rows = [
            (row(Some(200.0), &[("rpi4", 50.0)]), 50e6, None),
            (row(Some(200.0), &[("rpi4", 50.0)]), 50e6 + 1.0, Some("50.00 MB")),
            (row(Some(200.0), &[("rpi4", 300.0)]), 250e6, Some("200.00 MB")),
            (row(Some(200.0), &[("other", 50.0)]), 60e6, None),
            (row(None, &[]), 1e12, None),
        ];
        for (row, figure, limit) in rows {
            let exceeded = row.line("rpi4", figure).exceeded;
            assert_eq!(exceeded.is_some(), limit.is_some(), "{row:?}");
            let (text, limit) = (exceeded.unwrap_or_default(), limit.unwrap_or_default());
            assert!(text.is_empty() || text.contains("one slot (slot): "), "{text}");
            assert!(text.ends_with(limit), "{text}");
        }
    }

    #[test]
    fn the_committed_budgets_are_complete() {
        let budget = Budget::read(&Path::new(ROOT).join(LIMITS)).unwrap();
        let names: Vec<&str> = budget.row.iter().map(|row| row.name.as_str()).collect();
        let expected = [
            "image",
            "card",
            "slot",
            "download",
            "binary",
            "server-pss",
            "agent-pss",
            "ready-cpu",
            "idle-written",
        ];
        assert_eq!(names, expected);
        let hard = |name: &str| budget.row.iter().find(|row| row.name == name).unwrap().hard;
        assert_eq!((hard("image"), hard("agent-pss")), (Some(200.0), Some(75.0)));
    }

    #[test]
    fn figures_are_recorded_and_one_too_high_fails_the_check() {
        let dir = tempfile::tempdir().unwrap();
        let board = dir.path().join("boards/native");
        fs::create_dir_all(&board).unwrap();
        let args = || BudgetArgs {
            board: vec!["native".to_owned()],
            out: dir.path().to_owned(),
            root: ROOT.into(),
            complete: false,
            write: Some(dir.path().join("figures.md")),
        };
        assert!(check(&args()).unwrap_err().to_string().contains("nothing is measured"));
        record(&board, "agent-pss", 76e6).unwrap();
        record(&board, "agent-pss", 10e6).unwrap();
        check(&args()).unwrap();
        let written = fs::read_to_string(dir.path().join("figures.md")).unwrap();
        assert!(written.contains("## native") && written.contains("| 10.00 MB |"), "{written}");
        let error = check(&BudgetArgs { complete: true, ..args() }).unwrap_err().to_string();
        assert!(
            error.contains("(server-pss) was not measured") && !error.contains("agent-pss"),
            "{error}"
        );
        record(&board, "agent-pss", 76e6).unwrap();
        let error = check(&args()).unwrap_err().to_string();
        assert!(error.contains("native: ") && error.contains("(agent-pss): 76.00 MB"), "{error}");
    }

    #[test]
    fn a_section_is_replaced_and_others_stay() {
        let text = "# Figures\n\nrows\n\n## one\n\nold\n\n## two\n\nkept\n";
        let changed = with_section(text, "one", "new\n");
        assert_eq!(changed, "# Figures\n\nrows\n\n## one\n\nnew\n\n## two\n\nkept\n");
        assert_eq!(with_section("# Figures\n", "one", "new\n"), "# Figures\n\n## one\n\nnew\n");
        let last = with_section(&changed, "two", "new\n");
        assert!(last.ends_with("## two\n\nnew\n") && last.contains("## one"));
    }

    #[test]
    fn only_blocks_with_content_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::create(&path).unwrap();
        file.set_len(3 * READ_LEN as u64).unwrap();
        file.write_all_at(&[1], 5).unwrap();
        file.write_all_at(&[1; BLOCK_LEN], 2 * READ_LEN as u64 + 1).unwrap();
        assert_eq!(content(&path).unwrap(), 3 * BLOCK_LEN as u64);
    }
}
