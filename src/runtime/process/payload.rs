//! The last steps inside a container before its program runs.
//!
//! libcontainer drops capabilities before it hands over, but a seccomp filter can only be installed with CAP_SYS_ADMIN or
//! no_new_privs. So the OCI spec names no capabilities, and this executor does both itself: filter first, then capabilities.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::mount::{MsFlags, mount};
use sys::privileges::{CapabilityMask, Instruction, install_seccomp, limit_capabilities};

/// What every reason given by [`Payload::prepare`] begins with, to be found again among libcontainer's words.
pub(super) const REFUSAL: &str = "unable to start container process: ";

#[derive(Debug, Clone)]
pub(super) struct Payload {
    pub(super) seccomp: Option<Rc<Vec<Instruction>>>,
    pub(super) capabilities: CapabilityMask,
    pub(super) last_capability: u32,
    pub(super) cwd: PathBuf,
    /// Mounts of the container whose propagation libcontainer leaves as inherited (it reads the option, no more).
    pub(super) propagation: Vec<(PathBuf, MsFlags)>,
    /// Columns and rows its terminal has from the first moment on.
    pub(super) terminal: Option<(u16, u16)>,
}

impl Executor for Payload {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let why = self.replace_process(spec);
        // Nobody waits for an answer any more; the container's own log is where this can be read.
        eprintln!("{why}");
        Err(ExecutorError::Other(why))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.prepare(spec)
            .map_err(|why| ExecutorValidationError::ArgValidationError(format!("{REFUSAL}{why}")))
    }
}

impl Payload {
    /// Becomes the container's program; comes back only with what prevented it.
    fn replace_process(&self, spec: &Spec) -> String {
        let words: Result<Vec<CString>, _> = arguments(spec)
            .into_iter()
            .flatten()
            .map(|word| CString::new(word.as_bytes()))
            .collect();
        let Ok(words) = words else { return "exec: an argument contains a zero byte".to_owned() };
        let Some(program) = words.first() else { return "exec: no command specified".to_owned() };
        if let Some((columns, rows)) = self.terminal
            && let Err(error) = sys::pty::set_window_size(std::io::stdin().as_fd(), columns, rows)
        {
            return format!("set terminal size: {error}");
        }
        if let Some(filter) = &self.seccomp
            && let Err(error) = install_seccomp(filter)
        {
            return format!("install seccomp filter: {error}");
        }
        if let Err(error) = limit_capabilities(self.capabilities, self.last_capability) {
            return format!("limit capabilities: {error}");
        }
        let Err(error) = nix::unistd::execvp(program, &words);
        format!("exec {}: {}", program.to_string_lossy(), error.desc().to_ascii_lowercase())
    }

    /// Goes to the working directory, which is made if missing, and looks for the program, so that a wrong name fails
    /// the creation with a clear message.
    fn prepare(&self, spec: &Spec) -> Result<(), String> {
        for (path, flags) in &self.propagation {
            mount(None::<&str>, path, None::<&str>, *flags, None::<&str>)
                .map_err(|error| format!("set propagation of {}: {error}", path.display()))?;
        }
        fs::create_dir_all(&self.cwd)
            .and_then(|()| std::env::set_current_dir(&self.cwd))
            .map_err(|error| format!("working directory {}: {error}", self.cwd.display()))?;
        let program =
            arguments(spec).and_then(|args| args.first()).map(String::as_str).unwrap_or_default();
        let path = spec
            .process()
            .as_ref()
            .and_then(|process| process.env().as_ref())
            .and_then(|env| env.iter().find_map(|entry| entry.strip_prefix("PATH=")))
            .unwrap_or_default();
        find(program, path).map_err(|why| format!("exec: {program:?}: {why}"))
    }
}

fn arguments(spec: &Spec) -> Option<&Vec<String>> {
    spec.process().as_ref().and_then(|process| process.args().as_ref())
}

fn find(program: &str, path: &str) -> Result<(), String> {
    if program.contains('/') {
        return match fs::metadata(program) {
            Ok(metadata) if executable(&metadata) => Ok(()),
            Ok(metadata) if metadata.is_dir() => Err("is a directory".to_owned()),
            Ok(_) => Err("permission denied".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(format!("stat {program}: no such file or directory"))
            }
            Err(error) => Err(format!("stat {program}: {error}")),
        };
    }
    let found = !program.is_empty()
        && path
            .split(':')
            .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(program))
            .any(|candidate| fs::metadata(candidate).is_ok_and(|metadata| executable(&metadata)));
    if found { Ok(()) } else { Err("executable file not found in $PATH".to_owned()) }
}

fn executable(metadata: &fs::Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}
