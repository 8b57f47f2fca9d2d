//! The channel protocols of exec and attach: one byte of channel number before every message. No IO.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const RESIZE: u8 = 4;
/// v5 only: the next byte names the channel whose sender has finished.
const CLOSE: u8 = 255;

/// The sub-protocols, the best first.
const PROTOCOLS: [(&str, Protocol); 3] = [
    ("v5.channel.k8s.io", Protocol::V5),
    ("v4.channel.k8s.io", Protocol::V4),
    ("channel.k8s.io", Protocol::V1),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// The error channel carries plain text.
    V1,
    /// The error channel carries a Status.
    V4,
    /// As v4, and channels can be closed.
    V5,
}

/// What a client's message asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    Stdin(Bytes),
    StdinClosed,
    Resize { columns: u16, rows: u16 },
    Ignored,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Success,
    Exit { code: i32, command: Vec<String> },
    Failed(String),
}

/// The best protocol that the client offers, with the name to answer.
pub(super) fn choose(offered: &str) -> Option<(&'static str, Protocol)> {
    let offers: Vec<&str> = offered.split(',').map(str::trim).collect();
    PROTOCOLS.into_iter().find(|(name, _)| offers.contains(name))
}

pub(super) fn parse(message: &Bytes, protocol: Protocol) -> Incoming {
    match message.first() {
        Some(&STDIN) => Incoming::Stdin(message.slice(1..)),
        Some(&RESIZE) => resize(&message[1..]),
        Some(&CLOSE) if protocol == Protocol::V5 && message.get(1) == Some(&STDIN) => {
            Incoming::StdinClosed
        }
        _ => Incoming::Ignored,
    }
}

fn resize(body: &[u8]) -> Incoming {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let side =
        |key: &str| value.get(key).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
    match (side("Width"), side("Height")) {
        (Some(columns), Some(rows)) => Incoming::Resize { columns, rows },
        _ => Incoming::Ignored,
    }
}

pub(super) fn frame(channel: u8, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(bytes.len() + 1);
    frame.put_u8(channel);
    frame.extend_from_slice(bytes);
    frame.freeze()
}

/// The last message of a session; none where the protocol has nothing to say.
pub(super) fn end_frame(ended: &Ended, protocol: Protocol) -> Option<Bytes> {
    let text = match ended {
        Ended::Success => String::new(),
        Ended::Exit { code, command } => format!(
            "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
            command.join(" ")
        ),
        Ended::Failed(text) => text.clone(),
    };
    if protocol == Protocol::V1 {
        return (!text.is_empty()).then(|| frame(ERROR, text.as_bytes()));
    }
    let status = match ended {
        Ended::Success => json!({"metadata": {}, "status": "Success"}),
        Ended::Exit { code, .. } => json!({
            "metadata": {}, "status": "Failure", "message": text, "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Ended::Failed(_) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError",
            "message": format!("Internal error occurred: {text}"),
            "details": {"causes": [{"message": text}]}, "code": 500,
        }),
    };
    Some(frame(ERROR, status.to_string().as_bytes()))
}
