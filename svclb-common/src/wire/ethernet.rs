//! Ethernet II and VLAN tags (IEEE 802.1Q, 802.1ad).

use crate::addr::Be16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Length of a header without tags.
pub const LENGTH: usize = 14;

/// A MAC address.
pub type Mac = [u8; 6];

/// `EtherType` values.
pub mod ethertype {
    use crate::addr::Be16;
    /// IPv4.
    pub const IPV4: Be16 = Be16::new(0x0800);
    /// IPv6.
    pub const IPV6: Be16 = Be16::new(0x86dd);
    /// A customer VLAN tag follows.
    pub const VLAN: Be16 = Be16::new(0x8100);
    /// A service VLAN tag follows.
    pub const QINQ: Be16 = Be16::new(0x88a8);
}

/// Ethernet II header, 14 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ethernet {
    /// Receiver.
    pub destination: Mac,
    /// Sender.
    pub source: Mac,
    /// What follows: one of [`ethertype`], or something else.
    pub ethertype: Be16,
}

/// The four bytes behind a VLAN `EtherType`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VlanTag {
    /// Priority, drop eligibility and VLAN number.
    pub control: Be16,
    /// What follows.
    pub ethertype: Be16,
}
