//! Sessions whose link, peer or address fails.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::Role;

use super::io::{answer_upgrade, echo, echoing, in_time, pair, pipe};
use super::refusing;
use crate::{Accept, BoxIo, Limits, connect, serve};

/// A connection that stops moving bytes, as a link that was cut without a word.
struct Cut<T> {
    io: T,
    dead: tokio::sync::watch::Receiver<bool>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Cut<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if *self.dead.borrow() {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cut<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if *self.dead.borrow() {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_was_cut_is_noticed_by_both_sides() {
    let (cut, dead) = tokio::sync::watch::channel(false);
    let (near, far) = pipe();
    let near: BoxIo = Box::new(Cut { io: near, dead });
    let (client, server) = pair((near, far), echoing(), echoing(), Limits::default()).await;
    let mut stream = server.dial("tcp", "a:1").await.expect("dialled");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!client.is_closed() && !server.is_closed(), "an idle link lives");
    cut.send_replace(true);
    let start = tokio::time::Instant::now();
    let silent = crate::Error::Silent(Duration::from_secs(60));
    assert_eq!(server.closed().await, silent);
    assert_eq!(client.closed().await, silent);
    let passed = start.elapsed();
    assert!(passed >= Duration::from_secs(54), "{passed:?}");
    assert!(passed <= Duration::from_secs(61), "{passed:?}");
    assert!(stream.read_u8().await.is_err());
}

/// A session whose peer has answered the upgrade and does nothing more by itself.
async fn with_bare_peer() -> (crate::Session, BoxIo) {
    let (near, mut far) = pipe();
    let accepting = async {
        answer_upgrade(&mut far).await;
        far
    };
    let connecting = connect(near, "server", "/", &[], echoing(), Limits::default());
    let (client, far) = tokio::join!(connecting, accepting);
    (client.expect("session"), far)
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_noticed() {
    let (client, far) = with_bare_peer().await;
    let dialling = {
        let client = client.clone();
        tokio::spawn(async move {
            let mut stream = client.dial("tcp", "a:1").await?;
            stream.write_all(&vec![0; 1 << 20]).await
        })
    };
    let why = client.closed().await;
    assert_eq!(why, crate::Error::Silent(Duration::from_secs(60)));
    assert!(dialling.await.expect("task").is_err());
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_talks_but_takes_nothing_is_noticed() {
    let (client, far) = with_bare_peer().await;
    let (_unread, mut writing) = tokio::io::split(far);
    let talking = tokio::spawn(async move {
        // An unmasked ping without payload.
        while writing.write_all(&[0x89, 0]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    let mut stream = client.dial("tcp", "a:1").await.expect("it never greets");
    let writer = tokio::spawn(async move { stream.write_all(&vec![0; 1 << 20]).await });
    assert_eq!(client.closed().await, crate::Error::Stalled(Duration::from_secs(60)));
    assert!(writer.await.expect("task").is_err());
    in_time(talking).await.expect("the connection was closed");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_never_answers_times_out() {
    let silent: Accept = Arc::new(|_, _| Box::pin(std::future::pending()));
    let (client, server) = pair(pipe(), silent, refusing(), Limits::default()).await;
    let error = server.dial("tcp", "a:1").await.map(drop).expect_err("no answer");
    let said = ["dial timed out", "tcp/a:1 was not answered in time by the tunnel's peer"];
    assert!(said.contains(&error.to_string().as_str()), "{error}");
    while client.counts().streams + server.counts().streams > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_server_that_refuses_the_tunnel_is_quoted() {
    let (near, mut far) = pipe();
    let answering = async move {
        far.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 12\r\n\r\nUnauthorized")
            .await
            .expect("answer");
        far
    };
    let connecting = connect(near, "server", "/", &[], refusing(), Limits::default());
    let (session, _far) = tokio::join!(connecting, answering);
    let Err(crate::Error::Refused { status, body }) = session else {
        panic!("refused");
    };
    assert_eq!((status, body.as_str()), (401, "Unauthorized"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    let (near, _far) = pipe();
    let session = connect(near, "server", "/", &[], refusing(), Limits::default()).await;
    let Err(error) = session else { panic!("no session") };
    assert_eq!(error.to_string(), "tunnel handshake failed: no answer in 10s");
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_ends_the_session() {
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::Message;

    for (message, why) in [
        (Message::binary(vec![0x80]), "message header ends early, expected message id"),
        (Message::text("hello"), "text message, expected binary"),
    ] {
        let (near, far) = pipe();
        let session = serve(far, refusing(), Limits::default());
        let mut socket =
            tokio_tungstenite::WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        socket.send(message).await.expect("sent");
        let error = in_time(session.closed()).await;
        assert_eq!(error, crate::Error::Protocol(why.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_may_end_at_any_moment() {
    for round in 0..40_u64 {
        let (client, server) = pair(pipe(), echoing(), echoing(), Limits::default()).await;
        let mut tasks = tokio::task::JoinSet::new();
        for seed in 0..8 {
            let side = if seed % 2 == 0 { client.clone() } else { server.clone() };
            tasks.spawn(async move {
                if let Ok(stream) = side.dial("tcp", "a:1").await {
                    drop(echo(stream, seed, 200_000).await);
                }
            });
        }
        for _ in 0..round * 5 {
            tokio::task::yield_now().await;
        }
        if round % 2 == 0 {
            client.close()
        } else {
            drop(server.clone())
        }
        if round % 4 == 1 {
            server.close();
        } else {
            client.close();
        }
        in_time(async {
            while tasks.join_next().await.transpose().expect("no panic").is_some() {}
            server.closed().await;
            client.closed().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_session() {
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::Message;

    let (near, far) = pipe();
    let limits = Limits { message_max: 1000, ..Limits::default() };
    let session = serve(far, refusing(), limits);
    let mut socket =
        tokio_tungstenite::WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    socket.send(Message::binary(vec![2; 1001])).await.expect("sent");
    let error = in_time(session.closed()).await;
    assert!(matches!(error, crate::Error::Protocol(_)), "{error}");
}
