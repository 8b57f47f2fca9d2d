//! `/portForward`: a clear refusal, as long as the node does not speak the SPDY frames that kubectl tunnels.

use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::{Answer, Refusal, upgrade};

pub(super) fn answer(request: &Request<Incoming>) -> Answer {
    upgrade::check(request.headers())?;
    let text = "port forwarding is not supported by this node yet".to_owned();
    Err(Refusal(StatusCode::NOT_IMPLEMENTED, text))
}
