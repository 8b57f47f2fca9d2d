//! The network child: gives every interface its address, by DHCP or as the owner says, and keeps it.
//!
//! It is a process of its own because it parses what strangers send. It prints `READY=1` with the first address.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket as StdUdpSocket};
use std::time::{Duration, Instant};

use dhcproto::v4::{CLIENT_PORT, Message, SERVER_PORT};
use dhcproto::{Decodable, Decoder, Encodable};
use futures_util::future::try_join_all;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};
use rtnetlink::Handle;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;

use crate::Error;
use crate::carrier::Carrier;
use crate::dhcp::{Action, Client};
use crate::link::{Link, find};
use crate::service::READY;
use crate::settings::{self, Addressing, Dns};
use crate::told::Told;

/// Name of the role in our arguments.
pub(crate) const ROLE: &str = "network";
/// USB interfaces appear late, or when they are plugged in; after this time their absence is said.
const APPEAR_LIMIT: Duration = Duration::from_secs(60);
const APPEAR_STEP: Duration = Duration::from_millis(100);
const LATE_STEP: Duration = Duration::from_secs(5);
const PACKET_MAX: usize = 1500;

/// What is to be done, as the one argument of the role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) links: Vec<settings::Link>,
    pub(crate) dns: Dns,
}

/// Runs until something fails; PID 1 starts us again.
pub(crate) fn main(plan: Option<String>) -> i32 {
    let plan = match serde_json::from_str::<Plan>(&plan.unwrap_or_default()) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("the plan of the network is not readable: {error}");
            return 2;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(serve(plan)),
        Err(error) => {
            Err(Error::Call { operation: "start the network's event loop", source: error })
        }
    };
    let Err(error) = result else { return 0 };
    eprintln!("{error}");
    1
}

async fn serve(plan: Plan) -> Result<(), Error> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(Error::call("open a netlink socket"))?;
    let told = RefCell::new(Told::new(plan.dns, plan.links.len()));
    told.borrow().write()?;
    let all = plan.links.iter().enumerate();
    let all = try_join_all(all.map(|(rank, link)| keep(rank, link, handle.clone(), &told)));
    tokio::select! {
        result = all => result.map(drop),
        () = connection => Err(Error::Network("the netlink connection ended".to_owned())),
    }
}

/// Keeps the address of one interface, as soon as it is there.
async fn keep(
    rank: usize,
    wanted: &settings::Link,
    handle: Handle,
    told: &RefCell<Told>,
) -> Result<(), Error> {
    let name = appeared(wanted.interface.as_deref()).await;
    let link = Link::open(&name, rank, handle).await?;
    link.up().await?;
    let Addressing::Static { address, prefix, gateway } = wanted.addressing else {
        return lease(rank, &name, &link, told).await;
    };
    link.configure(address, prefix, gateway).await?;
    println!("{name}: address {address}/{prefix}, {}, as set", router(gateway));
    println!("{READY}");
    std::future::pending().await
}

async fn appeared(wanted: Option<&str>) -> String {
    let late = Instant::now() + APPEAR_LIMIT;
    let mut said = false;
    loop {
        if let Some(name) = find(wanted) {
            return name;
        }
        let waiting = Instant::now() >= late;
        if waiting && !said {
            said = true;
            println!("there is no interface {} yet", wanted.unwrap_or("for Ethernet"));
        }
        tokio::time::sleep(if waiting { LATE_STEP } else { APPEAR_STEP }).await;
    }
}

async fn lease(rank: usize, name: &str, link: &Link, told: &RefCell<Told>) -> Result<(), Error> {
    let socket = socket_on(name)?;
    let mut carrier = Carrier::of(name)?;
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let mut client = Client::new(link.mac, &hostname.to_string_lossy(), seed(), Instant::now());
    let mut buffer = [0; PACKET_MAX];
    println!("{name} is up, asking for an address");
    loop {
        let due = tokio::time::Instant::from_std(client.due());
        let actions = tokio::select! {
            () = tokio::time::sleep_until(due) => client.on_time(Instant::now()),
            risen = carrier.rises() => {
                risen?;
                client.on_carrier(Instant::now())
            }
            received = socket.recv_from(&mut buffer) => {
                let (length, _) = received.map_err(Error::call("receive"))?;
                let bytes = buffer.get(..length).unwrap_or_default();
                // Whatever is not DHCP is nobody's fault here.
                let message = Message::decode(&mut Decoder::new(bytes));
                message.map_or_else(|_| Vec::new(), |message| client.on_packet(&message, Instant::now()))
            }
        };
        for action in actions {
            match action {
                Action::Send(target, message) => send(&socket, target, &message).await?,
                Action::Configure(lease) => {
                    link.configure(lease.address, lease.prefix, lease.router).await?;
                    let (address, prefix, seconds) =
                        (lease.address, lease.prefix, lease.duration.as_secs());
                    let router = router(lease.router);
                    told.borrow_mut().note(rank, Some(lease));
                    told.borrow().write()?;
                    println!("{name}: address {address}/{prefix}, {router}, for {seconds} s");
                    println!("{READY}");
                }
                Action::Withdraw(address) => {
                    println!("{name}: address {address} may not be used any more");
                    link.keep_only(None).await?;
                    told.borrow_mut().note(rank, None);
                    told.borrow().write()?;
                }
            }
        }
    }
}

fn router(router: Option<Ipv4Addr>) -> String {
    router.map_or_else(|| "no router".to_owned(), |router| format!("router {router}"))
}

async fn send(socket: &UdpSocket, target: Ipv4Addr, message: &Message) -> Result<(), Error> {
    let bytes =
        message.to_vec().map_err(|error| Error::Network(format!("encode a request: {error}")))?;
    // No carrier yet, or no route: the retry comes by itself.
    if let Err(error) = socket.send_to(&bytes, SocketAddrV4::new(target, SERVER_PORT)).await {
        eprintln!("send to {target}: {error}");
    }
    Ok(())
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
