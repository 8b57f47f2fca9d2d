//! What a process may do: capability sets, seccomp filters, signal dispositions.

use std::io;

use nix::sys::signal::Signal;

/// Bits of a capability set, bit `n` for capability number `n`.
pub type CapabilityMask = u64;

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The highest capability number this kernel knows.
pub fn last_capability() -> io::Result<u32> {
    let path = "/proc/sys/kernel/cap_last_cap";
    std::fs::read_to_string(path)?.trim().parse().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{path}: unexpected content"))
    })
}

/// Leaves the calling thread no more than `mask` of what it has: bounding set up to capability `last`, permitted and
/// effective; clears the inheritable and ambient sets.
pub fn limit_capabilities(mask: CapabilityMask, last: u32) -> io::Result<()> {
    for capability in (0..=last.min(63)).filter(|number| mask & (1 << number) == 0) {
        prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong)?;
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |bits: u64| CapabilityData {
        effective: bits as u32,
        permitted: bits as u32,
        inheritable: 0,
    };
    let mut has = [CapabilityData::default(); 2];
    // SAFETY: version 3 reads a header and writes two data blocks, which live on our stack for the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, has.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [low, high] = has;
    let mask = mask & (u64::from(high.permitted) << 32 | u64::from(low.permitted));
    let data = [half(mask & u64::from(u32::MAX)), half(mask >> 32)];
    // SAFETY: version 3 reads a header and two data blocks, which live on our stack for the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers only.
    let result = unsafe {
        libc::prctl(option, argument, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One classic BPF instruction.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub operand: u32,
}

/// Installs a seccomp filter for the calling thread and what it executes. Needs CAP_SYS_ADMIN or no_new_privs.
pub fn install_seccomp(program: &[Instruction]) -> io::Result<()> {
    let length =
        u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the program outlives the call and has `length` instructions of the kernel's layout; the kernel only reads it.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0u32, &raw const filter)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives every signal back its default meaning. `exec` would pass on which ones are ignored: SIGPIPE by Rust's start-up code,
/// SIGHUP by nohup, SIGINT and SIGQUIT by shells that start something in the background.
pub fn default_signals() -> io::Result<()> {
    for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: no handler function is installed.
        unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) }?;
    }
    Ok(())
}
