//! Messages as bytes: requests in, replies out, each reply fitted to what its client can take.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name};

/// Bytes of a reply to a UDP client that does not say what it can take.
const UDP_PLAIN: usize = 512;
/// Bytes of a UDP message that pass every network unfragmented.
pub(crate) const UDP_MAX: u16 = 1232;
/// Bytes of the OPT record that is put at the end of replies.
const OPT_LENGTH: usize = 11;
const HEADER: usize = 12;
/// Bytes of type, class, time to live and data length of a record.
const RECORD_FIXED: usize = 10;

/// A question from a client.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u16,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) query: Query,
    /// The client's UDP size and DNSSEC wish, if it speaks EDNS.
    pub(crate) edns: Option<(u16, bool)>,
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Request(Request),
    /// Nothing to look up; this is the reply.
    Refusal(Vec<u8>),
    /// Not worth a reply.
    Noise,
}

/// How a reply travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp,
    Tcp,
}

/// Reads what a client sent.
pub(crate) fn read(bytes: &[u8]) -> Incoming {
    let Some((id, flags)) = bytes.first_chunk::<HEADER>().map(|head| ([head[0], head[1]], head[2]))
    else {
        return Incoming::Noise;
    };
    if flags & 0x80 != 0 {
        return Incoming::Noise;
    }
    let id = u16::from_be_bytes(id);
    let Ok(mut message) = Message::from_vec(bytes) else {
        return refusal(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
    };
    let code = match (message.op_code, message.queries.as_slice(), &message.edns) {
        (OpCode::Query, _, Some(edns)) if edns.version() > 0 => ResponseCode::BADVERS,
        (OpCode::Query, [query], _) if query.query_class == DNSClass::IN => {
            let edns = message.edns.as_ref();
            return Incoming::Request(Request {
                id,
                recursion_desired: message.recursion_desired,
                checking_disabled: message.checking_disabled,
                edns: edns.map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
                query: message.queries.swap_remove(0),
            });
        }
        (OpCode::Query, [_], _) => ResponseCode::Refused,
        (OpCode::Query, ..) => ResponseCode::FormErr,
        _ => ResponseCode::NotImp,
    };
    let mut reply = Message::error_msg(id, message.op_code, code);
    reply.metadata.recursion_desired = message.recursion_desired;
    reply.queries = message.queries;
    if message.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX).set_version(0);
        reply.edns = Some(edns);
    }
    refusal(&reply)
}

fn refusal(reply: &Message) -> Incoming {
    reply.to_vec().map_or(Incoming::Noise, Incoming::Refusal)
}

/// A reply before it is fitted to a client: without OPT record, with the place of each record's time to live.
#[derive(Debug)]
pub(crate) struct Packet {
    bytes: Vec<u8>,
    answers: usize,
    authorities: usize,
    /// Of the answers, the authorities, the additional records.
    lifetimes: Box<[u16]>,
}

impl Packet {
    /// Encodes a reply of one question. None when it cannot be said in a message.
    pub(crate) fn new(message: &Message) -> Option<Self> {
        let bytes = message.to_vec().ok()?;
        let answers = message.answers.len();
        let authorities = message.authorities.len();
        let count = answers + authorities + message.additionals.len();
        let mut offset = after_name(&bytes, HEADER)? + 4;
        let mut lifetimes = Vec::with_capacity(count);
        for _ in 0..count {
            let lifetime = after_name(&bytes, offset)? + 4;
            lifetimes.push(u16::try_from(lifetime).ok()?);
            offset = end_of(&bytes, lifetime)?;
        }
        Some(Self { bytes, answers, authorities, lifetimes: lifetimes.into() })
    }

    /// A reply without records.
    pub(crate) fn code(query: &Query, code: ResponseCode) -> Option<Self> {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.metadata.recursion_available = true;
        message.queries.push(query.clone());
        Self::new(&message)
    }

    /// The same in no more memory than needed: for replies that are kept.
    pub(crate) fn shrunk(mut self) -> Self {
        self.bytes.shrink_to_fit();
        self
    }

    /// The bytes it takes in memory.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.lifetimes.len() * 2
    }

    /// The message again.
    pub(crate) fn message(&self) -> Option<Message> {
        Message::from_vec(&self.bytes).ok()
    }

    /// Puts the reply to `request` into `out`: `age` seconds after it was made, cut to what the client can take.
    pub(crate) fn write(&self, request: &Request, age: u32, carrier: Carrier, out: &mut Vec<u8>) {
        let limit = limit(request, carrier);
        let (end, kept) = self.fit(limit);
        out.clear();
        out.extend_from_slice(self.bytes.get(..end).unwrap_or(&self.bytes));
        let answers = kept.min(self.answers);
        let authorities = (kept - answers).min(self.authorities);
        let additionals = kept - answers - authorities;
        let cut = kept < self.answers + self.authorities;
        let edns = request.edns.is_some();
        for (place, count) in
            [(6, answers), (8, authorities), (10, additionals + usize::from(edns))]
        {
            put(out, place, &u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
        }
        put(out, 0, &request.id.to_be_bytes());
        if let Some([flags, more]) = out.get_mut(2..4) {
            *flags = *flags & !0x03 | u8::from(request.recursion_desired) | u8::from(cut) << 1;
            *more = *more & !0x30 | u8::from(request.checking_disabled) << 4;
        }
        spell(out, &request.query.name);
        for lifetime in self.lifetimes.iter().take(kept).map(|place| usize::from(*place)) {
            let left = word(out, lifetime).unwrap_or(0).saturating_sub(age);
            put(out, lifetime, &left.to_be_bytes());
        }
        if let Some((_, dnssec)) = request.edns {
            let [high, low] = UDP_MAX.to_be_bytes();
            let wish = if dnssec { 0x80 } else { 0 };
            out.extend_from_slice(&[0, 0, 41, high, low, 0, 0, wish, 0, 0, 0]);
        }
    }

    /// Where to end, and how many records that keeps. Records go from the end; what an answer mentions goes first.
    fn fit(&self, limit: usize) -> (usize, usize) {
        if self.bytes.len() <= limit {
            return (self.bytes.len(), self.lifetimes.len());
        }
        let fitting = |(number, lifetime): (usize, &u16)| {
            let end = end_of(&self.bytes, usize::from(*lifetime))?;
            (end <= limit).then_some((end, number + 1))
        };
        let bare = (after_name(&self.bytes, HEADER).unwrap_or(HEADER) + 4, 0);
        self.lifetimes.iter().enumerate().map_while(fitting).last().unwrap_or(bare)
    }
}

fn limit(request: &Request, carrier: Carrier) -> usize {
    let size = match (carrier, request.edns) {
        (Carrier::Tcp, _) => usize::from(u16::MAX),
        (Carrier::Udp, Some((size, _))) => usize::from(size.min(UDP_MAX)).max(UDP_PLAIN),
        (Carrier::Udp, None) => UDP_PLAIN,
    };
    size - if request.edns.is_some() { OPT_LENGTH } else { 0 }
}

/// Writes the name of the question as the client spells it.
fn spell(out: &mut [u8], name: &Name) {
    let mut place = HEADER;
    for label in name.iter() {
        put(out, place + 1, label);
        place += 1 + label.len();
    }
}

fn put(out: &mut [u8], place: usize, bytes: &[u8]) {
    if let Some(target) = out.get_mut(place..place + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

fn word(bytes: &[u8], place: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(place..)?.first_chunk()?))
}

/// The place after a record whose time to live is at `lifetime`.
fn end_of(bytes: &[u8], lifetime: usize) -> Option<usize> {
    let length = u16::from_be_bytes(*bytes.get(lifetime + 4..)?.first_chunk()?);
    Some(lifetime - 4 + RECORD_FIXED + usize::from(length))
}

/// The place after the name that begins at `place`.
fn after_name(bytes: &[u8], mut place: usize) -> Option<usize> {
    loop {
        match *bytes.get(place)? {
            0 => return Some(place + 1),
            length if length & 0xc0 != 0 => return Some(place + 2),
            length => place += 1 + usize::from(length),
        }
    }
}
