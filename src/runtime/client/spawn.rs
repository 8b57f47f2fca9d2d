//! Starting the runtime process so that it outlives its starter.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Command;

use super::{Error, Runtime};
use crate::process::Config;

/// The runtime process's own log is started anew above this size.
const LOG_MAX: u64 = 1 << 20;
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

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

/// Connects to the runtime process of `config`, starting it if none answers. It runs detached, in a session of its own, and
/// goes on when the caller ends. Its messages go to `runtime.log` in its state directory.
pub async fn spawn(program: &Program, config: &Config) -> Result<Runtime, Error> {
    if !answers(&config.socket).await {
        start(program, config).map_err(|error| Error::Spawn {
            exe: program.exe.clone(),
            message: error.to_string(),
        })?;
    }
    Runtime::connect(&config.socket).await
}

async fn answers(socket: &Path) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(socket)).await, Ok(Ok(_)))
}

fn start(program: &Program, config: &Config) -> std::io::Result<()> {
    fs::create_dir_all(&config.state_dir)?;
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
        .process_group(0)
        .kill_on_drop(false)
        .spawn()?;
    // The child is reaped by tokio's orphan queue should it ever end before us.
    Ok(())
}
