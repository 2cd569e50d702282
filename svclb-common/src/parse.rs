//! From bytes to the fields that the datapath decides on.
//!
//! Fixed headers are read whole and in wire order before anything at a variable offset, which is what
//! the verifier can follow. Answers: the headers, or the [`Counter`] that names why the packet is
//! passed untouched.
//!
//! What a packet says of its connection is one byte, [`Headers::signal`].

mod chunks;

use core::hint::cold_path;

use crate::addr::{Addr4, Addr6, Address, Be16, Endpoint};
use crate::checksum;
use crate::packet::Frame;
use crate::verdict::Counter;
use crate::wire::ethernet::{Ethernet, VlanTag, ethertype};
use crate::wire::{ipv4, ipv6, protocol, sctp, tcp, udp};

/// Extension headers that are looked through; the packet is malformed with more (RFC 8200 section 4.1
/// knows six, each once but destination options).
const MAX_EXTENSIONS: usize = 7;

/// The network header of a packet.
#[derive(Clone, Copy, Debug)]
pub struct NetworkHeader<A> {
    /// Sender.
    pub source: A,
    /// Receiver.
    pub destination: A,
    /// Protocol behind all extension headers.
    pub protocol: u8,
    /// Offset of the transport header.
    pub l4: usize,
    /// Bytes from the transport header to the end of the IP packet, as the header says.
    pub payload: u32,
}

/// Which part of a datagram a fragment is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Part {
    /// Offset of the field with flags and offset, which says that it is a fragment; 0 in a whole packet.
    pub at: u16,
    /// Bytes of the datagram in fragments before this one: 0 in the first.
    pub offset: u16,
    /// What the sender calls the datagram, as it stands in the packet.
    pub id: u32,
}

/// What of a packet [`Network::write_ends`] changes besides the addresses; constants to the compiler.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// The packet has ports.
    pub ports: bool,
    /// A router sends it on: it has a hop less.
    pub routed: bool,
}

/// What differs between the families on the wire.
pub trait Network: Address {
    /// Offset of the source address in the header.
    const SOURCE: usize;
    /// Offset of the destination address.
    const DESTINATION: usize;
    /// Offset of the 16-bit word with the hops that are left.
    const HOPS: usize;
    /// Length of the header without options and extension headers.
    const HEADER: usize;
    /// The same of a fragment.
    const FRAGMENT_HEADER: usize;
    /// The protocol number of this family's ICMP.
    const ICMP: u8;
    /// Seconds for which a receiver waits for the rest of a datagram: 30 in Linux (`IP_FRAG_TIME`; RFC 791 has 15 for
    /// a start), 60 for IPv6 (RFC 8200 section 4.5).
    const REASSEMBLY_SECONDS: u32;

    /// Reads the type of service, or traffic class, and how many hops are left.
    fn class_and_hops<F: Frame>(packet: &F, l3: usize) -> Option<(u8, u8)>;

    /// Writes the addresses of both ends over those that are there and, if `ports`, the ports; takes a hop, if `routed`; and
    /// brings the header's own checksum to `difference`, the addresses' share, and to the hop. Gives the hop's share, if no
    /// checksum of the header makes up for it. As few writes as there can be: at `tc` each is a helper call.
    fn write_ends<F: Frame>(
        packet: &mut F,
        headers: &Headers<Self>,
        ends: &[Endpoint<Self>; 2],
        difference: u32,
        what: Parts,
    ) -> Option<u32>;

    /// Reads the network header at `l3`. Which part of a datagram a fragment is, is then in `part`; without, fragments
    /// are not read: [`Counter::Fragment`]. Behind the first fragment of a datagram there are no more headers.
    fn network<F: Frame>(packet: &F, l3: usize, part: Option<&mut Part>) -> Result<NetworkHeader<Self>, Counter>;
}

impl Network for Addr4 {
    const SOURCE: usize = ipv4::SOURCE;
    const DESTINATION: usize = ipv4::DESTINATION;
    const HOPS: usize = ipv4::HOPS;
    const HEADER: usize = ipv4::LENGTH;
    const FRAGMENT_HEADER: usize = ipv4::LENGTH;
    const ICMP: u8 = protocol::ICMP;
    const REASSEMBLY_SECONDS: u32 = 30;

    #[inline(always)]
    fn class_and_hops<F: Frame>(packet: &F, l3: usize) -> Option<(u8, u8)> {
        let [_, class]: [u8; 2] = packet.read(l3)?;
        let [hops, _]: [u8; 2] = packet.read(l3 + ipv4::HOPS)?;
        Some((class, hops))
    }

    #[inline(always)]
    fn write_ends<F: Frame>(
        packet: &mut F,
        headers: &Headers<Self>,
        [source, destination]: &[Endpoint<Self>; 2],
        difference: u32,
        what: Parts,
    ) -> Option<u32> {
        let at = headers.l3 + ipv4::HOPS;
        let [hops, checksum]: [u16; 2] = packet.read(at)?;
        let mut less = hops.to_ne_bytes();
        let mut change = difference;
        if what.routed {
            less[0] = less[0].wrapping_sub(1);
            change = checksum::add(change, checksum::difference(hops as u32, u16::from_ne_bytes(less) as u32));
        }
        // One value, of which all is written or parts: the stack is small.
        let whole = ipv4::EndsAndPorts {
            ends: ipv4::Ends {
                hops: less,
                checksum: checksum::update(checksum, change),
                source: source.address,
                destination: destination.address,
            },
            ports: [source.port, destination.port],
        };
        if what.ports && headers.l4 == headers.l3 + ipv4::LENGTH {
            packet.write(at, &whole)?;
            return Some(0);
        }
        packet.write(at, &whole.ends)?;
        if what.ports {
            packet.write(headers.l4, &whole.ports)?;
        }
        Some(0)
    }

    #[inline(always)]
    fn network<F: Frame>(packet: &F, l3: usize, part: Option<&mut Part>) -> Result<NetworkHeader<Self>, Counter> {
        let header: ipv4::Ipv4 = packet.read(l3).ok_or(Counter::Malformed)?;
        let length = (header.version_ihl & 15) as u32 * 4;
        let total = header.total_length.get() as u32;
        if header.version_ihl >> 4 != 4 || length < 20 || total < length {
            cold_path();
            return Err(Counter::Malformed);
        }
        let fragment = header.fragment.get();
        if fragment & ipv4::FRAGMENT_MASK != 0 {
            cold_path();
            *part.ok_or(Counter::Fragment)? = Part {
                at: (l3 + ipv4::FRAGMENT_FIELD) as u16,
                offset: (fragment & ipv4::FRAGMENT_OFFSET) * 8,
                id: header.identification.0 as u32,
            };
        }
        Ok(NetworkHeader {
            source: header.source,
            destination: header.destination,
            protocol: header.protocol,
            l4: l3 + length as usize,
            payload: total - length,
        })
    }
}

impl Network for Addr6 {
    const SOURCE: usize = ipv6::SOURCE;
    const DESTINATION: usize = ipv6::DESTINATION;
    const HOPS: usize = ipv6::HOPS;
    const HEADER: usize = ipv6::LENGTH;
    const FRAGMENT_HEADER: usize = ipv6::LENGTH + size_of::<ipv6::Fragment>();
    const ICMP: u8 = protocol::ICMPV6;
    const REASSEMBLY_SECONDS: u32 = 60;

    #[inline(always)]
    fn class_and_hops<F: Frame>(packet: &F, l3: usize) -> Option<(u8, u8)> {
        let [high, low]: [u8; 2] = packet.read(l3)?;
        let [_, hops]: [u8; 2] = packet.read(l3 + ipv6::HOPS)?;
        Some((high << 4 | low >> 4, hops))
    }

    #[inline(always)]
    fn write_ends<F: Frame>(
        packet: &mut F,
        headers: &Headers<Self>,
        [source, destination]: &[Endpoint<Self>; 2],
        _difference: u32,
        what: Parts,
    ) -> Option<u32> {
        let mut hop = 0;
        if what.routed {
            let [next, left]: [u8; 2] = packet.read(headers.l3 + ipv6::HOPS)?;
            let less = [next, left.wrapping_sub(1)];
            packet.write(headers.l3 + ipv6::HOPS, &less)?;
            hop = checksum::difference(u16::from_ne_bytes([next, left]) as u32, u16::from_ne_bytes(less) as u32);
        }
        let at = headers.l3 + ipv6::SOURCE;
        let whole =
            ipv6::EndsAndPorts { ends: [source.address, destination.address], ports: [source.port, destination.port] };
        if what.ports && headers.l4 == headers.l3 + ipv6::LENGTH {
            packet.write(at, &whole)?;
            return Some(hop);
        }
        packet.write(at, &whole.ends)?;
        if what.ports {
            packet.write(headers.l4, &whole.ports)?;
        }
        Some(hop)
    }

    #[inline(always)]
    fn network<F: Frame>(packet: &F, l3: usize, mut part: Option<&mut Part>) -> Result<NetworkHeader<Self>, Counter> {
        let header: ipv6::Ipv6 = packet.read(l3).ok_or(Counter::Malformed)?;
        if header.version_class_flow[0] >> 4 != 6 {
            cold_path();
            return Err(Counter::Malformed);
        }
        let mut l4 = l3 + ipv6::LENGTH;
        let mut next = header.next_header;
        let mut read = 0;
        while read < MAX_EXTENSIONS {
            match next {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                    cold_path();
                    let extension: ipv6::Extension = packet.read(l4).ok_or(Counter::Malformed)?;
                    next = extension.next_header;
                    l4 += (extension.length as usize + 1) * 8;
                }
                protocol::AUTHENTICATION => {
                    cold_path();
                    let extension: ipv6::Extension = packet.read(l4).ok_or(Counter::Malformed)?;
                    next = extension.next_header;
                    l4 += (extension.length as usize + 2) * 4;
                }
                protocol::FRAGMENT => {
                    cold_path();
                    let fragment: ipv6::Fragment = packet.read(l4).ok_or(Counter::Malformed)?;
                    let field = fragment.fragment.get();
                    next = fragment.next_header;
                    if field & ipv6::FRAGMENT_MASK != 0 {
                        // Twice in one packet it would be a fragment of a fragment.
                        *part.take().ok_or(Counter::Fragment)? = Part {
                            at: (l4 + ipv6::FRAGMENT_FIELD) as u16,
                            offset: field & ipv6::FRAGMENT_OFFSET,
                            id: fragment.identification.0,
                        };
                    }
                    l4 += size_of::<ipv6::Fragment>();
                    if field & ipv6::FRAGMENT_OFFSET != 0 {
                        return behind_extensions(&header, l3, l4, next);
                    }
                }
                _ => return behind_extensions(&header, l3, l4, next),
            }
            read += 1;
        }
        Err(Counter::Malformed)
    }
}

/// The answer for an IPv6 packet whose extension headers end at `l4`.
#[inline(always)]
fn behind_extensions(header: &ipv6::Ipv6, l3: usize, l4: usize, protocol: u8) -> Result<NetworkHeader<Addr6>, Counter> {
    let extensions = (l4 - l3 - ipv6::LENGTH) as u32;
    let payload = header.payload_length.get() as u32;
    if payload < extensions {
        return Err(Counter::Malformed);
    }
    let (source, destination) = (header.source, header.destination);
    Ok(NetworkHeader { source, destination, protocol, l4, payload: payload - extensions })
}

/// Everything that the datapath wants to know of a packet.
#[derive(Clone, Copy, Default, Debug)]
pub struct Headers<A> {
    /// Sender.
    pub source: A,
    /// Receiver.
    pub destination: A,
    /// Sender's port; 0 in ICMP.
    pub source_port: Be16,
    /// Receiver's port; 0 in ICMP.
    pub destination_port: Be16,
    /// Offset of the network header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Bytes from the transport header to the end of the IP packet.
    pub payload: u32,
    /// Protocol.
    pub protocol: u8,
    /// What the packet says of its connection: the flags of TCP, [`sctp::signal`] of SCTP; 0 else.
    pub signal: u8,
    /// [`Part::at`]: 0 in a whole packet.
    pub fragment: u16,
}

impl<A: Address> Headers<A> {
    /// Whether the packet asks for a new TCP connection or SCTP association.
    #[inline(always)]
    pub const fn opens_connection(&self) -> bool {
        use tcp::flag::{ACK, RST, SYN};
        self.signal & (SYN | ACK | RST) == SYN
    }

    /// Whether the packet is a TCP reset, or the end of an SCTP association: nobody answers it.
    #[inline(always)]
    pub const fn is_reset(&self) -> bool {
        self.signal & tcp::flag::RST != 0
    }

    /// Headers from their parts.
    #[inline(always)]
    pub const fn new(
        network: NetworkHeader<A>,
        l3: usize,
        fragment: u16,
        source_port: Be16,
        destination_port: Be16,
        signal: u8,
    ) -> Self {
        Self {
            source: network.source,
            destination: network.destination,
            source_port,
            destination_port,
            l3,
            l4: network.l4,
            payload: network.payload,
            protocol: network.protocol,
            signal,
            fragment,
        }
    }

    /// The sender.
    #[inline(always)]
    pub const fn sender(&self) -> Endpoint<A> {
        Endpoint::new(self.source, self.source_port)
    }

    /// The receiver.
    #[inline(always)]
    pub const fn receiver(&self) -> Endpoint<A> {
        Endpoint::new(self.destination, self.destination_port)
    }

    /// Offset of the transport checksum.
    #[inline(always)]
    pub const fn checksum(&self) -> usize {
        self.l4
            + match self.protocol {
                protocol::TCP => tcp::CHECKSUM,
                protocol::SCTP => sctp::CHECKSUM,
                _ => udp::CHECKSUM,
            }
    }
}

/// The ports at the start of every transport header that has some.
#[repr(C)]
#[derive(Clone, Copy, zerocopy::FromBytes)]
struct Ports {
    source: Be16,
    destination: Be16,
}

/// Reads network and transport header of a whole packet; of others says [`Counter::Fragment`]. Of a protocol without
/// ports ([`Counter::OtherProtocol`]) the network header is there. A function of its own, so that its buffers are off
/// the stack again when the packet goes on.
#[inline(never)]
pub fn headers<A: Network, F: Frame>(packet: &F, l3: usize, headers: &mut Headers<A>) -> Result<(), Counter> {
    let network = A::network(packet, l3, None)?;
    transport(packet, network, l3, 0, headers)
}

/// What is to be known of a fragment besides its headers.
#[derive(Clone, Copy, Default, Debug)]
pub struct Piece {
    /// Where it belongs.
    pub part: Part,
    /// In a first fragment: bytes of the datagram up to the end of the transport header.
    pub header_end: u32,
    /// It is a first fragment that ends before its transport header does.
    pub cut: bool,
}

/// Reads the headers of a fragment of TCP or UDP: with ports if it is a first one and they are in it.
#[inline(never)]
pub fn fragment<A: Network, F: Frame>(
    packet: &F,
    l3: usize,
    headers: &mut Headers<A>,
    piece: &mut Piece,
) -> Result<(), Counter> {
    piece.part = Part::default();
    let network = A::network(packet, l3, Some(&mut piece.part));
    let Part { at, offset, .. } = piece.part;
    // What is fragmented begins behind the fragment header, maybe with destination options.
    let behind = at as usize + size_of::<ipv6::Fragment>() - ipv6::FRAGMENT_FIELD;
    let network = match network {
        // The headers go on in another fragment (RFC 7112).
        Err(Counter::Malformed) if A::IS_V6 && at != 0 && offset == 0 => NetworkHeader {
            source: packet.read(l3 + A::SOURCE).ok_or(Counter::Malformed)?,
            destination: packet.read(l3 + A::DESTINATION).ok_or(Counter::Malformed)?,
            protocol: protocol::DESTINATION_OPTIONS,
            l4: behind,
            payload: 0,
        },
        network => network?,
    };
    let wanted = match network.protocol {
        protocol::TCP => tcp::LENGTH as u32,
        protocol::UDP => udp::LENGTH as u32,
        // The protocol stands behind the options, in the first fragment, if that has all of them.
        protocol::DESTINATION_OPTIONS if A::IS_V6 => u32::from(offset == 0),
        _ => return Err(Counter::Fragment),
    };
    let start = if A::IS_V6 { behind } else { network.l4 };
    piece.header_end = (network.l4 - start) as u32 + wanted;
    piece.cut = network.payload < wanted;
    if offset == 0 && !piece.cut {
        return transport(packet, network, l3, at, headers);
    }
    let mut ports = (Be16::ZERO, Be16::ZERO);
    if offset == 0 && network.payload >= size_of::<Ports>() as u32 {
        ports = quoted_ports(packet, network.l4).ok_or(Counter::Malformed)?;
    }
    *headers = Headers::new(network, l3, at, ports.0, ports.1, 0);
    Ok(())
}

#[inline(always)]
fn transport<A: Network, F: Frame>(
    packet: &F,
    network: NetworkHeader<A>,
    l3: usize,
    fragment: u16,
    headers: &mut Headers<A>,
) -> Result<(), Counter> {
    let l4 = network.l4;
    let (mut source_port, mut destination_port, mut signal) = (Be16::ZERO, Be16::ZERO, 0);
    if network.protocol == protocol::TCP {
        let tcp: tcp::Tcp = packet.read(l4).ok_or(Counter::Malformed)?;
        (source_port, destination_port, signal) = (tcp.source, tcp.destination, tcp.flags);
    } else if network.protocol == protocol::UDP {
        let udp: udp::Udp = packet.read(l4).ok_or(Counter::Malformed)?;
        (source_port, destination_port) = (udp.source, udp.destination);
    } else if network.protocol == protocol::SCTP {
        let sctp: sctp::Sctp = packet.read(l4).ok_or(Counter::Malformed)?;
        if network.payload < sctp::LENGTH as u32 {
            return Err(Counter::Malformed);
        }
        (source_port, destination_port) = (sctp.source, sctp.destination);
        signal = chunks::signal(packet, &sctp, l4, network.payload);
    }
    let known =
        matches!(network.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) || network.protocol == A::ICMP;
    *headers = Headers::new(network, l3, fragment, source_port, destination_port, signal);
    if known { Ok(()) } else { Err(Counter::OtherProtocol) }
}

/// Ports of a transport header of which not all may be there, as in an ICMP error: its first four bytes always are
/// (RFC 792 quotes eight).
#[inline(always)]
pub fn quoted_ports<F: Frame>(packet: &F, l4: usize) -> Option<(Be16, Be16)> {
    let ports: Ports = packet.read(l4)?;
    Some((ports.source, ports.destination))
}

/// Family (`true` for IPv6) and offset of the network header.
pub type Link = Result<(bool, usize), Counter>;

/// Looks behind an Ethernet header and up to two VLAN tags.
#[inline(always)]
pub fn link_layer<F: Frame>(packet: &F) -> Link {
    let ethernet: Ethernet = packet.read(0).ok_or(Counter::Malformed)?;
    let mut kind = ethernet.ethertype;
    let mut l3 = size_of::<Ethernet>();
    let mut tags = 0;
    while tags < 2 && (kind == ethertype::VLAN || kind == ethertype::QINQ) {
        cold_path();
        let tag: VlanTag = packet.read(l3).ok_or(Counter::Malformed)?;
        kind = tag.ethertype;
        l3 += size_of::<VlanTag>();
        tags += 1;
    }
    if kind == ethertype::IPV4 {
        Ok((false, l3))
    } else if kind == ethertype::IPV6 {
        Ok((true, l3))
    } else {
        Err(Counter::NotIp)
    }
}

/// Looks at a packet without a link-layer header.
#[inline(always)]
pub fn bare_ip<F: Frame>(packet: &F) -> Link {
    // Two bytes, as a check for one is compiled to a comparison from which the verifier learns nothing.
    let first: [u8; 2] = packet.read(0).ok_or(Counter::Malformed)?;
    match first[0] >> 4 {
        4 => Ok((false, 0)),
        6 => Ok((true, 0)),
        _ => Err(Counter::NotIp),
    }
}
