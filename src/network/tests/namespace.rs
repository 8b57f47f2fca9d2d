//! Network namespaces for tests, and packets between them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace that lives as long as this.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self(std::thread::spawn(make).join().unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        sys::namespace::run_in_netns(&self.path(), work).unwrap()
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run(|| ip(arguments))
    }
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Connects from one namespace to a listener in another; returns the address the listener saw.
pub(crate) fn connect(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
) -> std::io::Result<IpAddr> {
    let listener = to.run(|| TcpListener::bind((IpAddr::from([0, 0, 0, 0]), 0)))?;
    let target = SocketAddr::new(address, listener.local_addr()?.port());
    let mut stream = from.run(|| TcpStream::connect_timeout(&target, PATIENCE))?;
    let (mut accepted, peer) = listener.accept()?;
    stream.write_all(b"hello")?;
    drop(stream);
    let mut text = String::new();
    accepted.read_to_string(&mut text)?;
    assert_eq!(text, "hello");
    Ok(peer.ip())
}
