//! The test of a board's life from its first start on a larger card: settings with mistakes, growth, manifests, the clock,
//! devices plugged in, pods at the end of the machine, a damaged data partition, two networks, a hang, a factory reset.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use disk::layout;
use disk::mbr::{Mbr, SECTOR_LEN};

use crate::TestArgs;
use crate::board::{Board, Plugs};
use crate::hang;
use crate::kubectl::Kubectl;
use crate::machine::{BOOT_LIMIT, Machine, Network, POD_LIMIT, Place, crashes};
use crate::owner;
use crate::run::wait_until_ready;
use crate::show::seconds;
use crate::time_server::TimeServer;
use crate::tools::{run as run_tool, tool};
use crate::trial::{Check, run_checks, show_tail};

/// The card is larger than the image by this.
const MORE_BYTES: u64 = 1024 * 1024 * 1024;
/// Less than the grown partition, more than the image's.
const GROWN_KIB: u64 = 1200 * 1024;
/// A wrong key, a wrong value, and good ones around them. QEMU forwards to this address only. The second interface comes
/// later.
const SETTINGS: &str = "hostname: kitchen\nlables: {room: kitchen}\nlabels: {room: kitchen}\n\
    network:\n- interface: eth0\n  address: 10.0.2.15/24\n  gateway: 10.0.2.2\n- interface: PLUGGED\n  dhcp: true\n\
    dns: [10.0.2.3]\nntp: [no time, TIME]\n";
const MISTAKES: [&str; 2] = [
    "copepod.yaml:2:1: lables: is no setting",
    "copepod.yaml:11:7: ntp[0]: expected a name or an address",
];
/// What a board without a battery shows.
const NO_CLOCK: &str = "1970-01-01T00:00:00";
/// The board's time may be off by this much of what its time server says.
const CLOCK_ERROR: u64 = 2;
const MANIFESTS: &str = "manifests";
const MANIFEST: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n\
    apiVersion: v1\nkind: ConfigMap\nmetadata: {name: menu, namespace: shop}\ndata: {soup: pea}\n";
/// A network of its own for a device whose driver is not loaded.
const PLUGGED_NETWORK: &str = "user,id=more,net=10.0.3.0/24";
const STICK: &str = "stick";
const STICK_BYTES: u64 = 1024 * 1024;
const STICK_TEXT: &str = "a stick";
/// Waits for the disk, and shows what it begins with.
const READER: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"}, "spec": {
  "restartPolicy": "Never", "volumes": [{"name": "disk", "hostPath": {"path": "/dev/sda", "type": "BlockDevice"}}],
  "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
    "command": ["head", "-c", "7", "/disk"], "securityContext": {"privileged": true},
    "volumeMounts": [{"name": "disk", "mountPath": "/disk"}]}]}}"#;
/// Says nothing of networks.
const NO_NETWORK: &str = "hostname: kitchen\nlabels: {room: kitchen}\n";
const TWO_NETWORKS: &str =
    "network:\n- interface: eth1\n  dhcp: true\n- interface: eth0\n  dhcp: true\n";
/// Through both interfaces, the first of the settings before the other.
const TWO_ROUTES: [&str; 2] =
    ["default via 10.0.3.2 dev eth1", "default via 10.0.2.2 dev eth0  metric 100"];
const NETWORK_LIMIT: Duration = Duration::from_secs(60);
/// The watchdog is armed for 60 s and was fed in the last 10 s before the hang.
const WATCHDOG_MIN: Duration = Duration::from_secs(45);
const WATCHDOG_LIMIT: Duration = Duration::from_secs(120);
const RESET: &str = "copepod.io/factory-reset";
/// Both pods note their ends in one file on the data partition.
const PODS: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "critical"}, "spec": {
    "priorityClassName": "system-node-critical",
    "volumes": [{"name": "ends", "hostPath": {"path": "/var/lib/copepod/ends", "type": "DirectoryOrCreate"}}],
    "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
      "command": ["sh", "-c", "trap 'echo critical >>/ends/log; exit' TERM; sleep 1000000 & wait"],
      "volumeMounts": [{"name": "ends", "mountPath": "/ends"}]}]}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ordinary"}, "spec": {
    "volumes": [{"name": "ends", "hostPath": {"path": "/var/lib/copepod/ends", "type": "DirectoryOrCreate"}}],
    "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
      "command": ["sh", "-c", "trap 'echo ordinary >>/ends/log; exit' TERM; sleep 1000000 & wait"],
      "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >>/ends/log; sleep 1"]}}},
      "volumeMounts": [{"name": "ends", "mountPath": "/ends"}]}]}}]}"#;
const ENDS: &str = "hook\nordinary\ncritical";

struct Life {
    board: Board,
    plugs: Plugs,
    place: Place,
    kubeconfig: PathBuf,
    kubectl: Kubectl,
    forward: u16,
    machine: Option<Machine>,
    time: TimeServer,
}

const CHECKS: &[Check<Life>] = &[
    ("boots with mistakes in the settings, says where they are", boots_with_mistakes),
    ("has the address as set, and the good settings", has_settings),
    ("reports the mistakes as events of the Node", reports_mistakes),
    ("has grown to the card", has_grown),
    ("applies the manifests of its card", applies_manifests),
    ("has the time of its time server", has_time),
    ("loads the driver of a network device that is plugged in, and uses it", uses_plugged),
    ("shows a USB disk that is plugged in to the pod that waits for it", shows_disk),
    ("stops pods in order when it is switched off", stops_pods),
    ("starts without a clock at the time it was switched off", starts_without_clock),
    ("runs the pods again, which ended in order", ran_in_order),
    ("mends a damaged data partition and keeps what is on it", mends_damage),
    ("takes the first of two networks when the settings name none", takes_first_network),
    ("takes both networks in the order of the settings", takes_both_networks),
    ("is restarted by its watchdog when PID 1 hangs, and keeps what is on it", survives_hang),
    ("begins anew after a factory reset by annotation", resets),
    ("shows no crash on the console", |life| {
        let log = fs::read_to_string(&life.place.log)?;
        let found = crashes(&log);
        ensure!(found.is_empty(), "the console shows: {}", found.join(" / "));
        Ok(())
    }),
];

/// Runs the checks.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let board = args.place.read_board()?;
    let dir = args.place.dir();
    let place = Place::new(&dir, "first-boot")?;
    place.prepare(&board, true)?;
    place.enlarge(MORE_BYTES)?;
    let time = TimeServer::start()?;
    let plugs = board.qemu.as_ref().and_then(|qemu| qemu.plugs.clone());
    let plugs = plugs.with_context(|| format!("board {} says nowhere to plug in", board.id))?;
    let settings = SETTINGS.replace("PLUGGED", &plugs.interface).replace("TIME", &time.name());
    owner::replace(&place.disk, &settings)?;
    let boot = owner::boot_partition(&place.disk)?;
    run_tool(tool("mmd", 0).args(["-i", &boot]).arg(format!("::{MANIFESTS}")))?;
    owner::replace_file(&place.disk, &format!("{MANIFESTS}/shop.yaml"), MANIFEST)?;
    let kubeconfig = dir.join("first-boot/kubeconfig.yaml");
    let kubectl = Kubectl::new(&args.kubectl.program(), &kubeconfig);
    let forward = args.forward;
    let mut life = Life { board, plugs, place, kubeconfig, kubectl, forward, machine: None, time };
    let count = run_checks(CHECKS, &mut life, |life| show_tail(&life.place));
    drop(life);
    count.report(&args.place.board)
}

fn boots_with_mistakes(life: &mut Life) -> Result<()> {
    life.place.clock = Some(NO_CLOCK.to_owned());
    life.start()?;
    life.wait_for_line("watchdog armed")?;
    life.wait_for_line("data partition grown to")?;
    for mistake in MISTAKES {
        life.wait_for_line(mistake)?;
    }
    life.wait_for_line("address 10.0.2.15/24, router 10.0.2.2, as set")?;
    // Only then is anything signed.
    life.wait_for_line("clock set by 1 time servers")?;
    life.wait_for_line("node started as process")?;
    life.wait_until_ready()
}

fn has_settings(life: &mut Life) -> Result<()> {
    let room = ["get", "node", "kitchen", "-o", "jsonpath={.metadata.labels.room}"];
    let room = life.kubectl.run(&room)?;
    ensure!(room == "kitchen", "the label room is {room:?}");
    life.kubectl.run(&["create", "configmap", "kept", "--from-literal=answer=42"])?;
    Ok(())
}

fn reports_mistakes(life: &mut Life) -> Result<()> {
    let events = [
        "get",
        "events",
        "-A",
        "--field-selector=reason=InvalidSetting,involvedObject.kind=Node",
        "-o",
        "jsonpath={.items[*].message}",
    ];
    let all = |text: &str| MISTAKES.iter().all(|mistake| text.contains(mistake));
    life.kubectl.wait(&events, Duration::from_secs(60), all, |_| {})?;
    Ok(())
}

fn has_grown(life: &mut Life) -> Result<()> {
    let size = "jsonpath={.items[0].status.capacity.ephemeral-storage}";
    let text = life.kubectl.run(&["get", "nodes", "-o", size])?;
    let kib: Option<u64> = text.strip_suffix("Ki").and_then(|number| number.parse().ok());
    ensure!(kib.is_some_and(|kib| kib > GROWN_KIB), "the node has {text:?} of storage");
    Ok(())
}

fn applies_manifests(life: &mut Life) -> Result<()> {
    let menu = ["get", "configmap", "-n", "shop", "menu", "-o", "jsonpath={.data.soup}"];
    life.kubectl.wait(&menu, Duration::from_secs(60), |soup| soup == "pea", |_| {})?;
    Ok(())
}

fn has_time(life: &mut Life) -> Result<()> {
    life.create(PODS)?;
    life.wait_for_pods("true true")?;
    let before = host_seconds()?.saturating_sub(CLOCK_ERROR);
    let date = life.kubectl.run(&["exec", "ordinary", "--", "date", "+%s"])?;
    let after = host_seconds()? + CLOCK_ERROR;
    let date: u64 = date.parse().context("a date")?;
    ensure!((before..=after).contains(&date), "{date} is not between {before} and {after}");
    Ok(())
}

fn uses_plugged(life: &mut Life) -> Result<()> {
    let Plugs { network, interface, .. } = life.plugs.clone();
    let machine = life.machine()?;
    machine.monitor_line(&format!("netdev_add {PLUGGED_NETWORK}"))?;
    machine.monitor_line(&format!("device_add {network},netdev=more"))?;
    life.wait_for_line(&format!("{interface}: address 10.0.3.15/24"))
}

fn shows_disk(life: &mut Life) -> Result<()> {
    let file = life.place.disk.with_file_name(STICK);
    fs::write(&file, STICK_TEXT)?;
    File::options().write(true).open(&file)?.set_len(STICK_BYTES)?;
    life.create(READER)?;
    life.machine()?.add_disk(STICK, &file)?;
    let disk = life.plugs.disk.clone();
    let (disk, ways) = disk.split_last().context("the board has no disk to plug in")?;
    for device in ways {
        life.machine()?.monitor_line(&format!("device_add {device}"))?;
    }
    life.machine()?.monitor_line(&format!("device_add {disk},drive={STICK}"))?;
    life.kubectl.wait(&["logs", "reader"], POD_LIMIT, |text| text == STICK_TEXT, |_| {})?;
    life.kubectl.run(&["delete", "pod", "reader"]).map(drop)
}

fn stops_pods(life: &mut Life) -> Result<()> {
    life.switch_off()
}

fn starts_without_clock(life: &mut Life) -> Result<()> {
    life.time.silence();
    life.start()?;
    life.wait_for_line("this board does not know the time")?;
    life.wait_until_ready()?;
    let date = life.kubectl.run(&["exec", "ordinary", "--", "date", "+%s"]);
    // The pods may still be starting: the answer is asked for until it comes.
    let date = match date {
        Ok(date) => date,
        Err(_) => life.kubectl.wait(
            &["exec", "ordinary", "--", "date", "+%s"],
            POD_LIMIT,
            |answer| answer.parse::<u64>().is_ok(),
            |_| {},
        )?,
    };
    let behind = host_seconds()?.saturating_sub(date.parse().context("a date")?);
    ensure!(behind < 600, "the board's time is {behind} s behind");
    Ok(())
}

fn ran_in_order(life: &mut Life) -> Result<()> {
    life.wait_for_pods("true true")?;
    let ends = life.kubectl.run(&["exec", "ordinary", "--", "cat", "/ends/log"])?;
    ensure!(ends == ENDS, "the pods noted {ends:?}");
    life.switch_off()
}

/// Takes the main superblock away, which only a copy of it can make up for.
fn mends_damage(life: &mut Life) -> Result<()> {
    let file = File::options().read(true).write(true).open(&life.place.disk)?;
    let mut sector = [0; SECTOR_LEN];
    file.read_exact_at(&mut sector, 0)?;
    let data = Mbr::decode(&sector)?.partitions.get(layout::DATA - 1).copied().flatten();
    let data = data.context("there is no data partition")?;
    file.write_all_at(&[0; 4096], u64::from(data.start) * SECTOR_LEN as u64)?;
    owner::replace(&life.place.disk, NO_NETWORK)?;
    life.place.clock = None;
    life.start_on_two_networks()?;
    life.wait_for_line("the data partition was damaged and has been repaired")?;
    life.wait_until_ready()?;
    life.has_map("kept", "42")
}

fn takes_first_network(life: &mut Life) -> Result<()> {
    life.wait_for_address("10.0.2.15")?;
    let log = fs::read_to_string(&life.place.log)?;
    ensure!(!log.contains("eth1: address"), "the second interface has an address too");
    // Switched off earlier, they would not catch the signal yet and use up their grace.
    life.wait_for_pods("true true")?;
    life.switch_off()
}

fn takes_both_networks(life: &mut Life) -> Result<()> {
    owner::replace(&life.place.disk, &format!("{NO_NETWORK}{TWO_NETWORKS}"))?;
    life.start_on_two_networks()?;
    life.wait_until_ready()?;
    life.wait_for_address("10.0.3.15")?;
    life.create(hang::POD)?;
    let routes = ["exec", hang::POD_NAME, "--", "ip", "route"];
    let has_both = |text: &str| {
        let defaults = text.lines().filter(|line| line.starts_with("default"));
        defaults.map(str::trim_end).eq(TWO_ROUTES)
    };
    life.kubectl.wait(&routes, POD_LIMIT, has_both, |_| {}).map(drop)
}

fn survives_hang(life: &mut Life) -> Result<()> {
    life.wait_for_pods("true true true")?;
    let restarts =
        ["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}"];
    let before = life.kubectl.run(&restarts)?;
    hang::freeze_init(&life.kubectl)?;
    let hung = Instant::now();
    // The node does not need PID 1, so it still takes what has to be kept.
    life.kubectl.run(&["create", "configmap", "late", "--from-literal=answer=43"])?;
    let is_emulated = life.board.qemu.as_ref().is_some_and(|qemu| qemu.watchdog.is_some());
    life.machine()?.wait_for_watchdog(is_emulated, WATCHDOG_LIMIT)?;
    println!("    the watchdog acted {} after the hang", seconds(hung.elapsed()));
    ensure!(hung.elapsed() > WATCHDOG_MIN, "that is not the time it was armed for");
    life.wait_for_line("copepod: slot a, starts left")?;
    life.wait_until_ready()?;
    life.has_map("kept", "42")?;
    life.has_map("late", "43")?;
    let restarted = |now: &str| {
        let [before, now] = [&before, now].map(|text| text.split(' ').map(str::parse::<u32>));
        now.eq(before.map(|count| count.map(|count| count + 1)))
    };
    life.kubectl.wait(&restarts, POD_LIMIT, restarted, |_| {})?;
    life.wait_for_pods("true true true")
}

fn resets(life: &mut Life) -> Result<()> {
    let image = owner::boot_partition(&life.place.disk)?;
    life.kubectl.run(&["annotate", "node", "kitchen", &format!("{RESET}=true")])?;
    let refused = [
        "get",
        "events",
        "-A",
        "--field-selector=reason=FactoryResetRefused,involvedObject.kind=Node",
        "-o",
        "jsonpath={.items[*].message}",
    ];
    let has_told = |text: &str| text.contains("expected the node's name \"kitchen\"");
    life.kubectl.wait(&refused, Duration::from_secs(60), has_told, |_| {})?;
    life.kubectl.run(&["annotate", "node", "kitchen", &format!("{RESET}=kitchen")])?;
    life.wait_for_line("a factory reset follows")?;
    life.wait_for_line("factory reset: the data partition is made anew")?;
    life.wait_until_ready()?;
    let maps = life.kubectl.run(&["get", "configmaps", "-o", "name"])?;
    ensure!(!maps.contains("kept"), "what was stored is still there");
    has_grown(life)?;
    life.switch_off()?;
    let files = run_tool(tool("mdir", 0).args(["-b", "-i", &image, "::"]))?;
    ensure!(!files.to_lowercase().contains("factory"), "the request is still there: {files}");
    ensure!(files.contains(owner::NAME), "the settings are gone: {files}");
    Ok(())
}

fn host_seconds() -> Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

impl Life {
    fn start(&mut self) -> Result<()> {
        self.start_on(Network::Alone { forward: self.forward })
    }

    fn start_on_two_networks(&mut self) -> Result<()> {
        self.start_on(Network::Twice { forward: self.forward })
    }

    fn start_on(&mut self, network: Network<'_>) -> Result<()> {
        self.machine = None;
        self.machine = Some(Machine::start(&self.board, &self.place, network, false)?);
        Ok(())
    }

    fn create(&self, manifest: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), manifest)?;
        self.kubectl.run(&["create", "-f", &file.path().to_string_lossy()]).map(drop)
    }

    fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the board does not run")
    }

    fn wait_for_line(&mut self, text: &str) -> Result<()> {
        self.machine()?.wait_for_line(text, BOOT_LIMIT).map(drop)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        self.wait_for_line("copepod is up")?;
        let machine = self.machine.as_mut().context("the board does not run")?;
        machine.kubeconfig(&self.kubeconfig, BOOT_LIMIT)?;
        wait_until_ready(&self.kubectl, machine)
    }

    fn wait_for_address(&self, expected: &str) -> Result<()> {
        let path = "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}";
        let address = ["get", "nodes", "-o", path];
        self.kubectl.wait(&address, NETWORK_LIMIT, |address| address == expected, |_| {}).map(drop)
    }

    fn has_map(&self, name: &str, expected: &str) -> Result<()> {
        let answer =
            self.kubectl.run(&["get", "configmap", name, "-o", "jsonpath={.data.answer}"])?;
        ensure!(answer == expected, "the ConfigMap {name} says {answer:?}");
        Ok(())
    }

    fn wait_for_pods(&mut self, expected: &str) -> Result<()> {
        let ready = "jsonpath={.items[*].status.containerStatuses[0].ready}";
        let pods = ["get", "pods", "-o", ready];
        self.kubectl.wait(&pods, POD_LIMIT, |state| state == expected, |_| {})?;
        Ok(())
    }

    fn switch_off(&mut self) -> Result<()> {
        let machine = self.machine()?;
        machine.monitor("system_powerdown")?;
        let status = machine.wait_for_end()?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }
}
