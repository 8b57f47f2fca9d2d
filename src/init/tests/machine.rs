//! Restarts, settings, command line, mounts, keys, the host port.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use disk::slot::Slot;
use nix::sys::signal::Signal;

use crate::boot_disk::{Candidate, choose};
use crate::clock;
use crate::cmdline::CommandLine;
use crate::fsck::{Verdict, verdict};
use crate::host_port::{Answer, answer};
use crate::mounts::teardown_order;
use crate::power::{EVENT_LEN, Ending, has_power_key};
use crate::supervisor::{State, Supervisor};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn restarts_back_off_up_to_a_minute() {
    let mut now = Instant::now();
    let mut service = Supervisor::new(now);
    let mut delays = Vec::new();
    for _ in 0..9 {
        service.started(7, now);
        let delay = service.ended(now).unwrap();
        assert_eq!(service.start_at(), Some(now + delay));
        delays.push(delay.as_secs());
        now += delay;
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn a_long_run_makes_restarts_quick_again() {
    let now = Instant::now();
    let mut service = Supervisor::new(now);
    service.ended(now);
    service.ended(now);
    service.started(7, now);
    assert_eq!(service.ended(now + 121 * SECOND), Some(SECOND));
}

#[test]
fn a_stopped_service_stays_down() {
    let now = Instant::now();
    let mut running = Supervisor::new(now);
    running.started(7, now);
    assert_eq!(running.stop(), Some(7));
    assert_eq!(running.ended(now), None);
    assert_eq!(running.state(), State::Stopped);
    let mut waiting = Supervisor::new(now);
    assert_eq!(waiting.stop(), None);
    assert_eq!(waiting.start_at(), None);
}

#[test]
fn only_a_first_start_is_brought_forward() {
    let now = Instant::now();
    let mut service = Supervisor::new(now + 30 * SECOND);
    service.release(now);
    assert_eq!(service.start_at(), Some(now));
    service.started(7, now);
    service.ended(now);
    service.release(now);
    assert_eq!(service.start_at(), Some(now + SECOND));
}

#[test]
fn the_command_line_is_read_like_the_kernel_does() {
    let verity = format!("10,10,{},00", "0a".repeat(32));
    let text = format!(
        "quiet copepod.slot=a copepod.disk=43504f44 copepod.verity={verity} copepod.slot=b\n"
    );
    let line = CommandLine::parse(&text).unwrap();
    assert_eq!((line.slot, line.disk, line.verity.to_string()), (Slot::B, 0x4350_4f44, verity));
    let error = CommandLine::parse("copepod.slot=c copepod.disk=1").unwrap_err();
    assert_eq!(error.to_string(), "kernel command line has no valid copepod.slot");
}

#[test]
fn of_two_disks_that_were_flashed_the_boot_loaders_is_taken() {
    const CARD: &str =
        "/sys/devices/platform/soc/3f202000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0";
    const STICK: &str = "/sys/devices/platform/soc/3f980000.usb/usb1/1-1/1-1.2/1-1.2:1.0/host0/target0:0:0/0:0:0:0/block/sda";
    const OTHER: &str = "/sys/devices/platform/soc/3f980000.usb/usb1/1-1/1-1.3/1-1.3:1.0/host1/target1:0:0/1:0:0:0/block/sdb";
    const VIRTIO: &str = "/sys/devices/platform/a003e00.virtio_mmio/virtio0/block/vda";
    const NVME: &str =
        "/sys/devices/platform/axi/1000110000.pcie/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1";
    for (disks, told, expected) in [
        (&[][..], None, None),
        (&[VIRTIO], None, Some("vda")),
        (&[STICK, CARD], None, Some("mmcblk0")),
        (&[CARD, STICK], Some("usb"), Some("sda")),
        (&[CARD, STICK], Some("mmc"), Some("mmcblk0")),
        (&[CARD, STICK], Some("nvme"), Some("mmcblk0")),
        (&[OTHER, STICK], Some("usb"), Some("sda")),
        (&[STICK, NVME], None, Some("nvme0n1")),
    ] {
        let all: Vec<Candidate> =
            disks.iter().map(|path| Candidate::of(std::path::Path::new(path)).unwrap()).collect();
        let chosen = choose(&all, told).map(|one| one.name.as_str());
        assert_eq!(chosen, expected, "{disks:?} {told:?}");
    }
}

#[test]
fn the_kernels_file_systems_and_the_root_stay_mounted() {
    let points = [
        "/var/lib/copepod/x",
        "/sys/fs/cgroup",
        "/var/lib/copepod",
        "/boot",
        "/tmp",
        "/run",
        "/dev",
        "/",
    ];
    let order = teardown_order(&points.map(PathBuf::from));
    assert_eq!(
        order,
        ["/var/lib/copepod/x", "/var/lib/copepod", "/boot", "/tmp"].map(PathBuf::from)
    );
}

#[test]
fn the_power_key_is_seen_among_other_events() {
    let event = |kind: u16, code: u16, value: u32| {
        let mut bytes = vec![9; EVENT_LEN - 8];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    };
    assert!(has_power_key(&[event(1, 30, 1), event(1, 116, 1), event(0, 0, 0)].concat()));
    assert!(!has_power_key(&[event(1, 116, 0), event(2, 116, 1)].concat()));
    assert!(!has_power_key(event(1, 116, 1).split_at(1).1));
}

#[test]
fn signals_name_the_ending() {
    assert_eq!(Ending::of_signal(Signal::SIGTERM), Some(Ending::PowerOff));
    assert_eq!(Ending::of_signal(Signal::SIGINT), Some(Ending::Restart));
    assert_eq!(Ending::of_signal(Signal::SIGCHLD), None);
}

#[test]
fn the_host_port_answers_what_it_knows() {
    let kubeconfig = || b"apiVersion: v1\n".to_vec();
    assert_eq!(answer("kubeconfig", kubeconfig).bytes, b"kubeconfig 15\napiVersion: v1\n");
    assert_eq!(answer("kubeconfig", Vec::new).bytes, b"kubeconfig 0\n");
    assert_eq!(
        answer("poweroff", kubeconfig),
        Answer { bytes: b"ok\n".into(), signal: Some(Signal::SIGTERM) }
    );
    assert_eq!(answer("rm -rf /", kubeconfig).signal, None);
}

#[test]
fn the_floor_is_the_later_of_build_and_saved_time() {
    let year = 365 * 86_400;
    for (build, saved, expected) in [
        (5, None, 5),
        (5, Some("7\n"), 7),
        (9, Some("7"), 9),
        (9, Some("nonsense"), 9),
        (9, Some("99999999999999999999999"), 9),
        (9, Some(&*(30 * year).to_string()), 9),
        (9, Some(&*(19 * year).to_string()), 19 * year),
    ] {
        let bounds = clock::Bounds::new(build, saved, true);
        assert_eq!((bounds.build, bounds.floor), (build, expected), "{build} {saved:?}");
        assert_eq!(bounds.latest, build + 20 * year);
    }
}

#[test]
fn a_clock_that_shows_what_cannot_be_true_starts_at_the_floor() {
    use clock::Source::{Floor, Hardware};
    const BUILD: u64 = 1_790_000_000;
    const END: u64 = 2_147_483_647;
    for (wide, now, expected) in [
        (true, 0, Floor),
        (true, BUILD - 1, Floor),
        (true, BUILD, Hardware),
        (true, END + 1, Hardware),
        (true, 9_999_999_999, Floor),
        (false, BUILD, Hardware),
        (false, END, Floor),
        (false, END + 1, Floor),
    ] {
        let bounds = clock::Bounds::new(BUILD, None, wide);
        assert_eq!(bounds.source(now), expected, "{now}, 64 bits: {wide}");
    }
    assert!(clock::Bounds::new(BUILD, Some(&END.to_string()), false).floor == BUILD);
}

#[test]
fn the_owners_time_servers_come_before_those_of_the_network() {
    let own = ["a".to_owned()];
    assert_eq!(clock::servers(&own, "10.0.0.1\n"), ["a"]);
    assert_eq!(clock::servers(&[], "10.0.0.1\n10.0.0.2\n"), ["10.0.0.1", "10.0.0.2"]);
    assert!(clock::servers(&[], "").iter().all(|name| name.ends_with("pool.ntp.org")));
    assert_eq!(clock::servers(&vec!["a".to_owned(); 9], "").len(), 4);
}

#[test]
fn a_checkers_exit_code_says_how_it_went() {
    for (code, expected) in [
        (Some(0), Verdict::Sound),
        (Some(1), Verdict::Repaired),
        (Some(2), Verdict::Repaired),
        (Some(4), Verdict::Damaged),
        (Some(5), Verdict::Damaged),
        (Some(8), Verdict::Damaged),
        (None, Verdict::Damaged),
    ] {
        assert_eq!(verdict(code), expected, "{code:?}");
    }
}
