//! Which streams of a client belong together: each forwarded connection has one for its bytes and one for an error. What a
//! client's frames lead to is decided here, without IO; the words are upstream's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::spdy::{self, Bad, Decoder, Frame, Headers, Why};

/// Forwarded connections of one client at one time, begun ones included.
pub(super) const PAIRS_MAX: usize = 256;
/// How long the second stream of a pair may take to come.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Send(Bytes),
    /// Both streams of a connection are there.
    Start(Start),
    /// Bytes for the connection with this data stream.
    Deliver(u32, Bytes),
    /// The client sends no more on this data stream.
    Finish(u32),
    /// The client wants no more of this data stream.
    Abandon(u32),
    /// The client opens no more streams.
    GoAway,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) port: u16,
    pub(super) data: u32,
    pub(super) error: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// A stream of a pair that is not complete.
#[derive(Debug)]
struct Half {
    kind: Kind,
    stream: u32,
    port: u16,
    until: Instant,
    /// What came before the pair was complete: at most the end.
    finished: bool,
}

/// One client's streams.
#[derive(Debug)]
pub(super) struct Pairs {
    decoder: Decoder,
    halves: HashMap<String, Half>,
    /// Complete pairs by their data stream.
    running: HashMap<u32, Start>,
    last_stream: u32,
    replied: bool,
}

impl Pairs {
    pub(super) fn new() -> Pairs {
        Pairs {
            decoder: Decoder::new(),
            halves: HashMap::new(),
            running: HashMap::new(),
            last_stream: 0,
            replied: false,
        }
    }

    /// Takes bytes of the client.
    pub(super) fn step(&mut self, bytes: &[u8], now: Instant) -> Result<Vec<Effect>, Bad> {
        self.decoder.push(bytes);
        let mut effects = Vec::new();
        while let Some(frame) = self.decoder.next()? {
            self.frame(frame, now, &mut effects);
        }
        Ok(effects)
    }

    /// Gives up pairs whose second stream did not come.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Effect> {
        let late: Vec<String> =
            self.halves.iter().filter(|(_, h)| h.until <= now).map(|(r, _)| r.clone()).collect();
        let mut effects = Vec::new();
        for request in late {
            if let Some(half) = self.halves.remove(&request)
                && half.kind == Kind::Error
            {
                let text = format!("(request={request}) timed out waiting for streams");
                effects.push(Effect::Send(spdy::data(half.stream, text.as_bytes(), true)));
            }
        }
        effects
    }

    /// When `expire` is to be called next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.halves.values().map(|half| half.until).min()
    }

    /// A connection has ended, with all that was to be said about it.
    pub(super) fn ended(&mut self, data: u32) {
        self.running.remove(&data);
    }

    fn frame(&mut self, frame: Frame, now: Instant, effects: &mut Vec<Effect>) {
        match frame {
            Frame::SynStream { stream, headers, fin } => {
                self.open(stream, &headers, fin, now, effects);
            }
            Frame::Data { stream, bytes, fin } => {
                if !self.running.contains_key(&stream) {
                    return self.early(stream, fin);
                }
                if !bytes.is_empty() {
                    effects.push(Effect::Deliver(stream, bytes));
                }
                if fin {
                    effects.push(Effect::Finish(stream));
                }
            }
            Frame::Reset { stream } => {
                self.halves.retain(|_, half| half.stream != stream);
                if self.running.contains_key(&stream) {
                    effects.push(Effect::Abandon(stream));
                }
            }
            // Clients number theirs odd; an even one is the answer to ours.
            Frame::Ping(number) if number % 2 == 1 => {
                effects.push(Effect::Send(spdy::ping(number)));
            }
            Frame::Ping(_) => {}
            Frame::GoAway => effects.push(Effect::GoAway),
        }
    }

    /// Nothing may be sent on a stream before its pair is complete, but it may be finished; on error streams it always
    /// is.
    fn early(&mut self, stream: u32, fin: bool) {
        if let Some(half) = self.halves.values_mut().find(|half| half.stream == stream) {
            half.finished |= fin;
        }
    }

    fn open(
        &mut self,
        stream: u32,
        headers: &Headers,
        fin: bool,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        if stream.is_multiple_of(2) || stream <= self.last_stream {
            return effects.push(Effect::Send(spdy::reset(stream, Why::Protocol)));
        }
        self.last_stream = stream;
        let wish = wish(stream, headers);
        let refused = match &wish {
            Err(why) => {
                tracing::debug!(stream, why, "stream of a port forwarding rejected");
                Some(Why::Cancel)
            }
            Ok(wish) if !self.halves.contains_key(&wish.request) => {
                let full = self.halves.len() + self.running.len() >= PAIRS_MAX;
                full.then_some(Why::Refused)
            }
            Ok(_) => None,
        };
        match (wish, refused) {
            (Ok(wish), None) => {
                effects.push(Effect::Send(spdy::reply(stream, !self.replied)));
                self.replied = true;
                self.pair(stream, wish, fin, now, effects);
            }
            (_, why) => {
                let why = why.unwrap_or(Why::Cancel);
                effects.push(Effect::Send(spdy::reset(stream, why)));
            }
        }
    }

    fn pair(
        &mut self,
        stream: u32,
        wish: Wish,
        fin: bool,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Wish { kind, port, request } = wish;
        let Some(half) = self.halves.remove(&request) else {
            let until = now + CREATION_TIMEOUT;
            let half = Half { kind, stream, port, until, finished: fin };
            self.halves.insert(request, half);
            return;
        };
        let start = match (half.kind, kind) {
            (Kind::Error, Kind::Data) => Start { port, data: stream, error: half.stream },
            (Kind::Data, Kind::Error) => {
                Start { port: half.port, data: half.stream, error: stream }
            }
            (Kind::Error, Kind::Error) => {
                let text = format!(
                    "error processing stream for request {request}: error stream already assigned"
                );
                effects.push(Effect::Send(spdy::data(half.stream, text.as_bytes(), false)));
                self.halves.insert(request, half);
                return;
            }
            (Kind::Data, Kind::Data) => {
                self.halves.insert(request, half);
                return;
            }
        };
        self.running.insert(start.data, start);
        effects.push(Effect::Start(start));
        let finished = if start.data == stream { fin } else { half.finished };
        if finished {
            effects.push(Effect::Finish(start.data));
        }
    }
}

/// What a stream is to be.
#[derive(Debug)]
struct Wish {
    kind: Kind,
    port: u16,
    request: String,
}

fn wish(stream: u32, headers: &Headers) -> Result<Wish, String> {
    let header = |name: &str| {
        let value = headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value);
        value.split('\0').next().unwrap_or_default()
    };
    let port = header("port");
    if port.is_empty() {
        return Err("\"port\" header is required".to_owned());
    }
    let number: u16 =
        port.parse().map_err(|error| format!("unable to parse {port:?} as a port: {error}"))?;
    if number == 0 {
        return Err(format!("port {port:?} must be > 0"));
    }
    let kind = match header("streamtype") {
        "" => return Err("\"streamType\" header is required".to_owned()),
        "error" => Kind::Error,
        "data" => Kind::Data,
        other => return Err(format!("invalid stream type {other:?}")),
    };
    // Old clients name no request; they open the error stream and then the data stream.
    let request = match (header("requestid"), kind) {
        ("", Kind::Error) => stream.to_string(),
        ("", Kind::Data) => stream.saturating_sub(2).to_string(),
        (request, _) => request.to_owned(),
    };
    Ok(Wish { kind, port: number, request })
}
