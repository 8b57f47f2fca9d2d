//! The stock kubectl, pointed at the board.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::tools::program;

const REQUEST_LIMIT: &str = "--request-timeout=20s";
const STEP: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(program: &Path, kubeconfig: &Path) -> Kubectl {
        Kubectl { program: program.to_owned(), kubeconfig: kubeconfig.to_owned() }
    }

    /// The command, without input.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = program(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg(REQUEST_LIMIT).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// What the command printed; its failure is ours.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output();
        let output = output.with_context(|| format!("start {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {} {}", args.join(" "), text, error.trim());
        Ok(text)
    }

    /// Repeats the command until `done` likes what it printed; shows every change through `progress`.
    pub(crate) fn wait(
        &self,
        args: &[&str],
        limit: Duration,
        done: impl Fn(&str) -> bool,
        mut progress: impl FnMut(&str),
    ) -> Result<String> {
        let end = Instant::now() + limit;
        let mut last = String::new();
        loop {
            let answer = self.run(args).unwrap_or_else(|error| format!("{error:#}"));
            if done(&answer) {
                return Ok(answer);
            }
            if answer != last {
                progress(&answer);
                last = answer;
            }
            if Instant::now() >= end {
                bail!(
                    "kubectl {} did not get there within {} s; last answer: {last}",
                    args.join(" "),
                    limit.as_secs()
                );
            }
            pause(STEP);
        }
    }
}

/// Lets time pass between two looks at something that cannot call us.
pub(crate) fn pause(duration: Duration) {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(1);
    let _ = receiver.recv_timeout(duration);
    drop(sender);
}
