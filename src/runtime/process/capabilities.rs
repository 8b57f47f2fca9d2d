//! Capability names, the default set, and changes to it.

use std::collections::BTreeSet;

use crate::protocol::ContainerSpec;

/// Names in the order of their numbers.
const NAMES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The bit of the capability to make device nodes.
pub(super) const MKNOD: u64 = 1 << 27;

/// What Docker and containerd leave a container.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The capabilities of a container, as a mask and as `CAP_` names. An unknown name is an error that names it.
pub(super) fn resolve(spec: &ContainerSpec) -> Result<(u64, BTreeSet<String>), String> {
    let mut set: BTreeSet<&str> =
        if spec.privileged { NAMES } else { DEFAULT }.iter().copied().collect();
    // As upstream: ALL first, then names, additions before removals.
    let has_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("all"));
    if has_all(&spec.capabilities.add) {
        set.extend(NAMES);
    }
    if has_all(&spec.capabilities.drop) {
        set.clear();
    }
    for name in named(&spec.capabilities.add) {
        set.insert(known(name)?);
    }
    for name in named(&spec.capabilities.drop) {
        set.remove(known(name)?);
    }
    let mask = NAMES
        .iter()
        .enumerate()
        .filter(|(_, name)| set.contains(*name))
        .fold(0, |mask, (number, _)| mask | (1u64 << number));
    Ok((mask, set.into_iter().map(|name| format!("CAP_{name}")).collect()))
}

fn named(names: &[String]) -> impl Iterator<Item = &str> {
    names.iter().map(String::as_str).filter(|name| !name.eq_ignore_ascii_case("all"))
}

fn known(name: &str) -> Result<&'static str, String> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .copied()
        .find(|known| *known == bare)
        .ok_or_else(|| format!("unknown capability {name:?}"))
}
