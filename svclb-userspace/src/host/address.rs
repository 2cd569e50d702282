//! Addresses of the agent's network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Length of its subnet's prefix.
    pub prefix_length: u8,
    /// Valid outside the link and the machine (scope `global`), and usable: not a duplicate.
    pub global: bool,
    /// Fit to be a source by default: not secondary, temporary or deprecated.
    pub primary: bool,
}

impl Address {
    /// Whether the device reaches others in the address's subnet: its prefix is no single address.
    pub const fn has_subnet(&self) -> bool {
        self.prefix_length < if self.ip.is_ipv4() { 32 } else { 128 }
    }
}

/// The addresses by which this node can be reached, for the expansion of node ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeAddresses {
    /// All global addresses of all devices, in order of device index, each device's in the kernel's order.
    pub all: Vec<NodeAddress>,
    /// The node's primary IPv4 address: of the device of the default route, else of the first node device.
    pub primary4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub primary6: Option<Ipv6Addr>,
}

impl NodeAddresses {
    /// The primary addresses of both families.
    pub fn primary(&self) -> impl Iterator<Item = IpAddr> {
        self.primary4.map(IpAddr::V4).into_iter().chain(self.primary6.map(IpAddr::V6))
    }
}

/// One address of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// The address.
    pub ip: IpAddr,
    /// Length of its subnet's prefix.
    pub prefix_length: u8,
    /// Name of the device that carries it.
    pub device: String,
}
