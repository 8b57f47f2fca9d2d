//! The end of the machine: everything stopped in its order, written, unmounted, and off or started again.

use std::ffi::CStr;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Pid1;
use crate::power::Ending;
use crate::slots::DATASTORE_LIMIT;
use crate::{clock, mounts, reset, time};

/// A slow card takes as long for some hundred megabytes that wait in memory.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(600);
/// What the node leaves behind (containers) gets this long after TERM and after KILL.
const REST_TERM: Duration = Duration::from_secs(5);
const REST_KILL: Duration = Duration::from_secs(5);

impl Pid1 {
    /// Ends the services, then everything else, then the file systems, then the machine.
    pub(super) fn end(&mut self, ending: Ending) {
        self.say(&format!("{ending:?} asked for"));
        if ending == Ending::Restart && Path::new(crate::FACTORY_RESET_FILE).exists() {
            let noted = reset::request();
            self.say(&noted.map_or_else(
                |error| format!("no factory reset: {error}"),
                |()| "a factory reset follows".to_owned(),
            ));
        }
        let told = sys::replace_file(Path::new(crate::MACHINE_ENDS_FILE), b"", 0o644);
        if let Err(error) = told {
            self.say(&format!("pods are not stopped in order: {error}"));
        }
        for index in 0..self.services.len() {
            self.end_service(index);
        }
        self.signal_rest(Signal::SIGTERM, REST_TERM);
        self.signal_rest(Signal::SIGKILL, REST_KILL);
        self.keys.clear();
        let word = match ending {
            Ending::Restart => self.arm(),
            Ending::PowerOff => None,
        };
        let failures = self.machine.at_length(UNMOUNT_LIMIT, || {
            // A floor that is an hour older is no reason to stay.
            let _ = clock::save();
            nix::unistd::sync();
            mounts::teardown()
        });
        for failure in failures {
            self.say(&format!("unmount {failure}"));
        }
        self.say(if ending == Ending::PowerOff { "power off" } else { "restart" });
        let result = match ending {
            Ending::PowerOff => {
                self.machine.disarm_watchdog();
                sys::machine::power_off()
            }
            Ending::Restart => word.map_or_else(sys::machine::restart, sys::machine::restart_with),
        };
        self.say(&format!("the kernel refused: {result:?}"));
        time::pause(Duration::from_secs(10));
    }

    /// Lets the boot loader try a slot that was written: nothing uses the datastore any more.
    fn arm(&mut self) -> Option<&'static CStr> {
        let Pid1 { machine, slots, .. } = self;
        let (word, text) = machine.at_length(DATASTORE_LIMIT, || slots.arm())?;
        self.say(&text);
        word
    }

    fn end_service(&mut self, index: usize) {
        let Some(service) = self.services.get_mut(index) else { return };
        let limit = Instant::now() + service.description.grace;
        let Some(pid) = service.supervisor.stop() else { return };
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        self.wait_until(limit, |pid1, _| {
            pid1.services.get(index).is_none_or(|service| service.supervisor.pid().is_none())
        });
        if self.services.get(index).is_some_and(|service| service.supervisor.pid().is_some()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Signals every process but ourselves and waits until none is left.
    fn signal_rest(&mut self, signal: Signal, limit: Duration) {
        if self.reap() {
            let _ = kill(Pid::from_raw(-1), signal);
            self.wait_until(Instant::now() + limit, |_, some_left| !some_left);
        }
    }

    fn wait_until(&mut self, limit: Instant, done: impl Fn(&Pid1, bool) -> bool) {
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            let some_left = self.reap();
            if left.is_zero() || done(self, some_left) {
                return;
            }
            self.turn(left.min(Duration::from_millis(200)));
        }
    }
}
