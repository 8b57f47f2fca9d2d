//! Tests that need no privileges.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("copepod-sys-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn atomic_write_replaces_content_and_mode_and_leaves_nothing_else() {
    let dir = scratch("write");
    let path = dir.join("file");
    crate::atomic_write(&path, b"one", 0o644).unwrap();
    crate::atomic_write(&path, b"two", 0o600).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    crate::replace_file(&path, b"three", 0o640).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    crate::files::settle(&path).unwrap();
    crate::files::settle(&dir.join("gone")).unwrap();
    assert!(crate::atomic_write(&dir.join("missing/file"), b"", 0o600).is_err());
    assert!(crate::atomic_write(Path::new("/"), b"", 0o600).is_err());
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn atomic_write_that_fails_leaves_no_temporary_file() {
    let dir = scratch("fail");
    fs::create_dir(dir.join("taken")).unwrap();
    fs::write(dir.join("taken/full"), "").unwrap();
    assert!(crate::atomic_write(&dir.join("taken"), b"x", 0o600).is_err());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn descriptors_travel_in_order() {
    let (left, right) = UnixStream::pair().unwrap();
    let first = crate::fds::memory_file("one", b"first").unwrap();
    let second = crate::fds::memory_file("two", b"second").unwrap();
    crate::fds::send(left.as_fd(), b"hello", &[first.as_fd(), second.as_fd()]).unwrap();
    let mut buffer = [0; 16];
    let (bytes, fds) = crate::fds::receive(right.as_fd(), &mut buffer).unwrap();
    assert_eq!(&buffer[..bytes], b"hello");
    let texts: Vec<String> = fds
        .into_iter()
        .map(|fd| {
            let mut text = String::new();
            fs::File::from(fd).read_to_string(&mut text).unwrap();
            text
        })
        .collect();
    assert_eq!(texts, ["first", "second"]);
    assert!(crate::fds::adopt(-1).is_err());
    assert!(crate::fds::adopt(1_000_000).is_err());
    assert!(first.as_raw_fd() > 2);
}

#[test]
fn forking_a_threaded_process_is_refused() {
    // The test harness has threads of its own.
    assert_eq!(
        crate::process::fork_child(&[], || 0).unwrap_err().raw_os_error(),
        Some(libc::EDEADLK)
    );
}

#[test]
fn pidfd_outlives_nothing_but_the_process() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let stat = crate::procfs::process_stat(pid.as_raw()).unwrap();
    assert!(stat.start_time > 0);
    assert_eq!(stat.parent, i32::try_from(std::process::id()).unwrap());
    let pidfd = crate::process::pidfd_open(pid).unwrap();
    crate::process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
    child.wait().unwrap();
    assert!(crate::process::pidfd_signal(pidfd.as_fd(), 0).is_err());
}

#[test]
fn proc_readers_answer() {
    assert_eq!(crate::procfs::boot_id().unwrap().len(), 36);
    assert!(crate::procfs::uptime().unwrap().as_secs() > 0);
    assert!(crate::procfs::memory_total().unwrap() >= crate::procfs::memory_available().unwrap());
    assert!(crate::mount::space(Path::new("/")).unwrap().total_bytes > 0);
    assert_eq!(
        crate::procfs::process_stat(i32::MAX).unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
}

#[test]
fn terminal_size_is_kept() {
    let pair = nix::pty::openpty(None, None).unwrap();
    crate::pty::set_window_size(pair.master.as_fd(), 120, 40).unwrap();
    assert_eq!(crate::pty::window_size(pair.slave.as_fd()).unwrap(), (120, 40));
}

#[test]
fn mount_tables_are_read_with_their_escapes() {
    assert_eq!(crate::mount::unescape(r"/a\040b\134c"), Path::new("/a b\\c"));
    assert_eq!(crate::mount::unescape(r"/plain"), Path::new("/plain"));
    assert_eq!(crate::mount::unescape(r"/end\04"), Path::new(r"/end\04"));
    let points = crate::mount::below(Path::new("/")).unwrap();
    assert_eq!(
        points.last().map(PathBuf::as_path),
        Some(Path::new("/")),
        "deepest first, the root last"
    );
    assert!(crate::mount::below(Path::new("/nonesuch")).unwrap().is_empty());
}

#[test]
fn overlay_options_are_used_only_where_they_fit() {
    let layers: Vec<PathBuf> = (0..3).map(|number| PathBuf::from(format!("/l/{number}"))).collect();
    let (upper, work) = (Path::new("/u"), Path::new("/w"));
    let options = crate::mount::overlay_options(&layers, upper, work).unwrap();
    assert_eq!(options.to_str().unwrap(), "lowerdir=/l/0:/l/1:/l/2,upperdir=/u,workdir=/w");
    let many: Vec<PathBuf> =
        (0..300).map(|number| PathBuf::from(format!("/layer/{number}/content"))).collect();
    assert_eq!(crate::mount::overlay_options(&many, upper, work), None);
    assert_eq!(crate::mount::overlay_options(&["/with:colon".into()], upper, work), None);
}

#[test]
fn process_status_is_read_behind_any_name() {
    let line = "42 (a ) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 100 200";
    let stat = crate::procfs::parse_stat(line).unwrap();
    assert_eq!((stat.state, stat.parent, stat.start_time), ('S', 7, 98765));
    assert_eq!(crate::procfs::parse_stat("42 (short) S 7"), None);
}

#[test]
fn a_pinned_namespace_is_told_from_a_file() {
    assert!(crate::namespace::is_pinned(Path::new("/proc/self/ns/net")));
    assert!(!crate::namespace::is_pinned(Path::new("/etc/passwd")));
    assert!(!crate::namespace::is_pinned(Path::new("/nonesuch")));
}

#[test]
fn other_descriptors_are_closed_and_states_set() {
    let file = fs::File::open("/proc/self/stat").unwrap();
    crate::fds::set_cloexec(file.as_fd(), false).unwrap();
    crate::fds::set_cloexec(file.as_fd(), true).unwrap();
    let (left, right) = UnixStream::pair().unwrap();
    crate::fds::set_nonblocking(left.as_fd(), true).unwrap();
    let error = crate::fds::receive(left.as_fd(), &mut [0; 4]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    drop(right);
    let (bytes, fds) = crate::fds::receive(left.as_fd(), &mut [0; 4]).unwrap();
    assert_eq!((bytes, fds.len()), (0, 0));
    assert!(crate::fds::send(left.as_fd(), b"x", &[]).is_err(), "an error, not a signal");
}

#[test]
fn a_tied_program_has_no_descriptors_and_ends_with_its_caller() {
    use std::process::{Command, Stdio};
    let inherited = crate::fds::memory_file("inherited", b"").unwrap();
    let path = format!("/proc/self/fd/{}", inherited.as_raw_fd());
    let mut command = Command::new("test");
    command.args(["-e", &path]);
    assert!(command.status().unwrap().success(), "an ordinary program has it");
    assert!(!crate::spawn::tie_to_caller(&mut command).status().unwrap().success());

    let caller = std::thread::spawn(|| {
        let mut command = Command::new("sleep");
        command.arg("1000000").stdin(Stdio::null());
        crate::spawn::tie_to_caller(&mut command).spawn().unwrap()
    });
    let status = caller.join().unwrap().wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
}

#[test]
fn the_firmware_is_asked_in_words() {
    use crate::firmware::{answer, ask, request};
    assert_eq!(request(0x0003_8064, 1), [28, 0, 0x0003_8064, 4, 0, 1, 0]);
    assert_eq!(answer(&[28, 0x8000_0000, 0x0003_0064, 4, 0x8000_0004, 1, 0]).unwrap(), 1);
    let unknown = answer(&[28, 0x8000_0000, 0x0003_0064, 4, 0, 0, 0]).unwrap_err();
    assert_eq!(unknown.kind(), std::io::ErrorKind::Unsupported);
    let dir = scratch("firmware");
    let path = dir.join("no-device");
    assert!(ask(&path, 1, 0).unwrap_err().to_string().contains("no-device"));
    fs::write(&path, "").unwrap();
    assert!(ask(&path, 1, 0).is_err(), "a file is no mailbox");
    fs::remove_dir_all(dir).unwrap();
}
