//! The wall clock: a floor below which no time is true, the child that asks time servers, and the note that says whether
//! the clock can be trusted.
//!
//! The floor is the later of the image's build and the time last saved on the data partition. A board without a battery
//! starts at the floor; a clock that shows more was set by hardware and is taken as it is until a server answers.

use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::phases::DATA;
use crate::service::READY;
use crate::sntp::{AHEAD_MAX, Asked, PACKET_LEN, Sample, choose, judge, request};
use crate::time::pause;
use crate::told::TIME_SERVERS;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    trusted: bool,
    source: Source,
}

pub(crate) fn write_note(source: Source) -> Result<(), Error> {
    let note = Note { trusted: source != Source::Floor, source };
    let text = serde_json::to_string(&note).unwrap_or_default() + "\n";
    let path = Path::new(NOTE);
    sys::replace_file(path, text.as_bytes(), 0o644).map_err(Error::file("write", path))
}

/// The time since 1970, as the machine believes.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The later of the build (seconds since 1970) and what was saved, unless that is out of all proportion.
pub(crate) fn floor(build: u64, saved: Option<&str>) -> Duration {
    let saved = saved.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
    let build = Duration::from_secs(build);
    let saved = Duration::from_secs(saved);
    if saved > build + AHEAD_MAX { build } else { build.max(saved) }
}

/// Starts the clock at the floor when it is behind it. Returns the floor and where the time is from.
pub(crate) fn start(build: u64) -> Result<(Duration, Source), Error> {
    let floor = floor(build, fs::read_to_string(saved_path()).ok().as_deref());
    let source = if now() >= floor { Source::Hardware } else { Source::Floor };
    if source == Source::Floor {
        set(floor)?;
    }
    write_note(source)?;
    Ok((floor, source))
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
    /// Seconds since 1970.
    pub(crate) floor: u64,
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
    let floor = Duration::from_secs(plan.floor);
    let mut retry = RETRY_FIRST;
    let mut known = false;
    loop {
        match ask(&plan.servers, floor).and_then(|(sample, servers)| apply(sample, servers, known))
        {
            Ok(()) => {
                known = true;
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
        let now = i128::try_from(now().as_nanos()).unwrap_or(i128::MAX);
        let nanos = u64::try_from(now + offset)
            .map_err(|_| Error::Clock("the time told is out of range".to_owned()))?;
        set(Duration::from_nanos(nanos))?;
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

/// Asks all servers once; returns the chosen answer and how many there were.
fn ask(own: &[String], floor: Duration) -> Result<(Sample, usize), Error> {
    let told = fs::read_to_string(TIME_SERVERS).unwrap_or_default();
    let servers = servers(own, &told);
    let mut samples = Vec::new();
    let mut why = String::new();
    for server in &servers {
        match ask_one(server, floor) {
            Ok(sample) => samples.push(sample),
            Err(error) => why = format!("{server}: {error}"),
        }
    }
    let chosen = choose(&samples).map(|sample| (sample, samples.len()));
    chosen.ok_or_else(|| Error::Clock(format!("no time server helps; {why}")))
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

fn ask_one(server: &str, floor: Duration) -> Result<Sample, Error> {
    let address = host_and_port(server).to_socket_addrs().map_err(Error::call("look up"))?.next();
    let address = address.ok_or_else(|| Error::Clock("the name has no address".to_owned()))?;
    let exchanged = exchange(address, floor).map_err(Error::call("ask"))?;
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
    floor: Duration,
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
    let asked = Asked { nonce, sent, received: sent + began.elapsed(), floor };
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
        let floor = now();
        let (address, answering) = server(ahead, true);
        let sample = exchange(address, floor).unwrap().unwrap();
        answering.join().unwrap();
        let seconds = sample.offset as f64 / 1e9;
        assert!((990.0..=1000.0).contains(&seconds), "{seconds}");
        let (address, answering) = server(ahead, false);
        assert_eq!(exchange(address, floor).unwrap(), Err(crate::sntp::Refusal::Foreign));
        answering.join().unwrap();
    }
}
