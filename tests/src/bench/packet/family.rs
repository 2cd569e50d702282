//! Ends of packets, and packets, as words and bytes of each family.

use std::net::SocketAddr;

use etherparse::PacketBuilder;
use svclb_common::addr::{Addr4, Addr6, Be16};
use svclb_common::schema::{Bucket, Plain};
use svclb_userspace::model::FamilyAddress;

const TCP: u32 = 6;
const ETHERNET: usize = 14;

/// A family as the reference object's maps want it.
pub(super) trait Wire: FamilyAddress {
    /// Address and port, and in keys the protocol, as 32-bit words.
    type Words: aya::Pod + AsRef<[u32]>;
    /// Length of the network header, and where in it the addresses are.
    const HEADER: usize;
    const SOURCE: usize;
    const BYTES: usize;

    fn in_words(address: Self, last: u32) -> Self::Words;
    fn from_wire(bytes: &[u8]) -> Option<Self>;
}

impl Wire for Addr4 {
    type Words = [u32; 2];
    const HEADER: usize = 20;
    const SOURCE: usize = 12;
    const BYTES: usize = 4;

    fn in_words(address: Self, last: u32) -> [u32; 2] {
        [address.0, last]
    }

    fn from_wire(bytes: &[u8]) -> Option<Self> {
        Some(Self(u32::from_ne_bytes(bytes.try_into().ok()?)))
    }
}

impl Wire for Addr6 {
    type Words = [u32; 5];
    const HEADER: usize = 40;
    const SOURCE: usize = 8;
    const BYTES: usize = 16;

    fn in_words(Self([a, b, c, d]): Self, last: u32) -> [u32; 5] {
        [a, b, c, d, last]
    }

    fn from_wire(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        Some(std::net::Ipv6Addr::from(bytes).into())
    }
}

/// An end in PEERS and BACKENDS.
pub(super) fn end<A: Wire>(end: SocketAddr) -> A::Words {
    let address = A::of(end.ip()).unwrap_or_default();
    A::in_words(address, u32::from(Be16::new(end.port()).0))
}

/// A key of SERVICES.
pub(super) fn service_key<A: Wire>(frontend: SocketAddr) -> A::Words {
    let address = A::of(frontend.ip()).unwrap_or_default();
    A::in_words(address, u32::from(Be16::new(frontend.port()).0) | TCP << 16)
}

/// The receiver of a packet.
pub(super) fn receiver<A: Wire>(packet: &[u8]) -> Option<SocketAddr> {
    let at = ETHERNET + A::SOURCE + A::BYTES;
    let address = A::from_wire(packet.get(at..at + A::BYTES)?)?;
    let at = ETHERNET + A::HEADER + 2;
    let port = packet.get(at..at + 2)?;
    Some(SocketAddr::new(address.into(), u16::from_be_bytes(port.try_into().ok()?)))
}

/// A TCP segment.
pub(super) fn segment(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let payload = [0x5a; 32];
    let mut packet = Vec::new();
    let written = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => ethernet
            .ipv4(from.ip().octets(), to.ip().octets(), 64)
            .tcp(from.port(), to.port(), 1, 1000)
            .ack(1)
            .write(&mut packet, &payload),
        (SocketAddr::V6(from), SocketAddr::V6(to)) => ethernet
            .ipv6(from.ip().octets(), to.ip().octets(), 64)
            .tcp(from.port(), to.port(), 1, 1000)
            .ack(1)
            .write(&mut packet, &payload),
        _ => return packet,
    };
    written.expect("a vector takes any packet");
    packet
}

/// An empty bucket of the flow table.
pub(super) fn empty_bucket<A: Wire>() -> Bucket<A>
where
    Bucket<A>: Plain,
{
    Bucket::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_of_a_segment_is_read_back() {
        for (from, to) in [("10.0.0.1:5", "10.0.0.2:80"), ("[fd00::1]:5", "[fd00::2]:80")] {
            let [from, to]: [SocketAddr; 2] = [from, to].map(|end| end.parse().expect("an end"));
            let packet = segment(from, to);
            let found = if from.is_ipv4() { receiver::<Addr4>(&packet) } else { receiver::<Addr6>(&packet) };
            assert_eq!(found, Some(to));
        }
    }
}
