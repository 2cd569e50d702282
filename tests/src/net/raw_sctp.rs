//! SCTP packets through raw sockets: the kernel need not have SCTP, and no module of it is ever loaded.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::packet::sctp::Message;

/// A raw socket for SCTP, bound to one address or, with the unspecified one, to none. Its ports are those of packets, not
/// of the socket.
pub(super) fn open(address: IpAddr) -> io::Result<UdpSocket> {
    let at = SocketAddr::new(address, 0);
    let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::from(libc::IPPROTO_SCTP)))?;
    socket.bind(&at.into())?;
    socket.set_nonblocking(true)?;
    // Whatever its type, to read and write it is like one for datagrams.
    UdpSocket::from_std(socket.into())
}

/// Reads what a raw socket received, which has the IP header with it if that is IPv4. The checksum is verified.
pub(super) fn read(received: &[u8], is_v6: bool) -> Result<Message, String> {
    let header = if is_v6 { 0 } else { usize::from(received.first().copied().unwrap_or(0) & 15) * 4 };
    Message::read(received.get(header..).unwrap_or_default())
}
