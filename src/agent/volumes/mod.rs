//! Volumes of pods: what each kind needs (`plan`), what its files contain (`payload`), how they appear on disk in one
//! instant (`atomic`), and the directories and mounts themselves (`place`, `mounts`). The first two know no files.

pub(crate) mod atomic;
pub(crate) mod mounts;
pub(crate) mod payload;
pub(crate) mod place;
pub(crate) mod plan;
#[cfg(test)]
mod tests;
