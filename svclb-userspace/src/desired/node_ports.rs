//! Node ports: on which addresses of the node they are served.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::model::{Family, Node};

/// One entry of `--nodeport-addresses`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// `primary`: the addresses of the Node object.
    Primary,
    /// `localhost`: 127.0.0.0/8 and `::1`. No packet can ask for those; the node's own processes reach node ports on
    /// 127.0.0.1 and `::1` through hooks at their sockets, whatever is listed (`frontends.rs`). So this entry alone
    /// serves nobody else.
    Localhost,
    /// `all`: every address.
    All,
    /// A prefix.
    Cidr(IpNet),
}

/// An entry that is neither a keyword nor a prefix.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is neither a prefix such as 10.0.0.0/8 nor one of primary, localhost, all")]
pub struct EntryError(String);

impl FromStr for Entry {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        match text.trim() {
            "primary" => Ok(Self::Primary),
            "localhost" => Ok(Self::Localhost),
            "all" => Ok(Self::All),
            cidr => cidr.parse().map(Self::Cidr).or(Err(EntryError(text.to_owned()))),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::Localhost => f.write_str("localhost"),
            Self::All => f.write_str("all"),
            Self::Cidr(cidr) => cidr.fmt(f),
        }
    }
}

/// The addresses on which node ports are served, both families, ordered.
///
/// `on_devices` are the global addresses of the node's devices. Prefixes choose among them; `primary`
/// means the Node object's addresses, or every device's without such an object. **A family of which
/// the list has no entry is served on all its addresses.** An empty list means all of both.
pub fn addresses(entries: &[Entry], node: Option<&Node>, on_devices: &[IpAddr]) -> Vec<IpAddr> {
    collect(|family| match served(family, entries, node, on_devices) {
        Served::All => all(family, on_devices).collect(),
        Served::These(addresses) => addresses,
    })
}

/// The addresses to listen on for health checks, ordered: those on which node ports are served, as far as
/// a device has them. A family that is served on all its addresses is listened to as a whole, as a load
/// balancer may ask at its own address, which no device need have.
pub fn listeners(entries: &[Entry], node: Option<&Node>, on_devices: &[IpAddr]) -> Vec<IpAddr> {
    collect(|family| match served(family, entries, node, on_devices) {
        Served::All => match family {
            Family::V4 => vec![Ipv4Addr::UNSPECIFIED.into()],
            Family::V6 => vec![Ipv6Addr::UNSPECIFIED.into()],
        },
        Served::These(addresses) => addresses.into_iter().filter(|address| on_devices.contains(address)).collect(),
    })
}

fn collect(of_family: impl Fn(Family) -> Vec<IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Family::ALL.into_iter().flat_map(of_family).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// All addresses of a family, of those that devices have.
fn all(family: Family, on_devices: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    on_devices.iter().copied().filter(move |ip| Family::of(*ip) == family && !ip.is_loopback())
}

/// Where the node ports of a family are served.
enum Served {
    /// On all addresses.
    All,
    /// On these.
    These(Vec<IpAddr>),
}

fn served(family: Family, entries: &[Entry], node: Option<&Node>, on_devices: &[IpAddr]) -> Served {
    let mut named = false;
    let mut addresses = Vec::new();
    for entry in entries {
        match entry {
            Entry::All => return Served::All,
            Entry::Localhost => named = true,
            Entry::Primary => match node {
                Some(node) => {
                    let primary = node.primary(family);
                    named |= primary.is_some();
                    addresses.extend(primary);
                }
                None => return Served::All,
            },
            Entry::Cidr(cidr) if Family::of(cidr.network()) == family => {
                named = true;
                addresses.extend(all(family, on_devices).filter(|ip| cidr.contains(ip)));
            }
            Entry::Cidr(_) => {}
        }
    }
    if named { Served::These(addresses) } else { Served::All }
}

#[cfg(test)]
mod tests;
