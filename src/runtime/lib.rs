//! Containers and images, without a Kubernetes word.
//!
//! Two halves. [`process`] is the *runtime process*: one small single-threaded process per node that makes sandboxes and
//! containers through libcontainer (in short-lived children), owns their output, writes their logs and knows their exit
//! statuses. [`client`] is the asynchronous side the agent uses to talk to it over a Unix socket; [`protocol`] is what both
//! say. [`image`] pulls, keeps and unpacks images.
//!
//! This crate deliberately does not know pods, restart policies, probes, names of Kubernetes objects or the network of a pod:
//! it is told to make, start, signal and remove things, and reports what happened. Labels are carried, never read.
//!
//! Start reading at [`protocol`], then `process/server.rs` (the loop) and `process/work.rs` (what its children do).

pub mod client;
pub mod image;
pub mod process;
pub mod protocol;

pub use client::Runtime;
