//! Sessions over memory pipes and loopback TCP: what they carry and how they end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::refusing;
use crate::{Accept, BoxIo, Limits, Session, connect, handshake_response, serve};

/// Nothing here takes so long, unless it hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("hangs")
}

/// Every address leads to an echo.
pub(super) fn echoing() -> Accept {
    Arc::new(|_, _| {
        Box::pin(async {
            let (near, far) = duplex(8 << 10);
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(far);
                drop(tokio::io::copy(&mut from, &mut to).await);
                drop(to.shutdown().await);
            });
            Ok(Box::new(near) as BoxIo)
        })
    })
}

/// Every address leads to something that never says anything.
pub(super) fn waiting() -> Accept {
    struct Waiting;
    impl AsyncRead for Waiting {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }
    impl AsyncWrite for Waiting {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    Arc::new(|_, _| Box::pin(async { Ok(Box::new(Waiting) as BoxIo) }))
}

/// Dials what is asked for.
fn dialling() -> Accept {
    Arc::new(|_, address| {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as BoxIo) })
    })
}

/// Reads the request's head and answers the upgrade, as an HTTP server would.
pub(super) async fn answer_upgrade(io: &mut BoxIo) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.expect("request"));
    }
    let head = String::from_utf8(head).expect("ascii");
    let mut lines = head.lines();
    let mut words = lines.next().expect("request line").split(' ');
    let mut request = http::Request::builder()
        .method(words.next().expect("method"))
        .uri(words.next().expect("path"));
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    let (parts, ()) = request.body(()).expect("request").into_parts();
    let response = handshake_response(&parts).expect("upgrade");
    let mut text = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
    for (name, value) in response.headers() {
        text += &format!("{name}: {}\r\n", value.to_str().expect("ascii"));
    }
    io.write_all((text + "\r\n").as_bytes()).await.expect("answer");
}

/// A client's and a server's session over one connection.
pub(super) async fn pair(
    io: (BoxIo, BoxIo),
    client: Accept,
    server: Accept,
    limits: Limits,
) -> (Session, Session) {
    let (near, mut far) = io;
    let serving = async move {
        answer_upgrade(&mut far).await;
        serve(far, server, limits)
    };
    let connecting = connect(near, "server", "/connect", &[("x-node", "n1")], client, limits);
    let (client, server) = tokio::join!(connecting, serving);
    (client.expect("session"), server)
}

pub(super) fn pipe() -> (BoxIo, BoxIo) {
    let (near, far) = duplex(64 << 10);
    (Box::new(near), Box::new(far))
}

pub(super) async fn loopback() -> (BoxIo, BoxIo) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (Box::new(near.expect("connect")), Box::new(far.expect("accept").0))
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(super) async fn echo(mut stream: BoxIo, seed: u64, len: usize) -> io::Result<()> {
    let sent = pattern(seed, len);
    let mut received = Vec::new();
    let (mut from, mut to) = tokio::io::split(&mut stream);
    let sending = async {
        to.write_all(&sent).await?;
        to.shutdown().await
    };
    let receiving = from.read_to_end(&mut received);
    tokio::try_join!(sending, receiving)?;
    assert!(received == sent, "stream {seed} brought other bytes");
    Ok(())
}

#[tokio::test]
async fn both_sides_dial_a_hundred_streams_at_once() {
    let (client, server) = pair(loopback().await, echoing(), echoing(), Limits::default()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..100 {
        let side = if seed % 2 == 0 { client.clone() } else { server.clone() };
        tasks.spawn(async move {
            let stream = side.dial("tcp", "127.0.0.1:10250").await.expect("dialled");
            echo(stream, seed, 50_000).await.expect("echoed");
        });
    }
    in_time(async { while tasks.join_next().await.transpose().expect("stream").is_some() {} })
        .await;
    let (there, back) = (client.counts(), server.counts());
    assert_eq!((there.bytes_out, there.bytes_in), (back.bytes_in, back.bytes_out));
    assert_eq!(there.bytes_in, 100 * 50_000);
    in_time(async {
        while client.counts().streams + server.counts().streams > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_big_transfer_reaches_a_real_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let sent = pattern(7, 8 << 20);
    let reading = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("read");
        stream.write_all(b"thanks").await.expect("answer");
        received
    });
    let (_client, server) = pair(loopback().await, dialling(), refusing(), Limits::default()).await;
    let mut stream = server.dial("tcp", &address).await.expect("dialled");
    in_time(async {
        stream.write_all(&sent).await.expect("written");
        stream.shutdown().await.expect("half closed");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert_eq!(answer, "thanks");
        assert!(reading.await.expect("reader") == sent, "other bytes arrived");
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_stalls_itself_only() {
    let taken = Arc::new(AtomicUsize::new(0));
    let (ends, mut given) = tokio::sync::mpsc::channel(1);
    let slow: Accept = Arc::new(move |_, _| {
        let ends = ends.clone();
        Box::pin(async move {
            let (near, far) = duplex(1024);
            ends.send(far).await.expect("test waits");
            Ok(Box::new(near) as BoxIo)
        })
    });
    let (client, server) = pair(pipe(), echoing(), slow, Limits::default()).await;
    let mut stream = client.dial("tcp", "slow:1").await.expect("dialled");
    let counter = Arc::clone(&taken);
    let writer = tokio::spawn(async move {
        let chunk = vec![3; 64 << 10];
        for _ in 0..192 {
            stream.write_all(&chunk).await.expect("written");
            counter.fetch_add(chunk.len(), Ordering::Relaxed);
        }
        stream
    });
    let mut far = in_time(given.recv()).await.expect("accepted");
    in_time(async {
        while server.counts().bytes_in < 2 << 20 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let other = server.dial("tcp", "127.0.0.1:1").await.expect("others go on");
    in_time(echo(other, 1, 4 << 20)).await.expect("echoed");
    let stalled = taken.load(Ordering::Relaxed);
    assert!(stalled < 4 << 20, "the writer was not held back: {stalled}");
    let mut received = 0;
    let mut buffer = vec![0; 64 << 10];
    while received < 192 * (64 << 10) {
        received += in_time(far.read(&mut buffer)).await.expect("read");
    }
    in_time(writer).await.expect("writer");
}

#[tokio::test]
async fn a_refusal_says_why_and_the_session_goes_on() {
    let (client, server) = pair(pipe(), echoing(), refusing(), Limits::default()).await;
    let error = in_time(client.dial("tcp", "10.0.0.1:22")).await.map(drop).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(error.to_string(), "tcp/10.0.0.1:22 is not served here");
    let stream = server.dial("tcp", "127.0.0.1:10250").await.expect("dialled");
    in_time(echo(stream, 2, 1000)).await.expect("echoed");
    let error = client.dial("tcp", &"a".repeat(263)).await.map(drop).expect_err("too long");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let longest = "a".repeat(262);
    let error = in_time(client.dial("tcp", &longest)).await.map(drop).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "266 bytes pass");
}

#[tokio::test]
async fn a_connection_refused_by_the_address_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    drop(listener);
    let (_client, server) = pair(pipe(), dialling(), refusing(), Limits::default()).await;
    let error = in_time(server.dial("tcp", &address)).await.map(drop).expect_err("refused");
    assert_eq!(error.to_string(), "Connection refused (os error 111)");
}

#[tokio::test]
async fn streams_end_with_their_session() {
    let (client, server) = pair(pipe(), echoing(), echoing(), Limits::default()).await;
    let mut stream = server.dial("tcp", "a:1").await.expect("dialled");
    stream.write_all(b"hello").await.expect("written");
    in_time(stream.read_u8()).await.expect("echoed");
    client.close();
    assert_eq!(in_time(client.closed()).await, crate::Error::Closed);
    assert_eq!(in_time(server.closed()).await, crate::Error::ClosedByPeer);
    let mut rest = Vec::new();
    let error = in_time(stream.read_to_end(&mut rest)).await.expect_err("cut off");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(error.to_string(), "tunnel closed by the peer");
    assert!(stream.write_all(b"more").await.is_err());
    assert!(server.is_closed());
    let error = server.dial("tcp", "a:1").await.map(drop).expect_err("over");
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_session() {
    let (client, server) = pair(pipe(), echoing(), echoing(), Limits::default()).await;
    let again = client.clone();
    drop(client);
    let stream = again.dial("tcp", "a:1").await.expect("one handle is left");
    drop(again);
    assert_eq!(in_time(server.closed()).await, crate::Error::ClosedByPeer);
    drop(stream);
}

#[tokio::test]
async fn dropped_streams_end_at_the_other_side() {
    let (ends, mut given) = tokio::sync::mpsc::channel(1);
    let accept: Accept = Arc::new(move |_, _| {
        let ends = ends.clone();
        Box::pin(async move {
            let (near, far) = duplex(1024);
            ends.send(far).await.expect("test waits");
            Ok(Box::new(near) as BoxIo)
        })
    });
    let (client, server) = pair(pipe(), accept, refusing(), Limits::default()).await;
    let mut stream = server.dial("tcp", "a:1").await.expect("dialled");
    stream.write_all(b"last words").await.expect("written");
    drop(stream);
    let mut far = in_time(given.recv()).await.expect("accepted");
    let mut text = String::new();
    in_time(far.read_to_string(&mut text)).await.expect("all and the end");
    assert_eq!(text, "last words");
    in_time(async {
        while client.counts().streams > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut stream = in_time(server.dial("tcp", "a:2")).await.expect("dialled");
    let far = in_time(given.recv()).await.expect("accepted");
    drop(far);
    let mut rest = Vec::new();
    in_time(stream.read_to_end(&mut rest)).await.expect("a good end");
    assert!(rest.is_empty());
}
