//! A time server of this machine for emulated boards, which can be silenced.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// What boards on QEMU's user network call this machine's loopback.
const HOST: &str = "10.0.2.2";
const PACKET_LEN: usize = 48;
/// Seconds from 1900, where NTP's time begins, to 1970.
const EPOCH: u64 = 2_208_988_800;
/// Version 4, mode "server"; and a server next to a clock.
const HEAD: [u8; 2] = [0x24, 1];
/// Where a request has the number that its answer repeats, and where the answer has it and its own times.
const SENT: usize = 40;
const ORIGIN: usize = 24;
const TIMES: [usize; 2] = [32, 40];
/// How long it takes to notice its end.
const STEP: Duration = Duration::from_millis(200);

/// Answers until it is dropped.
pub(crate) struct TimeServer {
    port: u16,
    answers: Arc<AtomicBool>,
    runs: Arc<AtomicBool>,
}

impl TimeServer {
    pub(crate) fn start() -> Result<TimeServer> {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).context("open a time server's socket")?;
        socket.set_read_timeout(Some(STEP))?;
        let port = socket.local_addr()?.port();
        let (answers, runs) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let (answering, running) = (answers.clone(), runs.clone());
        std::thread::spawn(move || {
            while running.load(Ordering::Relaxed) {
                let mut packet = [0; PACKET_LEN];
                let Ok((PACKET_LEN, client)) = socket.recv_from(&mut packet) else { continue };
                if answering.load(Ordering::Relaxed) {
                    // A board whose answer is lost asks again.
                    let _ = socket.send_to(&answer(&packet, now()), client);
                }
            }
        });
        Ok(TimeServer { port, answers, runs })
    }

    /// As boards name it.
    pub(crate) fn name(&self) -> String {
        format!("{HOST}:{}", self.port)
    }

    pub(crate) fn silence(&self) {
        self.answers.store(false, Ordering::Relaxed);
    }
}

impl Drop for TimeServer {
    fn drop(&mut self) {
        self.runs.store(false, Ordering::Relaxed);
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn answer(request: &[u8; PACKET_LEN], now: Duration) -> [u8; PACKET_LEN] {
    let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
    let stamp = ((now.as_secs() + EPOCH) << 32 | fraction).to_be_bytes();
    let mut packet = [0; PACKET_LEN];
    packet[..HEAD.len()].copy_from_slice(&HEAD);
    packet[ORIGIN..ORIGIN + 8].copy_from_slice(&request[SENT..SENT + 8]);
    for at in TIMES {
        packet[at..at + 8].copy_from_slice(&stamp);
    }
    packet
}
