//! What one slot consists of: what a new image starts with and what an update carries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use disk::slot::Verity;

use crate::board::{Board, Compression};
use crate::sources::Sources;
use crate::tools::{run, tool};

const KERNEL: &str = "kernel";
const INITRD: &str = "initrd";
/// What the boot script reads; its last line is the kernel's arguments.
pub(crate) const DESCRIPTION: &str = "slot.env";

/// A slot as the recipe leaves it in the board's folder. It is the same for both slots.
pub(crate) struct SlotFiles {
    /// The files of the slot's folder on the boot partition: `kernel`, `initrd`, `slot.env`, and where the firmware
    /// loads the kernel, its device trees.
    pub(crate) boot: PathBuf,
    /// The content of the slot's root partition: file system and hash tree.
    pub(crate) root: PathBuf,
}

impl SlotFiles {
    pub(crate) fn of(board_dir: &Path) -> SlotFiles {
        SlotFiles { boot: board_dir.join("slot"), root: board_dir.join("root.img") }
    }

    /// Makes the files for the boot partition; the root is there already and fits `verity`.
    pub(crate) fn build(
        &self,
        board: &Board,
        sources: &Sources,
        initrd: &[u8],
        verity: &Verity,
        epoch: u64,
    ) -> Result<()> {
        if self.boot.exists() {
            fs::remove_dir_all(&self.boot)?;
        }
        fs::create_dir_all(&self.boot)?;
        fs::write(self.boot.join(INITRD), initrd)?;
        fs::write(self.boot.join(DESCRIPTION), description(board, verity))?;
        let kernel = self.boot.join(KERNEL);
        fs::copy(sources.kernel()?, &kernel).context("copy the kernel")?;
        if board.kernel.compression == Compression::Gzip {
            run(tool("gzip", epoch).args(["-n", "-9"]).arg(&kernel))?;
            fs::rename(kernel.with_extension("gz"), &kernel)?;
        }
        if board.uboot.is_none() {
            for name in &board.boot.device_trees {
                fs::copy(sources.device_tree(name)?, self.boot.join(format!("{name}.dtb")))?;
            }
        }
        Ok(())
    }

    /// All files, the root last.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.boot);
        let entries = entries.with_context(|| format!("list {}", self.boot.display()))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.push(self.root.clone());
        Ok(files)
    }

    /// Bytes of all files together.
    pub(crate) fn len(&self) -> Result<u64> {
        let files = self.files()?;
        let sizes = files.iter().map(|file| Ok(fs::metadata(file)?.len()));
        sizes.sum()
    }

    pub(crate) fn kernel_len(&self) -> Result<u64> {
        Ok(fs::metadata(self.boot.join(KERNEL))?.len())
    }
}

/// What the boot script reads about a slot.
fn description(board: &Board, verity: &Verity) -> String {
    format!("verity={verity}\nextra={}\n", board.kernel.args)
}
