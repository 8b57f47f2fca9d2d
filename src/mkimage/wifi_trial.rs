//! The test of Wi-Fi: a board with an emulated radio joins, loses, changes and is refused by networks that a second one makes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::TestArgs;
use crate::board::Board;
use crate::kubectl::Kubectl;
use crate::machine::{BOOT_LIMIT, Machine, Network, Place, crashes};
use crate::owner;
use crate::run::wait_until_ready;
use crate::trial::{Check, run_checks, show_tail};

/// The part of the variant that has the radios.
const RADIOS: &str = "radios";
/// The script that makes the access points, and where it is here.
const SCRIPT: &str = "air.sh";
const SCRIPT_SOURCE: &str = "tests/board/air.sh";
const PASSWORD: &str = "correct horse battery";
const SETTINGS: &str = "hostname: kitchen\nwifi:\n- ssid: workshop\n  password: correct horse battery\n  country: DE\n\
    - {ssid: annex, password: staple staple}\n";
/// File on the boot partition, name of the network, password.
const ACCESS_POINTS: [(&str, &str, &str); 3] = [
    ("workshop.ap", "workshop", PASSWORD),
    ("annex.ap", "annex", "staple staple"),
    ("changed.ap", "workshop", "another password"),
];
/// Repeated, for what is typed before the terminal is open is lost.
const ASK_STEP: Duration = Duration::from_secs(5);
const EVENT_LIMIT: Duration = Duration::from_secs(60);
const REFUSED: &str =
    "the network \"workshop\" does not accept the password that copepod.yaml has for it";

struct Air {
    place: Place,
    machine: Machine,
    kubectl: Kubectl,
    kubeconfig: PathBuf,
}

const CHECKS: &[Check<Air>] = &[
    ("says that no network is there", finds_nothing),
    ("joins a network with WPA2 and gets its address over the air", joins),
    ("keeps to the rules of the country", |air| {
        air.type_line("iw reg get")?;
        air.wait_for_line("country DE: DFS-ETSI")
    }),
    ("has password and key in files for root alone, not in logs or arguments", keeps_secrets),
    ("is back when the access point is", comes_back),
    ("takes another network and its addresses", changes),
    ("says when the password is refused, on the console and as an event", is_refused),
    ("is back when the password fits again", |air| {
        air.silence()?;
        air.join("workshop.ap", "workshop", "10.9.0")
    }),
    ("shows no crash on the console", |air| {
        let log = fs::read_to_string(&air.place.log)?;
        let found = crashes(&log);
        ensure!(found.is_empty(), "the console shows: {}", found.join(" / "));
        Ok(())
    }),
];

/// Runs the checks on a copy of the image.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let board: Board = args.place.read_board()?;
    ensure!(
        board.parts.contains_key(RADIOS),
        "{} has no emulated radios; test it with --variant wifi-test",
        board.id
    );
    let place = Place::new(&args.place.dir(), "test-wifi")?;
    place.prepare(&board, true)?;
    owner::replace(&place.disk, SETTINGS)?;
    let script = fs::read_to_string(args.place.root.join(SCRIPT_SOURCE))?;
    owner::replace_file(&place.disk, SCRIPT, &script)?;
    for (name, network, password) in ACCESS_POINTS {
        owner::replace_file(&place.disk, name, &access_point(network, password))?;
    }
    let kubeconfig = args.place.dir().join("test-wifi/kubeconfig.yaml");
    let kubectl = Kubectl::new(&args.kubectl.program(), &kubeconfig);
    let network = Network::Alone { forward: args.forward };
    let machine = Machine::start(&board, &place, network, false)?;
    let mut air = Air { place, machine, kubectl, kubeconfig };
    let count = run_checks(CHECKS, &mut air, |air| show_tail(&air.place));
    drop(air);
    count.report(&args.place.board)
}

/// Of WPA2 alone, in the text of wpa_supplicant.conf(5).
fn access_point(network: &str, password: &str) -> String {
    format!(
        "country=DE\nnetwork={{\n\tssid=\"{network}\"\n\tmode=2\n\tfrequency=2437\n\tkey_mgmt=WPA-PSK\n\tproto=RSN\n\
         \tpairwise=CCMP\n\tpsk=\"{password}\"\n}}\n"
    )
}

fn finds_nothing(air: &mut Air) -> Result<()> {
    air.wait_for_line("shell started")?;
    air.until_typed("sh /boot/air.sh begin", "air: the radio is away")?;
    let names = "\"workshop\", \"annex\"";
    air.wait_for_line(&format!("for 60 s not connected to any network of copepod.yaml: {names}"))
}

fn joins(air: &mut Air) -> Result<()> {
    air.join("workshop.ap", "workshop", "10.9.0")?;
    air.wait_for_line("kitchen: 10.9.0.5")?;
    air.wait_for_line("wifi ready")
}

fn keeps_secrets(air: &mut Air) -> Result<()> {
    air.type_line("sh /boot/air.sh secrets")?;
    air.wait_for_line("air: mode 600 of /run/copepod/wifi.conf")?;
    air.wait_for_line("air: mode 700 of /boot/copepod.yaml")?;
    air.wait_for_line("air: found in /run/copepod/wifi.conf")?;
    air.wait_for_line("air: that was all of 3")?;
    let log = fs::read_to_string(&air.place.log)?;
    let found: Vec<&str> = log.lines().filter(|line| line.contains("air: found in")).collect();
    ensure!(found.len() == 1, "the board has its secrets elsewhere too: {}", found.join(" / "));
    ensure!(!log.contains(PASSWORD), "the console shows the password");
    Ok(())
}

fn comes_back(air: &mut Air) -> Result<()> {
    air.silence()?;
    air.join("workshop.ap", "workshop", "10.9.0")?;
    air.type_line("ping -c 1 -w 20 10.9.0.1")?;
    air.wait_for_line("1 packets received")
}

fn changes(air: &mut Air) -> Result<()> {
    air.silence()?;
    air.join("annex.ap", "annex", "10.8.0")?;
    air.wait_for_line("kitchen: 10.8.0.5")
}

fn is_refused(air: &mut Air) -> Result<()> {
    air.silence()?;
    air.type_line("sh /boot/air.sh on changed.ap 10.9.0")?;
    air.wait_for_line(REFUSED)?;
    air.machine.kubeconfig(&air.kubeconfig, BOOT_LIMIT)?;
    wait_until_ready(&air.kubectl, &mut air.machine)?;
    let events = [
        "get",
        "events",
        "-A",
        "--field-selector=reason=WifiNotConnected,involvedObject.kind=Node",
        "-o",
        "jsonpath={.items[*].message}",
    ];
    air.kubectl.wait(&events, EVENT_LIMIT, |text| text.contains(REFUSED), |_| {})?;
    Ok(())
}

impl Air {
    fn type_line(&mut self, line: &str) -> Result<()> {
        self.machine.type_line(line)
    }

    fn wait_for_line(&mut self, text: &str) -> Result<()> {
        self.machine.wait_for_line(text, BOOT_LIMIT).map(drop)
    }

    /// Types a line until it is answered.
    fn until_typed(&mut self, line: &str, answer: &str) -> Result<()> {
        for _ in 0..BOOT_LIMIT.as_secs() / ASK_STEP.as_secs() {
            self.type_line(line)?;
            if self.machine.wait_for_line(answer, ASK_STEP).is_ok() {
                return Ok(());
            }
        }
        self.wait_for_line(answer)
    }

    /// Makes an access point and waits until the board has an address of it.
    fn join(&mut self, file: &str, network: &str, addresses: &str) -> Result<()> {
        self.type_line(&format!("sh /boot/air.sh on {file} {addresses}"))?;
        self.wait_for_line(&format!("wifi: connected to {network:?}"))?;
        self.wait_for_line(&format!("wlan0: address {addresses}."))
    }

    /// Takes the access point away and waits until the board has noticed.
    fn silence(&mut self) -> Result<()> {
        self.type_line("sh /boot/air.sh off")?;
        self.wait_for_line("air: silence")
    }
}
