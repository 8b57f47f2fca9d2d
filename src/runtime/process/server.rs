//! The event loop: one `epoll`, a table of what each event means, and the children.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::Config;
use super::cgroup::Cgroups;
use super::connection::Client;
use super::containers::Entry;
use super::handover::Upgrade;
use super::job::Child;
use super::log::Stream;
use super::record::{Layout, SandboxRecord};
use super::sessions::{Session, SessionReply};
use crate::protocol::{Failure, Nanos, Request};

/// Clients served at once; the agent needs one.
pub(super) const CLIENTS_MAX: usize = 32;
/// Containers and sandboxes known at once.
pub(super) const CONTAINERS_MAX: usize = 4096;
pub(super) const SANDBOXES_MAX: usize = 1024;
/// Children at work at once; requests for more wait.
pub(super) const JOBS_MAX: usize = 16;
/// Requests waiting for a child or for a busy container.
pub(super) const DEFERRED_MAX: usize = 1024;
/// A child that takes longer is killed.
pub(super) const JOB_TIMEOUT: Duration = Duration::from_secs(100);
const EVENTS_PER_WAIT: usize = 64;

/// What an event of the poll means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Listener,
    Signals,
    Client(u64),
    Output(String, Stream),
    /// An adopted container's process has ended.
    Ended(String),
    /// A sandbox's adopted tiny init has ended.
    InitEnded(String),
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) client: u64,
    pub(super) call: u64,
}

/// A request that waits until its container or sandbox is free, or a child may be started.
#[derive(Debug)]
pub(super) struct Deferred {
    pub(super) origin: Origin,
    pub(super) request: Request,
}

#[derive(Debug)]
pub(super) enum Task {
    CreateSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    Create {
        id: String,
    },
    /// Cleaning up after a failed creation.
    Abandon {
        id: String,
        why: Failure,
    },
    Start {
        id: String,
    },
    Remove {
        id: String,
    },
    Exec {
        session: u64,
        reply: SessionReply,
    },
    Stats,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) child: Child,
    pub(super) task: Task,
    pub(super) origin: Option<Origin>,
    pub(super) deadline: Instant,
    pub(super) killed: bool,
}

pub(super) struct Server {
    pub(super) config: Config,
    pub(super) layout: Layout,
    pub(super) cgroups: Cgroups,
    pub(super) listener: UnixListener,
    pub(super) started_at: Nanos,
    pub(super) open_files: (u64, u64),
    pub(super) sandboxes: BTreeMap<String, SandboxRecord>,
    pub(super) containers: BTreeMap<String, Entry>,
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) clients: BTreeMap<u64, Client>,
    /// Children at work, by pid.
    pub(super) jobs: BTreeMap<i32, Job>,
    /// What is being worked on, with who waits for it.
    pub(super) busy: BTreeMap<String, VecDeque<Deferred>>,
    /// Requests waiting because [`JOBS_MAX`] children are at work.
    pub(super) queue: VecDeque<Deferred>,
    pub(super) next: u64,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) stopping: bool,
    pub(super) buffer: Vec<u8>,
    /// Keeps the ends of adopted inits watched.
    pub(super) init_pidfds: Vec<std::os::fd::OwnedFd>,
    epoll: Epoll,
    signals: SignalFd,
    sources: BTreeMap<u64, Source>,
    /// Held as long as the process lives.
    pub(super) lock: Flock<fs::File>,
}

impl Server {
    pub(super) fn new(
        config: Config,
        layout: Layout,
        cgroups: Cgroups,
        listener: UnixListener,
        lock: Flock<fs::File>,
        open_files: (u64, u64),
    ) -> io::Result<Server> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        listener.set_nonblocking(true)?;
        let mut server = Server {
            config,
            layout,
            cgroups,
            listener,
            started_at: super::clock::now(),
            open_files,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            clients: BTreeMap::new(),
            jobs: BTreeMap::new(),
            busy: BTreeMap::new(),
            queue: VecDeque::new(),
            next: 1,
            upgrade: None,
            stopping: false,
            buffer: vec![0; super::output::READ_CHUNK],
            init_pidfds: Vec::new(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            signals,
            sources: BTreeMap::new(),
            lock,
        };
        let token = server.next_number();
        watch(&server.epoll, server.listener.as_fd(), token, EpollFlags::EPOLLIN)?;
        server.sources.insert(token, Source::Listener);
        let token = server.next_number();
        watch(&server.epoll, server.signals.as_fd(), token, EpollFlags::EPOLLIN)?;
        server.sources.insert(token, Source::Signals);
        Ok(server)
    }

    /// A number never given before: tokens, clients, sessions.
    pub(super) fn next_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Reports `source` when the descriptor is readable (or ended); returns the token to forget it by.
    pub(super) fn watch(&mut self, fd: BorrowedFd<'_>, source: Source) -> io::Result<u64> {
        let token = self.next_number();
        watch(&self.epoll, fd, token, EpollFlags::EPOLLIN)?;
        self.sources.insert(token, source);
        Ok(token)
    }

    /// Also reports when the descriptor is writable, or no longer.
    pub(super) fn watch_writable(
        &self,
        fd: BorrowedFd<'_>,
        token: u64,
        on: bool,
    ) -> io::Result<()> {
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, on);
        self.epoll.modify(fd, &mut EpollEvent::new(flags, token))?;
        Ok(())
    }

    /// To be called before the descriptor is closed.
    pub(super) fn forget(&mut self, fd: BorrowedFd<'_>, token: u64) {
        self.sources.remove(&token);
        // Fails only if it is not watched, which is what we want.
        let _ = self.epoll.delete(fd);
    }

    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS_PER_WAIT];
        self.reap();
        while !self.stopping {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in events.iter().take(count) {
                // An earlier event of this round may have ended what this one is about.
                if let Some(source) = self.sources.get(&event.data()).cloned() {
                    self.handle(source, event.events());
                }
            }
            self.kill_late_jobs();
            self.resume_queue();
            self.try_upgrade();
        }
        Ok(())
    }

    fn timeout(&self) -> EpollTimeout {
        let next = self.jobs.values().filter(|job| !job.killed).map(|job| job.deadline).min();
        match next {
            None => EpollTimeout::NONE,
            Some(deadline) => {
                // Rounded up so that the loop does not spin through the last millisecond.
                let left =
                    deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                EpollTimeout::try_from(left).unwrap_or(EpollTimeout::NONE)
            }
        }
    }

    fn handle(&mut self, source: Source, flags: EpollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.signals(),
            Source::Client(id) => self.client_ready(id, flags),
            Source::Output(id, stream) => self.output_ready(&id, stream),
            Source::Ended(id) => self.adopted_ended(&id),
            Source::InitEnded(id) => self.init_ended(&id),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= CLIENTS_MAX {
                tracing::warn!(limit = CLIENTS_MAX, "too many clients; connection refused");
                continue;
            }
            let id = self.next_number();
            let added = stream
                .set_nonblocking(true)
                .and_then(|()| self.watch(stream.as_fd(), Source::Client(id)));
            match added {
                Ok(token) => {
                    self.clients.insert(id, Client::new(stream, token));
                }
                Err(error) => tracing::warn!(%error, "cannot serve client"),
            }
        }
    }

    fn signals(&mut self) {
        let mut children = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match i32::try_from(signal.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok())
            {
                Some(Signal::SIGTERM | Signal::SIGINT) => {
                    tracing::info!("runtime process stops; containers go on");
                    self.stopping = true;
                }
                // SIGHUP comes with the end of the session that started us; it means nothing.
                Some(Signal::SIGHUP) => {}
                _ => children = true,
            }
        }
        if children {
            self.reap();
        }
    }

    /// Collects every ended child: jobs first, because a container's first process becomes ours by its job's end.
    pub(super) fn reap(&mut self) {
        let mut ended = Vec::new();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => ended.push((pid.as_raw(), Ending::Code(code))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    ended.push((pid.as_raw(), Ending::Signal(signal as i32)))
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot collect children");
                    break;
                }
            }
        }
        let (jobs, others): (Vec<_>, Vec<_>) =
            ended.into_iter().partition(|(pid, _)| self.jobs.contains_key(pid));
        for (pid, _) in jobs {
            if let Some(job) = self.jobs.remove(&pid) {
                self.finish(job);
            }
        }
        for (pid, ending) in others {
            self.process_ended(pid, ending);
        }
    }

    fn kill_late_jobs(&mut self) {
        let now = Instant::now();
        for job in self.jobs.values_mut().filter(|job| !job.killed && job.deadline <= now) {
            tracing::error!(task = ?job.task, "child takes too long; killing it");
            job.killed = true;
            // It is our child and not collected yet, so the number is its own.
            let _ = nix::sys::signal::kill(job.child.pid, Signal::SIGKILL);
        }
    }
}

fn watch(epoll: &Epoll, fd: BorrowedFd<'_>, token: u64, flags: EpollFlags) -> io::Result<()> {
    epoll.add(fd, EpollEvent::new(flags, token))?;
    Ok(())
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Code(i32),
    Signal(i32),
    /// Nobody was there to see it.
    Unknown,
    /// Its program could not be run.
    NotStarted,
}

impl Ending {
    /// As a shell and upstream say it.
    pub(super) fn exit_code(self) -> i32 {
        match self {
            Ending::Code(code) => code,
            Ending::Signal(signal) => 128 + signal,
            Ending::Unknown => 255,
            Ending::NotStarted => 128,
        }
    }
}
