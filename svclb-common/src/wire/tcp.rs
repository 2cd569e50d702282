//! TCP header (RFC 9293).

use crate::addr::{Be16, Be32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The fixed 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tcp {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Sequence number.
    pub sequence: Be32,
    /// Acknowledgement number.
    pub acknowledgement: Be32,
    /// Header length in 32-bit words, in the upper four bits.
    pub offset: u8,
    /// Flags, see [`flag`].
    pub flags: u8,
    /// Receive window.
    pub window: Be16,
    /// Checksum.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: Be16,
}

/// Flag bits.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 16;
}

/// Offset of the checksum.
pub const CHECKSUM: usize = 16;
/// Length without options.
pub const LENGTH: usize = 20;
/// Offset of the header length ([`Tcp::offset`]).
pub const OFFSET: usize = 12;
