//! Tests of the client, against a scripted transport and against real TLS servers.

mod cache;
mod queue;
mod recorder;
mod request;
mod script;
mod tls;
mod watch;
