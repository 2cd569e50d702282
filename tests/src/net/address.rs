//! The addresses of the lab. They come from the ranges for documentation, so that they can be no host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The families that the hosts of a lab have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Families {
    /// IPv4 and IPv6.
    #[default]
    Both,
    /// IPv6: nobody has an IPv4 address or route, but for loopback.
    Ipv6,
}

impl Families {
    /// What there is of two things, of which the first is of IPv4.
    pub fn of<T>(self, [v4, v6]: [T; 2]) -> Vec<T> {
        match self {
            Self::Both => vec![v4, v6],
            Self::Ipv6 => vec![v6],
        }
    }

    /// Whether there is the family of this address.
    pub fn has(self, address: IpAddr) -> bool {
        self == Self::Both || address.is_ipv6()
    }

    /// What an agent is given as `--cluster-cidr`: the pods of all nodes.
    pub fn cluster_cidr(self) -> String {
        self.of(CLUSTER_CIDRS).join(",")
    }
}

/// The IPv4 and the IPv6 address of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// The address of the family that `other` has.
    pub fn of_family(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }

    /// Both addresses, IPv4 first.
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Whether `address` is one of the two.
    pub fn has(&self, address: IpAddr) -> bool {
        self.both().contains(&address)
    }
}

/// The network of the nodes and the control plane.
pub(super) fn on_node_network(host: u8) -> Pair {
    let digits = u16::from_str_radix(&host.to_string(), 16).expect("decimal digits are hexadecimal ones");
    Pair { v4: Ipv4Addr::new(192, 0, 2, host), v6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, digits) }
}

/// The network behind the router.
pub(super) fn outside(host: u8) -> Pair {
    let digits = u16::from_str_radix(&host.to_string(), 16).expect("decimal digits are hexadecimal ones");
    Pair { v4: Ipv4Addr::new(198, 51, 100, host), v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, digits) }
}

/// The pods of node `node`; 1 is the bridge's own address there.
pub(super) fn pod(node: u8, host: u8) -> Pair {
    let digits = u16::from_str_radix(&node.to_string(), 16).expect("decimal digits are hexadecimal ones");
    Pair {
        v4: Ipv4Addr::new(10, 244, node, host),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, digits, 0, 0, 0, u16::from(host)),
    }
}

/// The pods of all nodes.
const CLUSTER_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

/// The prefix of the pods of node `node`, both families.
pub(super) fn pod_prefixes(node: u8) -> [String; 2] {
    [format!("10.244.{node}.0/24"), format!("fd00:10:244:{node}::/64")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_of_a_host_end_in_the_same_digits() {
        let node = on_node_network(11);
        assert_eq!(node.v4.to_string(), "192.0.2.11");
        assert_eq!(node.v6.to_string(), "2001:db8:1::11");
        assert_eq!(outside(10).v6.to_string(), "2001:db8:2::10");
        assert_eq!(pod(2, 31).v6.to_string(), "fd00:10:244:2::1f");
    }
}
