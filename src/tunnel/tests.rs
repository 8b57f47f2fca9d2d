//! Tests of the tunnel: messages, the state machine, two of them back to back, and sessions over real connections.

mod faults;
mod figures;
mod flow;
mod frames;
mod io;
mod liveness;
mod model;

use std::sync::Arc;

use crate::{Accept, BoxIo};

/// Limits small enough to be reached.
fn small() -> crate::Limits {
    crate::Limits {
        streams_max: 8,
        pause_above: 64,
        resume_below: 16,
        fail_above: 128,
        receive_total: 256,
        chunk: 16,
        send_buffer: 48,
        control_max: 32,
        ..crate::Limits::default()
    }
}

/// Refuses every address.
fn refusing() -> Accept {
    Arc::new(|proto, address| {
        Box::pin(async move {
            let text = format!("{proto}/{address} is not served here");
            Err::<BoxIo, _>(std::io::Error::new(std::io::ErrorKind::PermissionDenied, text))
        })
    })
}
