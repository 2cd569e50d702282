//! Ends and checksums of a packet, read in the plainest way.

use crate::packet::sctp;

/// IP protocol number.
const ICMP: u8 = 1;
/// IP protocol number.
const TCP: u8 = 6;
/// IP protocol number.
const UDP: u8 = 17;
/// IP protocol number.
const ICMP6: u8 = 58;
/// IP protocol number.
const SCTP: u8 = 132;

/// Addresses of sender and receiver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends<'a> {
    pub(super) source: &'a [u8],
    pub(super) destination: &'a [u8],
}

/// What can be said of a packet's checksums; nothing where there is none, or not all that it covers.
#[derive(Default)]
pub(super) struct Sums<'a> {
    ends: Option<Ends<'a>>,
    /// How many hops it has left.
    hops: Option<u8>,
    /// That of the IPv4 header is right.
    header: Option<bool>,
    /// That of the transport header, or of the ICMP message, is right.
    transport: Option<bool>,
    /// It is an ICMP error, which quotes another packet.
    error: bool,
}

impl<'a> Sums<'a> {
    /// Reads a packet that begins with an Ethernet header.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        let mut at = 12;
        let mut kind = word(bytes, at);
        while matches!(kind, Some(0x8100 | 0x88a8)) {
            at += 4;
            kind = word(bytes, at);
        }
        let packet = bytes.get(at + 2..).unwrap_or_default();
        match kind {
            Some(0x0800) => Self::of_ipv4(packet).unwrap_or_default(),
            Some(0x86dd) => Self::of_ipv6(packet).unwrap_or_default(),
            _ => Self::default(),
        }
    }

    fn of_ipv4(packet: &'a [u8]) -> Option<Self> {
        let length = usize::from(packet.first()? & 15) * 4;
        let header = packet.get(..length).filter(|header| header.len() >= 20)?;
        let (source, destination) = (&header[12..16], &header[16..20]);
        let piece = word(header, 6)? & 0x3fff;
        let end = usize::from(word(header, 2)?);
        let payload = packet.get(length..end).filter(|_| piece == 0);
        Some(Self {
            hops: Some(header[8]),
            header: Some(sum(header) == 0xffff),
            ..Self::of_payload(source, destination, header[9], payload)
        })
    }

    fn of_ipv6(packet: &'a [u8]) -> Option<Self> {
        let header = packet.get(..40)?;
        let (source, destination) = (&header[8..24], &header[24..40]);
        let mut payload = packet[40..].get(..usize::from(word(header, 4)?));
        let mut next = header[6];
        // Hop-by-hop, routing and destination options have their length in units of eight bytes behind the first.
        while matches!(next, 0 | 43 | 60) {
            let Some(bytes) = payload else { break };
            let (Some(after), Some(length)) = (bytes.first(), bytes.get(1)) else { return None };
            next = *after;
            payload = bytes.get(8 + usize::from(*length) * 8..);
        }
        Some(Self { hops: Some(header[7]), ..Self::of_payload(source, destination, next, payload) })
    }

    fn of_payload(source: &'a [u8], destination: &'a [u8], protocol: u8, payload: Option<&'a [u8]>) -> Self {
        let ends = Some(Ends { source, destination });
        let transport = payload.and_then(|bytes| transport(source, destination, protocol, bytes));
        let kind = payload.and_then(|bytes| bytes.first());
        let error = match protocol {
            ICMP => matches!(kind, Some(3 | 4 | 5 | 11 | 12)),
            ICMP6 => matches!(kind, Some(0..128)),
            _ => false,
        };
        Self { ends, hops: None, header: None, transport, error }
    }

    /// How many hops it has left.
    pub(super) const fn hops(&self) -> Option<u8> {
        self.hops
    }

    /// Whether none of its checksums is wrong.
    pub(super) fn are_right(&self) -> Result<(), &'static str> {
        if self.header == Some(false) {
            return Err("the IPv4 header's checksum is wrong");
        }
        if self.transport == Some(false) {
            return Err("the transport checksum is wrong");
        }
        Ok(())
    }

    /// Addresses of sender and receiver.
    pub(super) const fn ends(&self) -> Option<Ends<'a>> {
        self.ends
    }

    /// Whether what was right in this packet is right in what became of it.
    pub(super) fn hold_in(&self, after: &Self) -> Result<(), &'static str> {
        if self.header == Some(true) && after.header == Some(false) {
            return Err("the IPv4 header's checksum is wrong");
        }
        if self.transport == Some(true) && after.transport == Some(false) {
            return Err("the transport checksum is wrong");
        }
        if self.transport == Some(true) && after.transport.is_none() && self.error == after.error {
            return Err("the transport checksum is gone");
        }
        Ok(())
    }
}

/// Whether the checksum of what follows the network header is right.
fn transport(source: &[u8], destination: &[u8], protocol: u8, bytes: &[u8]) -> Option<bool> {
    let pseudo = || {
        let length = (bytes.len() as u32).to_be_bytes();
        [source, destination, &length, &[0, 0, 0, protocol]].map(sum).into_iter().map(u32::from).sum::<u32>()
    };
    let with_pseudo = || fold(pseudo() + u32::from(sum(bytes))) == 0xffff;
    match protocol {
        TCP => bytes.get(..20).map(|_| with_pseudo()),
        UDP => {
            let header = bytes.get(..8)?;
            (header[6..] != [0, 0] && word(header, 4) == Some(bytes.len() as u16)).then(with_pseudo)
        }
        ICMP => bytes.get(..8).map(|_| sum(bytes) == 0xffff),
        ICMP6 => bytes.get(..8).map(|_| with_pseudo()),
        SCTP => bytes.get(8..12).map(|field| sctp::checksum(bytes) == field),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The one's complement sum of 16-bit words.
fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    fold(sum + rest.first().map_or(0, |byte| u32::from(*byte) << 8))
}

const fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
