//! One supervised child of PID 1: its command, its output, its restarts.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::spool::{Lines, Spool};
use crate::supervisor::{State, Supervisor};

/// A service prints this line when others may build on it.
pub(crate) const READY: &str = "READY=1";
/// Bytes read from a service's output at a time.
const READ_LEN: usize = 4096;
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What is the same for every run of a service.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) name: &'static str,
    pub(crate) program: OsString,
    /// What the process finds as its own name: the binary takes its role from it.
    pub(crate) called: &'static str,
    pub(crate) arguments: Vec<String>,
    /// How the kernel ranks it when memory runs out; -1000 is never, 1000 is first.
    pub(crate) oom_score: i32,
    /// How long it gets to end by itself.
    pub(crate) grace: Duration,
    /// It opens a terminal and a session by itself, which the leader of a process group cannot.
    pub(crate) makes_session: bool,
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) description: Description,
    pub(crate) supervisor: Supervisor,
    pub(crate) ready: bool,
    output: PipeReader,
    // Kept open for all runs: what outlives one run may go on writing.
    input: PipeWriter,
    lines: Lines,
    spool: Spool,
}

impl Service {
    pub(crate) fn new(description: Description, first_start: Instant) -> io::Result<Service> {
        let (output, input) = io::pipe()?;
        sys::fds::set_nonblocking(output.as_fd(), true)?;
        let spool = Spool::new(description.name);
        let supervisor = Supervisor::new(first_start);
        Ok(Service {
            description,
            supervisor,
            ready: false,
            output,
            input,
            lines: Lines::default(),
            spool,
        })
    }

    pub(crate) fn output(&self) -> &PipeReader {
        &self.output
    }

    /// Starts the process.
    pub(crate) fn start(&mut self, now: Instant) -> io::Result<i32> {
        let Description { program, called, arguments, oom_score, .. } = &self.description;
        let mut command = Command::new(program);
        command
            .arg0(called)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/run")
            .current_dir("/");
        if !self.description.makes_session {
            command.process_group(0);
        }
        command
            .stdin(Stdio::null())
            .stdout(self.input.try_clone()?)
            .stderr(self.input.try_clone()?);
        let child = sys::spawn::unblock_signals(&mut command).spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        // Gone again already, or a kernel without the file: the restart logic sees the former.
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), oom_score.to_string());
        self.supervisor.started(pid, now);
        Ok(pid)
    }

    /// For people.
    pub(crate) fn state(&self) -> String {
        let text = match self.supervisor.state() {
            State::Running { .. } if self.ready => "ready",
            State::Running { .. } => "running",
            State::Waiting(_) if self.supervisor.has_failed() => "failed, to be started again",
            State::Waiting(_) => "waiting",
            State::Stopped => "stopped",
        };
        text.to_owned()
    }

    /// Takes what the service has printed: keeps it, and returns it for the console.
    pub(crate) fn drain(&mut self) -> Vec<String> {
        let mut buffer = [0; READ_LEN];
        let read = (&self.output).read(&mut buffer).unwrap_or(0);
        let mut lines = self.lines.push(buffer.get(..read).unwrap_or_default());
        lines.retain(|line| {
            self.ready |= line == READY;
            line != READY
        });
        for line in &lines {
            self.spool.append(line);
        }
        lines
    }
}
