//! IP addresses and ports as the packet path holds them: raw words in network order.
//!
//! An address is loaded from a packet or a map as whole 32-bit words and only ever compared, hashed
//! and summed, so its bytes are never swapped. [`Address`] is the trait that makes the datapath
//! generic over the family; [`Addr4`] and [`Addr6`] are its two members.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A 16-bit value in network order, held as it stands in memory.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Be16(pub u16);

impl Be16 {
    /// Zero, the same in both orders.
    pub const ZERO: Self = Self(0);

    /// From host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// In host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}

/// A 32-bit value in network order, held as it stands in memory.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Be32(pub u32);

impl Be32 {
    /// From host order.
    #[inline(always)]
    pub const fn new(host: u32) -> Self {
        Self(host.to_be())
    }

    /// In host order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}

impl fmt::Debug for Be32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}

/// An IP address of one family: what the datapath is generic over.
pub trait Address:
    Copy + Eq + Default + fmt::Debug + FromBytes + IntoBytes + Immutable + KnownLayout + 'static
{
    /// Fills a way of the flow table up to a multiple of 8 bytes: a word for IPv4, nothing for IPv6.
    type Spare: Copy + Eq + Default + fmt::Debug + FromBytes + Immutable + KnownLayout + 'static;
    /// What fills a bucket of SERVICES to whole cache lines.
    type Line: Copy + Eq + Default + fmt::Debug + FromBytes + Immutable + KnownLayout + 'static;
    /// What fills the head of a bucket of the flow table to the size of a way.
    type Head: Copy + Eq + Default + fmt::Debug + FromBytes + Immutable + KnownLayout + 'static;
    /// `true` for IPv6.
    const IS_V6: bool;
    /// Length of a full prefix in bits.
    const BITS: u32;
    /// The loopback address.
    const LOOPBACK: Self;

    /// The address as 64-bit words for hashing; the second is 0 for IPv4.
    fn words(self) -> (u64, u64);
    /// The sum of the address's 16-bit words for a checksum, not folded below 32 bits.
    fn sum(self) -> u32;
    /// `self` with the bits outside `mask` cleared equals `network`.
    fn within(self, network: Self, mask: Self) -> bool;
    /// Multicast, or the limited broadcast: never answered by a refusal.
    fn is_group(self) -> bool;
    /// A loopback address.
    fn is_loopback(self) -> bool;
    /// The one of this family.
    fn either(v4: Addr4, v6: Addr6) -> Self;
}

/// An IPv4 address.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Addr4(pub u32);

/// An IPv6 address.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Addr6(pub [u32; 4]);

impl Address for Addr4 {
    type Spare = u32;
    type Head = [u32; 0];
    type Line = u32;
    const IS_V6: bool = false;
    const BITS: u32 = 32;
    const LOOPBACK: Self = Self(u32::from_be(0x7f00_0001));

    #[inline(always)]
    fn words(self) -> (u64, u64) {
        (self.0 as u64, 0)
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        self.0
    }

    #[inline(always)]
    fn within(self, network: Self, mask: Self) -> bool {
        self.0 & mask.0 == network.0
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        u32::from_be(self.0) >> 28 == 0xe || self.0 == u32::MAX
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        u32::from_be(self.0) >> 24 == 127
    }

    #[inline(always)]
    fn either(v4: Addr4, _v6: Addr6) -> Self {
        v4
    }
}

impl Address for Addr6 {
    type Spare = [u32; 0];
    type Head = [u32; 8];
    type Line = [u32; 5];
    const IS_V6: bool = true;
    const BITS: u32 = 128;
    const LOOPBACK: Self = Self([0, 0, 0, u32::from_be(1)]);

    #[inline(always)]
    fn words(self) -> (u64, u64) {
        let [a, b, c, d] = self.0;
        (a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32)
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        let [a, b, c, d] = self.0;
        crate::checksum::fold32(a as u64 + b as u64 + c as u64 + d as u64)
    }

    #[inline(always)]
    fn within(self, network: Self, mask: Self) -> bool {
        let ([a, b, c, d], [na, nb, nc, nd], [ma, mb, mc, md]) = (self.0, network.0, mask.0);
        (a & ma) ^ na | (b & mb) ^ nb | (c & mc) ^ nc | (d & md) ^ nd == 0
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        u32::from_be(self.0[0]) >> 24 == 0xff
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self == Self::LOOPBACK
    }

    #[inline(always)]
    fn either(_v4: Addr4, v6: Addr6) -> Self {
        v6
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(ip: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<Addr4> for Ipv4Addr {
    fn from(addr: Addr4) -> Self {
        Self::from(addr.0.to_ne_bytes())
    }
}

impl From<Ipv6Addr> for Addr6 {
    fn from(ip: Ipv6Addr) -> Self {
        zerocopy::transmute!(ip.octets())
    }
}

impl From<Addr6> for Ipv6Addr {
    fn from(addr: Addr6) -> Self {
        let octets: [u8; 16] = zerocopy::transmute!(addr);
        Self::from(octets)
    }
}

impl From<Addr4> for IpAddr {
    fn from(addr: Addr4) -> Self {
        Self::V4(addr.into())
    }
}

impl From<Addr6> for IpAddr {
    fn from(addr: Addr6) -> Self {
        Self::V6(addr.into())
    }
}

impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv4Addr::from(*self), f)
    }
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv6Addr::from(*self), f)
    }
}

/// One end of a transport conversation. Not stored in maps: with IPv4 it has padding.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Endpoint<A> {
    /// The address.
    pub address: A,
    /// The port.
    pub port: Be16,
}

impl<A: Address> Endpoint<A> {
    /// An endpoint from its two parts.
    #[inline(always)]
    pub const fn new(address: A, port: Be16) -> Self {
        Self { address, port }
    }
}
