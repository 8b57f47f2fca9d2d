//! The hardware watchdog: armed at the start, fed from PID 1's loop and, while PID 1 works on something long, from beside it.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use sys::machine::Watchdog;

use crate::Error;

const PATH: &str = "/dev/watchdog0";
const SECONDS: u32 = 60;
/// How often it is fed during long work: drivers may keep a shorter time than they were asked for.
const STEP: Duration = Duration::from_secs(5);

/// Feeding it, for as long as it may last.
pub(crate) trait Feed: Send {
    fn feed(&mut self);
}

impl Feed for Watchdog {
    fn feed(&mut self) {
        // One that cannot be fed restarts the machine, which is all that is left then.
        let _ = Watchdog::feed(self);
    }
}

/// Arms the board's, if it has one; also the seconds it waits.
pub(crate) fn arm() -> Result<Option<(Watchdog, u32)>, Error> {
    let path = Path::new(PATH);
    if !path.exists() {
        return Ok(None);
    }
    Watchdog::open(path, SECONDS).map(Some).map_err(Error::file("open", path))
}

/// Works, and feeds meanwhile; work that takes longer than `limit` hangs, and the watchdog may end it.
pub(crate) fn fed<T>(
    watchdog: Option<&mut impl Feed>,
    limit: Duration,
    work: impl FnOnce() -> T,
) -> T {
    fed_every(STEP, watchdog, limit, work)
}

fn fed_every<T>(
    step: Duration,
    watchdog: Option<&mut impl Feed>,
    limit: Duration,
    work: impl FnOnce() -> T,
) -> T {
    let Some(watchdog) = watchdog else { return work() };
    watchdog.feed();
    std::thread::scope(|scope| {
        let (working, ended) = channel::<()>();
        let end = Instant::now() + limit;
        let feeder = move || {
            while ended.recv_timeout(step) == Err(RecvTimeoutError::Timeout) && Instant::now() < end
            {
                watchdog.feed();
            }
        };
        // Without a thread the work goes on unfed, as long as the watchdog lets it.
        let feeding = std::thread::Builder::new().spawn_scoped(scope, feeder);
        let done = work();
        drop(working);
        // The scope waits for the end of its work only, not for that of the thread: PID 1 could not fork until then.
        let _ = feeding.map(|thread| thread.join());
        done
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::time::wait_for;

    struct Counter<'a>(&'a AtomicUsize);

    impl Feed for Counter<'_> {
        fn feed(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn work_is_fed_until_its_end_or_the_limit() {
        let step = Duration::from_millis(1);
        for (limit, is_fed_on) in [(Duration::from_secs(60), true), (Duration::ZERO, false)] {
            let fed = AtomicUsize::new(0);
            let done = fed_every(step, Some(&mut Counter(&fed)), limit, || {
                let often = || (fed.load(Ordering::Relaxed) >= 3).then_some(());
                wait_for(if is_fed_on { limit } else { 50 * step }, step, often).is_some()
            });
            assert_eq!((done, fed.into_inner() >= 3), (is_fed_on, is_fed_on), "{limit:?}");
        }
        assert_eq!(fed(None::<&mut Counter<'_>>, Duration::ZERO, || 7), 7);
    }
}
