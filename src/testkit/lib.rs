//! What tests and benchmarks of the whole binary stand on: a machine in namespaces of its own, and a container image.
//!
//! It drives the binary from outside with the stock kubectl and knows none of our crates, so that it says nothing a user could
//! not see. Start reading at [`Machine`].

mod image;
mod machine;

pub use image::{NAMES, busybox_archive};
pub use machine::{Machine, PATIENCE, binary};
