//! The machine as a whole: power, watchdog, block devices.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};

nix::ioctl_readwrite!(watchdog_set_timeout, b'W', 6, libc::c_int);
nix::ioctl_read!(watchdog_timeout, b'W', 7, libc::c_int);
nix::ioctl_none!(block_reread_partitions, 0x12, 95);

/// Writes what is in memory to the disks and restarts the machine. Returns only on failure.
pub fn restart() -> io::Result<std::convert::Infallible> {
    nix::unistd::sync();
    Ok(reboot(RebootMode::RB_AUTOBOOT)?)
}

/// As [`restart`], with a word for the firmware, such as the Raspberry Pi's `0 tryboot`.
pub fn restart_with(word: &std::ffi::CStr) -> io::Result<std::convert::Infallible> {
    nix::unistd::sync();
    // SAFETY: the system call reads the string, which lives for the call; the other arguments are constants.
    unsafe {
        libc::syscall(
            libc::SYS_reboot,
            libc::LINUX_REBOOT_MAGIC1,
            libc::LINUX_REBOOT_MAGIC2,
            libc::LINUX_REBOOT_CMD_RESTART2,
            word.as_ptr(),
        )
    };
    Err(io::Error::last_os_error())
}

/// Writes what is in memory to the disks and switches the power off. Returns only on failure.
pub fn power_off() -> io::Result<std::convert::Infallible> {
    nix::unistd::sync();
    Ok(reboot(RebootMode::RB_POWER_OFF)?)
}

/// An armed hardware watchdog: the machine restarts unless [`Watchdog::feed`] is called in time.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
}

impl Watchdog {
    /// Opens (which arms) the device; `seconds` is what the driver is asked for. Returns what it granted: a driver that
    /// cannot wait so long keeps its own time, and stays armed.
    pub fn open(path: &Path, seconds: u32) -> io::Result<(Watchdog, u32)> {
        let device = OpenOptions::new().write(true).open(path)?;
        let mut granted = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
        // SAFETY: the ioctl reads and writes one int that lives on our stack for the call.
        let asked = unsafe { watchdog_set_timeout(device.as_raw_fd(), &raw mut granted) };
        if asked.is_err() {
            // SAFETY: as above; it only writes.
            unsafe { watchdog_timeout(device.as_raw_fd(), &raw mut granted) }?;
        }
        Ok((Watchdog { device }, u32::try_from(granted).unwrap_or(0)))
    }

    /// Tells the watchdog that all is well.
    pub fn feed(&mut self) -> io::Result<()> {
        self.device.write_all(b"\0")
    }

    /// Disarms it, where the driver allows that.
    pub fn disarm(mut self) -> io::Result<()> {
        self.device.write_all(b"V")
    }
}

/// The time since 1970 as the kernel has it. On 32-bit machines the C library's, and with it the standard library's, ends in
/// January 2038, and asking them for a later one is fatal; this call is not.
pub fn wall_clock() -> io::Result<Duration> {
    // `clock_gettime64`, the same number on every architecture that needs it.
    #[cfg(target_pointer_width = "32")]
    const NUMBER: libc::c_long = 403;
    #[cfg(target_pointer_width = "64")]
    const NUMBER: libc::c_long = libc::SYS_clock_gettime;
    let mut time = [0_i64; 2];
    // SAFETY: the call writes one `struct __kernel_timespec`, which is two 64-bit numbers, into our array.
    if unsafe { libc::syscall(NUMBER, libc::CLOCK_REALTIME, time.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let [seconds, nanos] = time;
    Ok(Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0)))
}

/// Bytes of a block device or file.
pub fn block_device_size(device: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    // Seeking to the end needs no ioctl and is the same on every architecture.
    let mut handle = device.try_clone()?;
    let before = handle.stream_position()?;
    let size = handle.seek(SeekFrom::End(0))?;
    handle.seek(SeekFrom::Start(before))?;
    Ok(size)
}

/// Asks the kernel to read the partition table again.
pub fn reread_partitions(device: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument.
    unsafe { block_reread_partitions(device.as_raw_fd()) }?;
    Ok(())
}
