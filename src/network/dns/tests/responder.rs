//! A resolver whose behaviour follows from the name asked for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::name;

/// What was asked: carrier and first label.
type Log = Arc<Mutex<Vec<String>>>;

pub(super) struct Responder {
    log: Log,
    /// Answers to `slow` names wait for a permit.
    pub(super) gate: Arc<Semaphore>,
    _tasks: JoinSet<()>,
}

impl Responder {
    /// Serves at `address`, giving `192.0.2.<number>` as the address of most names.
    pub(super) async fn start(address: SocketAddr, number: u8) -> Self {
        let udp = Arc::new(UdpSocket::bind(address).await.unwrap());
        let tcp = TcpListener::bind(address).await.unwrap();
        let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(udp, number, log.clone(), gate.clone()));
        tasks.spawn(connections(tcp, number, log.clone()));
        Self { log, gate, _tasks: tasks }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

async fn datagrams(socket: Arc<UdpSocket>, number: u8, log: Log, gate: Arc<Semaphore>) {
    let mut buffer = [0; 2048];
    let mut late = JoinSet::new();
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer[..length]).unwrap();
        let label = label(&query);
        log.lock().unwrap().push(format!("udp {label}"));
        let mut reply = reply(&query, number);
        match label.as_str() {
            "silent" => continue,
            "forged" => {
                let mut forged = reply.clone();
                forged.metadata.id = query.id.wrapping_add(1);
                forged.answers[0].data = RData::A(A(Ipv4Addr::new(198, 51, 100, 1)));
                socket.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
                forged.metadata.id = query.id;
                forged.queries[0].name = name("other.example.");
                socket.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
                socket.send_to(&[1, 2, 3], client).await.unwrap();
            }
            "long" | "cut" => reply = reply.truncate(),
            _ => {}
        }
        if label == "slow" {
            let (socket, gate) = (socket.clone(), gate.clone());
            late.spawn(async move {
                gate.acquire().await.unwrap().forget();
                socket.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
            });
            continue;
        }
        socket.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
    }
}

async fn connections(listener: TcpListener, number: u8, log: Log) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer).unwrap();
        log.lock().unwrap().push(format!("tcp {}", label(&query)));
        if label(&query) == "cut" {
            continue;
        }
        let bytes = reply(&query, number).to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
}

fn label(query: &Message) -> String {
    String::from_utf8(query.queries[0].name.iter().next().unwrap().to_vec()).unwrap()
}

fn reply(query: &Message, number: u8) -> Message {
    let mut reply = Message::response(query.id, query.op_code);
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    reply.metadata.authentic_data = true;
    reply.queries = query.queries.clone();
    reply.edns = query.edns.clone();
    let asked = query.queries[0].name.clone();
    let address = |last| RData::A(A(Ipv4Addr::new(192, 0, 2, last)));
    let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 2, 3, 4, 30);
    let soa = Record::from_rdata(name("example."), 60, RData::SOA(soa));
    match label(query).as_str() {
        "missing" => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.authorities.push(soa);
        }
        "broken" if number == 1 => reply.metadata.response_code = ResponseCode::ServFail,
        "ancient" if query.edns.is_some() => {
            reply.metadata.response_code = ResponseCode::FormErr;
            reply.edns = None;
        }
        "long" => {
            let records = (0..200).map(|last| Record::from_rdata(asked.clone(), 60, address(last)));
            reply.answers = records.collect();
        }
        _ if query.queries[0].query_type != RecordType::A => reply.authorities.push(soa),
        _ => reply.answers.push(Record::from_rdata(asked, 60, address(number))),
    }
    reply
}
