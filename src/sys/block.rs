//! Block devices and the file system on them: sizes, partitions in use, zeros, growing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const BLKPG: u32 = 0x1269;
const BLKPG_RESIZE_PARTITION: libc::c_int = 3;
const BLKZEROOUT: u32 = 0x127f;

nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);

#[repr(C)]
struct BlkpgPartition {
    start: libc::c_longlong,
    length: libc::c_longlong,
    number: libc::c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

#[repr(C)]
struct BlkpgArgument {
    operation: libc::c_int,
    flags: libc::c_int,
    data_length: libc::c_int,
    data: *mut BlkpgPartition,
}

/// Tells the kernel that partition `number` of this disk now has `length` bytes from `start`; it may be in use.
pub fn resize_partition(disk: &File, number: i32, start: u64, length: u64) -> io::Result<()> {
    let bytes = |value: u64| libc::c_longlong::try_from(value).map_err(io::Error::other);
    let mut partition = BlkpgPartition {
        start: bytes(start)?,
        length: bytes(length)?,
        number,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let data_length =
        libc::c_int::try_from(size_of::<BlkpgPartition>()).map_err(io::Error::other)?;
    let mut argument = BlkpgArgument {
        operation: BLKPG_RESIZE_PARTITION,
        flags: 0,
        data_length,
        data: &raw mut partition,
    };
    // SAFETY: the kernel reads both structures, which have its layout and live on our stack for the call.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &raw mut argument) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `length` bytes from `start` read as zeros, by the device's own means where it has some.
pub fn zero(device: &File, start: u64, length: u64) -> io::Result<()> {
    let range = [start, length];
    // SAFETY: the kernel reads two numbers that live on our stack for the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT as _, range.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Grows the mounted ext4 file system in which `inside` lies to `blocks` blocks; one of that size stays as it is.
///
/// The kernel does it in journaled steps: after a loss of power the file system is whole, and maybe not yet as large.
pub fn grow_ext4(inside: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the ioctl reads one number that lives on our stack for the call.
    unsafe { ext4_resize(inside.as_raw_fd(), &raw const blocks) }?;
    Ok(())
}
