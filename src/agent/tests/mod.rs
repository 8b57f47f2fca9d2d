//! Tests of the small pure modules, of volumes and logs on real files, and of whole agents between a fake API server and a
//! fake runtime.

mod environment;
mod fake_runtime;
mod fake_server;
mod node;
mod offline;
mod settings;
