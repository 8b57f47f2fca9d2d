//! Which kernel modules go into an image, and in which order they are loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::tools;

/// What `depmod` found out about one kernel's modules.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Name to its file and the files it needs, as in modules.dep.
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl Index {
    /// Reads the index of the modules below `dir` (`.../lib/modules/<version>`).
    pub(crate) fn read(dir: &Path) -> Result<Index> {
        let text = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let (dependencies, builtin) = (text("modules.dep")?, text("modules.builtin")?);
        Ok(Index::parse(&dependencies, &text("modules.softdep")?, &builtin))
    }

    /// `soft` are modules that another one has no symbols of, but does not work without.
    pub(crate) fn parse(dependencies: &str, soft: &str, builtin: &str) -> Index {
        let files = dependencies.lines().filter_map(|line| {
            let (file, needs) = line.split_once(':')?;
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            Some((name_of(file), (file.to_owned(), needs)))
        });
        let files = files.collect();
        let mut index = Index { files, builtin: builtin.lines().map(name_of).collect() };
        for line in soft.lines().filter_map(|line| line.strip_prefix("softdep ")) {
            index.add_soft(line);
        }
        index
    }

    /// Takes a line `<module> pre: <module> ... post: <module> ...`; what is built in or no module is left out.
    fn add_soft(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default().replace('-', "_");
        let before = words.skip_while(|word| *word != "pre:").skip(1);
        let before = before.take_while(|word| *word != "post:").map(|word| word.replace('-', "_"));
        let found = before.filter_map(|name| self.files.get(&name));
        let files = found.flat_map(|(file, needs)| [file].into_iter().chain(needs));
        let files: Vec<String> = files.cloned().collect();
        if let Some((_, needs)) = self.files.get_mut(&name) {
            needs.extend(files);
        }
    }

    /// The files to load for the wanted modules, each after those it needs. `loaded` is left out.
    pub(crate) fn order<'name>(
        &self,
        wanted: impl IntoIterator<Item = &'name String>,
        loaded: &[String],
    ) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for word in wanted {
            let name = word.trim_end_matches('?').replace('-', "_");
            let optional = word.ends_with('?');
            match self.files.get(&name) {
                Some((file, needs)) => {
                    // modules.dep lists what is needed most deeply last.
                    for file in needs.iter().rev().chain([file]) {
                        if !order.contains(file) && !loaded.contains(file) {
                            order.push(file.clone());
                        }
                    }
                }
                None if optional || self.builtin.contains(&name) => {}
                None => bail!("the kernel has no module {word:?}"),
            }
        }
        Ok(order)
    }
}

/// What PID 1 reads to load modules when their devices come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Drivers {
    /// Lines `<pattern> <module>` of depmod's modules.alias.
    pub(crate) aliases: String,
    /// Lines `<module> <file> ...` in the order of loading.
    pub(crate) files: String,
}

impl Index {
    /// The tables for these modules, out of the text of modules.alias.
    pub(crate) fn drivers(&self, wanted: &[String], aliases: &str) -> Result<Drivers> {
        let mut drivers = Drivers::default();
        let mut names = BTreeSet::new();
        for word in wanted {
            let files = self.order([word], &[])?;
            let Some(own) = files.last() else { continue };
            let name = name_of(own);
            let files: Vec<String> = files.iter().map(|file| image_name(file)).collect();
            drivers.files += &format!("{name} {}\n", files.join(" "));
            names.insert(name);
        }
        for line in aliases.lines().filter_map(|line| line.strip_prefix("alias ")) {
            let module = line.rsplit(' ').next().unwrap_or_default().replace('-', "_");
            if names.contains(&module) {
                drivers.aliases += &format!("{line}\n");
            }
        }
        Ok(drivers)
    }
}

/// `kernel/fs/ext4/ext4.ko.xz` is `ext4`; hyphens and underscores mean the same.
fn name_of(file: &str) -> String {
    let base = file.trim().rsplit('/').next().unwrap_or_default();
    base.split(".ko").next().unwrap_or_default().replace('-', "_")
}

/// The file name a module has in the image: without folders and compression.
pub(crate) fn image_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or_default();
    base.trim_end_matches(".xz").trim_end_matches(".zst").to_owned()
}

/// The content of a module file, unpacked.
pub(crate) fn content(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("read {}", path.display())),
    };
    let mut command = tools::program(tools::find(tool).unwrap_or_else(|| tool.into()));
    let output = command.arg("-dc").arg(path).output().with_context(|| format!("start {tool}"))?;
    if !output.status.success() {
        bail!("{tool} cannot unpack {}", path.display());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/fs/ext4/ext4.ko: kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko kernel/lib/crc.ko\n\
        kernel/fs/mbcache.ko:\nkernel/fs/jbd2/jbd2.ko: kernel/lib/crc.ko\nkernel/lib/crc.ko:\n\
        kernel/drivers/virtio-rng.ko.xz:\n";

    const SOFT: &str = "# Soft dependencies\nsoftdep virtio-rng pre: jbd2 crypto-none post: ext4\nsoftdep other pre: jbd2\n";

    fn order(wanted: &[&str], loaded: &[&str]) -> Result<Vec<String>> {
        let index = Index::parse(DEPENDENCIES, SOFT, "kernel/drivers/virtio_pci.ko\n");
        let words: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        let loaded: Vec<String> = loaded.iter().map(ToString::to_string).collect();
        index.order(&words, &loaded)
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let expected = [
            "kernel/lib/crc.ko",
            "kernel/fs/jbd2/jbd2.ko",
            "kernel/fs/mbcache.ko",
            "kernel/fs/ext4/ext4.ko",
        ];
        assert_eq!(order(&["jbd2", "ext4", "mbcache"], &[]).unwrap(), expected);
        assert_eq!(order(&["ext4"], &expected[..2]).unwrap(), expected[2..]);
    }

    #[test]
    fn built_in_and_optional_modules_are_skipped_and_others_missed() {
        assert!(order(&["virtio_pci", "nonsense?"], &[]).unwrap().is_empty());
        assert_eq!(
            order(&["nonsense"], &[]).unwrap_err().to_string(),
            "the kernel has no module \"nonsense\""
        );
    }

    #[test]
    fn drivers_are_listed_with_their_devices_and_files() {
        let index = Index::parse(DEPENDENCIES, "", "");
        let aliases =
            "# Aliases\nalias fs-ext4 ext4\nalias virtio:d00000004v* virtio_rng\nalias x other\n";
        let wanted = ["virtio_rng", "jbd2", "absent?"].map(str::to_owned);
        let drivers = index.drivers(&wanted, aliases).unwrap();
        assert_eq!(drivers.aliases, "virtio:d00000004v* virtio_rng\n");
        assert_eq!(drivers.files, "virtio_rng virtio-rng.ko\njbd2 crc.ko jbd2.ko\n");
    }

    #[test]
    fn what_is_only_recommended_comes_first_too() {
        let expected =
            ["kernel/lib/crc.ko", "kernel/fs/jbd2/jbd2.ko", "kernel/drivers/virtio-rng.ko.xz"];
        assert_eq!(order(&["virtio_rng"], &[]).unwrap(), expected);
    }

    #[test]
    fn hyphens_and_compression_do_not_matter() {
        let loaded = ["kernel/lib/crc.ko", "kernel/fs/jbd2/jbd2.ko"];
        assert_eq!(order(&["virtio_rng"], &loaded).unwrap(), ["kernel/drivers/virtio-rng.ko.xz"]);
        assert_eq!(image_name("kernel/drivers/virtio-rng.ko.xz"), "virtio-rng.ko");
    }
}
