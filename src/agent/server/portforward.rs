//! `/portForward`: the answer while there is no port forwarding.

use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;

use super::{After, Answer, Refusal, upgrade};
use crate::actor::View;
use crate::context::Context;

pub(super) fn answer(
    _: &Context,
    _: watch::Receiver<Arc<View>>,
    request: Request<Incoming>,
    _: &After,
) -> Answer {
    upgrade::check(request.headers())?;
    let text = "port forwarding is not supported by this node yet".to_owned();
    Err(Refusal(StatusCode::NOT_IMPLEMENTED, text))
}
