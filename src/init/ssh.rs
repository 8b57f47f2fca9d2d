//! The debug variant's SSH server: dropbear, for root with one of the owner's keys, never with a password.
//!
//! The root leads from `/root/.ssh` and `/etc/dropbear` to the folders made here; dropbear makes the host key in the
//! latter when somebody first comes.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::phases::DATA;
use crate::service::Description;

const PROGRAM: &str = "/usr/bin/dropbear";
const AUTHORIZED: &str = "/run/copepod/ssh";
const GRACE: Duration = Duration::from_secs(2);
/// In the foreground, messages to us, host key when needed, no passwords, no forwarding of ports.
const ARGUMENTS: [&str; 6] = ["-F", "-E", "-R", "-s", "-j", "-k"];

/// Says who may come in, and makes the folder that keeps the host key over restarts.
pub(crate) fn prepare(keys: &[String]) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    for folder in [PathBuf::from(AUTHORIZED), Path::new(DATA).join("ssh")] {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(Error::file("create", &folder))?;
    }
    let path = Path::new(AUTHORIZED).join("authorized_keys");
    let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
    sys::replace_file(&path, text.as_bytes(), 0o600).map_err(Error::file("write", &path))
}

pub(crate) fn server() -> Description {
    Description {
        name: "ssh",
        program: PROGRAM.into(),
        called: "dropbear",
        arguments: ARGUMENTS.map(str::to_owned).into(),
        oom_score: 0,
        grace: GRACE,
        makes_session: false,
    }
}
