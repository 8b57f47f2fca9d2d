//! When an interface gets its cable or its access point (back).

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use crate::Error;
use crate::link::INTERFACES;

/// The kernel's group for changes of interfaces, RTMGRP_LINK.
const LINK_GROUP: u32 = 1;
const EVENT_MAX: usize = 8192;
/// With Wi-Fi only after the keys are agreed on.
const USABLE: &str = "up";

#[derive(Debug)]
pub(crate) struct Carrier {
    events: AsyncFd<OwnedFd>,
    state: PathBuf,
    is_up: bool,
}

impl Carrier {
    /// What is there already does not count as risen.
    pub(crate) fn of(name: &str) -> Result<Carrier, Error> {
        let events = listen().map_err(Error::call("follow the interfaces"))?;
        let state = Path::new(INTERFACES).join(name).join("operstate");
        let is_up = is_usable(&state);
        Ok(Carrier { events, state, is_up })
    }

    /// Returns when the interface can be used that could not be used before.
    pub(crate) async fn rises(&mut self) -> Result<(), Error> {
        loop {
            let ready = self.events.readable().await;
            let mut ready = ready.map_err(Error::call("follow the interfaces"))?;
            // What they say is not read: any of them is a reason to look.
            while take(self.events.get_ref()) {}
            ready.clear_ready();
            let was_up = std::mem::replace(&mut self.is_up, is_usable(&self.state));
            if self.is_up && !was_up {
                return Ok(());
            }
        }
    }
}

fn is_usable(state: &Path) -> bool {
    fs::read_to_string(state).is_ok_and(|state| state.trim() == USABLE)
}

/// Whether there was an event, or more than the socket keeps.
fn take(socket: &OwnedFd) -> bool {
    let mut event = [0; EVENT_MAX];
    matches!(
        recv(socket.as_raw_fd(), &mut event, MsgFlags::MSG_DONTWAIT),
        Ok(1..) | Err(Errno::ENOBUFS | Errno::EINTR)
    )
}

fn listen() -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kind = SockProtocol::NetlinkRoute;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, kind)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, LINK_GROUP))?;
    #[expect(deprecated, reason = "OwnedFd keeps its descriptor open; the replacement is unsafe")]
    AsyncFd::new(fd)
}
