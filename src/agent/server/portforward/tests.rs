//! Frames against golden bytes, pairs of streams, and connections forwarded to a listener on this machine.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;

use super::connection;
use super::dial::Target;
use super::pairs::{Effect, PAIRS_MAX, Pairs, Start};
use super::spdy::{self, Bad, DICTIONARY, Decoder, Frame, Why};
use super::transport;

const PATIENCE: Duration = Duration::from_secs(60);

fn cases() -> Vec<(Vec<u8>, &'static str)> {
    let lines = include_str!("../../cases/spdy.txt").lines().filter(|l| !l.starts_with('#'));
    let byte = |text: &str, i: usize| u8::from_str_radix(&text[i..i + 2], 16).expect("hex");
    lines
        .map(|line| line.split_once(" = ").expect("a case has ' = '"))
        .map(|(hex, said)| ((0..hex.len()).step_by(2).map(|i| byte(hex, i)).collect(), said))
        .collect()
}

#[test]
fn frames_are_what_clients_write() {
    let mut decoder = Decoder::new();
    for (bytes, said) in cases() {
        decoder.push(&bytes);
        let frame = decoder.next().expect(said).expect(said);
        assert_eq!(format!("{frame:?}"), said);
        assert_eq!(decoder.next(), Ok(None), "{said}");
    }
}

#[test]
fn frames_may_come_in_any_pieces() {
    let whole: Vec<u8> = cases().into_iter().flat_map(|(bytes, _)| bytes).collect();
    let frames = |size: usize| {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for piece in whole.chunks(size) {
            decoder.push(piece);
            while let Some(frame) = decoder.next().expect("a frame") {
                frames.push(frame);
            }
        }
        frames
    };
    let text = |frames: &[Frame]| {
        let mut text = Vec::new();
        for frame in frames {
            if let Frame::Data { stream: 3, bytes, .. } = frame {
                text.extend_from_slice(bytes);
            }
        }
        text
    };
    assert_eq!(frames(whole.len()).len(), cases().len());
    for size in [1, 2, 3, 7, 50] {
        let frames = frames(size);
        assert_eq!(text(&frames), b"GET / HTTP/1.0\r\n\r\n");
        let others = |f: &&Frame| !matches!(f, Frame::Data { .. });
        assert_eq!(frames.iter().filter(others).count(), cases().len() - 2);
    }
}

#[test]
fn our_frames_are_golden() {
    let hex = |bytes: Bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(
        hex(spdy::reply(1, true)),
        "8003000200000014000000017801000400fbff00000000000000ffff"
    );
    assert_eq!(hex(spdy::reply(3, false)), "800300020000001200000003000400fbff00000000000000ffff");
    assert_eq!(hex(spdy::reset(3, Why::Refused)), "80030003000000080000000300000003");
    assert_eq!(hex(spdy::ping(7)), "800300060000000400000007");
    assert_eq!(hex(spdy::data(5, b"ab", true)), "00000005010000026162");
}

#[test]
fn replies_unpack_to_no_headers() {
    let mut inflate = flate2::Decompress::new(true);
    for (reply, first) in [(spdy::reply(1, true), 12), (spdy::reply(3, false), 12)] {
        let mut out = [9; 16];
        let before = inflate.total_out();
        let sync = flate2::FlushDecompress::Sync;
        inflate.decompress(&reply[first..], &mut out, sync).expect("zlib");
        assert_eq!((inflate.total_out() - before, &out[..4]), (4, &[0; 4][..]));
    }
}

/// What a client packs its headers with.
struct Packer(Compress);

impl Packer {
    fn new() -> Packer {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&DICTIONARY).expect("dictionary");
        Packer(compress)
    }

    fn open(&mut self, stream: u32, headers: &[(&str, &str)], fin: bool) -> Bytes {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.put_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(1 << 16);
        self.0.compress_vec(&block, &mut packed, FlushCompress::Sync).expect("packed");
        let mut out = BytesMut::new();
        out.put_u32(0x8003_0001);
        out.put_u32(packed.len() as u32 + 10 + if fin { 1 << 24 } else { 0 });
        out.put_u32(stream);
        out.put_bytes(0, 6);
        out.put_slice(&packed);
        out.freeze()
    }

    fn stream(&mut self, stream: u32, kind: &str, port: &str, request: &str) -> Bytes {
        let headers = [("streamtype", kind), ("port", port), ("requestid", request)];
        self.open(stream, &headers, false)
    }
}

#[test]
fn bad_frames_end_the_connection() {
    let bad = |bytes: &[u8]| {
        let mut decoder = Decoder::new();
        decoder.push(bytes);
        decoder.next().expect_err("bad")
    };
    assert_eq!(bad(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Bad::Version);
    assert_eq!(bad(&[0x80, 3, 0, 1, 0, 1, 0, 0]), Bad::Long(1 << 16));
    assert_eq!(bad(&[0x80, 3, 0, 3, 0, 0, 0, 1, 0]), Bad::Short(3));
    assert_eq!(bad(&[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]), Bad::Zlib);
    let bomb = "x".repeat(20_000);
    assert_eq!(bad(&Packer::new().open(1, &[("a", &bomb)], false)), Bad::BlockSize);
    let many = vec![("a", "b"); 33];
    assert_eq!(bad(&Packer::new().open(1, &many, false)), Bad::Block);
}

/// A generator of bytes that needs no seed from outside.
fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn any_bytes_are_frames_or_not() {
    let mut state = 0x2545_f491_4f6c_dd1d;
    for _ in 0..2000 {
        let mut whole: Vec<u8> = cases().into_iter().flat_map(|(bytes, _)| bytes).collect();
        for _ in 0..noise(&mut state) % 4 + 1 {
            let at = noise(&mut state) as usize % whole.len();
            whole[at] = noise(&mut state) as u8;
        }
        let mut pairs = Pairs::new();
        for piece in whole.chunks(noise(&mut state) as usize % 60 + 1) {
            if pairs.step(piece, Instant::now()).is_err() {
                break;
            }
        }
    }
}

fn step(pairs: &mut Pairs, bytes: &Bytes) -> Vec<Effect> {
    pairs.step(bytes, Instant::now()).expect("frames")
}

#[test]
fn two_streams_of_a_request_make_a_connection() {
    let (mut pairs, mut packer) = (Pairs::new(), Packer::new());
    let opened = step(&mut pairs, &packer.stream(1, "error", "8080", "0"));
    assert_eq!(opened, [Effect::Send(spdy::reply(1, true))]);
    assert_eq!(step(&mut pairs, &spdy::data(1, b"", true)), []);
    let start = Start { port: 8080, data: 3, error: 1 };
    let opened = step(&mut pairs, &packer.stream(3, "data", "8080", "0"));
    assert_eq!(opened, [Effect::Send(spdy::reply(3, false)), Effect::Start(start)]);
    assert_eq!(
        step(&mut pairs, &spdy::data(3, b"hello", true)),
        [Effect::Deliver(3, Bytes::from_static(b"hello")), Effect::Finish(3)]
    );
    assert_eq!(step(&mut pairs, &spdy::reset(3, Why::Cancel)), [Effect::Abandon(3)]);
    pairs.ended(3);
    assert_eq!(step(&mut pairs, &spdy::data(3, b"late", false)), []);
    assert_eq!(step(&mut pairs, &spdy::ping(1)), [Effect::Send(spdy::ping(1))]);
    assert_eq!(step(&mut pairs, &spdy::ping(2)), []);
}

#[test]
fn old_clients_name_no_request() {
    let (mut pairs, mut packer) = (Pairs::new(), Packer::new());
    step(&mut pairs, &packer.open(1, &[("streamtype", "error"), ("port", "80")], true));
    let opened = step(&mut pairs, &packer.open(3, &[("streamtype", "data"), ("port", "80")], true));
    let start = Start { port: 80, data: 3, error: 1 };
    assert_eq!(opened[1..], [Effect::Start(start), Effect::Finish(3)]);
}

#[test]
fn odd_streams_are_reset() {
    let (mut pairs, mut packer) = (Pairs::new(), Packer::new());
    let cancel = |stream| [Effect::Send(spdy::reset(stream, Why::Cancel))];
    assert_eq!(step(&mut pairs, &packer.stream(1, "error", "", "0")), cancel(1));
    assert_eq!(step(&mut pairs, &packer.stream(3, "error", "0", "0")), cancel(3));
    assert_eq!(step(&mut pairs, &packer.stream(5, "error", "65536", "0")), cancel(5));
    assert_eq!(step(&mut pairs, &packer.stream(7, "resize", "80", "0")), cancel(7));
    assert_eq!(step(&mut pairs, &packer.stream(9, "", "80", "0")), cancel(9));
    let protocol = |stream| [Effect::Send(spdy::reset(stream, Why::Protocol))];
    assert_eq!(step(&mut pairs, &packer.stream(9, "error", "80", "0")), protocol(9));
    assert_eq!(step(&mut pairs, &packer.stream(10, "error", "80", "0")), protocol(10));
    step(&mut pairs, &packer.stream(11, "error", "80", "0"));
    let twice = step(&mut pairs, &packer.stream(13, "error", "80", "0"));
    let text = "error processing stream for request 0: error stream already assigned";
    assert_eq!(twice[1..], [Effect::Send(spdy::data(11, text.as_bytes(), false))]);
}

#[test]
fn pairs_are_limited_and_do_not_wait_forever() {
    let (mut pairs, mut packer) = (Pairs::new(), Packer::new());
    let now = Instant::now();
    for i in 0..PAIRS_MAX as u32 {
        step(&mut pairs, &packer.stream(2 * i + 1, "error", "80", &i.to_string()));
    }
    let next = 2 * PAIRS_MAX as u32 + 1;
    let refused = [Effect::Send(spdy::reset(next, Why::Refused))];
    assert_eq!(step(&mut pairs, &packer.stream(next, "error", "80", "more")), refused);
    assert!(pairs.expire(now + Duration::from_secs(29)).is_empty());
    assert_eq!(pairs.expire(now + Duration::from_secs(31)).len(), PAIRS_MAX);
    assert_eq!(pairs.next_expiry(), None);
}

/// A client on a pipe whose other end is served.
struct Client {
    io: DuplexStream,
    packer: Packer,
    serving: tokio::task::JoinHandle<()>,
}

impl Client {
    fn new() -> Client {
        let (io, far) = tokio::io::duplex(64 << 10);
        let target = Target { pod: "u1".to_owned(), netns: None };
        let serving = tokio::spawn(connection::run(transport::plain(Box::new(far)), target));
        Client { io, packer: Packer::new(), serving }
    }

    async fn open(&mut self, first: u32, port: u16) {
        let (port, request) = (port.to_string(), first.to_string());
        let error = self.packer.stream(first, "error", &port, &request);
        let data = self.packer.stream(first + 2, "data", &port, &request);
        self.send(&[error, spdy::data(first, b"", true), data].concat()).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("written");
    }

    /// What comes on a stream until its end; frames of other streams go by.
    async fn all(&mut self, stream: u32) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let mut header = [0; spdy::HEADER];
            self.io.read_exact(&mut header).await.expect("frame");
            let mut body = vec![0; usize::from(header[6]) << 8 | usize::from(header[7])];
            self.io.read_exact(&mut body).await.expect("payload");
            if header[..4] == stream.to_be_bytes() {
                out.extend_from_slice(&body);
                if header[4] == 1 {
                    return out;
                }
            }
        }
    }

    async fn leave(self) {
        drop(self.io);
        self.serving.await.expect("served to the end");
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("hangs")
}

#[tokio::test]
async fn bytes_go_both_ways_and_halves_close_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let pod = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.expect("question");
        stream.write_all(&question.repeat(20_000)).await.expect("answer");
    });
    let mut client = Client::new();
    in_time(async {
        client.open(1, port).await;
        client.send(&spdy::data(3, b"question", true)).await;
        assert!(client.all(3).await == b"question".repeat(20_000));
        assert!(client.all(1).await.is_empty(), "there was no error");
        pod.await.expect("pod");
        client.leave().await;
    })
    .await;
}

#[tokio::test]
async fn a_refused_port_is_told_and_others_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let (port, none) =
        (listener.local_addr().expect("address").port(), closed.local_addr().expect("a").port());
    drop(closed);
    let mut client = Client::new();
    in_time(async {
        client.open(1, none).await;
        let text = String::from_utf8(client.all(1).await).expect("text");
        let begin = format!(
            "error forwarding port {none} to pod u1, uid : failed to execute portforward in network namespace \"host\": \
             failed to connect to localhost:{none} inside namespace \"host\", IPv4: dial tcp4 127.0.0.1:{none}: \
             connect: connection refused IPv6 dial tcp6 [::1]:{none}: connect: "
        );
        assert!(text.starts_with(&begin), "{text}");
        client.open(5, port).await;
        let (mut pod, _) = listener.accept().await.expect("accept");
        pod.write_all(b"hello").await.expect("written");
        drop(pod);
        assert_eq!(client.all(7).await, b"hello");
        client.leave().await;
    })
    .await;
}

/// kubectl gives up when it is told an error, and databases reset connections in ordinary life.
#[tokio::test]
async fn a_connection_that_the_pod_resets_is_no_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let mut client = Client::new();
    in_time(async {
        client.open(1, port).await;
        client.send(&spdy::data(3, b"unread", false)).await;
        let (pod, _) = listener.accept().await.expect("accept");
        pod.readable().await.expect("something unread");
        drop(pod);
        assert!(client.all(3).await.is_empty());
        assert!(client.all(1).await.is_empty(), "nothing is told");
        client.leave().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_gives_up_frees_the_pod() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let mut client = Client::new();
    in_time(async {
        client.open(1, port).await;
        let (mut pod, _) = listener.accept().await.expect("accept");
        client.send(&spdy::data(3, b"x", false)).await;
        assert_eq!(pod.read_u8().await.expect("byte"), b'x');
        client.send(&spdy::reset(3, Why::Cancel)).await;
        assert!(pod.read_u8().await.is_err(), "the connection is closed");
        assert!(client.all(1).await.is_empty(), "the error stream ends too");
        client.open(5, port).await;
        let (mut pod, _) = listener.accept().await.expect("accept");
        client.leave().await;
        assert!(pod.read_u8().await.is_err(), "a client that is gone leaves nothing");
    })
    .await;
}
