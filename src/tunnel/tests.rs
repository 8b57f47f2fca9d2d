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

/// Refuses every address.
fn refusing() -> Accept {
    Arc::new(|proto, address| {
        Box::pin(async move {
            let text = format!("{proto}/{address} is not served here");
            Err::<BoxIo, _>(std::io::Error::new(std::io::ErrorKind::PermissionDenied, text))
        })
    })
}
