//! The runtime process.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the runtime process is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    /// Below each hierarchy's mount point, for example `copepod`.
    pub cgroup_root: String,
}

impl Config {
    /// The command line that [`Config::from_args`] understands.
    pub fn to_args(&self) -> Vec<OsString> {
        vec![
            "--socket".into(),
            self.socket.clone().into(),
            "--state".into(),
            self.state_dir.clone().into(),
            "--cgroup-root".into(),
            self.cgroup_root.clone().into(),
        ]
    }
}
