//! Tests of the whole binary: a real node in namespaces of its own, driven with the stock kubectl. They need root.
//! `COPEPOD_BIN` names the binary, `KUBECTL` the client; `make test-node` sets both.

mod input;
mod join;
mod lab;
mod manifests;
mod network;
mod node;
mod nodes;
mod offline;
mod openapi;
mod portforward;
mod rbac;
mod registry;
mod restart;
mod services;
mod tidy;
mod upgrade;
