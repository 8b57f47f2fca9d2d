//! PID 1 of the appliance: brings the machine up, keeps the node running, takes the machine down.
//!
//! [`stage1`] runs from the initramfs: it verifies and mounts the root and hands over. [`main`] then is PID 1: the
//! table of [`phases`] brings the machine up, [`supervisor`] decides when which [`service`] is (re)started, [`pid1`]
//! is the loop that never ends. Parsing of what strangers send (DHCP, time servers, the host port) happens in child processes of
//! the same binary, never in PID 1.
//! This crate knows no Kubernetes: the node is a command line, and whether it is healthy is a TCP port that accepts.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_possible_truncation))]

use std::path::PathBuf;

mod alias;
mod association;
mod boot_disk;
mod carrier;
mod clock;
mod cmdline;
mod console;
mod data;
mod devices;
mod dhcp;
mod error;
mod fat;
mod fsck;
mod host_port;
mod kubeconfig;
mod link;
mod mounts;
mod network;
mod node_check;
mod notices;
mod phases;
mod pid1;
mod power;
mod preload;
mod probation;
mod reset;
mod service;
mod settings;
mod slots;
mod sntp;
mod spool;
mod ssh;
pub mod stage1;
mod status;
mod supervisor;
mod time;
mod told;
mod trial;
mod watchdog;
mod wifi;

#[cfg(test)]
mod tests;

pub use error::Error;

/// There while the machine goes down: the node then stops its pods, which it leaves alone when only it is restarted.
pub const MACHINE_ENDS_FILE: &str = "/run/copepod/machine-ends";

/// Put there before a restart is asked for, it makes that restart a factory reset.
pub const FACTORY_RESET_FILE: &str = "/run/copepod/factory-reset";

/// The binary in the image: the node, and all children of PID 1.
pub const NODE_PROGRAM: &str = "/usr/bin/copepod";

/// What the binary tells PID 1 about itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// Shown on the console.
    pub version: String,
    /// The binary to start the node, the network and the host port with.
    pub binary: PathBuf,
}

/// What is wrong with the text of an owner's `copepod.yaml` for an image whose own settings are `image`: a line for each
/// mistake, with its place and key.
#[must_use]
pub fn check_settings(text: &str, image: &str) -> Vec<String> {
    settings::check(text, image)
}

/// Runs the role the arguments name: PID 1 when there is none. Never returns.
///
/// Call it when `argv[0]` ends with `init`: so the kernel and PID 1 start it.
pub fn main(config: Config) -> ! {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(network::ROLE) => std::process::exit(network::main(arguments.next())),
        Some(clock::ROLE) => std::process::exit(clock::main(arguments.next())),
        Some(host_port::ROLE) => std::process::exit(host_port::main(arguments.next())),
        _ if std::process::id() == 1 => pid1::run(config),
        _ => {
            eprintln!("init runs as PID 1 only");
            std::process::exit(2)
        }
    }
}
