//! IPv4 header (RFC 791).

use crate::addr::{Addr4, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The fixed 20 bytes; options follow when `ihl` exceeds 5.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ipv4 {
    /// Version (4) and header length in 32-bit words.
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Header and payload, in bytes.
    pub total_length: Be16,
    /// Names the datagram for reassembly.
    pub identification: Be16,
    /// Flags and offset of a fragment.
    pub fragment: Be16,
    /// Hops left.
    pub ttl: u8,
    /// Payload protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Sender.
    pub source: Addr4,
    /// Receiver.
    pub destination: Addr4,
}

/// "More fragments" and the offset: any bit set means a fragment.
pub const FRAGMENT_MASK: u16 = 0x3fff;
/// The offset alone, in units of 8 bytes.
pub const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Offset of the flags and the offset of a fragment.
pub const FRAGMENT_FIELD: usize = 6;
/// Offset of the word whose first byte is the hops that are left; the second is the protocol.
pub const HOPS: usize = 8;
/// Length without options.
pub const LENGTH: usize = 20;
/// Offset of the header checksum.
pub const CHECKSUM: usize = 10;
/// Offset of the source address; the destination follows.
pub const SOURCE: usize = 12;
/// Offset of the destination address.
pub const DESTINATION: usize = 16;

/// The header from the hops on, where it ends in addresses: what a router or a translation may change of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ends {
    /// Hops left, and the payload protocol.
    pub hops: [u8; 2],
    /// Header checksum.
    pub checksum: u16,
    /// Sender.
    pub source: Addr4,
    /// Receiver.
    pub destination: Addr4,
}

/// The same and, as no options follow, the ports behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EndsAndPorts {
    /// In the header.
    pub ends: Ends,
    /// Of sender and receiver.
    pub ports: [Be16; 2],
}
