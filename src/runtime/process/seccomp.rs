//! Compiles the default seccomp profile to a BPF program for this architecture.
//!
//! The program looks at the architecture first (any other is answered with ENOSYS: there is no second ABI), then finds the
//! call's number by binary search over ranges of allowed numbers, which costs about nine comparisons a call instead of
//! hundreds. It is written out here because the usual crate knows no 32-bit ARM and always sets no_new_privs.

use std::collections::BTreeSet;

use nix::libc::{self, c_long};
use sys::privileges::Instruction;

use super::seccomp_profile as profile;

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
/// The low half of argument 0 (all our architectures are little-endian).
const OFFSET_ARGUMENT: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "arm")]
pub(super) const ARCHITECTURE: u32 = 0x4000_0028;

/// `clone` may not make namespaces: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
const AF_VSOCK: u32 = 40;
/// The personalities Docker allows.
const PERSONALITIES: &[u32] = &[0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Calls decided by their first argument.
enum Check {
    NoneOf(u32),
    NotEqual(u32),
    OneOf(&'static [u32]),
}

fn instruction(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

fn errno(number: i32) -> Instruction {
    instruction(RETURN, ERRNO | (number.unsigned_abs() & 0xffff))
}

/// The program for a container with these capabilities (`CAP_...`).
pub(super) fn compile(capabilities: &BTreeSet<String>) -> Vec<Instruction> {
    let extra = profile::WITH_CAPABILITY
        .iter()
        .filter(|(capability, _)| capabilities.contains(*capability))
        .flat_map(|(_, calls)| calls.iter().copied());
    let allowed: BTreeSet<u32> = profile::always().chain(extra).filter_map(number).collect();
    let mut program = vec![
        instruction(LOAD, OFFSET_ARCHITECTURE),
        jump(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        errno(libc::ENOSYS),
        instruction(LOAD, OFFSET_NUMBER),
    ];
    for (call, check) in checks() {
        if let Some(number) = number(call).filter(|number| !allowed.contains(number)) {
            program.extend(checked(number, &check));
        }
    }
    // glibc falls back to clone when clone3 does not exist; EPERM would break it.
    if let Some(clone3) = number(libc::SYS_clone3).filter(|number| !allowed.contains(number)) {
        program.push(jump(JUMP_EQUAL, clone3, 0, 1));
        program.push(errno(libc::ENOSYS));
    }
    program.extend(search(&ranges(&allowed)));
    program
}

fn number(call: c_long) -> Option<u32> {
    u32::try_from(call).ok()
}

fn checks() -> [(c_long, Check); 3] {
    [
        (libc::SYS_clone, Check::NoneOf(NAMESPACE_FLAGS)),
        (libc::SYS_socket, Check::NotEqual(AF_VSOCK)),
        (libc::SYS_personality, Check::OneOf(PERSONALITIES)),
    ]
}

/// If the call is `number`: allow or refuse it by its argument; else go on behind these instructions.
fn checked(number: u32, check: &Check) -> Vec<Instruction> {
    let mut body = vec![instruction(LOAD, OFFSET_ARGUMENT)];
    match check {
        Check::NoneOf(bits) => body.push(jump(JUMP_ANY_BIT, *bits, 1, 0)),
        Check::NotEqual(value) => body.push(jump(JUMP_EQUAL, *value, 1, 0)),
        Check::OneOf(values) => {
            for (index, value) in values.iter().enumerate() {
                let to_allow = u8::try_from(values.len() - 1 - index).unwrap_or(0);
                let last = index + 1 == values.len();
                body.push(jump(JUMP_EQUAL, *value, to_allow, u8::from(last)));
            }
        }
    }
    body.push(instruction(RETURN, ALLOW));
    body.push(errno(libc::EPERM));
    let skip = u8::try_from(body.len()).unwrap_or(u8::MAX);
    let mut all = vec![jump(JUMP_EQUAL, number, 0, skip)];
    all.extend(body);
    all
}

/// Starts of alternating stretches: allowed from the first on, refused from the second on, and so forth.
fn ranges(allowed: &BTreeSet<u32>) -> Vec<(u32, bool)> {
    let mut edges = vec![(0, allowed.contains(&0))];
    for number in allowed {
        if *number > 0 && !allowed.contains(&(number - 1)) {
            edges.push((*number, true));
        }
        if !allowed.contains(&(number + 1)) {
            edges.push((number + 1, false));
        }
    }
    edges
}

/// A tree of comparisons over the stretches; the number is in the accumulator.
fn search(edges: &[(u32, bool)]) -> Vec<Instruction> {
    let Some(middle) = edges.get(edges.len() / 2).filter(|_| edges.len() > 1) else {
        let allowed = edges.first().is_some_and(|(_, allowed)| *allowed);
        return vec![if allowed { instruction(RETURN, ALLOW) } else { errno(libc::EPERM) }];
    };
    let (low, high) = edges.split_at(edges.len() / 2);
    let (low, high) = (search(low), search(high));
    // Conditional jumps reach 255 instructions; further ones need an unconditional jump in between.
    let mut program = match u8::try_from(low.len()) {
        Ok(distance) => vec![jump(JUMP_GREATER_OR_EQUAL, middle.0, distance, 0)],
        Err(_) => vec![
            jump(JUMP_GREATER_OR_EQUAL, middle.0, 0, 1),
            instruction(0x05, u32::try_from(low.len()).unwrap_or(0)),
        ],
    };
    program.extend(low);
    program.extend(high);
    program
}
