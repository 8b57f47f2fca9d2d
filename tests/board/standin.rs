//! Stands in for the node in board tests of PID 1: the same entry, and a "server" that listens and ends on SIGTERM.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;

fn main() {
    let mut arguments = std::env::args();
    let called = arguments.next().unwrap_or_default();
    let first = arguments.next().unwrap_or_default();
    let is_init = std::process::id() == 1 || called.ends_with("init");
    if is_init {
        init::main(init::Config {
            version: "standin".to_owned(),
            binary: PathBuf::from("/usr/bin/copepod"),
        });
    }
    if first == "check" {
        let refused = arguments.any(|argument| argument == "--refused");
        if refused {
            eprintln!("copepod: --refused: this node does not know it");
        }
        std::process::exit(refused.into());
    }
    let kubeconfig = arguments.skip_while(|argument| argument != "--write-kubeconfig").nth(1);
    if let Some(path) = kubeconfig {
        println!(
            "kubeconfig {path}: {:?}",
            std::fs::write(&path, "server: https://127.0.0.1:6443\n")
        );
    }
    let marker = PathBuf::from("/var/lib/copepod/starts");
    let starts = std::fs::read_to_string(&marker)
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .unwrap_or(0)
        + 1;
    println!("standin {first}, start {starts}: {:?}", std::fs::write(&marker, starts.to_string()));
    for path in [
        "/proc/cmdline",
        "/run/resolv.conf",
        "/sys/fs/cgroup/cgroup.subtree_control",
        "/proc/net/route",
        "/proc/bus/input/devices",
        "/proc/mounts",
    ] {
        println!(
            "{path}: {}",
            std::fs::read_to_string(path).unwrap_or_default().replace('\n', " | ")
        );
    }
    if starts == 1 {
        println!("the first start fails on purpose");
        std::process::exit(3);
    }
    let listener = TcpListener::bind("0.0.0.0:6443").expect("the port is free");
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        let _ = stream.write_all(b"standin\n");
    }
}
