//! Services of all kinds and who asks for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use svclb_common::service::{flag, scope};

use super::dice::Dice;
use super::{SCTP, TCP, UDP};
use crate::world::{BackendSpec, NODE4, NODE6, ServiceSpec};

/// Endpoints of each family: a pod of this node, one elsewhere, and a pod of this node that is a client too.
const PODS: [[&str; 3]; 2] =
    [["10.244.1.7", "10.244.2.7", "10.244.1.5"], ["fd00:10:244:1::7", "fd00:10:244:2::7", "fd00:10:244:1::5"]];

/// Services, by family and protocol.
static SERVICES: LazyLock<[[Vec<ServiceSpec>; 3]; 2]> =
    LazyLock::new(|| [false, true].map(|v6| [TCP, UDP, SCTP].map(|protocol| make(v6, protocol))));

/// Services of all kinds, for one family and one protocol.
pub(super) fn services(v6: bool, protocol: u8) -> &'static [ServiceSpec] {
    let of_family = &SERVICES[usize::from(v6)];
    match protocol {
        TCP => &of_family[0],
        UDP => &of_family[1],
        _ => &of_family[2],
    }
}

fn endpoint(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

fn make(v6: bool, protocol: u8) -> Vec<ServiceSpec> {
    let pods = PODS[usize::from(v6)];
    let (prefix, node): (&str, IpAddr) = if v6 { ("fd00:10:96::", NODE6.into()) } else { ("10.96.0.", NODE4.into()) };
    let offset = match protocol {
        TCP => 0,
        UDP => 100,
        _ => 200,
    };
    let cluster = |n: u16| endpoint(&format!("{prefix}{n}"), 80);
    let outside = |n: u16| endpoint(&if v6 { format!("2001:db8:7::{n}") } else { format!("203.0.113.{n}") }, 80);
    let backend = |pod: usize, port: u16| BackendSpec { endpoint: endpoint(pods[pod], port), local: pod != 1 };
    let spec = |n: u16, backends: Vec<BackendSpec>, flags: u32, affinity: u32| ServiceSpec {
        protocol,
        frontends: vec![
            (cluster(n), scope::CLUSTER),
            (SocketAddr::new(node, 30_000 + offset + n), scope::NODE_PORT),
            (outside(n), scope::LOAD_BALANCER),
            (outside(n + 20), scope::EXTERNAL),
        ],
        backends,
        flags,
        affinity,
        ranges: Vec::new(),
    };
    let cut = if protocol == TCP { flag::CUT } else { 0 };
    let network = if v6 { "2001:db8:2::" } else { "198.51.100.0" };
    let mut guarded = spec(4, vec![backend(1, 8004)], flag::SOURCE_RANGES, 0);
    guarded.ranges = vec![(if v6 { 48 } else { 24 }, network.parse().expect("an address"))];
    vec![
        spec(1, vec![backend(0, 8001), backend(1, 8001), backend(2, 8001)], 0, 0),
        spec(2, Vec::new(), 0, 0),
        spec(3, vec![backend(1, 8003)], flag::INTERNAL_LOCAL | flag::EXTERNAL_LOCAL, 0),
        guarded,
        spec(5, (0..8).map(|n| backend(n % 2, 8050 + n as u16)).collect(), cut, 60),
        spec(6, vec![backend(2, 8006)], 0, 0),
    ]
}

/// Addresses of clients: a pod of this node that is an endpoint too, two hosts outside, a pod elsewhere.
const CLIENTS4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 244, 1, 5),
    Ipv4Addr::new(198, 51, 100, 10),
    Ipv4Addr::new(192, 0, 2, 77),
    Ipv4Addr::new(10, 244, 2, 9),
];
/// The same of IPv6.
const CLIENTS6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 5),
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10),
    Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 0x33),
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 9),
];

/// A client. Few, so that flows meet again; now and then a new one, or one that nobody may answer.
pub(super) fn client(dice: &mut Dice, v6: bool) -> SocketAddr {
    let port = if dice.one_in(2) { 1 + dice.below(60_000) as u16 } else { 1000 + dice.below(30) as u16 };
    let (of_many, n, known) = (dice.below(12), 1 + dice.below(250) as u8, dice.below(4));
    let ip = match (of_many, v6) {
        (0, false) => IpAddr::V4(Ipv4Addr::new(224, 0, 0, 9)),
        (0, true) => IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 9)),
        (1..4, false) => IpAddr::V4(Ipv4Addr::new(10, 244, 9, n)),
        (1..4, true) => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 9, 0, 0, 0, n as u16)),
        (_, false) => IpAddr::V4(CLIENTS4[known]),
        (_, true) => IpAddr::V6(CLIENTS6[known]),
    };
    SocketAddr::new(ip, port)
}

/// Endpoints, and clients that have ways of their own.
pub(super) fn ends() -> &'static [IpAddr] {
    static ENDS: LazyLock<Vec<IpAddr>> = LazyLock::new(|| {
        let clients4 = CLIENTS4.iter().copied().map(IpAddr::from);
        let clients6 = CLIENTS6.iter().copied().map(IpAddr::from);
        clients4.chain(clients6).chain(PODS.as_flattened().iter().map(|pod| pod.parse().expect("an address"))).collect()
    });
    &ENDS
}

/// An address that only Services may have, and none has.
pub(super) const fn unused(v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xffff))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 96, 0, 255))
    }
}

/// First Service number and first backend number of a protocol, in each family.
pub(super) const fn base(protocol: u8) -> (u32, u32) {
    match protocol {
        TCP => (0, 0),
        UDP => (10, 100),
        _ => (20, 180),
    }
}
