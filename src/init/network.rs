//! The network child: finds the interface, gets a lease, sets address, route and resolv.conf, renews.
//!
//! It is a process of its own because it parses what strangers send. It prints `READY=1` with the first lease.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket as StdUdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use dhcproto::v4::{CLIENT_PORT, Message, SERVER_PORT};
use dhcproto::{Decodable, Decoder, Encodable};
use futures_util::TryStreamExt;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::net::UdpSocket;

use crate::Error;
use crate::dhcp::{Action, Client, Lease, resolv_conf};
use crate::service::READY;
use crate::time::wait_for;

/// Name of the role in our arguments.
pub(crate) const ROLE: &str = "network";
const INTERFACES: &str = "/sys/class/net";
const RESOLV_CONF: &str = "/run/resolv.conf";
/// USB interfaces appear late.
const APPEAR_LIMIT: Duration = Duration::from_secs(60);
const APPEAR_STEP: Duration = Duration::from_millis(100);
const ETHERNET: &str = "1";
const PACKET_MAX: usize = 1500;

/// Runs until something fails; PID 1 starts us again.
pub(crate) fn main(interface: Option<String>) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(serve(interface)),
        Err(error) => {
            Err(Error::Call { operation: "start the network's event loop", source: error })
        }
    };
    let Err(error) = result else { return 0 };
    eprintln!("{error}");
    1
}

async fn serve(interface: Option<String>) -> Result<(), Error> {
    let found = wait_for(APPEAR_LIMIT, APPEAR_STEP, || find(interface.as_deref()));
    let name = found.ok_or_else(|| Error::Network("there is no Ethernet interface".to_owned()))?;
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(Error::call("open a netlink socket"))?;
    let work = work(&name, handle);
    tokio::select! {
        result = work => result,
        () = connection => Err(Error::Network("the netlink connection ended".to_owned())),
    }
}

async fn work(name: &str, handle: Handle) -> Result<(), Error> {
    let link = Link::open(name, handle).await?;
    link.up().await?;
    let socket = socket_on(name)?;
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let mut client = Client::new(link.mac, &hostname.to_string_lossy(), seed(), Instant::now());
    let mut buffer = [0; PACKET_MAX];
    println!("{name} is up, asking for an address");
    loop {
        let due = tokio::time::Instant::from_std(client.due());
        let actions = tokio::select! {
            () = tokio::time::sleep_until(due) => client.on_time(Instant::now()),
            received = socket.recv_from(&mut buffer) => {
                let (length, _) = received.map_err(Error::call("receive"))?;
                let bytes = buffer.get(..length).unwrap_or_default();
                // Whatever is not DHCP is nobody's fault here.
                let message = Message::decode(&mut Decoder::new(bytes));
                message.map_or_else(|_| Vec::new(), |message| client.on_packet(&message, Instant::now()))
            }
        };
        for action in actions {
            perform(action, &socket, &link).await?;
        }
    }
}

async fn perform(action: Action, socket: &UdpSocket, link: &Link) -> Result<(), Error> {
    match action {
        Action::Send(target, message) => {
            let bytes = message
                .to_vec()
                .map_err(|error| Error::Network(format!("encode a request: {error}")))?;
            // No carrier yet, or no route: the retry comes by itself.
            if let Err(error) = socket.send_to(&bytes, SocketAddrV4::new(target, SERVER_PORT)).await
            {
                eprintln!("send to {target}: {error}");
            }
            Ok(())
        }
        Action::Configure(lease) => {
            link.configure(&lease).await?;
            let path = Path::new(RESOLV_CONF);
            sys::replace_file(path, resolv_conf(&lease).as_bytes(), 0o644)
                .map_err(Error::file("write", path))?;
            let Lease { address, prefix, duration, .. } = &lease;
            let router = lease
                .router
                .map_or_else(|| "no router".to_owned(), |router| format!("router {router}"));
            println!("address {address}/{prefix}, {router}, for {} s", duration.as_secs());
            println!("{READY}");
            Ok(())
        }
        Action::Withdraw(address) => {
            println!("address {address} may not be used any more");
            link.keep_only(None).await
        }
    }
}

/// The named interface, or the first that is Ethernet and belongs to a device (bridges and veths do not).
fn find(wanted: Option<&str>) -> Option<String> {
    let mut names: Vec<String> = fs::read_dir(INTERFACES)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.into_iter().find(|name| {
        let path = Path::new(INTERFACES).join(name);
        let ethernet =
            || fs::read_to_string(path.join("type")).is_ok_and(|kind| kind.trim() == ETHERNET);
        wanted.map_or_else(|| path.join("device").exists() && ethernet(), |wanted| wanted == name)
    })
}

/// A socket on port 68 of this interface alone, which may broadcast before there is an address.
fn socket_on(name: &str) -> Result<UdpSocket, Error> {
    let open = || -> std::io::Result<UdpSocket> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::Broadcast, &true)?;
        setsockopt(&fd, sockopt::BindToDevice, &name.into())?;
        bind(
            std::os::fd::AsRawFd::as_raw_fd(&fd),
            &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT)),
        )?;
        UdpSocket::from_std(StdUdpSocket::from(fd))
    };
    open().map_err(Error::call("open the DHCP socket"))
}

/// Transaction numbers only have to differ between boards that start at the same time.
fn seed() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    u32::try_from(random >> 32).unwrap_or_default()
}

struct Link {
    index: u32,
    mac: [u8; 6],
    handle: Handle,
}

impl Link {
    async fn open(name: &str, handle: Handle) -> Result<Link, Error> {
        let mut links = handle.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await.map_err(failed("look up the interface"))?;
        let index =
            link.ok_or_else(|| Error::Network(format!("interface {name} is gone")))?.header.index;
        let path = Path::new(INTERFACES).join(name).join("address");
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let mac = parse_mac(&text)
            .ok_or_else(|| Error::Network(format!("{name} has no Ethernet address")))?;
        Ok(Link { index, mac, handle })
    }

    async fn up(&self) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index).up().build();
        self.handle.link().set(message).execute().await.map_err(failed("set the interface up"))
    }

    async fn configure(&self, lease: &Lease) -> Result<(), Error> {
        self.keep_only(Some((lease.address, lease.prefix))).await?;
        let add = self
            .handle
            .address()
            .add(self.index, IpAddr::V4(lease.address), lease.prefix)
            .replace();
        add.execute().await.map_err(failed("set the address"))?;
        let Some(router) = lease.router else { return Ok(()) };
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(router)
            .output_interface(self.index)
            .build();
        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(failed("set the default route"))
    }

    /// Removes all IPv4 addresses of the interface but this one.
    async fn keep_only(&self, kept: Option<(Ipv4Addr, u8)>) -> Result<(), Error> {
        let mut addresses = self.handle.address().get().set_link_index_filter(self.index).execute();
        let mut old = Vec::new();
        while let Some(message) = addresses.try_next().await.map_err(failed("list addresses"))? {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            if address.is_some_and(|address| kept != Some((address, message.header.prefix_len))) {
                old.push(message);
            }
        }
        for message in old {
            self.handle
                .address()
                .del(message)
                .execute()
                .await
                .map_err(failed("remove an address"))?;
        }
        Ok(())
    }
}

fn failed(operation: &'static str) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| Error::Network(format!("{operation}: {error}"))
}

pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let parts: Option<Vec<u8>> =
        text.trim().split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    parts?.try_into().ok()
}
