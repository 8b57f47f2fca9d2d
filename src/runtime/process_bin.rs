//! The runtime process as a program of its own, for tests: `runtime-process --socket P --state D --cgroup-root N`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The handover replaces the program with these same arguments.
    let result = runtime::process::Config::from_args(std::env::args_os().skip(1))
        .and_then(runtime::process::main);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runtime process: {error}");
            ExitCode::FAILURE
        }
    }
}
