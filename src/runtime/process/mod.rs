//! The runtime process: a loop that waits for clients, output, children and ended processes, and never blocks on any.
//!
//! Everything that may block or alter its process happens in short-lived children (`job`, `work`, `sandbox`). The loop
//! (`server`) starts them, collects their reports and exit statuses, moves output into logs and keeps records on disk.
//! Containers outlive this process; `recovery` finds them again, `handover` replaces the program without losing anything.
//!
//! What cannot be kept over a *killed* runtime process: terminals (their programs get SIGHUP), standard input, and the exit
//! status of what ends while no runtime process is there. Output waits in named pipes.

mod capabilities;
mod cgroup;
mod clock;
mod connection;
mod containers;
mod creation;
mod devices;
mod dispatch;
mod handover;
mod job;
mod log;
mod oci;
mod output;
mod payload;
mod record;
mod recovery;
mod sandbox;
mod seccomp;
mod seccomp_profile;
mod server;
mod sessions;
mod work;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use cgroup::Cgroups;
use handover::Handover;
use record::Layout;
use server::Server;

/// The kernel should kill anything else before this process.
const OOM_SCORE: &str = "-999";

/// What the runtime process is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    /// Below each hierarchy's mount point, for example `copepod`.
    pub cgroup_root: String,
}

/// Why the runtime process could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("bad arguments: expected --socket PATH --state DIR --cgroup-root NAME, found {0:?}")]
    Arguments(OsString),
    #[error("bad cgroup root {0:?}: expected a relative path")]
    CgroupRoot(String),
    #[error("another runtime process uses {0}")]
    Running(PathBuf),
    #[error("{what} {path}: {source}")]
    Path { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
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

    /// Reads a command line without the program's name and the word `runtime`.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Config, Error> {
        let mut config = Config {
            socket: PathBuf::new(),
            state_dir: PathBuf::new(),
            cgroup_root: "copepod".to_owned(),
        };
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| Error::Arguments(name.clone()))?;
            match name.to_str() {
                Some("--socket") => config.socket = value.into(),
                Some("--state") => config.state_dir = value.into(),
                Some("--cgroup-root") => config.cgroup_root = value.to_string_lossy().into_owned(),
                _ => return Err(Error::Arguments(name)),
            }
        }
        if config.socket.as_os_str().is_empty() || config.state_dir.as_os_str().is_empty() {
            return Err(Error::Arguments(OsString::new()));
        }
        Ok(config)
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Path { what, path, source }
}

/// Runs the runtime process until it is told to stop. The calling process must have a single thread.
pub fn main(config: Config) -> Result<(), Error> {
    if !record::valid_cgroup(&config.cgroup_root) {
        return Err(Error::CgroupRoot(config.cgroup_root));
    }
    let handover = Handover::receive().map_err(system("take over"))?;
    settle();
    sys::process::become_subreaper().map_err(system("become subreaper"))?;
    let open_files = raise_open_files();
    for dir in [
        config.state_dir.clone(),
        config.state_dir.join("sandboxes"),
        config.state_dir.join("containers"),
    ] {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at("make", &dir))?;
    }
    fs::set_permissions(&config.state_dir, Permissions::from_mode(0o700))
        .map_err(at("protect", &config.state_dir))?;
    let state_dir = config.state_dir.canonicalize().map_err(at("resolve", &config.state_dir))?;
    let config = Config { state_dir, ..config };
    let lock = lock(&config.state_dir.join("lock"), handover.as_ref())?;
    let listener = match &handover {
        Some(handover) => handover.listener().map_err(system("take over socket"))?,
        None => listen(&config.socket)?,
    };
    let cgroups = Cgroups::detect().map_err(system("find cgroups"))?;
    if let (2, Err(error)) = (cgroups.version(), sys::device_filter::check_support()) {
        tracing::warn!(%error, "this kernel filters no devices; containers lose the capability to make any");
    }
    let layout = Layout { root: config.state_dir.clone() };
    let mut server = Server::new(config, layout, cgroups, listener, lock, open_files)
        .map_err(system("prepare event loop"))?;
    server.recover(handover).map_err(system("read records"))?;
    server.run().map_err(system("wait for events"))
}

/// Things that make this process a good citizen; none is needed to go on.
fn settle() {
    // Already a leader if started as a group of its own.
    let _ = nix::unistd::setsid();
    // Containers inherit supplementary groups that nobody sets for them.
    let _ = nix::unistd::setgroups(&[]);
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::info!(%error, "cannot protect the runtime process from the out-of-memory killer");
    }
}

/// Raises our own limit; returns what containers get: the soft limit we found and the hard one.
fn raise_open_files() -> (u64, u64) {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
            // The casts are no-ops or widen, depending on the architecture.
            #[allow(clippy::useless_conversion)]
            (u64::from(soft), u64::from(hard))
        }
        Err(_) => (1024, 4096),
    }
}

/// At most one runtime process uses a state directory. A process that takes over has the lock already.
fn lock(path: &Path, handover: Option<&Handover>) -> Result<Flock<fs::File>, Error> {
    let file = match handover {
        Some(handover) => handover.lock(),
        None => OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path),
    };
    let file = file.map_err(at("open", path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::Running(path.to_owned()))
}

fn listen(socket: &Path) -> Result<UnixListener, Error> {
    if let Some(dir) = socket.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("make", dir))?;
    }
    // The lock says that nobody serves it.
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(at("remove", socket)(error));
        }
        _ => {}
    }
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(socket).map_err(at("listen on", socket));
    nix::sys::stat::umask(before);
    let listener = listener?;
    fs::set_permissions(socket, Permissions::from_mode(0o600)).map_err(at("protect", socket))?;
    Ok(listener)
}

/// The name of the variable that tells a re-executed process where its state is.
fn handover_variable() -> &'static OsStr {
    OsStr::new("COPEPOD_RUNTIME_HANDOVER")
}
