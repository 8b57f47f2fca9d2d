//! Tests of what the runtime process computes; what it does to a machine is tested in `tests/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::libc;
use serde::Deserialize;
use serde_json::Value;

use super::oci::{HostDevice, Surroundings};
use super::{capabilities, cgroup, devices, oci, record, sandbox, seccomp};
use crate::process::Config;
use crate::protocol::{
    Capabilities, ContainerSpec, FRAME_MAX, Resources, Sandbox, SandboxSpec, encode, frame_length,
};

/// One file of `cases/`: what is asked for, and the OCI spec that must come of it.
#[derive(Deserialize)]
struct Case {
    container: ContainerSpec,
    #[serde(default)]
    sandbox: SandboxSpec,
    #[serde(default)]
    cgroup_v2: bool,
    #[serde(default)]
    devices: Vec<(PathBuf, char, i64, i64)>,
}

fn compute(case: &Case) -> Value {
    let kinds: Vec<String> =
        sandbox::own_namespaces(&case.sandbox).into_iter().map(str::to_owned).collect();
    let layout = record::Layout { root: "/state".into() };
    let home = Sandbox {
        id: "box".to_owned(),
        netns: None,
        spec: case.sandbox.clone(),
        created_at: 0,
        ready: true,
    };
    let devices: Vec<HostDevice> = case
        .devices
        .iter()
        .map(|(path, kind, major, minor)| HostDevice {
            path: path.clone(),
            kind: *kind,
            major: *major,
            minor: *minor,
            mode: 0o660,
            access: "rw".to_owned(),
        })
        .collect();
    let around = Surroundings {
        sandbox: &home,
        namespaces: &sandbox::pins(&layout, "box", &kinds),
        shm: layout.shm("box"),
        cgroup: "copepod/pod/one".to_owned(),
        cgroups_v1: if case.cgroup_v2 {
            Vec::new()
        } else {
            vec![("memory", PathBuf::from("/sys/fs/cgroup/memory/copepod/pod/one"))]
        },
        open_files: (1024, 4096),
    };
    oci::spec(&case.container, &around, &devices)
}

/// `<name>.in.json` gives `<name>.out.json`; with `UPDATE=1` in the environment the latter is written anew.
#[test]
fn specs_are_as_the_cases_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("process/cases");
    let mut checked = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.to_str().unwrap().strip_suffix(".in.json").map(str::to_owned) else {
            continue;
        };
        let case: Case = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let out = PathBuf::from(format!("{name}.out.json"));
        let computed = compute(&case);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&out, serde_json::to_string_pretty(&computed).unwrap() + "\n").unwrap();
        }
        let expected: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
        assert_eq!(computed, expected, "{name}");
        // What libcontainer reads must be what we wrote.
        let read: libcontainer::oci_spec::runtime::Spec = serde_json::from_value(computed).unwrap();
        assert!(read.process().as_ref().unwrap().capabilities().is_none());
        checked += 1;
    }
    assert!(checked >= 3);
}

/// Runs a filter as the kernel would; the low words of the arguments are enough.
fn filtered(names: &[&str], architecture: u32, call: libc::c_long, argument: u32) -> u32 {
    let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let program = seccomp::compile(&names);
    assert!(program.len() < 4096);
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let step = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jump_true } else { step.jump_false });
        match step.code {
            0x20 => {
                accumulator = match step.operand {
                    0 => u32::try_from(call).unwrap(),
                    4 => architecture,
                    16 => argument,
                    other => panic!("load from {other}"),
                }
            }
            0x15 => at += jump(accumulator == step.operand),
            0x35 => at += jump(accumulator >= step.operand),
            0x45 => at += jump(accumulator & step.operand != 0),
            0x05 => at += usize::try_from(step.operand).unwrap(),
            0x06 => return step.operand,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[test]
fn the_seccomp_filter_decides_as_docker_s_profile() {
    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;
    let own = seccomp::ARCHITECTURE;
    let cases: &[(&[&str], libc::c_long, u32, u32)] = &[
        (&[], libc::SYS_read, 0, ALLOW),
        (&[], libc::SYS_openat2, 0, ALLOW),
        (&[], libc::SYS_futex, 0, ALLOW),
        (&[], libc::SYS_mount, 0, EPERM),
        (&[], libc::SYS_bpf, 0, EPERM),
        (&[], libc::SYS_unshare, 0, EPERM),
        (&[], libc::SYS_keyctl, 0, EPERM),
        (&[], libc::SYS_kexec_load, 0, EPERM),
        (&[], libc::SYS_io_uring_setup, 0, EPERM),
        (&[], libc::SYS_clone, 0x11, ALLOW),
        (&[], libc::SYS_clone, 0x1000_0011, EPERM),
        (&[], libc::SYS_clone3, 0, ENOSYS),
        (&[], libc::SYS_socket, 2, ALLOW),
        (&[], libc::SYS_socket, 40, EPERM),
        (&[], libc::SYS_personality, 0, ALLOW),
        (&[], libc::SYS_personality, 8, ALLOW),
        (&[], libc::SYS_personality, 0xffff_ffff, ALLOW),
        (&[], libc::SYS_personality, 0x0004_0000, EPERM),
        (&[], libc::SYS_chroot, 0, EPERM),
        (&["CAP_SYS_CHROOT"], libc::SYS_chroot, 0, ALLOW),
        (&["CAP_SYS_ADMIN"], libc::SYS_mount, 0, ALLOW),
        (&["CAP_SYS_ADMIN"], libc::SYS_clone, 0x1000_0011, ALLOW),
        (&["CAP_SYS_ADMIN"], libc::SYS_clone3, 0, ALLOW),
        (&[], 100_000, 0, EPERM),
    ];
    for (names, call, argument, expected) in cases {
        assert_eq!(
            filtered(names, own, *call, *argument),
            *expected,
            "call {call} with {argument:#x} and {names:?}"
        );
    }
    assert_eq!(filtered(&[], own ^ 1, libc::SYS_read, 0), ENOSYS, "another architecture");
}

#[test]
fn capabilities_are_resolved() {
    let resolve = |privileged, add: &[&str], drop: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let capabilities = Capabilities { add: owned(add), drop: owned(drop) };
        capabilities::resolve(&ContainerSpec {
            privileged,
            capabilities,
            ..ContainerSpec::default()
        })
    };
    assert_eq!(resolve(false, &[], &[]).unwrap().0, 0xa804_25fb);
    assert_eq!(resolve(false, &[], &["ALL"]).unwrap().0, 0);
    assert_eq!(resolve(false, &["net_admin"], &["all"]).unwrap().0, 1 << 12);
    assert_eq!(resolve(false, &["CAP_NET_ADMIN"], &["ALL", "CAP_NET_ADMIN"]).unwrap().0, 0);
    assert_eq!(
        resolve(false, &["ALL"], &["MKNOD"]).unwrap().0,
        ((1 << 41) - 1) & !capabilities::MKNOD
    );
    assert_eq!(resolve(true, &[], &[]).unwrap().1.len(), 41);
    assert!(resolve(false, &["NONESUCH"], &[]).is_err());
}

#[test]
fn usual_devices_are_allowed_and_given_ones_as_given() {
    let given = HostDevice {
        path: "/dev/sda".into(),
        kind: 'b',
        major: 8,
        minor: 0,
        mode: 0o660,
        access: "r".to_owned(),
    };
    let rules = devices::rules(&[given]);
    let last = rules.last().unwrap();
    assert_eq!((last.kind, last.major, last.minor, last.access), (1, Some(8), Some(0), 2));
    assert!(rules.iter().any(|rule| rule.major == Some(1) && rule.minor == Some(3)));
    assert!(
        !rules.iter().any(|rule| rule.major.is_none() && rule.access != 1),
        "only making is allowed for any"
    );
}

#[test]
fn frames_are_bounded() {
    assert!(encode(&"x".repeat(FRAME_MAX)).is_none());
    let frame = encode(&"text").unwrap();
    assert_eq!(frame_length(&frame).unwrap(), Some(6));
    assert_eq!(frame_length(&frame[..3]).unwrap(), None);
    assert!(frame_length(&u32::MAX.to_le_bytes()).is_err());
}

#[test]
fn names_that_become_paths_are_checked() {
    for good in ["a", "0f3c", "web.server_1-2"] {
        assert!(record::valid_id(good), "{good}");
    }
    for bad in ["", ".", "..", "-a", ".hidden", "a/b", "a b", "ä", &"x".repeat(129)] {
        assert!(!record::valid_id(bad), "{bad}");
    }
    assert!(record::valid_cgroup("kubepods/burstable/podX"));
    for bad in ["", "/kubepods", "../x", "a/../b", "./a"] {
        assert!(!record::valid_cgroup(bad), "{bad}");
    }
}

#[test]
fn the_command_line_comes_back_as_it_went() {
    let config = Config {
        socket: "/run/x.sock".into(),
        state_dir: "/var/x".into(),
        cgroup_root: "copepod".to_owned(),
    };
    assert_eq!(Config::from_args(config.to_args()).unwrap(), config);
    assert!(Config::from_args(["--socket".into()]).is_err());
    assert!(Config::from_args(["--socket".into(), "/x".into()]).is_err());
    assert!(Config::from_args(["--what".into(), "/x".into()]).is_err());
}

#[test]
fn limits_become_files_of_either_version() {
    let resources = Resources {
        cpu_shares: Some(1024),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_limit: Some(1 << 20),
        pids_limit: Some(-1),
        ..Resources::default()
    };
    let text = |rows: Vec<cgroup::Setting>| {
        rows.into_iter()
            .map(|row| format!("{}={}", row.file, row.value))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        text(cgroup::settings_v2(&resources, true)),
        "cpu.weight=39 cpu.max=50000 100000 memory.max=1048576 memory.swap.max=0 memory.oom.group=1 pids.max=max"
    );
    assert_eq!(
        text(cgroup::settings_v1(&resources)),
        "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 memory.memsw.limit_in_bytes=1048576 \
         memory.limit_in_bytes=1048576 memory.memsw.limit_in_bytes=1048576 pids.max=max"
    );
    assert!(cgroup::settings_v2(&Resources::default(), false).is_empty());
    let shares = |cpu_shares| Resources { cpu_shares: Some(cpu_shares), ..Resources::default() };
    assert_eq!(text(cgroup::settings_v2(&shares(2), false)), "cpu.weight=1");
    assert_eq!(text(cgroup::settings_v2(&shares(262_144), false)), "cpu.weight=10000");
}
