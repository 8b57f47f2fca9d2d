//! The program's own log: lines on standard error.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries that say more than a node's log should hold.
const QUIET: [&str; 6] = ["hyper", "h2", "rustls", "libcontainer", "libcgroups", "netlink_proto"];

pub(crate) fn start(debug: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let quiet = QUIET.map(|target| (target, Level::WARN));
    let filter = Targets::new().with_default(level).with_targets(quiet);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Fails only if a subscriber is set already, which then does the work.
    drop(tracing_subscriber::registry().with(lines.with_filter(filter)).try_init());
}
