//! Objects that are written while something happens to a board, to see afterwards whether every acknowledged one is there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kubectl::{Kubectl, pause};

/// Objects of one kubectl.
const BATCH: usize = 10;
/// Objects of one writer, and the pause between two batches: it is to go on for longer than writing an update takes.
const OBJECTS_MAX: usize = 600;
const PAUSE: Duration = Duration::from_millis(400);
/// An answer that takes longer may come from another start of the board, which may be a trial that is taken back. No board
/// restarts as fast.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const LISTED: &str = r"jsonpath={range .items[*]}{.metadata.name}={.data.number}{'\n'}{end}";
const NAMED_MAX: usize = 5;

/// Names of ConfigMaps and the number in each.
pub(crate) type Objects = BTreeMap<String, usize>;

/// Writes until the board does not answer any more, or it is told to stop.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Objects>>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Writes ConfigMaps whose names begin with `name`.
    pub(crate) fn start(kubectl: &Kubectl, name: &str) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Objects::new()));
        let (kubectl, name) = (kubectl.clone(), name.to_owned());
        let (stopped, noted) = (stop.clone(), acknowledged.clone());
        let thread = thread::spawn(move || {
            for first in (0..OBJECTS_MAX).step_by(BATCH) {
                let goes_on = write(&kubectl, &name, first..first + BATCH, &noted);
                if stopped.load(Ordering::Relaxed) || !goes_on.unwrap_or(false) {
                    return;
                }
                pause(PAUSE);
            }
        });
        Writer { stop, acknowledged, thread }
    }

    /// What was acknowledged.
    pub(crate) fn end(self) -> Objects {
        self.stop.store(true, Ordering::Relaxed);
        // One that panicked has noted what it saw.
        let _ = self.thread.join();
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut acknowledged)
    }
}

/// Writes one batch and notes each object when its creation is told; whether all went well.
fn write(
    kubectl: &Kubectl,
    name: &str,
    numbers: std::ops::Range<usize>,
    noted: &Mutex<Objects>,
) -> Result<bool> {
    let objects = numbers.map(|number| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("{name}-{number}")},
            "data": {"number": number.to_string()},
        })
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects.collect::<Vec<_>>()});
    let mut command = kubectl.command(&["create", "-f", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(list.to_string().as_bytes())?;
    }
    let mut heard = Instant::now();
    for line in child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let is_late = heard.elapsed() > ANSWER_MAX;
        heard = Instant::now();
        let line = line?;
        let created =
            line.strip_prefix("configmap/").and_then(|rest| rest.strip_suffix(" created"));
        let number = created.and_then(|name| name.rsplit('-').next()?.parse().ok());
        if let (Some(created), Some(number), false) = (created, number, is_late) {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.insert(created.to_owned(), number);
        } else {
            // Ended already, or it has nothing more to say that counts.
            let _ = child.kill();
            break;
        }
    }
    Ok(child.wait()?.success())
}

/// Whether the board has all of these, with what was written into them.
pub(crate) fn all_there(kubectl: &Kubectl, expected: &Objects) -> Result<()> {
    let listed = kubectl.run(&["get", "configmaps", "-o", LISTED])?;
    let lost = lost(expected, &listed);
    ensure!(
        lost.is_empty(),
        "{} of {} acknowledged objects are lost, such as {}",
        lost.len(),
        expected.len(),
        lost.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

fn lost<'a>(expected: &'a Objects, listed: &str) -> Vec<&'a str> {
    let found: BTreeMap<&str, &str> =
        listed.lines().filter_map(|line| line.split_once('=')).collect();
    let is_there = |(name, number): &(&String, &usize)| {
        found.get(name.as_str()).is_some_and(|text| text.parse() == Ok(**number))
    };
    let lost = expected.iter().filter(|object| !is_there(object));
    lost.map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_changed_is_lost() {
        let expected: Objects =
            [("a-1", 1), ("a-2", 2), ("a-3", 3)].map(|(name, n)| (name.to_owned(), n)).into();
        let rows = [
            ("kept=42\na-1=1\na-2=2\na-3=3\n", &[][..]),
            ("a-1=1\na-2=1\na-3=3", &["a-2"]),
            ("a-1=1\na-2=\na-3", &["a-2", "a-3"]),
            ("", &["a-1", "a-2", "a-3"]),
        ];
        for (listed, missing) in rows {
            assert_eq!(lost(&expected, listed), missing, "{listed:?}");
        }
    }

    #[test]
    fn only_acknowledged_objects_are_noted() {
        let folder = tempfile::tempdir().unwrap();
        let fake = folder.path().join("kubectl");
        // Acknowledges the first two of a batch and fails.
        let script = "#!/bin/sh\ncat >/dev/null\necho configmap/x-0 created\necho configmap/x-1 created\nexit 1\n";
        std::fs::write(&fake, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fake, mode).unwrap();
        let writer = Writer::start(&Kubectl::new(&fake, folder.path()), "x");
        while !writer.thread.is_finished() {
            pause(Duration::from_millis(5));
        }
        assert_eq!(
            writer.end().into_iter().collect::<Vec<_>>(),
            [("x-0".into(), 0), ("x-1".into(), 1)]
        );
    }
}
