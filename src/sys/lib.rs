//! Safe wrappers around the few kernel interfaces that `nix` lacks or leaves unsafe.
//!
//! This is the only crate with `unsafe`. Each function does one small thing, is synchronous, and keeps no state. It
//! deliberately knows nothing of containers, disks' layouts or the network's design: those crates compose what is here.
//!
//! Start reading at [`files`] (durable writes), [`fds`] (descriptor passing) and [`process`] (fork, pidfd, subreaper).

// The one crate that may.
#![allow(unsafe_code)]

pub mod block;
pub mod device_filter;
pub mod dm;
pub mod fds;
pub mod files;
pub mod firmware;
pub mod machine;
pub mod module;
pub mod mount;
pub mod namespace;
pub mod notify;
pub mod privileges;
pub mod process;
pub mod procfs;
pub mod pty;
pub mod spawn;
pub mod xattr;

#[cfg(test)]
mod tests;

pub use files::{atomic_write, replace_file};
