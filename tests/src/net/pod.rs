//! A pod: a namespace behind a node.

use std::net::IpAddr;

use anyhow::Result;

use super::{
    address::{self, Pair},
    answerer::Answerer,
    link::{BUSY_CLIENT, QUICK_IPV6},
    netns::Netns,
    node::{BRIDGE, HostNumber, Node},
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
        let address = address::pod(node.number(), host.number);
        let device = format!("pod{}", host.number);
        let (inside, path) = (address, netns.path());
        match network {
            PodNetwork::Routed => {
                node.netns().ip(&format!(
                    "link add {device} address {NEXT_HOP_MAC} type veth peer name eth0 netns {path}\n\
                     link set {device} up\n\
                     address add fe80::1/64 dev {device} nodad\n\
                     route add {}/32 dev {device}\n\
                     route add {}/128 dev {device}\n",
                    inside.v4, inside.v6
                ))?;
                netns.ip(&format!(
                    "link set eth0 up\n\
                     address add {}/32 dev eth0\n\
                     address add {}/128 dev eth0 nodad\n\
                     neighbour add 169.254.1.1 lladdr {NEXT_HOP_MAC} dev eth0 nud permanent\n\
                     neighbour add fe80::1 lladdr {NEXT_HOP_MAC} dev eth0 nud permanent\n\
                     route add 169.254.1.1 dev eth0 scope link\n\
                     route add default via 169.254.1.1 dev eth0\n\
                     route add default via fe80::1 dev eth0\n",
                    inside.v4, inside.v6
                ))?;
            }
            PodNetwork::Bridged => {
                let gateway = node.gateway_address();
                node.netns().ip(&format!(
                    "link add {device} type veth peer name eth0 netns {path}\n\
                     link set {device} master {BRIDGE}\n\
                     link set {device} up\n"
                ))?;
                netns.ip(&format!(
                    "link set eth0 up\n\
                     address add {}/24 dev eth0\n\
                     address add {}/64 dev eth0 nodad\n\
                     route add default via {}\n\
                     route add default via {}\n",
                    inside.v4, inside.v6, gateway.v4, gateway.v6
                ))?;
            }
            PodNetwork::Ptp => {
                let gateway = node.gateway_address();
                node.netns().ip(&format!(
                    "link add {device} type veth peer name eth0 netns {path}\n\
                     link set {device} up\n\
                     address add {}/32 dev {device}\n\
                     address add {}/128 dev {device} nodad\n\
                     route add {}/32 dev {device} scope host\n\
                     route add {}/128 dev {device}\n",
                    gateway.v4, gateway.v6, inside.v4, inside.v6
                ))?;
                let [subnet4, subnet6] = node.pod_prefixes();
                netns.ip(&format!(
                    "link set eth0 up\n\
                     address add {}/24 dev eth0 noprefixroute\n\
                     address add {}/64 dev eth0 nodad noprefixroute\n\
                     route add {gateway4}/32 dev eth0 scope link\n\
                     route add {subnet4} via {gateway4}\n\
                     route add default via {gateway4}\n\
                     route add {gateway6}/128 dev eth0\n\
                     route add {subnet6} via {gateway6}\n\
                     route add default via {gateway6}\n",
                    inside.v4,
                    inside.v6,
                    gateway4 = gateway.v4,
                    gateway6 = gateway.v6,
                ))?;
            }
        }
        Ok(Self {
            name: name.to_owned(),
            node: node.number(),
            network,
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

    /// Its addresses.
    pub fn address(&self) -> Pair {
        self.address
    }

    /// The node's end of its veth pair.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Starts its answerer on `ports`, HTTP and UDP.
    pub fn answer(&self, ports: &[u16]) -> Result<Answerer> {
        let addresses: Vec<IpAddr> = self.address.both().into();
        Answerer::start(&self.netns, &self.name, &addresses, ports)
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
