//! A socket to netfilter. It stays in the network namespace of the thread that opened it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Family;
use super::batch::Encoded;

/// The kernel answers at once or never.
const ANSWER_SECONDS: i64 = 10;
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;
/// The header of netfilter's messages behind that of netlink.
const NETFILTER_HEADER_BYTES: usize = 4;
/// What the kernel adds to a message that is charged to the buffer.
const OVERHEAD_BYTES: usize = 4096;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Why a batch had no effect.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The sequence number of the message that was refused, where one was.
    pub(crate) sequence: Option<u32>,
    pub(crate) source: io::Error,
}

impl From<io::Error> for Refused {
    fn from(source: io::Error) -> Self {
        Self { sequence: None, source }
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
        Ok(Self(socket))
    }

    /// Sends a batch and waits for the kernel's verdict. A batch goes in one piece, however long: the kernel takes each
    /// piece for a transaction of its own.
    pub(crate) fn commit(&self, batch: &Encoded) -> Result<(), Refused> {
        self.drain();
        let room = (batch.bytes.len() + OVERHEAD_BYTES).max(ANSWER_BYTES_MAX);
        if setsockopt(&self.0, SndBufForce, &room).is_err() {
            setsockopt(&self.0, SndBuf, &room)?;
        }
        self.send(&batch.bytes)?;
        self.await_verdict(batch.last)
    }

    fn send(&self, bytes: &[u8]) -> nix::Result<()> {
        loop {
            match sendto(self.0.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(|_| ()),
            }
        }
    }

    /// Throws away what a failed exchange has left.
    fn drain(&self) {
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Reads answers until the one for `last`, or the first refusal.
    fn await_verdict(&self, last: u32) -> Result<(), Refused> {
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        loop {
            let length = self.receive(&mut buffer)?;
            for message in messages(&buffer[..length]) {
                match message.error() {
                    Some(0) if message.sequence == last => return Ok(()),
                    Some(code) if code != 0 => {
                        let source = io::Error::from_raw_os_error(code.saturating_neg());
                        return Err(Refused { sequence: Some(message.sequence), source });
                    }
                    _ => {}
                }
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> nix::Result<usize> {
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => return received,
            }
        }
    }

    /// Asks for everything of a kind and hands the attributes of each answer to `each`.
    pub(crate) fn dump(
        &self,
        kind: u16,
        family: Family,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.drain();
        self.send(&request(kind, NLM_F_DUMP, family, &[]))?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        loop {
            let length = self.receive(&mut buffer)?;
            for message in messages(&buffer[..length]) {
                match message.error() {
                    Some(0) => {}
                    Some(code) => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    None if message.kind == NLMSG_DONE => return Ok(()),
                    None => each(message.body.get(NETFILTER_HEADER_BYTES..).unwrap_or_default()),
                }
            }
        }
    }

    /// Sends one message with ready attributes and waits for its answer.
    pub(crate) fn ask(&self, kind: u16, family: Family, attributes: &[u8]) -> Result<(), Refused> {
        self.drain();
        self.send(&request(kind, NLM_F_ACK, family, attributes))?;
        self.await_verdict(0)
    }
}

/// A message with sequence number 0.
fn request(kind: u16, flags: u16, family: Family, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + NETFILTER_HEADER_BYTES + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family.number(), 0, 0, 0]);
    bytes.extend_from_slice(attributes);
    bytes
}

/// A message from the kernel.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// The code of an error message; 0 is success.
    fn error(&self) -> Option<i32> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let code = self.body.get(..4).and_then(|code| code.try_into().ok());
        Some(code.map_or(-(Errno::EBADMSG as i32), i32::from_ne_bytes))
    }
}

/// The messages of a datagram; stops at the first that is cut off.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let word = |at: usize| <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok();
        let length = u32::from_ne_bytes(word(0)?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(word(8)?);
        let body = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, body })
    })
}
