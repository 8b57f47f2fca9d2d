//! Namespaces that live as long as the process that holds them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A process that made namespaces and sleeps in them.
pub(crate) struct Holder {
    child: Child,
    init: u32,
}

impl Holder {
    /// Makes the namespaces and runs `script` in them. With a process namespace the held process is its number 1: what runs
    /// in it ends with it.
    pub(crate) fn new(namespaces: &[&str], script: &str) -> Holder {
        let mut command = Command::new("unshare");
        command.args(namespaces);
        let forks = namespaces.contains(&"--pid");
        if forks {
            command.args(["--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
        }
        let mut child = command
            .args(["sh", "-c", &format!("{script} && echo up && exec sleep infinity")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare: these tests need root and util-linux");
        let mut line = String::new();
        let out = child.stdout.take().expect("stdout is piped");
        BufReader::new(out).read_line(&mut line).expect("reading from unshare");
        assert_eq!(line.trim(), "up", "namespaces could not be made: these tests need root");
        let init = if forks { only_child(child.id()) } else { child.id() };
        Holder { child, init }
    }

    /// The held process as seen from outside.
    pub(crate) fn init(&self) -> u32 {
        self.init
    }

    /// A command line that enters these of the namespaces.
    pub(crate) fn enter(&self, namespaces: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string()]).args(namespaces).arg("--");
        command
    }

    /// Runs a shell script in the network namespace.
    pub(crate) fn network(&self, script: &str) {
        let status = self.enter(&["--net"]).args(["sh", "-c", script]).status().expect("nsenter");
        assert!(status.success(), "{script}: {status}");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn only_child(pid: u32) -> u32 {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    children.trim().parse().expect("one child")
}
