//! A node: a namespace that forwards for its pods.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};

use super::{
    address::{self, Pair, on_node_network},
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
    offload: Offload,
    underlay: Underlay,
    hosts: Arc<Mutex<HostNumbers>>,
    bridge: Mutex<bool>,
}

impl Node {
    /// Wires the ways to the other nodes' pods.
    pub(super) fn new(number: u8, netns: Netns, options: LabOptions) -> Result<Self> {
        for other in options.numbers().filter(|&other| other != number) {
            let lines = match options.underlay {
                Underlay::Direct => direct_way(other),
                Underlay::Vxlan => vxlan_way(number, other),
            };
            netns.ip(&lines)?;
            if options.underlay == Underlay::Vxlan && options.offload == Offload::Off {
                netns.checksum_offload_off("vxlan0")?;
            }
        }
        Ok(Self {
            number,
            name: format!("node{number}"),
            netns,
            address: on_node_network(10 + number),
            offload: options.offload,
            underlay: options.underlay,
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

    /// Its addresses, on `eth0`.
    pub fn address(&self) -> Pair {
        self.address
    }

    /// The ranges of its pods, IPv4 first.
    pub fn pod_prefixes(&self) -> [String; 2] {
        address::pod_prefixes(self.number)
    }

    /// The addresses that pods have their default routes through, where the node has some for that: on the bridge of
    /// bridged pods, and on the host end of each pod of [`PodNetwork::Ptp`].
    pub fn gateway_address(&self) -> Pair {
        address::pod(self.number, 1)
    }

    /// The source that a pod sees when this node masquerades a packet to it: the address of the device by
    /// which the packet leaves this node, and the node's own where that device has none.
    pub fn masquerade_address(&self, pods_node: u8, network: PodNetwork) -> Pair {
        match (pods_node == self.number, network, self.underlay) {
            (true, PodNetwork::Routed, _) | (false, _, Underlay::Direct) => self.address,
            (true, PodNetwork::Bridged | PodNetwork::Ptp, _) => self.gateway_address(),
            (false, _, Underlay::Vxlan) => tunnel_end(self.number),
        }
    }

    /// The sources that other nodes see where this one masquerades packets to their pods.
    pub fn addresses_seen_elsewhere(&self) -> [IpAddr; 2] {
        match self.underlay {
            Underlay::Direct => self.address.both(),
            Underlay::Vxlan => tunnel_end(self.number).both(),
        }
    }

    /// Makes a pod: a namespace with one device, two addresses and default routes, reachable at once.
    pub fn pod(&self, name: &str, network: PodNetwork) -> Result<Pod> {
        let host = HostNumber::take(&self.hosts)?;
        if network == PodNetwork::Bridged {
            self.need_bridge()?;
        }
        let checked = self.offload == Offload::Off;
        let sums_done = checked && host.number % 2 == 0;
        let pod = Pod::new(name, self, network, host)?;
        if checked {
            self.netns.checksum_offload_off(pod.device())?;
        }
        if sums_done {
            pod.netns().checksum_offload_off("eth0")?;
        }
        Ok(pod)
    }

    /// Makes the bridge unless it is there.
    fn need_bridge(&self) -> Result<()> {
        let mut there = self.bridge.lock().unwrap_or_else(PoisonError::into_inner);
        if *there {
            return Ok(());
        }
        let own = self.gateway_address();
        // A bridge without a hardware address of its own has the lowest one of its ports, so that a new pod
        // could change it, and the others' packets would go to the old one until they ask again.
        let hardware = format!("02:00:00:00:01:{:02x}", self.number);
        self.netns.ip(&format!(
            "link add {BRIDGE} address {hardware} type bridge\n\
             link set {BRIDGE} up\n\
             address add {}/24 dev {BRIDGE}\n\
             address add {}/64 dev {BRIDGE} nodad\n",
            own.v4, own.v6
        ))?;
        if self.offload == Offload::Off {
            self.netns.checksum_offload_off(BRIDGE)?;
        }
        *there = true;
        Ok(())
    }
}

/// Routes to the pods of another node through its address.
fn direct_way(other: u8) -> String {
    let [v4, v6] = address::pod_prefixes(other);
    let via = on_node_network(10 + other);
    format!("route add {v4} via {}\nroute add {v6} via {}\n", via.v4, via.v6)
}

/// A VXLAN device with fixed neighbours, as flannel sets it up.
fn vxlan_way(own: u8, other: u8) -> String {
    let [v4, v6] = address::pod_prefixes(other);
    let (own_end, other_end) = (tunnel_end(own), tunnel_end(other));
    let (local, remote) = (on_node_network(10 + own), on_node_network(10 + other));
    let hardware = |node: u8| format!("02:00:00:00:00:{node:02x}");
    format!(
        "link add vxlan0 address {own_mac} mtu 1450 type vxlan id 1 local {local} remote {remote} \
         dev eth0 dstport 4789 nolearning\n\
         link set vxlan0 up\n\
         address add {own_v4}/32 dev vxlan0\n\
         address add {own_v6}/128 dev vxlan0 nodad\n\
         neighbour add {other_v4} lladdr {other_mac} dev vxlan0 nud permanent\n\
         neighbour add {other_v6} lladdr {other_mac} dev vxlan0 nud permanent\n\
         route add {v4} via {other_v4} dev vxlan0 onlink\n\
         route add {v6} via {other_v6} dev vxlan0 onlink\n",
        local = local.v4,
        remote = remote.v4,
        own_mac = hardware(own),
        other_mac = hardware(other),
        own_v4 = own_end.v4,
        own_v6 = own_end.v6,
        other_v4 = other_end.v4,
        other_v6 = other_end.v6,
    )
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
