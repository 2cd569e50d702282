//! Segments that no TCP would send: outside of the window of a connection that is open.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv, sendto, socket,
    },
};

use super::netns::Netns;

/// How far beyond what was sent so far a stray segment lies, in bytes: further than any window reaches.
const FAR_AWAY: u32 = 0x2000_0000;

/// Sends stray segments in the name of a server of its namespace. It listens to what arrives there, as it has to know
/// where the peer's sequence numbers stand.
#[derive(Debug)]
pub struct StrayServer {
    heard: OwnedFd,
    netns: Netns,
}

impl StrayServer {
    /// Begins to listen inside the server's namespace. Begin before the connection is opened.
    pub fn listen(netns: &Netns) -> Result<Self> {
        let heard = netns
            .enter(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll))
            .with_context(|| format!("listen to what arrives in {}", netns.label()))?;
        Ok(Self { heard, netns: netns.clone() })
    }

    /// Sends `count` segments from `server` to `client`, both as the server sees them. They acknowledge what the client
    /// has sent, so a reset that answers one is good for the server's connection.
    pub fn send(&self, server: SocketAddr, client: SocketAddr, count: usize) -> Result<()> {
        let (sent, expected) = self.last_from(client, server)?;
        let builder = match (server.ip(), client.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
            (from, to) => bail!("{from} and {to} are of two families"),
        };
        let payload = [b'?'; 100];
        let segment =
            builder.tcp(server.port(), client.port(), expected.wrapping_add(FAR_AWAY), 0xffff).ack(sent).psh();
        let mut packet = Vec::with_capacity(segment.size(payload.len()));
        segment.write(&mut packet, &payload).context("write a stray segment")?;
        let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let out = self
            .netns
            .enter(|| socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw))
            .context("open a raw socket")?;
        for _ in 0..count {
            let result = match client {
                SocketAddr::V4(to) => {
                    let to = SockaddrIn::from(std::net::SocketAddrV4::new(*to.ip(), 0));
                    sendto(out.as_raw_fd(), &packet, &to, MsgFlags::empty())
                }
                SocketAddr::V6(to) => {
                    let to = SockaddrIn6::from(std::net::SocketAddrV6::new(*to.ip(), 0, 0, 0));
                    sendto(out.as_raw_fd(), &packet, &to, MsgFlags::empty())
                }
            };
            result.context("send a stray segment")?;
        }
        Ok(())
    }

    /// The sequence number that follows the last segment heard from `client` to `server`, and the one that it expects.
    fn last_from(&self, client: SocketAddr, server: SocketAddr) -> Result<(u32, u32)> {
        let mut last = None;
        let mut buffer = vec![0; 65_536];
        loop {
            let length = match recv(self.heard.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error).context("hear what arrives"),
            };
            last = numbers(buffer.get(..length).unwrap_or_default(), client, server).or(last);
        }
        last.with_context(|| format!("nothing was heard from {client} to {server}"))
    }
}

/// The numbers of a frame with a TCP segment from `client` to `server`: what follows it, and what it expects.
fn numbers(frame: &[u8], client: SocketAddr, server: SocketAddr) -> Option<(u32, u32)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (from, to): (IpAddr, IpAddr) = match packet.net? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
    let is_it = (from, tcp.source_port()) == (client.ip(), client.port())
        && (to, tcp.destination_port()) == (server.ip(), server.port());
    let length = u32::try_from(tcp.payload().len()).ok()? + u32::from(tcp.syn()) + u32::from(tcp.fin());
    is_it.then(|| (tcp.sequence_number().wrapping_add(length), tcp.acknowledgment_number()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_connection_are_read_from_the_clients_segments_alone() {
        let client: SocketAddr = "10.244.1.10:4000".parse().expect("an address");
        let server: SocketAddr = "10.244.2.11:80".parse().expect("an address");
        let segment = PacketBuilder::ethernet2([0; 6], [0; 6])
            .ipv4([10, 244, 1, 10], [10, 244, 2, 11], 64)
            .tcp(4000, 80, 1000, 500)
            .ack(7000);
        let mut frame = Vec::new();
        segment.write(&mut frame, b"four").expect("room");
        assert_eq!(numbers(&frame, client, server), Some((1004, 7000)));
        assert_eq!(numbers(&frame, server, client), None);
    }
}
