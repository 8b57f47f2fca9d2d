//! The wall clock: a floor below which no time is true, the child that asks time servers, and the note that says whether
//! the clock can be trusted.
//!
//! The floor is the later of the image's build and the time last saved on the data partition. A board without a battery
//! starts at the floor; a clock that shows more was set by hardware and is taken as it is until a server answers. What was
//! saved may have been wrong: servers that go on telling an earlier time are believed, down to the build.

use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use serde::{Deserialize, Serialize};

use crate::phases::DATA;
use crate::service::READY;
use crate::sntp::{Asked, Doubt, PACKET_LEN, Sample, choose, judge, nanos, request};
use crate::time::pause;
use crate::told::TIME_SERVERS;
use crate::{Error, notices};

/// Name of the role in our arguments.
pub(crate) const ROLE: &str = "clock";
/// Says whether the clock is trusted, and by what.
const NOTE: &str = "/run/copepod/clock";
const SAVED: &str = "clock";
/// Asked when neither the owner nor DHCP names a server.
const POOL: &[&str] = &["0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org"];
const PORT: u16 = 123;
const SERVERS_MAX: usize = 4;
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Without an answer: first after this, then doubled up to the limit.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(1024);
/// With one: a quartz is off by less than a tenth of a second by then.
const AGAIN: Duration = Duration::from_secs(3600);
/// A smaller offset is left alone.
const STEP_MIN: Duration = Duration::from_millis(100);
/// No time is believed that lies further ahead of the image's build than this, in seconds: it would outlive every certificate.
const AHEAD_MAX: u64 = 20 * 365 * 86_400;
/// The first second of 2038. The C library's time of a 32-bit machine ends 18 days later, and its programs with it.
const NARROW_MAX: u64 = 2_145_916_800;
const WIDE: bool = cfg!(target_pointer_width = "64");
const CAP_SYS_TIME: u64 = 1 << 25;

/// Where the time is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Source {
    /// Nothing told the time: it is later than the floor says, nobody knows how much.
    Floor,
    /// A clock with a battery.
    Hardware,
    Server,
}

impl Source {
    /// Status, reason and message of the Node's condition.
    pub(crate) fn condition(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Source::Floor => (
                "False",
                "NoTimeServer",
                "no time server has answered; the clock goes on from the last time known",
            ),
            Source::Hardware => (
                "Unknown",
                "HardwareClock",
                "no time server has answered; the time is that of a clock of the board",
            ),
            Source::Server => ("True", "TimeServer", "a time server has answered"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    trusted: bool,
    source: Source,
}

/// Says where the time is from, to programs of this board and, as a condition of the Node, to everybody.
pub(crate) fn write_note(source: Source) -> Result<(), Error> {
    let (status, reason, message) = source.condition();
    // The node can do without this notice.
    let _ = notices::condition("clock", "ClockSynchronized", status, reason, message);
    let note = Note { trusted: source != Source::Floor, source };
    let text = serde_json::to_string(&note).unwrap_or_default() + "\n";
    let path = Path::new(NOTE);
    sys::replace_file(path, text.as_bytes(), 0o644).map_err(Error::file("write", path))
}

/// The time since 1970, as the machine believes.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Which times can be true, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bounds {
    /// When the image was built: nothing undercuts it.
    pub(crate) build: u64,
    /// The later of that and the last time known, which may have been wrong: servers may undercut it together.
    pub(crate) floor: u64,
    pub(crate) latest: u64,
}

impl Bounds {
    /// Of the image's build and the time saved; `wide` says whether this machine's programs count beyond January 2038.
    pub(crate) fn new(build: u64, saved: Option<&str>, wide: bool) -> Bounds {
        let latest = build.saturating_add(AHEAD_MAX);
        let latest = if wide { latest } else { latest.min(NARROW_MAX) };
        let saved = saved.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        // A time out of all proportion was never a time.
        let floor = if saved > latest { build } else { build.max(saved) };
        Bounds { build, floor, latest }
    }

    /// Where a clock that shows this time has it from.
    pub(crate) fn source(&self, now: u64) -> Source {
        if (self.floor..=self.latest).contains(&now) { Source::Hardware } else { Source::Floor }
    }
}

/// Starts the clock at the floor when it shows what cannot be true. Returns the bounds and where the time is from.
pub(crate) fn start(build: u64) -> Result<(Bounds, Source), Error> {
    let saved = fs::read_to_string(saved_path()).ok();
    let bounds = Bounds::new(build, saved.as_deref(), WIDE);
    // Not the standard library's clock: it ends the process when the time is beyond what it can say.
    let now = sys::machine::wall_clock().map_err(Error::call("read the clock"))?;
    let source = bounds.source(now.as_secs());
    if source == Source::Floor {
        set(Duration::from_secs(bounds.floor))?;
    }
    write_note(source)?;
    Ok((bounds, source))
}

fn saved_path() -> PathBuf {
    Path::new(DATA).join(SAVED)
}

/// Keeps the time for the next start: a later floor.
pub(crate) fn save() -> Result<(), Error> {
    let path = saved_path();
    let text = format!("{}\n", now().as_secs());
    sys::atomic_write(&path, text.as_bytes(), 0o644).map_err(Error::file("write", &path))
}

fn set(time: Duration) -> Result<(), Error> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(time))
        .map_err(Error::call("set the clock"))
}

/// What the child is to do, as the one argument of its role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) servers: Vec<String>,
    pub(crate) bounds: Bounds,
}

/// Asks time servers for ever, with the right to set the clock and no other.
pub(crate) fn main(plan: Option<String>) -> i32 {
    let plan = match serde_json::from_str::<Plan>(&plan.unwrap_or_default()) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("the plan of the clock is not readable: {error}");
            return 2;
        }
    };
    let limited = sys::privileges::last_capability()
        .and_then(|last| sys::privileges::limit_capabilities(CAP_SYS_TIME, last));
    if let Err(error) = limited {
        eprintln!("giving up rights: {error}");
        return 1;
    }
    let Plan { servers, mut bounds } = plan;
    let mut doubt = Doubt::default();
    let mut retry = RETRY_FIRST;
    let mut known = false;
    loop {
        let round = ask(&servers, &bounds)
            .and_then(|samples| settle(&samples, &mut doubt, &bounds))
            .and_then(|(sample, servers)| apply(sample, servers, known));
        match round {
            Ok(()) => {
                known = true;
                // What was just believed may lie before it.
                bounds.floor = bounds.floor.min(now().as_secs());
                retry = RETRY_FIRST;
                wait(AGAIN);
            }
            Err(error) => {
                // Once is enough: boards without a way out ask for ever.
                if retry == RETRY_FIRST {
                    eprintln!("{error}");
                }
                wait(retry);
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

fn wait(duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        pause(end.saturating_duration_since(Instant::now()));
    }
}

fn apply(sample: Sample, answers: usize, known: bool) -> Result<(), Error> {
    let offset = sample.offset;
    let step = offset.unsigned_abs() >= STEP_MIN.as_nanos();
    if step {
        let told = u64::try_from(nanos(now()) + offset)
            .map_err(|_| Error::Clock("the time told is out of range".to_owned()))?;
        set(Duration::from_nanos(told))?;
    }
    if !known || step {
        let done = if step { "set" } else { "right" };
        let seconds = offset as f64 / 1e9;
        println!("clock {done} by {answers} time servers, offset {seconds:.3} s");
    }
    if !known {
        write_note(Source::Server)?;
        println!("{READY}");
    }
    Ok(())
}

/// Asks all servers once.
fn ask(own: &[String], bounds: &Bounds) -> Result<Vec<Sample>, Error> {
    let told = fs::read_to_string(TIME_SERVERS).unwrap_or_default();
    let servers = servers(own, &told);
    let mut samples = Vec::new();
    let mut why = String::new();
    for server in &servers {
        match ask_one(server, bounds) {
            Ok(sample) => samples.push(sample),
            Err(error) => why = format!("{server}: {error}"),
        }
    }
    if samples.is_empty() {
        return Err(Error::Clock(format!("no time server helps; {why}")));
    }
    Ok(samples)
}

/// The answer to go by, and how many there were.
fn settle(
    samples: &[Sample],
    doubt: &mut Doubt,
    bounds: &Bounds,
) -> Result<(Sample, usize), Error> {
    let early = || {
        Error::Clock(
            "the time servers say a time before the last one known; they are believed when they go on saying so"
                .to_owned(),
        )
    };
    let floor = Duration::from_secs(bounds.floor);
    let chosen = choose(samples).filter(|chosen| doubt.believes(*chosen, samples, now(), floor));
    chosen.map(|chosen| (chosen, samples.len())).ok_or_else(early)
}

/// The owner's servers, else those of DHCP, else the pool's.
pub(crate) fn servers(own: &[String], told: &str) -> Vec<String> {
    let told: Vec<String> = told.lines().map(str::to_owned).collect();
    let pool = || POOL.iter().map(|name| (*name).to_owned()).collect();
    let mut servers = match (own.is_empty(), told.is_empty()) {
        (false, _) => own.to_vec(),
        (true, false) => told,
        (true, true) => pool(),
    };
    servers.truncate(SERVERS_MAX);
    servers
}

fn ask_one(server: &str, bounds: &Bounds) -> Result<Sample, Error> {
    let address = host_and_port(server).to_socket_addrs().map_err(Error::call("look up"))?.next();
    let address = address.ok_or_else(|| Error::Clock("the name has no address".to_owned()))?;
    let exchanged = exchange(address, bounds).map_err(Error::call("ask"))?;
    exchanged.map_err(|refusal| Error::Clock(refusal.to_string()))
}

/// A server's host, and its port when one is given: `HOST`, `HOST:PORT`, `[ADDRESS]:PORT`.
pub(crate) fn host_and_port(server: &str) -> (&str, u16) {
    let with_port = server.rsplit_once(':').and_then(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.or((!host.contains(':')).then_some(host))?;
        Some((host, port.parse().ok()?))
    });
    with_port.unwrap_or((server, PORT))
}

fn exchange(
    address: SocketAddr,
    bounds: &Bounds,
) -> std::io::Result<Result<Sample, crate::sntp::Refusal>> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    // Connected, so that the kernel drops what others send.
    socket.connect(address)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let nonce = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let (sent, began) = (now(), Instant::now());
    socket.send(&request(nonce))?;
    let mut buffer = [0; 2 * PACKET_LEN];
    let read = socket.recv(&mut buffer)?;
    let asked = Asked {
        nonce,
        sent,
        received: sent + began.elapsed(),
        earliest: Duration::from_secs(bounds.build),
        latest: Duration::from_secs(bounds.latest),
    };
    Ok(judge(buffer.get(..read).unwrap_or_default(), asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one request with this time and, if `own`, its own number.
    fn server(seconds: u64, own: bool) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let mut packet = [0; PACKET_LEN];
            let (_, client) = socket.recv_from(&mut packet).unwrap();
            let nonce: Vec<u8> = packet[40..].to_vec();
            packet = [0; PACKET_LEN];
            packet[..2].copy_from_slice(&[0x24, 1]);
            if own {
                packet[24..32].copy_from_slice(&nonce);
            }
            let stamp = ((seconds + 2_208_988_800) << 32).to_be_bytes();
            packet[32..40].copy_from_slice(&stamp);
            packet[40..].copy_from_slice(&stamp);
            socket.send_to(&packet, client).unwrap();
        });
        (address, answering)
    }

    #[test]
    fn a_server_may_have_a_port() {
        for (server, expected) in [
            ("time.lan", ("time.lan", 123)),
            ("time.lan:1123", ("time.lan", 1123)),
            ("10.0.2.2:7", ("10.0.2.2", 7)),
            ("2620:fe::fe", ("2620:fe::fe", 123)),
            ("[2620:fe::fe]:7", ("2620:fe::fe", 7)),
            ("time.lan:x", ("time.lan:x", 123)),
        ] {
            assert_eq!(host_and_port(server), expected);
        }
    }

    #[test]
    fn a_server_is_asked_over_a_socket() {
        let ahead = now().as_secs() + 1000;
        let bounds = Bounds::new(now().as_secs(), None, true);
        let (address, answering) = server(ahead, true);
        let sample = exchange(address, &bounds).unwrap().unwrap();
        answering.join().unwrap();
        let seconds = sample.offset as f64 / 1e9;
        assert!((990.0..=1000.0).contains(&seconds), "{seconds}");
        let (address, answering) = server(ahead, false);
        assert_eq!(exchange(address, &bounds).unwrap(), Err(crate::sntp::Refusal::Foreign));
        answering.join().unwrap();
    }
}
