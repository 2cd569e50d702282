//! IPv6 header and extension headers (RFC 8200).

use crate::addr::{Addr6, Be16, Be32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The fixed 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ipv6 {
    /// Version (6), traffic class and flow label.
    pub version_class_flow: [u8; 4],
    /// What follows these 40 bytes, extension headers included.
    pub payload_length: Be16,
    /// Type of the next header.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Sender.
    pub source: Addr6,
    /// Receiver.
    pub destination: Addr6,
}

/// The first eight bytes that all extension headers share.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Extension {
    /// Type of the next header.
    pub next_header: u8,
    /// Length: in units of 8 bytes beyond the first 8; in an authentication header 4 bytes beyond 8.
    pub length: u8,
}

/// The fragment header (RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Fragment {
    /// Type of the next header.
    pub next_header: u8,
    /// Reserved.
    pub reserved: u8,
    /// Offset in units of 8 bytes in the upper 13 bits, "more fragments" in the lowest.
    pub fragment: Be16,
    /// Names the packet for reassembly.
    pub identification: Be32,
}

/// "More fragments" and the offset: with no bit set it is a whole packet in spite of the header (an atomic fragment,
/// RFC 6946).
pub const FRAGMENT_MASK: u16 = 0xfff9;
/// The offset alone, which then is in bytes.
pub const FRAGMENT_OFFSET: u16 = 0xfff8;
/// Offset of the flags and the offset in the fragment header.
pub const FRAGMENT_FIELD: usize = 2;
/// Offset of the word whose last byte is the hops that are left; the first is the type of the next header.
pub const HOPS: usize = 6;
/// Offset of the source address; the destination follows.
pub const SOURCE: usize = 8;
/// Offset of the destination address.
pub const DESTINATION: usize = 24;
/// Length of the fixed header.
pub const LENGTH: usize = 40;

/// The addresses and, as no extension headers follow, the ports behind them.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EndsAndPorts {
    /// Of sender and receiver.
    pub ends: [Addr6; 2],
    /// Of sender and receiver.
    pub ports: [Be16; 2],
}
