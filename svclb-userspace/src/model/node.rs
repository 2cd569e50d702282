//! The node that the agent runs on.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Family;

/// What the own Node object says.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Node {
    /// `InternalIP` addresses in the order given, then the `ExternalIP` ones.
    pub addresses: Vec<IpAddr>,
    /// The prefixes of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`; an empty one counts as absent.
    pub zone: Option<Arc<str>>,
    /// It has a deletion timestamp, or the cluster autoscaler's taint that says so.
    pub leaving: bool,
}

impl Node {
    /// The node's address of a family: the first internal one, else the first external one.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}
