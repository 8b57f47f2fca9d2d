//! Trials: kept, given up, waited for.

use std::time::Duration;

use ota::Health;

use crate::probation::{Decision, ENDS_MAX, Seen, decide};

const WITHIN: Duration = Duration::from_secs(300);

fn health(missing: &[&str]) -> Option<Health> {
    let waiting: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Some(Health { healthy: waiting.is_empty(), waiting })
}

#[test]
fn a_trial_ends_when_it_is_decided() {
    // Up, health, ends, seconds, and what is expected: nothing, "commit", or what a reason says.
    let rows: [(bool, Option<Health>, u32, u64, &str); 14] = [
        (false, None, 0, 0, ""),
        (true, None, 0, 299, ""),
        (true, health(&["pod x"]), 0, 299, ""),
        (false, health(&[]), 0, 299, ""),
        (true, health(&[]), 0, 0, "commit"),
        (true, health(&[]), 0, 301, "commit"),
        (true, health(&[]), ENDS_MAX, 0, "commit"),
        (false, None, ENDS_MAX - 1, 299, ""),
        (
            false,
            None,
            ENDS_MAX,
            20,
            "does not keep running: the node ended 5 times, at last it ended with code 2",
        ),
        (false, health(&[]), u32::MAX, 20, "does not keep running"),
        (true, health(&["pod x"]), 0, 300, "was not healthy within 300 s: pod x"),
        (true, None, 0, 300, "was not healthy within 300 s: the node said nothing"),
        (false, None, 2, 300, "within 300 s: the node ended 2 times, at last it ended with code 2"),
        (
            true,
            health(&["pod x", "pod y"]),
            1,
            300,
            "ended 1 times, at last it ended with code 2; pod x; pod y",
        ),
    ];
    for (is_up, health, ends, seconds, expected) in rows {
        let lasted = Duration::from_secs(seconds);
        let seen = Seen { is_up, health, ends, last_end: "ended with code 2".to_owned(), lasted };
        match (decide(&seen, WITHIN), expected) {
            (Decision::Wait, "") | (Decision::Commit, "commit") => {}
            (Decision::GiveUp(reason), _) if !expected.is_empty() => {
                assert!(reason.contains(expected), "{seen:?}: {reason}");
            }
            (decision, _) => panic!("{seen:?}: {decision:?}"),
        }
    }
}
