//! The hypervisor's port: a virtio serial port through which the host of an emulated board asks for the kubeconfig
//! and for the end of the machine.
//!
//! Real boards have no such port, and only images of emulated boards switch it on: whoever holds the other end owns
//! the machine anyway. Requests are lines; the answer to `kubeconfig` is `kubeconfig <length>` and that many bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::spool::Lines;
use crate::time::{pause, wait_for};

/// Name of the role in our arguments.
pub(crate) const ROLE: &str = "host-port";
/// Name the hypervisor gives the port.
const PORT_NAME: &str = "org.copepod.host";
const PORTS: &str = "/sys/class/virtio-ports";
const APPEAR_LIMIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(500);

/// Serves requests until the port fails; PID 1 starts us again.
pub(crate) fn main(kubeconfig: Option<String>) -> i32 {
    let kubeconfig = PathBuf::from(kubeconfig.unwrap_or_default());
    let Some(path) = wait_for(APPEAR_LIMIT, STEP, find) else {
        eprintln!("no port named {PORT_NAME}");
        return 1;
    };
    let served = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .and_then(|port| serve(port, &kubeconfig));
    if let Err(error) = served {
        eprintln!("{}: {error}", path.display());
    }
    1
}

fn find() -> Option<PathBuf> {
    let entries = fs::read_dir(PORTS).ok()?.flatten();
    let named = |path: &Path| {
        fs::read_to_string(path.join("name")).is_ok_and(|name| name.trim() == PORT_NAME)
    };
    let entry = entries.into_iter().find(|entry| named(&entry.path()))?;
    Some(Path::new("/dev").join(entry.file_name()))
}

fn serve(mut port: File, kubeconfig: &Path) -> std::io::Result<()> {
    let mut lines = Lines::default();
    let mut buffer = [0; 256];
    loop {
        let read = port.read(&mut buffer)?;
        if read == 0 {
            // Nobody is connected on the host's side.
            pause(STEP);
        }
        for line in lines.push(buffer.get(..read).unwrap_or_default()) {
            let answer = answer(&line, || fs::read(kubeconfig).unwrap_or_default());
            port.write_all(&answer.bytes)?;
            if let Some(signal) = answer.signal {
                kill(Pid::from_raw(1), signal)?;
            }
        }
    }
}

/// What goes back to the host, and what PID 1 is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) signal: Option<Signal>,
}

pub(crate) fn answer(request: &str, kubeconfig: impl FnOnce() -> Vec<u8>) -> Answer {
    let ending = |signal| Answer { bytes: b"ok\n".to_vec(), signal: Some(signal) };
    match request {
        "kubeconfig" => {
            let content = kubeconfig();
            let mut bytes = format!("kubeconfig {}\n", content.len()).into_bytes();
            bytes.extend(content);
            Answer { bytes, signal: None }
        }
        "poweroff" => ending(Signal::SIGTERM),
        "restart" => ending(Signal::SIGINT),
        _ => Answer { bytes: b"unknown request\n".to_vec(), signal: None },
    }
}
