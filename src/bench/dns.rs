//! Queries to a cluster DNS address over UDP, written by hand so that asking costs little.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const NAME: &str = "kubernetes.default.svc.cluster.local";
const PORT: u16 = 53;
const TIME: Duration = Duration::from_secs(3);
/// Askers at once, each with one question under way.
const ASKERS: usize = 16;
/// Questions one after another whose times are kept.
const ALONE: usize = 5_000;
/// A question without an answer in this time is a failure.
const PATIENCE: Duration = Duration::from_secs(2);
const RESPONSE: u8 = 0x80;
const ERROR_MASK: u8 = 0x0f;

/// Prints the queries per second of many askers, then p50 and p99 in microseconds of one alone.
pub(crate) fn print(server: Ipv4Addr) -> Result<()> {
    let askers: Vec<_> =
        (0..ASKERS).map(|_| thread::spawn(move || ask_for(server, TIME))).collect();
    let mut rate = 0.0;
    for asker in askers {
        rate += asker.join().map_err(|_| anyhow::anyhow!("an asker panicked"))??;
    }
    let mut times = Vec::with_capacity(ALONE);
    let socket = connect(server)?;
    for number in 0..ALONE {
        let begin = Instant::now();
        ask(&socket, number as u16)?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let part = |share: usize| times.get(ALONE * share / 100).copied().context("no times");
    println!("{rate} {} {}", part(50)?, part(99)?);
    Ok(())
}

fn connect(server: Ipv4Addr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddr::from((server, PORT)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn ask_for(server: Ipv4Addr, time: Duration) -> Result<f64> {
    let (socket, begin, mut done) = (connect(server)?, Instant::now(), 0u32);
    while begin.elapsed() < time {
        ask(&socket, done as u16)?;
        done += 1;
    }
    Ok(f64::from(done) / begin.elapsed().as_secs_f64())
}

fn ask(socket: &UdpSocket, id: u16) -> Result<()> {
    socket.send(&question(id))?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).context("no answer")?;
    ensure!(length > 12, "an answer of {length} bytes");
    match answer {
        [a, b, c, d, ..] if [a, b] == id.to_be_bytes() && c & RESPONSE != 0 => {
            ensure!(d & ERROR_MASK == 0, "answered with code {}", d & ERROR_MASK);
            Ok(())
        }
        _ => bail!("an answer to something else"),
    }
}

/// A question for the IPv4 address (RFC 1035, 4.1).
fn question(id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in NAME.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}
