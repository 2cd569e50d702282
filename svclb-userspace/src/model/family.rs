//! The two address families, as values and as types.

use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;

use svclb_common::addr::{Addr4, Addr6, Address};

/// An address family as a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Index into arrays of two.
    pub const fn index(self) -> usize {
        match self {
            Self::V4 => 0,
            Self::V6 => 1,
        }
    }

    /// Last character of the names of this family's maps.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What the agent needs of an address beyond what the datapath does.
pub trait FamilyAddress: Address + Ord + Hash + Into<IpAddr> + Send + Sync {
    /// The family as a value.
    const FAMILY: Family;

    /// The address in this family's form; `None` for one of the other family.
    fn of(ip: IpAddr) -> Option<Self>;
}

impl FamilyAddress for Addr4 {
    const FAMILY: Family = Family::V4;

    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip.into()),
            IpAddr::V6(_) => None,
        }
    }
}

impl FamilyAddress for Addr6 {
    const FAMILY: Family = Family::V6;

    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip.into()),
        }
    }
}
