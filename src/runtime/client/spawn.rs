//! Starting the runtime process so that it outlives its starter.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::process::Command;

use super::{Error, Runtime};
use crate::process::Config;

/// The runtime process's own log is started anew above this size.
const LOG_MAX: u64 = 1 << 20;
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts to start the process.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// How the runtime process is executed: the program and what comes before our options.
#[derive(Debug, Clone)]
pub struct Program {
    pub exe: PathBuf,
    pub arguments: Vec<OsString>,
}

impl Program {
    /// `exe runtime`, as the one binary wants it.
    pub fn copepod(exe: &Path) -> Program {
        Program { exe: exe.to_owned(), arguments: vec![OsString::from("runtime")] }
    }
}

/// Connects to the runtime process of `config`, starting it if none answers, and again should it
/// ever be gone. It runs detached, in a session of its own, and goes on when the caller ends. Its
/// messages go to `runtime.log` in its state directory.
pub async fn spawn(program: &Program, config: &Config) -> Result<Runtime, Error> {
    let mut starter = Starter { program: program.clone(), config: config.clone(), last: None };
    if !answers(&config.socket).await {
        starter.start().map_err(|error| Error::Spawn {
            exe: program.exe.clone(),
            message: error.to_string(),
        })?;
    }
    Runtime::attach_to(&config.socket, Some(starter)).await
}

/// Starts the process again and again, with pauses.
#[derive(Debug)]
pub(super) struct Starter {
    program: Program,
    config: Config,
    last: Option<Instant>,
}

impl Starter {
    /// The socket does not answer: the process is started unless that was tried a moment ago. Two of
    /// them do no harm: the second finds the lock taken and ends.
    pub(super) fn start_again(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() < RESTART_PAUSE) {
            return;
        }
        tracing::warn!(socket = %self.config.socket.display(), "runtime process is gone; starting it");
        if let Err(error) = self.start() {
            tracing::error!(exe = %self.program.exe.display(), %error, "cannot start the runtime process");
        }
    }

    fn start(&mut self) -> std::io::Result<()> {
        self.last = Some(Instant::now());
        start(&self.program, &self.config)
    }
}

async fn answers(socket: &Path) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(socket)).await, Ok(Ok(_)))
}

fn start(program: &Program, config: &Config) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir)?;
    let log = config.state_dir.join("runtime.log");
    let full = fs::metadata(&log).is_ok_and(|metadata| metadata.len() > LOG_MAX);
    let log =
        OpenOptions::new().create(true).append(!full).write(true).truncate(full).open(&log)?;
    Command::new(&program.exe)
        .args(&program.arguments)
        .args(config.to_args())
        // Nothing of the caller's environment may reach libcontainer (LISTEN_FDS would be passed on).
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(false)
        .spawn()?;
    // The child is reaped by tokio's orphan queue should it ever end before us.
    Ok(())
}
