//! The part of a pod that answers SCTP (RFC 9260) over raw sockets: the handshake of four ways, data, heartbeats, the end.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use tokio::net::UdpSocket;

use super::super::{Answer, Served};
use crate::net::raw_sctp;
use crate::packet::sctp::{Chunk, Message, kind};

/// The tag that the pod wants to see in each packet of an association: one for all, as its packets are told apart by
/// their ends.
const OWN_TAG: u32 = 0x0a11_50c7;
/// Type of the parameter of INIT ACK that holds the cookie.
const STATE_COOKIE: u16 = 7;

/// Answers on one address of a pod, on all ports that it has by then.
pub(in super::super) async fn answer(
    socket: UdpSocket,
    local: SocketAddr,
    pod: String,
    ports: Arc<Mutex<BTreeSet<u16>>>,
    served: Arc<Served>,
) {
    // Tags of the peers, by their end and the pod's port.
    let mut associations: HashMap<(SocketAddr, u16), u32> = HashMap::new();
    let mut buffer = vec![0; 0x1_0000];
    loop {
        // Errors are the ICMP messages about earlier answers.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let request = match raw_sctp::read(buffer.get(..length).unwrap_or_default(), local.is_ipv6()) {
            Ok(request) => request,
            Err(_damaged) => {
                served.damaged.fetch_add(1, Ordering::Relaxed);
                continue;
            }
        };
        let client = SocketAddr::new(from.ip(), request.source);
        let local = SocketAddr::new(local.ip(), request.destination);
        let listens = ports.lock().unwrap_or_else(PoisonError::into_inner).contains(&local.port());
        let asked = |asked: String| {
            served.sctp.fetch_add(1, Ordering::Relaxed);
            Answer { pod: pod.clone(), client, local, asked }.line()
        };
        let Some((tag, chunks)) = chunks_for(&request, client, listens, &mut associations, asked) else { continue };
        let message = Message { source: local.port(), destination: client.port(), tag, chunks };
        drop(socket.send_to(&message.bytes(), SocketAddr::new(from.ip(), 0)).await);
    }
}

/// What a packet is answered with, and the tag of the answer; `None` for nothing.
fn chunks_for(
    request: &Message,
    client: SocketAddr,
    listens: bool,
    associations: &mut HashMap<(SocketAddr, u16), u32>,
    asked: impl FnOnce(String) -> String,
) -> Option<(u32, Vec<Chunk>)> {
    let key = (client, request.destination);
    if request.has(kind::ABORT) || request.has(kind::SHUTDOWN_COMPLETE) {
        associations.remove(&key);
        return None;
    }
    if let Some(init) = request.chunk(kind::INIT) {
        let tag = init.field(0)?;
        return Some((tag, if listens { vec![init_ack(tag)] } else { vec![Chunk::new(kind::ABORT)] }));
    }
    if !listens {
        return None; // may be for a client in the same namespace, which gets it as well
    }
    if request.tag == OWN_TAG {
        if let Some(cookie) = request.chunk(kind::COOKIE_ECHO) {
            associations.insert(key, cookie.field(0)?);
            return Some((cookie.field(0)?, vec![Chunk::new(kind::COOKIE_ACK)]));
        }
        if let Some(tag) = associations.get(&key).copied() {
            if let Some(data) = request.chunk(kind::DATA) {
                let text = String::from_utf8_lossy(data.body.get(12..)?).into_owned();
                let sack = Chunk::with(kind::SACK, [&data.body[..4], &[0; 8]].concat());
                return Some((tag, vec![sack, Chunk::data(data.field(0)?, asked(text).as_bytes())]));
            }
            if let Some(beat) = request.chunk(kind::HEARTBEAT) {
                return Some((tag, vec![Chunk::with(kind::HEARTBEAT_ACK, beat.body.clone())]));
            }
            return request.has(kind::SHUTDOWN).then(|| (tag, vec![Chunk::new(kind::SHUTDOWN_ACK)]));
        }
    }
    // Out of the blue (RFC 9260 section 8.4): the tag comes back, and the flag T says so.
    Some((request.tag, vec![Chunk { flags: 1, ..Chunk::new(kind::ABORT) }]))
}

/// The cookie is all that there is of an association until it comes back: the client's tag.
fn init_ack(peer: u32) -> Chunk {
    let mut body = [&OWN_TAG.to_be_bytes()[..], &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]].concat();
    body.extend_from_slice(&STATE_COOKIE.to_be_bytes());
    body.extend_from_slice(&8u16.to_be_bytes());
    body.extend_from_slice(&peer.to_be_bytes());
    Chunk::with(kind::INIT_ACK, body)
}
