//! FRAGMENTS: what became of the first fragment of a datagram, for those behind it, which have no ports.

use crate::addr::Address;
use crate::wire::ethernet::Mac;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// The hook that a key of FRAGMENTS belongs to.
pub mod hook {
    /// Where packets enter the node: destinations change.
    pub const INGRESS: u8 = 1;
    /// Where they leave it: sources change.
    pub const EGRESS: u8 = 2;
}

/// Bits of [`Fragment::flags`].
pub mod fate {
    /// The first fragment was refused or dropped.
    pub const DROPPED: u8 = 1;
    /// It got the mark of packets that egress need not look at.
    pub const MARKED: u8 = 2;
    /// It passed untouched, to an address that Services have.
    pub const PASSED: u8 = 4;
    /// It passed the node's IP stack by, with both addresses changed.
    pub const FORWARDED: u8 = 8;
}

/// Key of FRAGMENTS: a datagram as one hook sees it, with the addresses that hooks before it have written.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct FragmentKey<A> {
    /// Sender.
    pub source: A,
    /// Receiver.
    pub destination: A,
    /// What the sender calls the datagram, as it stands in the packet; 16 bits in IPv4.
    pub id: u32,
    /// IP protocol number, which IPv4 has its own names for (RFC 791 section 3.2); 0 in IPv6 (RFC 8200 section 4.5).
    pub protocol: u8,
    /// One of [`hook`].
    pub hook: u8,
    /// Always 0.
    pub zero: u16,
}

impl<A: Address> FragmentKey<A> {
    /// Key of a datagram at a hook.
    #[inline(always)]
    pub const fn new(source: A, destination: A, id: u32, protocol: u8, hook: u8) -> Self {
        Self { source, destination, id, protocol: if A::IS_V6 { 0 } else { protocol }, hook, zero: 0 }
    }
}

/// Value of FRAGMENTS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Fragment<A> {
    /// What the first fragment's destination (at egress its source) became.
    pub address: A,
    /// With [`fate::FORWARDED`]: what its source became.
    pub source: A,
    /// Tick of the first fragment.
    pub seen: u32,
    /// Bytes of the datagram up to the end of its transport header, which no other fragment may overlap.
    pub header_end: u16,
    /// Bits of [`fate`].
    pub flags: u8,
    /// Always 0.
    pub zero: u8,
    /// At ingress of a bridge port: the MAC address that the first fragment went on to.
    pub to: Mac,
    /// Always 0.
    pub zero2: u16,
}
