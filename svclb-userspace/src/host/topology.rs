//! What is known of the network namespace: devices, their addresses, the default routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    address::{Address, NodeAddress, NodeAddresses},
    decode::Change,
    link::{Kind, Link},
};

/// A default route, by the device that it leads to. Ordered by family and preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DefaultRoute {
    /// Of IPv6.
    pub v6: bool,
    /// The lowest is preferred.
    pub priority: u32,
    /// Device index.
    pub device: u32,
}

/// Devices, addresses and default routes at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<u32, Vec<Address>>,
    routes: BTreeSet<DefaultRoute>,
}

impl Topology {
    /// Takes a change in.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Link(link) => {
                if !link.up {
                    // The kernel takes the routes of a device that goes down away without a message.
                    self.routes.retain(|route| route.device != link.index);
                }
                self.links.insert(link.index, link);
            }
            Change::LinkGone(index) => {
                self.links.remove(&index);
                self.addresses.remove(&index);
                self.routes.retain(|route| route.device != index);
            }
            Change::Address(index, address) => {
                let of_device = self.addresses.entry(index).or_default();
                match of_device.iter_mut().find(|known| same(known, &address)) {
                    Some(known) => *known = address,
                    None => of_device.push(address),
                }
            }
            Change::AddressGone(index, address) => {
                if let Some(of_device) = self.addresses.get_mut(&index) {
                    of_device.retain(|known| !same(known, &address));
                }
            }
            Change::Route(route) => {
                self.routes.insert(route);
            }
            Change::RouteGone(route) => {
                self.routes.remove(&route);
            }
            // Hooks are no matter of topology.
            Change::FilterGone(_) => {}
        }
    }

    /// All devices, by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// A device.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// The addresses of a device, in the kernel's order.
    pub fn addresses(&self, index: u32) -> &[Address] {
        self.addresses.get(&index).map_or(&[], Vec::as_slice)
    }

    /// The devices that belong to a bridge or bond.
    pub fn members(&self, master: u32) -> impl Iterator<Item = &Link> {
        self.links.values().filter(move |link| link.master == Some(master))
    }

    /// The device that `link` belongs to.
    pub fn master(&self, link: &Link) -> Option<&Link> {
        self.links.get(&link.master?)
    }

    /// Whether a default route leads to the device.
    pub fn has_default_route(&self, index: u32) -> bool {
        self.routes.iter().any(|route| route.device == index)
    }

    /// A device's global primary IPv4 address, the first of several.
    pub fn primary4(&self, index: u32) -> Option<Ipv4Addr> {
        self.primary(index).find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
    }

    /// The same for IPv6.
    pub fn primary6(&self, index: u32) -> Option<Ipv6Addr> {
        self.primary(index).find_map(|ip| match ip {
            IpAddr::V6(ip) => Some(ip),
            IpAddr::V4(_) => None,
        })
    }

    fn primary(&self, index: u32) -> impl Iterator<Item = IpAddr> {
        self.addresses(index).iter().filter(|address| address.global && address.primary).map(|address| address.ip)
    }

    /// The node's addresses. `leads_out` tells node devices from others; the first of them stands in for
    /// the device of a default route where there is none.
    pub fn node_addresses(&self, leads_out: impl Fn(&Link) -> bool) -> NodeAddresses {
        let candidates: Vec<u32> = self.links().filter(|link| leads_out(link)).map(|link| link.index).collect();
        let of_routes = |v6: bool| self.routes.iter().filter(move |route| route.v6 == v6).map(|route| route.device);
        NodeAddresses {
            all: self.links().flat_map(|link| self.of_link(link)).collect(),
            primary4: of_routes(false).chain(candidates.iter().copied()).find_map(|index| self.primary4(index)),
            primary6: of_routes(true).chain(candidates.iter().copied()).find_map(|index| self.primary6(index)),
        }
    }

    fn of_link<'a>(&'a self, link: &'a Link) -> impl Iterator<Item = NodeAddress> + 'a {
        self.addresses(link.index).iter().filter(|address| address.global).map(|address| NodeAddress {
            ip: address.ip,
            prefix_length: address.prefix_length,
            device: link.name.clone(),
        })
    }

    /// Whether packets of other machines come in by some member of the bridge `index`.
    pub(super) fn has_wire(&self, index: u32) -> bool {
        self.members(index).any(|member| matches!(member.kind, Kind::Physical | Kind::Bond | Kind::Stacked))
    }
}

/// One address may be on a device only once for each subnet.
fn same(one: &Address, other: &Address) -> bool {
    one.ip == other.ip && one.prefix_length == other.prefix_length
}
