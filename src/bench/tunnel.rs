//! The tunnel alone: both ends in this process, over a loopback connection that an HTTP upgrade has turned into one.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tunnel::{Accept, BoxIo, Limits, Session};

use crate::process::Usage;

const BYTES: usize = 256 << 20;
const CHUNK: usize = 64 << 10;
/// Many times the hundred of the figure, to rise above what the allocator does.
const IDLE: usize = 1000;
const MIB: f64 = 1024.0 * 1024.0;

/// Prints MiB per second in one direction while as much comes back, and the KiB that 100 idle streams take at both ends.
pub(crate) fn print() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{}", runtime.block_on(idle_streams())?);
    println!("{}", runtime.block_on(throughput())?);
    Ok(())
}

/// A stream to any address is an echo that holds so much.
fn echo(room: usize) -> Accept {
    Arc::new(move |_, _| {
        Box::pin(async move {
            let (near, far) = duplex(room);
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(far);
                let mut buffer = vec![0; room];
                while let Ok(length @ 1..) = from.read(&mut buffer).await {
                    let Some(bytes) = buffer.get(..length) else { break };
                    if to.write_all(bytes).await.is_err() {
                        break;
                    }
                }
                drop(to.shutdown().await);
            });
            Ok(Box::new(near) as BoxIo)
        })
    })
}

/// The sessions of an agent and of the server it dialled.
async fn pair(room: usize) -> Result<(Session, Session)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let (far, _) = listener.accept().await?;
    let (give, mut take) = mpsc::channel(1);
    let service = hyper::service::service_fn(move |request| upgraded(request, room, give.clone()));
    let serving = hyper::server::conn::http1::Builder::new();
    tokio::spawn(serving.serve_connection(TokioIo::new(far), service).with_upgrades());
    let agent =
        tunnel::connect(Box::new(near), "server", "/connect", &[], echo(room), Limits::default())
            .await?;
    Ok((agent, take.recv().await.context("the server's end of the tunnel")?))
}

async fn upgraded(
    request: Request<Incoming>,
    room: usize,
    to: mpsc::Sender<Session>,
) -> Result<Response<String>> {
    let (parts, body) = request.into_parts();
    let response = tunnel::handshake_response(&parts)?;
    let request = Request::from_parts(parts, body);
    tokio::spawn(async move {
        if let Ok(io) = hyper::upgrade::on(request).await {
            let io = Box::new(TokioIo::new(io));
            drop(to.send(tunnel::serve(io, echo(room), Limits::default())).await);
        }
    });
    Ok(response.map(|_| String::new()))
}

async fn throughput() -> Result<f64> {
    let (_agent, server) = pair(CHUNK).await?;
    let (mut from, mut to) = tokio::io::split(server.dial("tcp", "a:1").await?);
    let begin = Instant::now();
    let sending = async {
        let chunk = vec![7; CHUNK];
        for _ in 0..BYTES / CHUNK {
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    let receiving = async {
        let (mut total, mut buffer) = (0, vec![0; CHUNK]);
        loop {
            match from.read(&mut buffer).await? {
                0 => return Ok(total),
                length => total += length,
            }
        }
    };
    let ((), total) = tokio::try_join!(sending, receiving)?;
    ensure!(total == BYTES, "{total} of {BYTES} bytes came back");
    Ok(BYTES as f64 / MIB / begin.elapsed().as_secs_f64())
}

async fn idle_streams() -> Result<f64> {
    let (_agent, server) = pair(1).await?;
    let pss = || Usage::of(std::process::id()).map(|usage| usage.pss as f64 / 1024.0);
    let before = pss()?;
    let mut streams = Vec::new();
    for _ in 0..IDLE {
        streams.push(server.dial("tcp", "a:1").await?);
    }
    Ok((pss()? - before) * 100.0 / IDLE as f64)
}
