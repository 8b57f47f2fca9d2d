//! Stage 1, from the initramfs: load the few modules the root needs, verify it, mount it, hand over to its init.
//!
//! Every failure ends in a restart: the boot loader then lowers this slot's counter until it takes the other slot.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use disk::layout;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execv};

use crate::boot_disk;
use crate::cmdline::CommandLine;
use crate::mounts::{self, EARLY};
use crate::time::{pause, wait_for};
use crate::{Error, console};

/// Where the image tool puts the modules and the list that orders them.
const MODULES: &str = "/modules";
const ORDER: &str = "/modules/order";
const ROOT: &str = "/root";
const INIT: &str = "/sbin/init";
const MAPPED_NAME: &str = "root";
const NODE_LIMIT: Duration = Duration::from_secs(10);
const NODE_STEP: Duration = Duration::from_millis(10);
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// Never returns: ends in the real init or in a restart.
pub fn run() -> ! {
    let Err(error) = boot();
    console::early(&format!(
        "stage 1 failed: {error}; restarting in {} s",
        FAILURE_PAUSE.as_secs()
    ));
    pause(FAILURE_PAUSE);
    let Err(error) = sys::machine::restart();
    console::early(&format!("restart failed: {error}"));
    loop {
        pause(Duration::from_secs(60));
    }
}

fn boot() -> Result<Infallible, Error> {
    mounts::apply(EARLY)?;
    let command_line = CommandLine::read()?;
    load_modules()?;
    let partition = boot_disk::first_partition(&command_line, layout::root(command_line.slot))?;
    let verity = &command_line.verity;
    let table = verity.table(&partition.to_string_lossy());
    let mapped = sys::dm::create_readonly(MAPPED_NAME, "verity", verity.sectors(), &table);
    let mapped = mapped.map_err(Error::DeviceMapper)?;
    wait_for(NODE_LIMIT, NODE_STEP, || mapped.exists().then_some(()))
        .ok_or_else(|| Error::file("find", &mapped)(io::ErrorKind::TimedOut.into()))?;
    make_directory(Path::new(ROOT))?;
    mount(Some(&mapped), ROOT, Some("squashfs"), MsFlags::MS_RDONLY, None::<&str>).map_err(
        |error| Error::Mount { kind: "squashfs", target: ROOT.into(), source: error.into() },
    )?;
    console::early(&format!(
        "slot {}: verified root on {}",
        command_line.slot,
        partition.display()
    ));
    hand_over()
}

fn load_modules() -> Result<(), Error> {
    let order = fs::read_to_string(ORDER).map_err(Error::file("read", Path::new(ORDER)))?;
    for name in order.lines() {
        let path = Path::new(MODULES).join(name);
        // A missing optional driver must not stop a boot that can do without it.
        if let Err(error) = sys::module::load(&path) {
            console::early(&format!("module {name}: {error}"));
        }
    }
    Ok(())
}

/// Empties the initramfs, makes the mounted root the root and becomes its init.
fn hand_over() -> Result<Infallible, Error> {
    for row in EARLY {
        let target = Path::new(ROOT).join(row.target.trim_start_matches('/'));
        mount(Some(row.target), &target, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|error| Error::Mount { kind: row.kind, target, source: error.into() })?;
    }
    for path in [MODULES, "/init"] {
        // Only memory is lost when this fails.
        let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
    }
    chdir(ROOT).map_err(Error::call("change to the new root"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|error| Error::Mount { kind: "root", target: "/".into(), source: error.into() })?;
    chroot(".").map_err(Error::call("chroot into the new root"))?;
    chdir("/").map_err(Error::call("change to /"))?;
    let path = CString::new(INIT)
        .map_err(|error| Error::Call { operation: "name init", source: error.into() })?;
    execv(&path, &[&path]).map_err(Error::call("execute /sbin/init"))
}

fn make_directory(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::file("create", path)(error))
        }
        _ => Ok(()),
    }
}
