//! Policy: what the tables should hold, as a pure function of what is known.
//!
//! One Service and its slices become one [`PortTables`] per port and family. No numbers yet, no
//! maps, no order of writes: those are [`crate::ids`] and [`crate::plan`]. Each part of the policy is
//! one file: [`endpoints`] merges slices, [`topology`] and [`traffic_policy`] choose among endpoints,
//! [`frontends`] says where clients reach the port, [`node_ports`] on which addresses of the node,
//! [`affinity`] and [`source_ranges`] say who is kept where and who is let in; [`services`] puts them
//! together. [`health_checks`] says what load balancers are told.

pub mod affinity;
pub mod datapath_config;
pub mod endpoints;
pub mod frontends;
pub mod health_checks;
pub mod node_ports;
pub mod services;
pub mod sorted;
pub mod source_ranges;
pub mod topology;
pub mod traffic_policy;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use svclb_common::addr::Be16;
use svclb_common::schema::ServiceKey;
use svclb_common::service::{backend_flag, flag, scope};

use crate::model::FamilyAddress;
use sorted::Sorted;

/// What a Service's tables depend on besides the Service and its slices.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Place {
    /// Name of this node, lower case.
    pub node_name: Arc<str>,
    /// Zone of this node.
    pub zone: Option<Arc<str>>,
    /// Addresses on which node ports are served, both families.
    pub node_port_addresses: Vec<IpAddr>,
    /// Whether node ports are served on loopback addresses too, which only the node's own processes reach.
    pub loopback_node_ports: bool,
    /// All addresses of this node, both families: a source range that holds one of them admits the
    /// node's own processes.
    pub node_addresses: Vec<IpAddr>,
    /// External IPs are served only inside these; everywhere without.
    pub external_ip_cidrs: Option<Vec<IpNet>>,
    /// Load balancer addresses and external IPs that are not this node's answer echo requests.
    pub ping_services: bool,
}

/// An endpoint's address and port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target<A> {
    /// Address.
    pub address: A,
    /// Port.
    pub port: Be16,
}

/// The tables of one Service port in one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortTables<A: FamilyAddress> {
    /// Where clients reach it: key and scope (see `svclb_common::service::scope`). Holds the mark of
    /// the cluster IP as well.
    pub frontends: Sorted<ServiceKey<A>, u8>,
    /// Flags of SERVICE, see `svclb_common::service::flag`.
    pub flags: u32,
    /// Affinity timeout in seconds, 0 without affinity.
    pub affinity_seconds: u32,
    /// Every endpoint that serves, with the lists that hold it (`svclb_common::service::backend_flag`;
    /// 0 for one that only keeps the flows it has).
    pub backends: Sorted<Target<A>, u8>,
    /// Sources that load balancer addresses admit, as address and prefix length. Only meaningful with
    /// the flag `SOURCE_RANGES`.
    pub source_ranges: Vec<(A, u8)>,
}

impl<A: FamilyAddress> PortTables<A> {
    /// Whether packets to the frontends of the internal and of the external traffic policy are dropped on
    /// this node: the policy is Local, and only other nodes have endpoints.
    pub fn lacks_local(&self) -> [bool; 2] {
        let elsewhere = self.flags & flag::HAS_ENDPOINTS != 0 && self.list(backend_flag::IN_LOCAL).next().is_none();
        let external = [scope::NODE_PORT, scope::LOAD_BALANCER, scope::EXTERNAL];
        let has = |scopes: &[u8]| self.frontends.iter().any(|(_, scope)| scopes.contains(scope));
        let internal_local = self.flags & flag::INTERNAL_LOCAL != 0 && has(&[scope::CLUSTER]);
        let external_local = self.flags & flag::EXTERNAL_LOCAL != 0 && has(&external);
        [elsewhere && internal_local, elsewhere && external_local]
    }

    /// The endpoints of a list, in the order of the slots.
    pub fn list(&self, flag: u8) -> impl Iterator<Item = &Target<A>> {
        self.backends.iter().filter(move |(_, lists)| *lists & flag != 0).map(|(target, _)| target)
    }
}
