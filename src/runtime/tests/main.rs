//! Node tests of the runtime process: real namespaces, cgroups and overlays, so they need root.
//!
//! Each test has a runtime process of its own in a mount namespace of its own, a cgroup root of its own, and ends with a
//! check that nothing is left of it. The image is busybox of the machine.

// All of this crate is tests.
#![allow(clippy::unwrap_used)]

mod confinement;
mod exec;
mod lifecycle;
mod node;
mod recovery;
mod robustness;
mod sandboxes;
mod streams;
