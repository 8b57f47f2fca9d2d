//! Tests of the whole server, in process and over TLS.

mod bootstrap;
mod cases;
mod expiry;
mod mangled;
mod nodes;
mod protobuf;
mod support;
mod tls;
mod watch;
