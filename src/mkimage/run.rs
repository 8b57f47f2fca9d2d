//! `mkimage run`, and what trials share with it: waiting for the node, and a pod that shows that it works.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::RunArgs;
use crate::kubectl::{Kubectl, pause};
use crate::machine::{BOOT_LIMIT, Machine, Network, POD_LIMIT, Place};
use crate::show::{seconds, step};

const STEP: Duration = Duration::from_millis(250);

/// `mkimage run`: boots the board, waits for its node, runs a pod, and stays.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let board = args.place.read_board()?;
    let dir = args.place.dir();
    let place = Place::new(&dir, "run")?;
    place.prepare(&board, args.fresh)?;
    println!("Starting {} in QEMU; its console is in {}", board.name, place.log.display());
    let began = Instant::now();
    let mut machine =
        Machine::start(&board, &place, Network::Alone { forward: args.forward }, true)?;
    let kubeconfig = dir.join("run/kubeconfig.yaml");

    let doing = step("wait for the node's kubeconfig");
    machine.kubeconfig(&kubeconfig, BOOT_LIMIT)?;
    doing.done(kubeconfig.display().to_string());
    let kubectl = Kubectl::new(&args.kubectl.program(), &kubeconfig);
    wait_until_ready(&kubectl, &mut machine)?;
    let processor = machine.cpu_seconds().unwrap_or_default();
    println!(
        "The node is Ready after {} ({processor:.1} s of processor time)",
        seconds(began.elapsed())
    );

    let doing = step("run a pod from the preloaded image");
    demo_pod(&kubectl, &mut machine)?;
    println!("{}", kubectl.run(&["get", "nodes,pods", "-o", "wide"])?);
    doing.done("the pod runs");
    let kubectl =
        format!("{} --kubeconfig {}", args.kubectl.program().display(), kubeconfig.display());
    println!("\nType next, in another terminal:\n");
    for line in [
        "get pods -A",
        "logs demo",
        "exec -it demo -- sh",
        "create deployment web --image=busybox -- sleep 9999",
    ] {
        println!("  {kubectl} {line}");
    }
    if args.once {
        machine.monitor("system_powerdown")?;
        machine.wait_for_end()?;
        return Ok(());
    }
    println!("\nThe board runs until you press Ctrl-C; its disk is kept for the next run.\n");
    loop {
        machine.follow()?;
        if machine.check_alive("you ended it").is_err() {
            println!("The board has switched itself off.");
            return Ok(());
        }
        pause(STEP);
    }
}

/// Waits until the one node is Ready.
pub(crate) fn wait_until_ready(kubectl: &Kubectl, machine: &mut Machine) -> Result<()> {
    let doing = step("wait for the node to be Ready");
    let path = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
    kubectl.wait(
        &["get", "nodes", "-o", path],
        BOOT_LIMIT,
        |answer| answer == "True",
        |answer| {
            let _ = machine.follow();
            println!("    not yet: {}", answer.lines().last().unwrap_or_default());
        },
    )?;
    doing.done("Ready");
    Ok(())
}

/// A pod that says hello and stays; one from the last run is replaced.
pub(crate) fn demo_pod(kubectl: &Kubectl, machine: &mut Machine) -> Result<()> {
    kubectl.run(&[
        "delete",
        "pod",
        "demo",
        "--ignore-not-found",
        "--grace-period=1",
        "--timeout=60s",
    ])?;
    // A first process that does not catch SIGTERM would use up its grace at every restart.
    let script = "echo hello from $(uname -m); trap exit TERM; sleep 1000000 & wait";
    kubectl.run(&[
        "run",
        "demo",
        "--image=busybox",
        "--image-pull-policy=IfNotPresent",
        "--command",
        "--",
        "sh",
        "-c",
        script,
    ])?;
    let path = "jsonpath={.status.phase} {.status.containerStatuses[*].state.waiting.reason}";
    kubectl.wait(
        &["get", "pod", "demo", "-o", path],
        POD_LIMIT,
        |answer| answer.trim() == "Running",
        |answer| {
            let _ = machine.follow();
            println!("    pod: {answer}");
        },
    )?;
    Ok(())
}
