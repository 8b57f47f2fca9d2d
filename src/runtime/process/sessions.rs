//! Commands run in containers besides their own program.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

use super::dispatch::no_such;
use super::job::{Outcome, Product, failure, internal};
use super::server::{Ending, Origin, Server, Task};
use super::work::{self, Stdio};
use crate::protocol::{ExecSpec, Failure, FailureKind, Reply, SessionFds, State};

/// Commands known at once, those included whose exit code nobody has asked for yet.
const SESSIONS_MAX: usize = 1024;
/// Clients waiting for one command.
const WAITERS_MAX: usize = 16;
/// Owner of a session from before an upgrade: nobody yet. Clients' numbers begin above.
const ANYBODY: u64 = 0;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) container: String,
    pub(super) pid: Option<i32>,
    /// Kept for resizing while the client that started it is there.
    pub(super) master: Option<OwnedFd>,
    pub(super) exit: Option<i32>,
    /// None when that client has gone.
    pub(super) owner: Option<u64>,
    waiters: Vec<Origin>,
}

impl Session {
    pub(super) fn restored(
        container: String,
        pid: Option<i32>,
        master: Option<OwnedFd>,
        exit: Option<i32>,
    ) -> Self {
        Session { container, pid, master, exit, owner: Some(ANYBODY), waiters: Vec::new() }
    }
}

/// What the client gets once the command runs.
#[derive(Debug)]
pub(super) struct SessionReply {
    present: SessionFds,
    fds: Vec<OwnedFd>,
}

impl Server {
    pub(super) fn exec(&mut self, origin: Origin, id: &str, exec: ExecSpec) -> Result<(), Failure> {
        let entry = self.entry(id)?;
        if entry.record.status.state != State::Running {
            return Err(failure(FailureKind::State, format!("container {id} is not running")));
        }
        if exec.args.is_empty() {
            return Err(failure(FailureKind::Invalid, "no command specified"));
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(failure(FailureKind::Limit, format!("there are {SESSIONS_MAX} commands")));
        }
        let (stdio, reply) =
            streams(&exec).map_err(|error| internal(format!("make streams: {error}")))?;
        let (layout, spec, keep) =
            (self.layout.clone(), entry.record.spec.clone(), stdio.numbers());
        let session = self.next_number();
        let task = Task::Exec { session, reply };
        self.spawn(task, Some(origin), &keep, move || work::execute(&layout, &spec, &exec, stdio))?;
        let made = Session {
            container: id.to_owned(),
            pid: None,
            master: None,
            exit: None,
            owner: Some(origin.client),
            waiters: Vec::new(),
        };
        self.sessions.insert(session, made);
        Ok(())
    }

    pub(super) fn exec_started(
        &mut self,
        origin: Option<Origin>,
        session: u64,
        mut reply: SessionReply,
        report: Product,
    ) {
        let result = report.and_then(|(outcome, master)| {
            let Outcome::Process { pid } = outcome else {
                return Err(internal(format!("unexpected report {outcome:?}")));
            };
            let known = self
                .sessions
                .get_mut(&session)
                .ok_or_else(|| no_such("session", &session.to_string()))?;
            known.pid = Some(pid);
            if let Some(master) = master {
                let copy = |fd: &OwnedFd| {
                    fd.try_clone().map_err(|error| internal(format!("copy terminal: {error}")))
                };
                reply.fds = vec![copy(&master)?, copy(&master)?];
                known.master = Some(master);
            }
            Ok(())
        });
        match (result, origin) {
            (Ok(()), Some(origin)) if self.clients.contains_key(&origin.client) => {
                self.reply(origin, Ok(Reply::Session { session, fds: reply.present }), reply.fds);
            }
            // Nobody is there to use it: its streams are closed by now, which ends most commands.
            (Ok(()), _) => self.hang_up(session),
            (Err(failure), origin) => {
                self.sessions.remove(&session);
                self.answer(origin, Err(failure));
            }
        }
    }

    pub(super) fn session_ended(&mut self, pid: i32, ending: Ending) {
        let found = self.sessions.iter_mut().find(|(_, session)| session.pid == Some(pid));
        let Some((number, session)) = found else { return };
        let number = *number;
        session.pid = None;
        session.exit = Some(ending.exit_code());
        session.master = None;
        self.settle_session(number);
    }

    /// Answers those who wait; forgets the session when its code was told or nobody will ask.
    fn settle_session(&mut self, number: u64) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let Some(code) = session.exit else { return };
        let waiters = std::mem::take(&mut session.waiters);
        let told = waiters.iter().any(|origin| self.clients.contains_key(&origin.client));
        if told || session.owner.is_none() {
            self.sessions.remove(&number);
        }
        for origin in waiters {
            self.reply(origin, Ok(Reply::Exit { code }), Vec::new());
        }
    }

    pub(super) fn wait_session(
        &mut self,
        origin: Origin,
        number: u64,
    ) -> Option<Result<Reply, Failure>> {
        let Some(session) = self.sessions.get_mut(&number) else {
            return Some(Err(no_such("session", &number.to_string())));
        };
        if session.waiters.len() >= WAITERS_MAX {
            return Some(Err(failure(FailureKind::Limit, "too many wait for this command")));
        }
        // After a reconnect or an upgrade, whoever waits is the one to keep it for.
        session.owner = Some(origin.client);
        session.waiters.push(origin);
        self.settle_session(number);
        None
    }

    pub(super) fn signal_session(&mut self, number: u64, signal: i32) -> Result<(), Failure> {
        let session =
            self.sessions.get(&number).ok_or_else(|| no_such("session", &number.to_string()))?;
        let Some(pid) = session.pid else { return Ok(()) };
        match Signal::try_from(signal).and_then(|signal| kill(Pid::from_raw(pid), signal)) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => {
                Err(failure(FailureKind::Invalid, format!("signal {signal} to command: {error}")))
            }
        }
    }

    pub(super) fn resize_session(
        &mut self,
        number: u64,
        columns: u16,
        rows: u16,
    ) -> Result<(), Failure> {
        let session =
            self.sessions.get(&number).ok_or_else(|| no_such("session", &number.to_string()))?;
        match &session.master {
            Some(master) => sys::pty::set_window_size(master.as_fd(), columns, rows)
                .map_err(|error| internal(format!("resize: {error}"))),
            None if session.exit.is_some() => Ok(()),
            None => Err(failure(FailureKind::State, "the command has no terminal")),
        }
    }

    fn hang_up(&mut self, number: u64) {
        if let Some(session) = self.sessions.get_mut(&number) {
            session.owner = None;
            // A command that has not taken the terminal yet is not told by its hang-up. The pid is its own until reaped.
            if session.master.take().is_some()
                && let Some(pid) = session.pid
                && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGHUP)
            {
                tracing::debug!(pid, %error, "command not told that its terminal is gone");
            }
        }
        self.settle_session(number);
    }

    /// A client has gone: its terminals hang up, its exit codes interest nobody.
    pub(super) fn client_left(&mut self, client: u64) {
        let owned: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.owner == Some(client))
            .map(|(id, _)| *id)
            .collect();
        for number in owned {
            self.hang_up(number);
        }
        for queue in self.busy.values_mut() {
            queue.retain(|deferred| deferred.origin.client != client);
        }
        self.queue.retain(|deferred| deferred.origin.client != client);
    }

    /// The container has been removed, and all its processes were killed.
    pub(super) fn sessions_of_removed(&mut self, container: &str) {
        self.sessions.retain(|_, session| {
            let awaited = session.exit.is_some() && session.owner != Some(ANYBODY);
            session.container != container || session.pid.is_some() || awaited
        });
    }
}

fn streams(exec: &ExecSpec) -> std::io::Result<(Stdio, SessionReply)> {
    if exec.tty {
        let present = SessionFds { stdin: true, stdout: true, stderr: false };
        return Ok((Stdio::default(), SessionReply { present, fds: Vec::new() }));
    }
    let mut fds = Vec::new();
    let stdin = if exec.stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        fds.push(write);
        read
    } else {
        File::open("/dev/null")?.into()
    };
    let (out_read, out) = pipe2(OFlag::O_CLOEXEC)?;
    let (err_read, err) = pipe2(OFlag::O_CLOEXEC)?;
    fds.extend([out_read, err_read]);
    let stdio = Stdio { stdin: Some(stdin), stdout: Some(out), stderr: Some(err) };
    let present = SessionFds { stdin: exec.stdin, stdout: true, stderr: true };
    Ok((stdio, SessionReply { present, fds }))
}
