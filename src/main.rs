//! The one binary. Which program it is depends on how it was started: PID 1 of the appliance, the runtime process, the
//! server, or the agent. Only this package knows all crates; it connects them and decides nothing else.

mod agent_command;
mod check;
mod cli;
mod config;
mod factory_reset;
mod identity;
mod link;
mod log;
mod node;
mod parts;
mod pod_network;
mod ranges;
mod renewal;
mod server;
mod token_command;
mod upgrade_command;
mod upgrade_health;
mod upgrade_job;
mod upgrade_news;
mod upgrade_resume;
mod upgrade_socket;
mod upgrade_source;
mod upgrade_status;
mod upgrades;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    // By name, not by process number: in a container the server may be number 1 too.
    let called = std::env::args_os().next().unwrap_or_default();
    if called.to_string_lossy().ends_with("init") {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        init::main(init::Config { version, binary: init::NODE_PROGRAM.into() })
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("copepod: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let args =
        config::with_file(std::env::args_os().collect(), std::env::var_os("COPEPOD_CONFIG_FILE"))?;
    match Cli::parse_from(args).command {
        Command::Server(flags) => {
            log::start(flags.debug);
            install_crypto();
            server::run(*flags)
        }
        Command::Agent(flags) => {
            log::start(flags.debug);
            install_crypto();
            agent_command::run(*flags)
        }
        Command::Token(flags) => {
            install_crypto();
            token_command::run(flags.command)
        }
        Command::Upgrade(flags) => {
            install_crypto();
            upgrade_command::run(flags)
        }
        Command::Check { arguments } => check::run(arguments),
        // Before any thread exists: containers are cloned from this process.
        Command::Runtime(flags) => {
            log::start(false);
            let config = runtime::process::Config {
                socket: flags.socket,
                state_dir: flags.state,
                cgroup_root: flags.cgroup_root,
            };
            Ok(runtime::process::main(config)?)
        }
    }
}

/// ring is the one crypto library; a second installation would only repeat the first.
fn install_crypto() {
    drop(rustls::crypto::ring::default_provider().install_default());
}
