//! Asks the node's own program whether it would start with some settings, before it is started with them.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::settings::{REGISTRIES_FILE, Secret, Settings, TOKEN_FILE};
use crate::time::wait_for;
use crate::{Error, NODE_PROGRAM};

/// The command of the node's program that only looks at the flags after it.
const CHECK: &str = "check";
const LIMIT: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);
/// Code with which it ends when something is wrong; any other failure is no verdict.
const REFUSED: i32 = 1;
const ANSWER_MAX: u64 = 400;

/// Puts what the node must not be told by its arguments where it finds it.
pub(crate) fn write_secrets(settings: &Settings) -> Result<(), Error> {
    let Settings { token, registries, .. } = settings;
    for (path, content) in [(TOKEN_FILE, token), (REGISTRIES_FILE, registries)] {
        let Some(Secret(text)) = content else { continue };
        let path = Path::new(path);
        sys::replace_file(path, text.as_bytes(), 0o600).map_err(Error::file("write", path))?;
    }
    Ok(())
}

/// What the node would refuse. A check that cannot be made refuses nothing.
pub(crate) fn judge(settings: &Settings) -> Result<(), String> {
    if write_secrets(settings).is_err() {
        return Ok(());
    }
    let mut command = Command::new(NODE_PROGRAM);
    command.arg(CHECK).args(&settings.node).env_clear().stdin(Stdio::null());
    answer(command)
}

pub(crate) fn answer(mut command: Command) -> Result<(), String> {
    let Ok((mut output, input)) = std::io::pipe() else { return Ok(()) };
    let Ok(quiet) = input.try_clone() else { return Ok(()) };
    let spawned = sys::spawn::unblock_signals(command.stdout(quiet).stderr(input)).spawn();
    // Closes our ends of the pipe, so that reading it ends.
    drop(command);
    let Ok(mut child) = spawned else { return Ok(()) };
    let ended = wait_for(LIMIT, STEP, || child.try_wait().ok().flatten());
    let Some(status) = ended else {
        let _ = child.kill();
        let _ = child.wait();
        return Ok(());
    };
    if status.code() != Some(REFUSED) {
        return Ok(());
    }
    let mut bytes = Vec::new();
    let _ = output.by_ref().take(ANSWER_MAX).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next().unwrap_or_default();
    Err(line.strip_prefix("copepod: ").unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_counts() {
        for (script, expected) in [
            ("exit 0", Ok(())),
            ("echo 'copepod: --x: no' >&2; echo more >&2; exit 1", Err("--x: no".to_owned())),
            ("echo broken >&2; exit 101", Ok(())),
            ("kill -9 $$", Ok(())),
        ] {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            assert_eq!(answer(command), expected, "{script}");
        }
        assert_eq!(answer(Command::new("/no/such/program")), Ok(()));
    }
}
