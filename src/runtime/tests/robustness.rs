//! Clients that misbehave.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use crate::node::{Node, eventually};

/// More than the process serves at once.
const CONNECTIONS: usize = 40;

fn dial(node: &Node) -> UnixStream {
    UnixStream::connect(&node.config.socket).unwrap()
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_nothing_else() {
    let node = Node::start().await;
    assert_eq!(std::fs::metadata(&node.config.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut huge = u32::MAX.to_le_bytes().to_vec();
    huge.extend([0; 100]);
    let mut wrong = 7u32.to_le_bytes().to_vec();
    wrong.extend(b"{\"id\":}");
    for bytes in [huge, wrong] {
        let mut stream = dial(&node);
        stream.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    let mut unfinished = dial(&node);
    unfinished.write_all(&[9, 0, 0]).unwrap();
    node.runtime.version().await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn too_many_connections_are_refused_until_some_end() {
    let node = Node::start().await;
    let streams: Vec<UnixStream> = (0..CONNECTIONS).map(|_| dial(&node)).collect();
    node.runtime.version().await.unwrap();
    let pid = node.runtime.version().await.unwrap().pid;
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(descriptors() < CONNECTIONS + 5);
    drop(streams);
    eventually("their descriptors are closed", || descriptors() < 15).await;
    drop(node.connect().await);
    node.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_at_a_limit() {
    let node = Node::start().await;
    node.sandbox("a").await;
    for number in 0..4 {
        let mut spec = node.spec("a", &format!("c{number}"), "true");
        spec.labels = (0..20).map(|label| (format!("label-{label}"), "x".repeat(10_000))).collect();
        node.runtime.create_container(&spec).await.unwrap();
    }
    let mut stream = dial(&node);
    stream.set_nonblocking(true).unwrap();
    let body = br#"{"id":1,"request":"list"}"#;
    let mut call = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    call.extend(body);
    let mut written = 0;
    eventually("the connection is cut", || {
        loop {
            match stream.write(&call[written..]) {
                Ok(count) => written = (written + count) % call.len(),
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    })
    .await;
    node.runtime.version().await.unwrap();
    node.finish().await;
}
