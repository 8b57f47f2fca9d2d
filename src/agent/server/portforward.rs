//! `/portForward`: a clear refusal, as long as the node does not speak the SPDY frames that kubectl tunnels. It comes
//! before any look at the upgrade, because kubectl asks again with SPDY and shows that answer.

use http::StatusCode;

use super::{Answer, Refusal};

pub(super) fn answer() -> Answer {
    let text = "port forwarding is not supported by this node yet".to_owned();
    Err(Refusal(StatusCode::NOT_IMPLEMENTED, text))
}
