//! ICMP (RFC 792) and `ICMPv6` (RFC 4443): the header and which types are errors about a packet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first 8 bytes of any message; in an error the quoted packet follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub checksum: u16,
    /// Depends on the type.
    pub rest: u32,
}

/// Length of the header.
pub const LENGTH: usize = 8;
/// Offset of the checksum.
pub const CHECKSUM: usize = 2;
/// IPv4: echo reply and echo request.
pub const ECHO: (u8, u8) = (0, 8);
/// IPv6: the same.
pub const V6_ECHO: (u8, u8) = (129, 128);
/// IPv4: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// IPv4: code "port unreachable".
pub const PORT_UNREACHABLE: u8 = 3;
/// IPv6: destination unreachable.
pub const V6_UNREACHABLE: u8 = 1;
/// IPv6: code "port unreachable".
pub const V6_PORT_UNREACHABLE: u8 = 4;

/// Whether a message of this type quotes the packet it is about and may be translated. Redirects
/// (type 5; 137 in IPv6) quote one too but must stay as they are: they name an address on the link,
/// and a translated one would move the client's route to the frontend.
#[inline(always)]
pub const fn is_error<const V6: bool>(kind: u8) -> bool {
    if V6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) }
}
