//! Sockets of the calling thread's network namespace, as the kernel's `sock_diag` tells them (man page sock_diag(7)):
//! which are connected, and closing one that belongs to another process (`SOCK_DESTROY`, kernel option
//! `INET_DIAG_DESTROY`, needs `CAP_NET_ADMIN`).

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};

/// A connected socket.
#[derive(Clone, Debug)]
pub struct Connected {
    /// The kernel's cookie of the socket, as programs at sockets see it.
    pub cookie: u64,
    /// The other end; an IPv4 address for an IPv6 socket that talks to one.
    pub peer: SocketAddr,
    request: InetRequest,
}

/// A connection to the kernel.
pub struct SockDiag {
    socket: Socket,
    sequence: u32,
}

impl SockDiag {
    /// Opens it in the calling thread's network namespace, where it stays.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All connected sockets of an IP protocol, of both families. One that connects or is closed meanwhile may be left
    /// out.
    pub fn connected(&mut self, protocol: u8) -> io::Result<Vec<Connected>> {
        let mut all = Vec::new();
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let states = StateFlags::ESTABLISHED | StateFlags::SYN_SENT | StateFlags::CLOSE_WAIT;
            let request = InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id };
            self.ask(SockDiagMessage::InetRequest(request.clone()), NLM_F_DUMP, |answer| {
                let SockDiagMessage::InetResponse(answer) = answer else { return };
                let socket_id = answer.header.socket_id;
                all.push(Connected {
                    cookie: cookie(socket_id.cookie),
                    peer: SocketAddr::new(socket_id.destination_address.to_canonical(), socket_id.destination_port),
                    request: InetRequest { socket_id, ..request.clone() },
                });
            })?;
        }
        Ok(all)
    }

    /// Closes a socket: its process gets ECONNABORTED. A TCP peer gets a reset. Whether it was still there.
    pub fn close(&mut self, socket: &Connected) -> io::Result<bool> {
        let request = SockDiagDestroy::new(SockDiagMessage::InetRequest(socket.request.clone()));
        match self.ask(request, NLM_F_ACK, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a request and takes in what the kernel answers, to the end.
    fn ask<M>(&mut self, request: M, flags: u16, mut take: impl FnMut(SockDiagMessage)) -> io::Result<()>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, request.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
                // Messages begin at multiples of four bytes.
                let length = (answer.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue; // left over from a request that failed
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(answer) => take(answer),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// The number that the kernel tells in two halves, the lower one first.
fn cookie(halves: [u8; 8]) -> u64 {
    let [low, high]: [u32; 2] = zerocopy::transmute!(halves);
    u64::from(low) | u64::from(high) << 32
}
