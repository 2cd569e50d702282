//! A network device as the kernel describes it.

use std::fmt;

/// A hardware address, in the order of the wire.
pub type Mac = [u8; 6];

/// A device of the agent's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What its packets begin with.
    pub header: Header,
    /// Administratively up.
    pub up: bool,
    /// Index of the bridge, bond or other device that it belongs to.
    pub master: Option<u32>,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<Mac>,
    /// Of one end of a pair: the other is in another network namespace.
    pub peer_elsewhere: bool,
}

/// Kinds of devices, as far as they differ for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The loopback device.
    Loopback,
    /// A device that leads to a wire or a radio, of the machine or of its hypervisor.
    Physical,
    /// Several devices that act as one (bond, team).
    Bond,
    /// A part of another device: VLAN, macvlan, ipvlan, MACsec.
    Stacked,
    /// A bridge.
    Bridge,
    /// One end of a pair (veth, netkit).
    Veth,
    /// A device that a process serves with Ethernet frames, mostly a virtual machine.
    Tap,
    /// A device that a process serves with IP packets, mostly a VPN.
    Tun,
    /// A tunnel of the kernel: VXLAN, Geneve, GRE, IP in IP and their like.
    Tunnel,
    /// `WireGuard`.
    WireGuard,
    /// A device that drops all it is given; it carries addresses only.
    Dummy,
    /// Anything else, by the kernel's name for it.
    Other(String),
}

impl Kind {
    /// From the kernel's name of the kind (empty for devices with a driver) and what packets begin with.
    pub(super) fn new(name: &str, header: Header, loopback: bool) -> Self {
        match name {
            "" if loopback => Self::Loopback,
            "" | "ppp" | "wwan" | "rmnet" | "virt_wifi" | "netdevsim" => Self::Physical,
            "bond" | "team" => Self::Bond,
            "vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "macsec" => Self::Stacked,
            "bridge" => Self::Bridge,
            "veth" | "netkit" => Self::Veth,
            "tun" if header == Header::Ethernet => Self::Tap,
            "tun" => Self::Tun,
            "vxlan" | "geneve" | "bareudp" | "gretap" | "ip6gretap" | "erspan" | "ip6erspan" | "gre" | "ip6gre"
            | "ipip" | "sit" | "ip6tnl" | "vti" | "vti6" | "xfrm" => Self::Tunnel,
            "wireguard" => Self::WireGuard,
            "dummy" => Self::Dummy,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "loopback",
            Self::Physical => "physical",
            Self::Bond => "bond",
            Self::Stacked => "stacked",
            Self::Bridge => "bridge",
            Self::Veth => "veth",
            Self::Tap => "tap",
            Self::Tun => "tun",
            Self::Tunnel => "tunnel",
            Self::WireGuard => "wireguard",
            Self::Dummy => "dummy",
            Self::Other(name) => name,
        })
    }
}

/// What the packets of a device begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// An Ethernet header of 14 bytes.
    Ethernet,
    /// Nothing: the IP header comes first.
    None,
    /// Something that the datapath cannot parse; the kernel's `ARPHRD_` number.
    Unknown(u16),
}

impl Header {
    /// From the kernel's `ARPHRD_` number (linux/if_arp.h).
    pub(super) const fn new(hardware_type: u16) -> Self {
        match hardware_type {
            // ETHER and LOOPBACK
            1 | 772 => Self::Ethernet,
            // PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE
            512 | 519 | 768 | 769 | 776 | 778 | 823 | 0xfffe => Self::None,
            other => Self::Unknown(other),
        }
    }

    /// Its length in bytes, if the datapath can parse it.
    pub const fn length(self) -> Option<usize> {
        match self {
            Self::Ethernet => Some(14),
            Self::None => Some(0),
            Self::Unknown(_) => None,
        }
    }
}
