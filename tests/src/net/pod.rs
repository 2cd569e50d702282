//! A pod: a namespace behind a node.

use std::net::IpAddr;

use anyhow::Result;

use super::{
    address::{self, Families, Pair},
    answerer::Answerer,
    link::{ANSWERS_EVERYBODY, BUSY_CLIENT, QUICK_IPV6},
    netns::Netns,
    node::{BRIDGE, HostNumber, Node, subnet_addresses},
};

/// How pods are wired to their node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PodNetwork {
    /// A veth pair and a host route to each pod; the node answers for the pod's next hop, as Calico does it.
    #[default]
    Routed,
    /// Ports of a Linux bridge that has the node's address of the pod range, as flannel and kindnet do it.
    Bridged,
    /// A veth pair and a host route to each pod; every host end has the gateway's address, which stands alone there, and
    /// the pod reaches its own subnet through that, too. As the CNI plugin `ptp` does it.
    Ptp,
}

/// The hardware address of the node's end in routed pods: the next hop never needs to be asked for.
const NEXT_HOP_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// A pod of the lab. Dropping it takes its device and its addresses away.
#[derive(Debug)]
pub struct Pod {
    name: String,
    node: u8,
    network: PodNetwork,
    families: Families,
    netns: Netns,
    node_netns: Netns,
    address: Pair,
    device: String,
    _host: HostNumber,
}

impl Pod {
    pub(super) fn new(name: &str, node: &Node, network: PodNetwork, host: HostNumber) -> Result<Self> {
        let netns = Netns::new(name)?;
        netns.sysctls(QUICK_IPV6)?;
        netns.sysctls(BUSY_CLIENT)?;
        netns.sysctls(ANSWERS_EVERYBODY)?;
        let address = address::pod(node.number(), host.number);
        let (device, families) = (format!("pod{}", host.number), node.families());
        let wiring = Wiring { device: &device, address, gateway: node.gateway_address(), subnets: node.pod_prefixes() };
        let hardware = if network == PodNetwork::Routed { format!("address {NEXT_HOP_MAC}") } else { String::new() };
        let master = if network == PodNetwork::Bridged { format!("master {BRIDGE}") } else { String::new() };
        let (path, mtu) = (netns.path(), node.pod_mtu());
        node.netns().ip(&format!(
            "link add {device} mtu {mtu} {hardware} type veth peer name eth0 mtu {mtu} netns {path}\n\
             link set {device} {master} up\n\
             {}",
            families.of(wiring.outside(network)).concat()
        ))?;
        netns.ip(&format!("link set eth0 up\n{}", families.of(wiring.inside(network)).concat()))?;
        Ok(Self {
            name: name.to_owned(),
            node: node.number(),
            network,
            families,
            netns,
            node_netns: node.netns().clone(),
            address,
            device,
            _host: host,
        })
    }

    /// The name given to [`Node::pod`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its node.
    pub fn node(&self) -> u8 {
        self.node
    }

    /// How it is wired.
    pub fn network(&self) -> PodNetwork {
        self.network
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its addresses. In a lab with IPv6 alone the other one is nobody's.
    pub fn address(&self) -> Pair {
        self.address
    }

    /// The addresses that it has.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.families.of(self.address.both())
    }

    /// The node's end of its veth pair.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Starts its answerer on `ports`, HTTP and UDP.
    pub fn answer(&self, ports: &[u16]) -> Result<Answerer> {
        Answerer::start(&self.netns, &self.name, &self.addresses(), ports)
    }
}

/// What both ends of a pod's pair of devices have to be told, for each family the lines of its own.
struct Wiring<'a> {
    /// The node's end.
    device: &'a str,
    /// The pod's.
    address: Pair,
    gateway: Pair,
    subnets: [String; 2],
}

impl Wiring<'_> {
    /// On the node.
    fn outside(&self, network: PodNetwork) -> [String; 2] {
        let Self { device, address: inside, gateway, .. } = self;
        match network {
            PodNetwork::Routed => [
                format!("route add {}/32 dev {device}\n", inside.v4),
                format!(
                    "address add fe80::1/64 dev {device} nodad\n\
                     route add {}/128 dev {device}\n",
                    inside.v6
                ),
            ],
            PodNetwork::Bridged => Default::default(),
            PodNetwork::Ptp => [
                format!(
                    "address add {}/32 dev {device}\n\
                     route add {}/32 dev {device} scope host\n",
                    gateway.v4, inside.v4
                ),
                format!(
                    "address add {}/128 dev {device} nodad\n\
                     route add {}/128 dev {device}\n",
                    gateway.v6, inside.v6
                ),
            ],
        }
    }

    /// In the pod.
    fn inside(&self, network: PodNetwork) -> [String; 2] {
        let Self { address: own, gateway, subnets: [subnet4, subnet6], .. } = self;
        match network {
            PodNetwork::Routed => [
                format!(
                    "address add {}/32 dev eth0\n\
                     neighbour add 169.254.1.1 lladdr {NEXT_HOP_MAC} dev eth0 nud permanent\n\
                     route add 169.254.1.1 dev eth0 scope link\n\
                     route add default via 169.254.1.1 dev eth0\n",
                    own.v4
                ),
                format!(
                    "address add {}/128 dev eth0 nodad\n\
                     neighbour add fe80::1 lladdr {NEXT_HOP_MAC} dev eth0 nud permanent\n\
                     route add default via fe80::1 dev eth0\n",
                    own.v6
                ),
            ],
            PodNetwork::Bridged => {
                let [own4, own6] = subnet_addresses("eth0", *own);
                [
                    format!("{own4}route add default via {}\n", gateway.v4),
                    format!("{own6}route add default via {}\n", gateway.v6),
                ]
            }
            PodNetwork::Ptp => [
                format!(
                    "address add {own}/24 dev eth0 noprefixroute\n\
                     route add {gateway}/32 dev eth0 scope link\n\
                     route add {subnet4} via {gateway}\n\
                     route add default via {gateway}\n",
                    own = own.v4,
                    gateway = gateway.v4,
                ),
                format!(
                    "address add {own}/64 dev eth0 nodad noprefixroute\n\
                     route add {gateway}/128 dev eth0\n\
                     route add {subnet6} via {gateway}\n\
                     route add default via {gateway}\n",
                    own = own.v6,
                    gateway = gateway.v6,
                ),
            ],
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Without it the device would stay until the last socket inside the pod is closed.
        if let Err(error) = self.node_netns.ip(&format!("link delete {}\n", self.device)) {
            tracing::warn!("remove the device of pod {}: {error:#}", self.name);
        }
    }
}
