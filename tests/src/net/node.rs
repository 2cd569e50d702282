//! A node: a namespace that forwards for its pods.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    address::{self, Families, Pair, on_node_network},
    lab::{LabOptions, Offload, Underlay},
    netns::Netns,
    pod::{Pod, PodNetwork},
};

/// The bridge of bridged pods.
pub(super) const BRIDGE: &str = "cni0";

/// A node of the lab. Its device `eth0` leads to the router.
#[derive(Debug)]
pub struct Node {
    number: u8,
    name: String,
    netns: Netns,
    address: Pair,
    options: LabOptions,
    hosts: Arc<Mutex<HostNumbers>>,
    bridge: Mutex<bool>,
}

impl Node {
    /// Wires the ways to the other nodes' pods.
    pub(super) fn new(number: u8, netns: Netns, options: LabOptions) -> Result<Self> {
        for other in options.numbers().filter(|&other| other != number) {
            let lines = match options.underlay {
                Underlay::Direct => direct_way(options.families, other),
                Underlay::Vxlan => vxlan_way(options.families, number, other),
            };
            netns.ip(&lines)?;
            if options.underlay == Underlay::Vxlan {
                netns.features("vxlan0", options.offload.of_router())?;
            }
        }
        Ok(Self {
            number,
            name: format!("node{number}"),
            netns,
            address: on_node_network(10 + number),
            options,
            hosts: Arc::default(),
            bridge: Mutex::new(false),
        })
    }

    /// Its number, from 1 on.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its name: `node1`, `node2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its addresses, on `eth0`. In a lab with IPv6 alone the other one is nobody's.
    pub fn address(&self) -> Pair {
        self.address
    }

    /// The families that it and its pods have.
    pub fn families(&self) -> Families {
        self.options.families
    }

    /// The ranges of its pods, IPv4 first.
    pub fn pod_prefixes(&self) -> [String; 2] {
        address::pod_prefixes(self.number)
    }

    /// Its object in the cluster, as an API server would show it.
    pub fn object(&self) -> Value {
        let families = self.families();
        let addresses = self.address.both().map(|address| json!({ "type": "InternalIP", "address": address }));
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.name, "labels": { "kubernetes.io/hostname": self.name } },
            "spec": { "podCIDRs": families.of(self.pod_prefixes()) },
            "status": { "addresses": families.of(addresses), "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    }

    /// The addresses that pods have their default routes through, where the node has some for that: on the bridge of
    /// bridged pods, and on the host end of each pod of [`PodNetwork::Ptp`].
    pub fn gateway_address(&self) -> Pair {
        address::pod(self.number, 1)
    }

    /// The source that a pod sees when this node masquerades a packet to it: the address of the device by
    /// which the packet leaves this node, and the node's own where that device has none.
    pub fn masquerade_address(&self, pods_node: u8, network: PodNetwork) -> Pair {
        match (pods_node == self.number, network, self.options.underlay) {
            (true, PodNetwork::Routed, _) | (false, _, Underlay::Direct) => self.address,
            (true, PodNetwork::Bridged | PodNetwork::Ptp, _) => self.gateway_address(),
            (false, _, Underlay::Vxlan) => tunnel_end(self.number),
        }
    }

    /// The sources that other nodes see where this one masquerades packets to their pods.
    pub fn addresses_seen_elsewhere(&self) -> [IpAddr; 2] {
        match self.options.underlay {
            Underlay::Direct => self.address.both(),
            Underlay::Vxlan => tunnel_end(self.number).both(),
        }
    }

    /// Lets it forward packets of so many bytes and no longer ones. What it sends to other nodes themselves, tunnelled
    /// packets too, stays as it is.
    pub fn narrow_routes(&self, mtu: u32) -> Result<()> {
        self.netns.narrow_routes(mtu, |route| !(route.contains("dev eth0") && route.contains("proto kernel")))
    }

    /// The MTU of its pods' devices.
    pub(super) fn pod_mtu(&self) -> u32 {
        match self.options.underlay {
            Underlay::Direct => LINK_MTU,
            Underlay::Vxlan => tunnel_mtu(self.families()),
        }
    }

    /// Makes a pod: a namespace with one device, two addresses and default routes, reachable at once.
    pub fn pod(&self, name: &str, network: PodNetwork) -> Result<Pod> {
        let host = HostNumber::take(&self.hosts)?;
        if network == PodNetwork::Bridged {
            self.need_bridge()?;
        }
        let offload = self.options.offload;
        let sums_done = offload != Offload::Off || host.number % 2 == 0;
        let pod = Pod::new(name, self, network, host)?;
        self.netns.features(pod.device(), offload.of_router())?;
        if sums_done {
            pod.netns().features("eth0", offload.of_sender())?;
        }
        Ok(pod)
    }

    /// Makes the bridge unless it is there.
    fn need_bridge(&self) -> Result<()> {
        let mut there = self.bridge.lock().unwrap_or_else(PoisonError::into_inner);
        if *there {
            return Ok(());
        }
        let (own, mtu) = (self.gateway_address(), self.pod_mtu());
        // A bridge without a hardware address of its own has the lowest one of its ports, so that a new pod
        // could change it, and the others' packets would go to the old one until they ask again.
        let hardware = format!("02:00:00:00:01:{:02x}", self.number);
        self.netns.ip(&format!(
            "link add {BRIDGE} mtu {mtu} address {hardware} type bridge\n\
             link set {BRIDGE} up\n\
             {}",
            self.families().of(subnet_addresses(BRIDGE, own)).concat()
        ))?;
        self.netns.features(BRIDGE, self.options.offload.of_router())?;
        *there = true;
        Ok(())
    }
}

/// The lines that give a device an address in each family's subnet of a node's pods.
pub(super) fn subnet_addresses(device: &str, own: Pair) -> [String; 2] {
    [format!("address add {}/24 dev {device}\n", own.v4), format!("address add {}/64 dev {device} nodad\n", own.v6)]
}

/// Routes to the pods of another node through its address.
fn direct_way(families: Families, other: u8) -> String {
    let ([v4, v6], via) = (address::pod_prefixes(other), on_node_network(10 + other));
    families.of([format!("route add {v4} via {}\n", via.v4), format!("route add {v6} via {}\n", via.v6)]).concat()
}

/// The MTU of devices that are no tunnels.
const LINK_MTU: u32 = 1500;

/// The MTU of VXLAN devices: an Ethernet header, UDP, VXLAN and the outer IP header are added to what is inside.
fn tunnel_mtu(families: Families) -> u32 {
    match families {
        Families::Both => LINK_MTU - 50,
        Families::Ipv6 => LINK_MTU - 70,
    }
}

/// A VXLAN device with fixed neighbours, as flannel sets it up. Outer packets are IPv4 where there is IPv4.
fn vxlan_way(families: Families, own: u8, other: u8) -> String {
    let [v4, v6] = address::pod_prefixes(other);
    let (own_end, other_end) = (tunnel_end(own), tunnel_end(other));
    let outer = |node: u8| families.of(on_node_network(10 + node).both()).swap_remove(0);
    let hardware = |node: u8| format!("02:00:00:00:00:{node:02x}");
    let device = format!(
        "link add vxlan0 address {} mtu {} type vxlan id 1 local {} remote {} dev eth0 dstport 4789 nolearning\n\
         link set vxlan0 up\n",
        hardware(own),
        tunnel_mtu(families),
        outer(own),
        outer(other),
    );
    let way = |own_end: String, other_end: IpAddr, pods: String| {
        format!(
            "address add {own_end} dev vxlan0\n\
             neighbour add {other_end} lladdr {} dev vxlan0 nud permanent\n\
             route add {pods} via {other_end} dev vxlan0 onlink\n",
            hardware(other)
        )
    };
    let v4 = way(format!("{}/32", own_end.v4), other_end.v4.into(), v4);
    let v6 = way(format!("{}/128 nodad", own_end.v6), other_end.v6.into(), v6);
    device + &families.of([v4, v6]).concat()
}

/// The address of a node's VXLAN device.
fn tunnel_end(node: u8) -> Pair {
    address::pod(node, 2)
}

/// The host numbers in use on a node. Numbers are given in turn, so that one just freed rests a while.
#[derive(Debug, Default)]
pub(super) struct HostNumbers {
    used: BTreeSet<u8>,
    last: u8,
}

/// A host number of a node's pod range, given back when dropped.
#[derive(Debug)]
pub(super) struct HostNumber {
    pub(super) number: u8,
    from: Arc<Mutex<HostNumbers>>,
}

impl HostNumber {
    /// The next free number between 10 and 250.
    fn take(from: &Arc<Mutex<HostNumbers>>) -> Result<Self> {
        let mut numbers = from.lock().unwrap_or_else(PoisonError::into_inner);
        let after = numbers.last.max(9);
        let number = (after + 1..=250)
            .chain(10..=after)
            .find(|candidate| !numbers.used.contains(candidate))
            .context("all pod addresses of this node are in use")?;
        numbers.used.insert(number);
        numbers.last = number;
        Ok(Self { number, from: Arc::clone(from) })
    }
}

impl Drop for HostNumber {
    fn drop(&mut self) {
        self.from.lock().unwrap_or_else(PoisonError::into_inner).used.remove(&self.number);
    }
}
