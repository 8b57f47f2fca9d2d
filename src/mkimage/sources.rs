//! The Debian packages of an image: fetched, unpacked by duty, and where in them things lie.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::board::Board;
use crate::lock::Lock;
use crate::packages::{Apt, Package, unpack};
use crate::sbom::Shipped;
use crate::show::step;
use crate::tools::{run, tool};

const LOCK: &str = "image/packages.lock";
/// Where kernel packages keep device trees, below `/usr/lib`; `@` stands for the version.
const DEVICE_TREES: [&str; 4] =
    ["linux-image-@/broadcom", "linux-image-@", "modules/@/dtb/broadcom", "modules/@/dtb"];

/// All packages of an image.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) packages: Vec<Shipped>,
    duties: BTreeMap<String, PathBuf>,
    /// Where the kernel's `lib/modules` is: the package's folder or `usr` in it.
    base: PathBuf,
    version: String,
}

impl Sources {
    /// Fetches what the board asks for into `cache` and unpacks it below `dir`.
    pub(crate) fn fetch(
        board: &Board,
        root: &Path,
        cache: &Path,
        dir: &Path,
        newest: bool,
    ) -> Result<Sources> {
        let doing = step("fetch Debian packages");
        fs::create_dir_all(cache)?;
        let mut lock = Lock::read(&root.join(LOCK))?;
        let mut apt = Apt::new(cache, &board.debian, &board.debian_arch);
        let mut packages: Vec<Shipped> = Vec::new();
        let mut duties = BTreeMap::new();
        for (duty, requests) in board.requests() {
            let mut fetched = Vec::new();
            for request in requests {
                fetched.extend(apt.fetch(request, &mut lock, newest)?);
            }
            let target = dir.join(duty);
            unpack(&fetched, &target)?;
            for Package { entry, .. } in fetched {
                // Several parts may want the same one.
                if packages.iter().all(|known| known.entry.name != entry.name) {
                    packages.push(Shipped { entry, unpacked: target.clone() });
                }
            }
            duties.insert(duty.to_owned(), target);
        }
        let kernel = dir.join("kernel");
        let base = if kernel.join("lib/modules").is_dir() { kernel } else { kernel.join("usr") };
        let version = only_entry(&base.join("lib/modules"))?;
        run(tool("depmod", 0).arg("-b").arg(&base).arg(&version))?;
        let names = packages.iter().map(|it| format!("{} {}", it.entry.name, it.entry.version));
        doing.done(names.collect::<Vec<_>>().join(", "));
        Ok(Sources { packages, duties, base, version })
    }

    /// Where the packages of a duty are unpacked.
    pub(crate) fn dir(&self, duty: &str) -> Result<&Path> {
        let dir = self.duties.get(duty).map(PathBuf::as_path);
        dir.with_context(|| format!("the board asks for no package of the duty {duty:?}"))
    }

    /// A file of a package: `<duty>:<path in it>`.
    pub(crate) fn file(&self, place: &str) -> Result<PathBuf> {
        let (duty, path) = place
            .split_once(':')
            .with_context(|| format!("{place:?} is not <duty of a package>:<path in it>"))?;
        let path = self.dir(duty).with_context(|| format!("{place:?}"))?.join(path);
        ensure!(path.is_file(), "{place:?}: the package has no such file");
        Ok(path)
    }

    pub(crate) fn kernel(&self) -> Result<PathBuf> {
        let packed = self.base.join("boot").join(format!("vmlinuz-{}", self.version));
        let beside = self.modules().join("vmlinuz");
        let found = [packed, beside].into_iter().find(|path| path.is_file());
        found.with_context(|| format!("the kernel package has no vmlinuz of {}", self.version))
    }

    /// `.../lib/modules/<version>`
    pub(crate) fn modules(&self) -> PathBuf {
        self.base.join("lib/modules").join(&self.version)
    }

    pub(crate) fn busybox(&self) -> Result<PathBuf> {
        self.any(&["busybox:bin/busybox", "busybox:usr/bin/busybox"])
    }

    /// The checker of the data file system.
    pub(crate) fn checker(&self) -> Result<PathBuf> {
        self.any(&["checker:sbin/e2fsck.static", "checker:usr/sbin/e2fsck.static"])
    }

    /// The first of several places that has a file: suites differ.
    fn any(&self, places: &[&str]) -> Result<PathBuf> {
        let found = places.iter().find_map(|place| self.file(place).ok());
        found.with_context(|| format!("none of the packages has {}", places.join(" or ")))
    }

    /// The kernel's device tree of this name, without `.dtb`.
    pub(crate) fn device_tree(&self, name: &str) -> Result<PathBuf> {
        let kernel = self.dir("kernel")?;
        let places = DEVICE_TREES.iter().map(|place| {
            let place = place.replace('@', &self.version);
            kernel.join("usr/lib").join(place).join(format!("{name}.dtb"))
        });
        let found = places.into_iter().find(|path| path.is_file());
        found.with_context(|| format!("kernel {} has no device tree {name}", self.version))
    }
}

fn only_entry(dir: &Path) -> Result<String> {
    let names: Vec<_> =
        fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.flatten().collect();
    match names.as_slice() {
        [entry] => Ok(entry.file_name().to_string_lossy().into_owned()),
        _ => bail!("{} should hold one kernel version, it holds {}", dir.display(), names.len()),
    }
}
