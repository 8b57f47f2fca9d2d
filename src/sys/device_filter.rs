//! Which devices the processes of a version 2 cgroup may open or make: a small eBPF program attached to the group.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Kinds as the kernel counts them.
pub const BLOCK: u32 = 1;
pub const CHARACTER: u32 = 2;
/// Accesses as bits.
pub const MAKE: u32 = 1;
pub const READ: u32 = 2;
pub const WRITE: u32 = 4;
const ALL: u32 = MAKE | READ | WRITE;

/// The most rules of one filter; each is up to seven instructions of the kernel's million.
const RULES_MAX: usize = 4096;

/// One allowed combination; none matches any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub kind: u32,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u32,
}

/// The kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE: u8 = 0xb7;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_UNLESS_SAME: u8 = 0x5d;
const EXIT: u8 = 0x95;

const LOAD_PROGRAM: libc::c_int = 5;
const ATTACH_PROGRAM: libc::c_int = 8;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTIPLE: u32 = 2;

/// The beginning of the kernel's `union bpf_attr` for loading; what follows is zero by the size given.
#[repr(C, align(8))]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C, align(8))]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: u32) -> Instruction {
    Instruction { code, registers: (from << 4) | to, offset, immediate: immediate.cast_signed() }
}

/// Registers: 1 the context, 2 kind, 3 access, 4 major, 5 minor.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        program.extend(compile_rule(rule));
    }
    program.push(instruction(MOVE, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

fn compile_rule(rule: &Rule) -> Vec<Instruction> {
    let mut checks = vec![instruction(JUMP_UNLESS_EQUAL, 2, 0, 0, rule.kind)];
    if rule.access & ALL != ALL {
        checks.push(instruction(MOVE_REGISTER, 1, 3, 0, 0));
        checks.push(instruction(AND, 1, 0, 0, rule.access));
        checks.push(instruction(JUMP_UNLESS_SAME, 1, 3, 0, 0));
    }
    checks.extend(rule.major.map(|major| instruction(JUMP_UNLESS_EQUAL, 4, 0, 0, major)));
    checks.extend(rule.minor.map(|minor| instruction(JUMP_UNLESS_EQUAL, 5, 0, 0, minor)));
    checks.push(instruction(MOVE, 0, 0, 0, 1));
    checks.push(instruction(EXIT, 0, 0, 0, 0));
    let length = checks.len();
    for (index, check) in checks.iter_mut().enumerate() {
        if matches!(check.code, JUMP_UNLESS_EQUAL | JUMP_UNLESS_SAME) {
            // To the first instruction behind this rule; a rule has fewer than ten.
            check.offset = i16::try_from(length - index - 1).unwrap_or(i16::MAX);
        }
    }
    checks
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        kind: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: address(program.as_ptr().cast()),
        license: address(c"Apache-2.0".as_ptr().cast()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let fd = call(LOAD_PROGRAM, (&raw const attributes).cast(), size_of::<LoadAttributes>())?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(pointer: *const c_void) -> u64 {
    pointer.addr() as u64
}

fn call(command: libc::c_int, attributes: *const c_void, size: usize) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` points to `size` bytes of the kernel's layout, which live, as does what they point to, in the
    // callers' frames for the call; the kernel only reads them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size as libc::c_uint) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether this kernel takes such filters from us.
pub fn check_support() -> io::Result<()> {
    load(&compile(&[])).map(drop)
}

/// Allows the group behind the directory descriptor these devices and no others, for as long as the group exists.
pub fn attach(group: BorrowedFd<'_>, rules: &[Rule]) -> io::Result<()> {
    if rules.len() > RULES_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let program = load(&compile(rules))?;
    let attributes = AttachAttributes {
        target: group.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTIPLE,
    };
    call(ATTACH_PROGRAM, (&raw const attributes).cast(), size_of::<AttachAttributes>())?;
    Ok(())
}
