//! UDP header (RFC 768).

use crate::addr::Be16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The whole header, 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Udp {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Header and payload, in bytes.
    pub length: Be16,
    /// Checksum; 0 means none (IPv4 only).
    pub checksum: u16,
}

/// Offset of the checksum.
pub const CHECKSUM: usize = 6;
/// Length of the header.
pub const LENGTH: usize = 8;
