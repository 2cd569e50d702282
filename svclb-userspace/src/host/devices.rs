//! Which devices get hooks, which programs, and in which role.
//!
//! | kind | role | ingress program | note |
//! | --- | --- | --- | --- |
//! | physical | node | `ingress` | `ingress_l3` without link-layer header (PPP, modems) |
//! | bond, team | node | `ingress_stacked` | its members get none |
//! | VLAN, macvlan, ipvlan, MACsec | node | `ingress_stacked` | |
//! | bridge | node if a wire leads into it or a default route to it, else pod | `ingress_stacked` | |
//! | bridge port | node if a wire, tunnel if a tunnel, else pod | `ingress_port` | lifts replies |
//! | veth, netkit, tap | node if a default route leads to it or it has an address in a subnet, else pod | `ingress` | |
//! | tunnel with link-layer header (VXLAN, Geneve, GRE tap) | tunnel | `ingress_stacked` | |
//! | tunnel without (IP in IP, GRE, SIT, VTI, XFRM) | tunnel | `ingress_stacked_l3` | |
//! | `WireGuard`, tun | tunnel | `ingress_l3` | |
//! | lo, dummy, VRF, others | | | no packet of others passes |
//!
//! All of them get `egress`, or `egress_l3` without link-layer header.
//!
//! Two hooks on one way are harmless: a packet that one hook has translated is no longer what a later one
//! looks for. Where a packet passes the ingress of two devices (port and bridge, wire and VLAN), the later
//! one is `ingress_stacked`, which keeps the mark of the earlier, so that egress need not look it up again.
//!
//! A packet that must be masqueraded gets an address of the device by which it leaves: that of the device,
//! else of its bridge, else the node's primary one. Pods' veths have no address, mostly.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use regex::Regex;

use super::{
    address::NodeAddresses,
    link::{Header, Kind, Link, Mac},
    topology::Topology,
};

/// What the user said of devices.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--devices`: names of the node devices. Without it they are found by the table of this module.
    pub node_devices: Option<Regex>,
    /// `--exclude-devices`: names of devices that get no hooks at all.
    pub excluded: Option<Regex>,
    /// By which devices local traffic comes.
    pub local: LocalDevices,
}

/// By which devices local traffic comes. A port of a bridge counts as its bridge does, by which netfilter sees its
/// packets come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LocalDevices {
    /// Those that lead to pods.
    #[default]
    Pods,
    /// The bridge of this name (kube-proxy's `BridgeInterface`).
    Bridge(String),
    /// Those whose names begin so (kube-proxy's `InterfaceNamePrefix`).
    NamePrefix(String),
}

impl LocalDevices {
    fn hold(&self, link: &Link, bridge: Option<&Link>, role: Role) -> bool {
        let mut names = std::iter::once(link).chain(bridge).map(|link| link.name.as_str());
        match self {
            Self::Pods => role == Role::Pod,
            Self::Bridge(bridge) => names.any(|name| name == bridge),
            Self::NamePrefix(prefix) => names.any(|name| name.starts_with(prefix)),
        }
    }
}

/// What a device leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Out of the node.
    Node,
    /// To pods.
    Pod,
    /// To other nodes, inside a tunnel.
    Tunnel,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Pod => "pod",
            Self::Tunnel => "tunnel",
        })
    }
}

/// The program for packets that enter by a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ingress {
    /// A bottom device with Ethernet header.
    Ethernet,
    /// A bottom device without link-layer header.
    BareIp,
    /// A device stacked on another, with Ethernet header.
    Stacked,
    /// A device stacked on another, without link-layer header.
    StackedBareIp,
    /// A port of a bridge.
    BridgePort,
}

/// The program for packets that leave by a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Egress {
    /// With Ethernet header.
    Ethernet,
    /// Without link-layer header.
    BareIp,
}

/// The hooks of one device and what they must know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hooks {
    /// What it leads to.
    pub role: Role,
    /// What enters here is local traffic.
    pub local: bool,
    /// Program at ingress.
    pub ingress: Ingress,
    /// Program at egress.
    pub egress: Egress,
    /// Hardware address of frames that are the node's to route: its own, on a bridge port the bridge's.
    pub mac: Option<Mac>,
    /// Index of the device by which the IP stack sees packets come: of a bridge port the bridge's.
    pub input: u32,
    /// A packet can be put in at its other end, in another network namespace.
    pub peer: bool,
    /// Source of masqueraded IPv4 packets that leave by it.
    pub masquerade4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub masquerade6: Option<Ipv6Addr>,
}

/// What becomes of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// It gets these hooks.
    Hooked(Hooks),
    /// It gets none, for this reason.
    Left(Reason),
}

/// Why a device gets no hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The loopback device.
    Loopback,
    /// It matches `--exclude-devices`.
    Excluded,
    /// It leads out of the node, but does not match `--devices`.
    NotSelected,
    /// Its packets pass the named device, which has hooks if it needs them.
    MemberOf(String),
    /// It only carries addresses.
    NoPackets,
    /// Its packets begin with a header that the datapath cannot parse; the kernel's `ARPHRD_` number.
    UnknownHeader(u16),
    /// Of a kind that this agent does not know, and without an address of the node.
    UnknownKind(String),
    /// It is down and has no address.
    Unused,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Excluded => f.write_str("matches --exclude-devices"),
            Self::NotSelected => f.write_str("leads out of the node and does not match --devices"),
            Self::MemberOf(master) => write!(f, "its packets pass {master}"),
            Self::NoPackets => f.write_str("carries addresses, not packets"),
            Self::UnknownHeader(number) => write!(f, "unknown link-layer header (hardware type {number})"),
            Self::UnknownKind(kind) => write!(f, "of kind {kind}, without a global address"),
            Self::Unused => f.write_str("down and without address"),
        }
    }
}

/// Decides about one device. `node` are the addresses of the node, from the same topology.
pub fn classify(link: &Link, topology: &Topology, node: &NodeAddresses, options: &Options) -> Attachment {
    match hooks(link, topology, node, options) {
        Ok(hooks) => Attachment::Hooked(hooks),
        Err(reason) => Attachment::Left(reason),
    }
}

fn hooks(link: &Link, topology: &Topology, node: &NodeAddresses, options: &Options) -> Result<Hooks, Reason> {
    let matches = |pattern: &Option<Regex>| pattern.as_ref().is_some_and(|pattern| pattern.is_match(&link.name));
    if link.kind == Kind::Loopback {
        return Err(Reason::Loopback);
    }
    if matches(&options.excluded) {
        return Err(Reason::Excluded);
    }
    let bridge = topology.master(link).filter(|master| master.kind == Kind::Bridge);
    let mut role = natural_role(link, topology)?;
    if options.node_devices.is_some() && bridge.is_none() {
        match (role, matches(&options.node_devices)) {
            (Role::Pod, true) => role = Role::Node,
            (Role::Node, false) => return Err(Reason::NotSelected),
            (Role::Node | Role::Tunnel, true) | (Role::Pod | Role::Tunnel, false) => {}
        }
    }
    let (ingress, egress) = programs(link, bridge.is_some())?;
    let holders = || std::iter::once(link).chain(bridge).map(|holder| holder.index);
    Ok(Hooks {
        role,
        local: options.local.hold(link, bridge, role),
        ingress,
        egress,
        mac: bridge.unwrap_or(link).mac,
        input: bridge.unwrap_or(link).index,
        peer: link.peer_elsewhere && role == Role::Pod,
        masquerade4: holders().find_map(|index| topology.primary4(index)).or(node.primary4),
        masquerade6: holders().find_map(|index| topology.primary6(index)).or(node.primary6),
    })
}

/// The role that the table of this module gives, or why there is none.
fn natural_role(link: &Link, topology: &Topology) -> Result<Role, Reason> {
    let master = topology.master(link);
    let bridged = master.is_some_and(|master| master.kind == Kind::Bridge);
    if let Some(master) = master
        && !bridged
        && !matches!(&master.kind, Kind::Other(name) if name == "vrf")
    {
        return Err(Reason::MemberOf(master.name.clone()));
    }
    let addresses = topology.addresses(link.index);
    let default_route = topology.has_default_route(link.index);
    let role = match &link.kind {
        Kind::Loopback => return Err(Reason::Loopback),
        Kind::Dummy => return Err(Reason::NoPackets),
        Kind::Other(name) if matches!(name.as_str(), "vrf" | "ifb" | "nlmon" | "can" | "vcan" | "vxcan") => {
            return Err(Reason::NoPackets);
        }
        Kind::Other(name) if !addresses.iter().any(|address| address.global) => {
            return Err(Reason::UnknownKind(name.clone()));
        }
        Kind::Tunnel | Kind::WireGuard | Kind::Tun => Role::Tunnel,
        Kind::Physical | Kind::Bond | Kind::Stacked | Kind::Other(_) => Role::Node,
        Kind::Bridge if default_route || topology.has_wire(link.index) => Role::Node,
        Kind::Bridge => return Ok(Role::Pod),
        Kind::Veth | Kind::Tap if !bridged && (default_route || in_subnet(link, topology)) => Role::Node,
        // Most of them are hooked before they are up, so that a pod's first packet is seen.
        Kind::Veth | Kind::Tap => return Ok(Role::Pod),
    };
    if !link.up && !bridged && addresses.is_empty() { Err(Reason::Unused) } else { Ok(role) }
}

/// Whether the device has an address by which it reaches a subnet. Pods' veths have none, or one that
/// stands alone (a gateway's address with prefix length 32 on each of them).
fn in_subnet(link: &Link, topology: &Topology) -> bool {
    topology.addresses(link.index).iter().any(|address| address.global && address.has_subnet())
}

/// Whether the device leads out of the node by itself, whatever the user said.
pub(super) fn leads_out(link: &Link, topology: &Topology) -> bool {
    natural_role(link, topology) == Ok(Role::Node)
}

fn programs(link: &Link, bridged: bool) -> Result<(Ingress, Egress), Reason> {
    let stacked = matches!(link.kind, Kind::Bond | Kind::Stacked | Kind::Bridge | Kind::Tunnel);
    match (link.header, bridged, stacked) {
        (Header::Unknown(number), _, _) => Err(Reason::UnknownHeader(number)),
        (Header::Ethernet, true, _) => Ok((Ingress::BridgePort, Egress::Ethernet)),
        (Header::Ethernet, false, true) => Ok((Ingress::Stacked, Egress::Ethernet)),
        (Header::Ethernet, false, false) => Ok((Ingress::Ethernet, Egress::Ethernet)),
        (Header::None, _, true) => Ok((Ingress::StackedBareIp, Egress::BareIp)),
        (Header::None, _, false) => Ok((Ingress::BareIp, Egress::BareIp)),
    }
}

#[cfg(test)]
mod tests;
