//! Packets for tests: built by layers, and read back by another implementation than svclb's own.

pub mod fragments;
pub mod sctp;

use self::sctp::{Chunk, Message, kind};
use etherparse::{
    EtherType, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, LaxPacketHeaders, LaxPayloadSlice, LinkExtHeader,
    NetHeaders, PacketBuilder, PacketHeaders, PayloadSlice, TcpHeader, TransportHeader, UdpHeader,
};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Sender's MAC address of every frame.
pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
/// Receiver's MAC address of every frame.
pub const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// TCP flags of a frame.
#[expect(clippy::struct_excessive_bools, reason = "they are independent bits of the header")]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags {
    /// SYN.
    pub syn: bool,
    /// ACK.
    pub ack: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
}

/// What a frame has besides ports and payload.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Transport {
    Udp,
    Tcp(Flags),
    /// Verification tag, and all chunks; with none of them there is one with the payload.
    Sctp(u32, Vec<Chunk>),
}

/// A TCP, UDP or SCTP packet in the making.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    source: SocketAddr,
    destination: SocketAddr,
    transport: Transport,
    sequence: u32,
    acknowledgement: u32,
    vlans: Vec<u16>,
    ip_options: Vec<u8>,
    destination_options: bool,
    payload: Vec<u8>,
    without_checksum: bool,
}

/// A UDP packet with four bytes of payload.
pub fn udp(source: SocketAddr, destination: SocketAddr) -> Frame {
    Frame {
        source,
        destination,
        transport: Transport::Udp,
        sequence: 0,
        acknowledgement: 0,
        vlans: Vec::new(),
        ip_options: Vec::new(),
        destination_options: false,
        payload: b"ping".to_vec(),
        without_checksum: false,
    }
}

/// A TCP packet with the flag ACK and four bytes of payload.
pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Frame {
    Frame {
        transport: Transport::Tcp(Flags { ack: true, ..Flags::default() }),
        sequence: 1000,
        acknowledgement: 2000,
        ..udp(source, destination)
    }
}

/// An SCTP packet of an association, with four bytes of user data.
pub fn sctp(source: SocketAddr, destination: SocketAddr) -> Frame {
    Frame { transport: Transport::Sctp(SCTP_TAG, Vec::new()), ..udp(source, destination) }
}

/// Verification tag of all SCTP packets but those with INIT.
pub const SCTP_TAG: u32 = 0x5eed_7a65;

impl Frame {
    /// Makes it what opens a connection: a SYN, an INIT.
    #[must_use]
    pub fn syn(self) -> Self {
        match self.transport {
            Transport::Sctp(..) => self.chunks(&[kind::INIT]).tag(0),
            Transport::Tcp(_) | Transport::Udp => self.flags(Flags { syn: true, ..Flags::default() }).payload(0),
        }
    }

    /// Gives an SCTP packet these chunks.
    #[must_use]
    pub fn chunks(mut self, kinds: &[u8]) -> Self {
        self.transport = Transport::Sctp(SCTP_TAG, kinds.iter().map(|kind| Chunk::new(*kind)).collect());
        self
    }

    /// Gives an SCTP packet this verification tag.
    #[must_use]
    pub fn tag(mut self, tag: u32) -> Self {
        if let Transport::Sctp(old, _) = &mut self.transport {
            *old = tag;
        }
        self
    }

    /// Makes it an answer to a SYN.
    #[must_use]
    pub fn syn_ack(self) -> Self {
        self.flags(Flags { syn: true, ack: true, ..Flags::default() }).payload(0)
    }

    /// Makes it an answer to the first packet of a flow: to a SYN, to an INIT; a datagram is one as it is.
    #[must_use]
    pub fn answer(self) -> Self {
        match self.transport {
            Transport::Tcp(_) => self.syn_ack(),
            Transport::Sctp(..) => self.chunks(&[kind::INIT_ACK]),
            Transport::Udp => self,
        }
    }

    /// Makes it the end of one direction.
    #[must_use]
    pub fn fin(self) -> Self {
        self.flags(Flags { fin: true, ack: true, ..Flags::default() })
    }

    /// Makes it a reset.
    #[must_use]
    pub fn rst(self) -> Self {
        self.flags(Flags { rst: true, ..Flags::default() }).payload(0)
    }

    /// Sets the TCP flags.
    #[must_use]
    pub fn flags(mut self, flags: Flags) -> Self {
        self.transport = Transport::Tcp(flags);
        self
    }

    /// Sets the length of the payload.
    #[must_use]
    pub fn payload(mut self, length: usize) -> Self {
        self.payload = (0..length).map(|n| (n * 7) as u8).collect();
        if let Transport::Sctp(_, chunks) = &mut self.transport {
            chunks.clear();
        }
        self
    }

    /// Adds a VLAN tag.
    #[must_use]
    pub fn vlan(mut self, number: u16) -> Self {
        self.vlans.push(number);
        self
    }

    /// Adds IPv4 options (padded to 4 bytes), or destination options in IPv6.
    #[must_use]
    pub fn options(mut self) -> Self {
        self.ip_options = vec![7, 7, 4, 0, 0, 0, 0, 0];
        self.destination_options = true;
        self
    }

    /// Leaves the UDP checksum out.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        self.without_checksum = true;
        self
    }

    /// The bytes, with right checksums.
    ///
    /// # Panics
    /// If source and destination are of two families.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.transport {
            Transport::Tcp(flags) => self.around(IpNumber::TCP, &self.tcp_bytes(*flags)),
            Transport::Udp => self.around(IpNumber::UDP, &self.udp_bytes()),
            Transport::Sctp(tag, chunks) => {
                let data = [Chunk::data(1, &self.payload)];
                let message = Message {
                    source: self.source.port(),
                    destination: self.destination.port(),
                    tag: *tag,
                    chunks: if chunks.is_empty() { data.to_vec() } else { chunks.clone() },
                };
                self.around(IpNumber::SCTP, &message.bytes())
            }
        }
    }

    fn tcp_bytes(&self, flags: Flags) -> Vec<u8> {
        let mut header = TcpHeader::new(self.source.port(), self.destination.port(), self.sequence, 4096);
        header.syn = flags.syn;
        header.ack = flags.ack;
        header.fin = flags.fin;
        header.rst = flags.rst;
        header.acknowledgment_number = self.acknowledgement;
        header.checksum = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), &self.payload),
            (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), &self.payload),
            _ => panic!("a packet between two families"),
        }
        .expect("the payload is short");
        [header.to_bytes().as_slice(), &self.payload].concat()
    }

    fn udp_bytes(&self) -> Vec<u8> {
        let (from, to) = (self.source.port(), self.destination.port());
        let mut header = UdpHeader::without_ipv4_checksum(from, to, self.payload.len()).expect("the payload is short");
        if !self.without_checksum {
            header.checksum = match (self.source.ip(), self.destination.ip()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), &self.payload),
                (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), &self.payload),
                _ => panic!("a packet between two families"),
            }
            .expect("the payload is short");
        }
        [header.to_bytes().as_slice(), &self.payload].concat()
    }

    fn around(&self, number: IpNumber, transport: &[u8]) -> Vec<u8> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mut header =
                    Ipv4Header::new(transport.len() as u16, 64, number, a.octets(), b.octets()).expect("it is short");
                header.options = self.ip_options.as_slice().try_into().expect("8 bytes of options");
                header.set_payload_len(transport.len()).expect("it is short");
                header.header_checksum = header.calc_header_checksum();
                let mut bytes = Vec::new();
                header.write(&mut bytes).expect("a vector takes everything");
                bytes.extend_from_slice(transport);
                ethernet(EtherType::IPV4, &self.vlans, &bytes)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mut body = Vec::new();
                let mut next = number;
                if self.destination_options {
                    // PadN over the whole first 8 bytes
                    body.extend_from_slice(&[number.0, 0, 1, 4, 0, 0, 0, 0]);
                    next = IpNumber::IPV6_DESTINATION_OPTIONS;
                }
                body.extend_from_slice(transport);
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: body.len() as u16,
                    next_header: next,
                    hop_limit: 64,
                    source: a.octets(),
                    destination: b.octets(),
                };
                let mut bytes = header.to_bytes().to_vec();
                bytes.extend_from_slice(&body);
                ethernet(EtherType::IPV6, &self.vlans, &bytes)
            }
            _ => panic!("a packet between two families"),
        }
    }
}

/// Puts an Ethernet header and VLAN tags in front of an IP packet.
fn ethernet(kind: EtherType, vlans: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut bytes = [MAC_B, MAC_A].concat();
    for vlan in vlans {
        bytes.extend_from_slice(&EtherType::VLAN_TAGGED_FRAME.0.to_be_bytes());
        bytes.extend_from_slice(&vlan.to_be_bytes());
    }
    bytes.extend_from_slice(&kind.0.to_be_bytes());
    bytes.extend_from_slice(packet);
    bytes
}

/// Sets how many hops a packet without VLAN tags has left.
///
/// # Panics
/// If it is no IP packet.
pub fn set_hops(bytes: &mut [u8], hops: u8) {
    let packet = &mut bytes[14..];
    if packet[0] >> 4 == 6 {
        packet[7] = hops;
        return;
    }
    let (mut header, _) = Ipv4Header::from_slice(packet).expect("an IPv4 header");
    header.time_to_live = hops;
    header.header_checksum = header.calc_header_checksum();
    let header = header.to_bytes();
    packet[..header.len()].copy_from_slice(&header);
}

/// What an ICMP error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Nobody listens on the port.
    PortUnreachable,
    /// A link of the way takes packets of 1300 bytes and no longer ones.
    TooBig,
    /// The packet has passed too many routers.
    TimeExceeded,
    /// A header has a field that makes no sense.
    Parameter,
}

impl Problem {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PortUnreachable, Self::TooBig, Self::TimeExceeded, Self::Parameter];
}

/// An ICMP error of one end of a way to the other that quotes the first `quoted` bytes of the IP packet in `about`.
///
/// # Panics
/// If the ends are of two families.
pub fn error(problem: Problem, ends: (IpAddr, IpAddr), about: &[u8], quoted: usize) -> Vec<u8> {
    let (four, six, rest) = match problem {
        Problem::PortUnreachable => ((3, 3), (1, 4), [0; 4]),
        Problem::TooBig => ((3, 4), (2, 0), 1300u32.to_be_bytes()),
        Problem::TimeExceeded => ((11, 0), (3, 0), [0; 4]),
        Problem::Parameter => ((12, 0), (4, 0), [0; 4]),
    };
    icmp(ends, four, six, rest, &about[14..about.len().min(14 + quoted)])
}

/// The [`error`] that nobody listens on a port.
///
/// # Panics
/// If `from` and `to` are of two families.
pub fn port_unreachable(from: IpAddr, to: IpAddr, about: &[u8], quoted: usize) -> Vec<u8> {
    error(Problem::PortUnreachable, (from, to), about, quoted)
}

/// An echo request, or its reply.
///
/// # Panics
/// If `from` and `to` are of two families.
pub fn echo(from: IpAddr, to: IpAddr, reply: bool) -> Vec<u8> {
    let (four, six) = if reply { (0, 129) } else { (8, 128) };
    icmp((from, to), (four, 0), (six, 0), [0, 7, 0, 1], b"abcdefg")
}

/// An ICMP message with the type and code of its family.
fn icmp((from, to): (IpAddr, IpAddr), four: (u8, u8), six: (u8, u8), rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2(MAC_A, MAC_B);
    let mut bytes = Vec::new();
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            packet.ipv4(a.octets(), b.octets(), 64).icmpv4_raw(four.0, four.1, rest).write(&mut bytes, body)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            packet.ipv6(a.octets(), b.octets(), 64).icmpv6_raw(six.0, six.1, rest).write(&mut bytes, body)
        }
        _ => panic!("a message between two families"),
    }
    .expect("a vector takes everything");
    bytes
}

/// A packet of a protocol without ports: eight bytes of GRE.
///
/// # Panics
/// If `from` and `to` are of two families.
pub fn gre(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut bytes = udp(SocketAddr::new(from, 0), SocketAddr::new(to, 0)).bytes();
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let mut header = Ipv4Header::from_slice(&bytes[14..]).expect("it was built above").0;
            header.protocol = IpNumber::GRE;
            header.header_checksum = header.calc_header_checksum();
            bytes.splice(14..34, header.to_bytes());
        }
        _ => bytes[20] = IpNumber::GRE.0,
    }
    bytes
}

/// What a test looks at in a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Sender; port 0 in ICMP.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// TCP flags, if it is TCP.
    pub flags: Option<Flags>,
    /// Its sequence and acknowledgement number.
    pub numbers: Option<(u32, u32)>,
    /// Tag and chunks, if it is SCTP.
    pub sctp: Option<Message>,
    /// In an ICMP error: ends of the quoted packet.
    pub quoted: Option<(SocketAddr, SocketAddr)>,
    /// Receiver's MAC address.
    pub to_mac: [u8; 6],
}

/// Reads a packet and checks every checksum in it (of a quotation that is cut short, what can be checked).
///
/// # Panics
/// If it is malformed or a checksum is wrong.
#[track_caller]
pub fn read(bytes: &[u8]) -> Seen {
    let packet = PacketHeaders::from_ethernet_slice(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
    let to_mac = bytes[..6].try_into().expect("six bytes");
    let (source, destination) = match &packet.net {
        Some(NetHeaders::Ipv4(header, _)) => {
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum");
            (IpAddr::from(header.source), IpAddr::from(header.destination))
        }
        Some(NetHeaders::Ipv6(header, _)) => (IpAddr::from(header.source), IpAddr::from(header.destination)),
        other => panic!("no IP packet: {other:?}"),
    };
    let payload = packet.payload.slice();
    let ends = |from: u16, to: u16| (SocketAddr::new(source, from), SocketAddr::new(destination, to));
    let sum = |zeroed: &[u8], at: usize, number: u8| transport_checksum(source, destination, zeroed, at, number);
    match &packet.transport {
        Some(TransportHeader::Tcp(header)) => {
            let whole = [header.to_bytes().as_slice(), payload].concat();
            assert_eq!(header.checksum, sum(&whole, 16, 6), "TCP checksum");
            let (source, destination) = ends(header.source_port, header.destination_port);
            let flags = Flags { syn: header.syn, ack: header.ack, fin: header.fin, rst: header.rst };
            let numbers = Some((header.sequence_number, header.acknowledgment_number));
            Seen { source, destination, flags: Some(flags), numbers, sctp: None, quoted: None, to_mac }
        }
        Some(TransportHeader::Udp(header)) => {
            if header.checksum != 0 {
                let whole = [header.to_bytes().as_slice(), payload].concat();
                assert_eq!(header.checksum, sum(&whole, 6, 17), "UDP checksum");
            }
            let (source, destination) = ends(header.source_port, header.destination_port);
            Seen { source, destination, flags: None, numbers: None, sctp: None, quoted: None, to_mac }
        }
        Some(TransportHeader::Icmpv4(header)) => {
            let whole = [header.to_bytes().as_slice(), payload].concat();
            assert_eq!(header.checksum, plain_checksum(&whole, 2), "ICMP checksum");
            let (source, destination) = ends(0, 0);
            Seen {
                source,
                destination,
                flags: None,
                numbers: None,
                sctp: None,
                quoted: Some(quotation(payload)),
                to_mac,
            }
        }
        Some(TransportHeader::Icmpv6(header)) => {
            let whole = [header.to_bytes().as_slice(), payload].concat();
            assert_eq!(header.checksum, sum(&whole, 2, 58), "ICMPv6 checksum");
            let (source, destination) = ends(0, 0);
            Seen {
                source,
                destination,
                flags: None,
                numbers: None,
                sctp: None,
                quoted: Some(quotation(payload)),
                to_mac,
            }
        }
        None if matches!(&packet.payload, PayloadSlice::Ip(ip) if ip.ip_number == IpNumber::SCTP) => {
            let message = Message::read(payload).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
            let (source, destination) = ends(message.source, message.destination);
            Seen { source, destination, flags: None, numbers: None, sctp: Some(message), quoted: None, to_mac }
        }
        other => panic!("no transport header: {other:?}"),
    }
}

/// Ends of a quoted packet, of which only the first bytes may be there.
fn quotation(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let packet = LaxPacketHeaders::from_ip(bytes).expect("a quoted IP header");
    let (source, destination, header) = match &packet.net {
        Some(NetHeaders::Ipv4(header, _)) => {
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "checksum of the quoted IPv4 header");
            (IpAddr::from(header.source), IpAddr::from(header.destination), header.header_len())
        }
        Some(NetHeaders::Ipv6(header, _)) => {
            // Those of tests have 8 bytes.
            let extensions = [IpNumber::IPV6_FRAGMENTATION_HEADER, IpNumber::IPV6_DESTINATION_OPTIONS];
            let (mut next, mut end) = (header.next_header, 40);
            while extensions.contains(&next) {
                (next, end) = (IpNumber(bytes[end]), end + 8);
            }
            (IpAddr::from(header.source), IpAddr::from(header.destination), end)
        }
        other => panic!("no IP packet quoted: {other:?}"),
    };
    if let LaxPayloadSlice::Ip(ip) = &packet.payload
        && ip.ip_number == IpNumber::SCTP
        && !ip.incomplete
    {
        Message::read(ip.payload).unwrap_or_else(|error| panic!("quoted: {error}: {bytes:02x?}"));
    }
    let port = |at: usize| u16::from_be_bytes([bytes[header + at], bytes[header + at + 1]]);
    (SocketAddr::new(source, port(0)), SocketAddr::new(destination, port(2)))
}

/// Internet checksum with a pseudo header, the slow and plain way.
fn transport_checksum(source: IpAddr, destination: IpAddr, bytes: &[u8], field: usize, number: u8) -> u16 {
    let mut all = Vec::new();
    for ip in [source, destination] {
        match ip {
            IpAddr::V4(ip) => all.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => all.extend_from_slice(&ip.octets()),
        }
    }
    all.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    all.extend_from_slice(&[0, 0, 0, number]);
    let at = all.len() + field;
    all.extend_from_slice(bytes);
    let sum = plain_checksum(&all, at);
    if number == 17 && sum == 0 { 0xffff } else { sum }
}

/// Internet checksum of bytes whose checksum field is at `field`.
fn plain_checksum(bytes: &[u8], field: usize) -> u16 {
    let mut sum = 0u32;
    for (at, pair) in bytes.chunks(2).enumerate() {
        if at * 2 != field {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// One line about a packet, for messages of failed tests.
pub fn describe(bytes: &[u8]) -> String {
    let Ok(packet) = LaxPacketHeaders::from_ethernet(bytes) else { return format!("{bytes:02x?}") };
    let mut line = String::new();
    for tag in &packet.link_exts {
        if let LinkExtHeader::Vlan(vlan) = tag {
            let _infallible = write!(line, "vlan {} ", vlan.vlan_id.value());
        }
    }
    let ends = match &packet.net {
        Some(NetHeaders::Ipv4(header, _)) => Some((IpAddr::from(header.source), IpAddr::from(header.destination))),
        Some(NetHeaders::Ipv6(header, _)) => Some((IpAddr::from(header.source), IpAddr::from(header.destination))),
        _ => None,
    };
    let Some((source, destination)) = ends else { return format!("{line}{bytes:02x?}") };
    let rest = match &packet.transport {
        Some(TransportHeader::Tcp(tcp)) => format!(
            "TCP {} > {} syn={} ack={} fin={} rst={}",
            tcp.source_port, tcp.destination_port, tcp.syn, tcp.ack, tcp.fin, tcp.rst
        ),
        Some(TransportHeader::Udp(udp)) => format!("UDP {} > {}", udp.source_port, udp.destination_port),
        None => match &packet.payload {
            LaxPayloadSlice::Ip(ip) if ip.ip_number == IpNumber::SCTP => {
                format!("SCTP {:?}", Message::read(ip.payload))
            }
            other => format!("{other:?}"),
        },
        other => format!("{other:?}"),
    };
    let _infallible = write!(line, "{source} > {destination} {rest}, {} bytes", bytes.len());
    line
}
