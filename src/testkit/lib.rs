//! What tests and benchmarks of the whole binary stand on: machines in namespaces of their own, networks of them, and a
//! container image.
//!
//! It drives the binary from outside with the stock kubectl and knows none of our crates, so that it says nothing a user could
//! not see. Start reading at [`Machine`], then [`Lab`].

mod holder;
mod image;
mod lab;
mod machine;

pub use image::{NAMES, busybox_archive};
pub use lab::{Fault, Lab, OUTSIDE};
pub use machine::{Machine, PATIENCE, binary};
