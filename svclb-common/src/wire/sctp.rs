//! SCTP: common header and chunks (RFC 9260 section 3).

use super::tcp::flag;
use crate::addr::{Be16, Be32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The common header, 12 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sctp {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Verification tag: what the receiver chose when the association began; 0 with INIT.
    pub tag: Be32,
    /// CRC32c of the whole packet from this header on, with 0 in this field; its lowest byte comes first (appendix A).
    pub checksum: u32,
}

/// The header of a chunk, 4 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Chunk {
    /// Type, see [`chunk`].
    pub kind: u8,
    /// Depends on the type.
    pub flags: u8,
    /// Header and content, in bytes; zeros up to a multiple of four follow that do not count.
    pub length: Be16,
}

/// Offset of the checksum.
pub const CHECKSUM: usize = 8;
/// Length of the common header.
pub const LENGTH: usize = 12;
/// Flag of ABORT and SHUTDOWN COMPLETE: the verification tag is the receiver's own, sent back by somebody who knows no
/// other (section 3.3.7).
pub const TAG_REFLECTED: u8 = 1;

/// Types of chunks (section 3.2).
pub mod chunk {
    /// User data. All control chunks of a packet stand before it (section 6.10).
    pub const DATA: u8 = 0;
    /// Asks for an association.
    pub const INIT: u8 = 1;
    /// Answers INIT.
    pub const INIT_ACK: u8 = 2;
    /// The association ends at once.
    pub const ABORT: u8 = 6;
    /// No more data from the sender.
    pub const SHUTDOWN: u8 = 7;
    /// Answers SHUTDOWN, when all data arrived.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Sends back what INIT ACK brought: now the backend keeps state.
    pub const COOKIE_ECHO: u8 = 10;
    /// Answers COOKIE ECHO.
    pub const COOKIE_ACK: u8 = 11;
    /// Answers SHUTDOWN ACK: the association is over.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// What a packet says of its association, in one byte. Where TCP has a flag that means the same, the same bits stand
/// for it, so that one test tells of either protocol whether a packet opens a connection ([`INIT`](signal::INIT)) or is
/// the last of one ([`END`](signal::END)).
pub mod signal {
    use super::flag;

    /// INIT.
    pub const INIT: u8 = flag::SYN;
    /// INIT ACK.
    pub const INIT_ACK: u8 = flag::SYN | flag::ACK;
    /// COOKIE ECHO.
    pub const COOKIE_ECHO: u8 = 8;
    /// COOKIE ACK.
    pub const COOKIE_ACK: u8 = 8 | flag::ACK;
    /// SHUTDOWN.
    pub const SHUTDOWN: u8 = flag::FIN;
    /// SHUTDOWN ACK.
    pub const SHUTDOWN_ACK: u8 = flag::FIN | flag::ACK;
    /// ABORT or SHUTDOWN COMPLETE: nobody answers.
    pub const END: u8 = flag::RST;
    /// Data and what else goes on within an association: SACK, HEARTBEAT, ERROR, ...
    pub const OTHER: u8 = 0;
}

/// What a chunk of this type says of its association.
#[inline(always)]
pub const fn signal_of(kind: u8) -> u8 {
    match kind {
        chunk::INIT => signal::INIT,
        chunk::INIT_ACK => signal::INIT_ACK,
        chunk::ABORT | chunk::SHUTDOWN_COMPLETE => signal::END,
        chunk::SHUTDOWN => signal::SHUTDOWN,
        chunk::SHUTDOWN_ACK => signal::SHUTDOWN_ACK,
        chunk::COOKIE_ECHO => signal::COOKIE_ECHO,
        chunk::COOKIE_ACK => signal::COOKIE_ACK,
        _ => signal::OTHER,
    }
}
