//! Services and backends as the datapath sees them: the constants in their records, and the lookup
//! of a frontend.

use crate::addr::{Address, Endpoint};
use crate::env::{Env, Peek, Tables};
use crate::frontend_table;
use crate::schema::{Backend, BackendRef, Service, ServiceKey, ServiceRef};

/// Role of a frontend: which policy holds for packets sent to it.
pub mod scope {
    /// A cluster IP: internal traffic policy.
    pub const CLUSTER: u8 = 0;
    /// An address of the node with a node port: external traffic policy.
    pub const NODE_PORT: u8 = 1;
    /// A load balancer's ingress address: external traffic policy and source ranges.
    pub const LOAD_BALANCER: u8 = 2;
    /// An external IP: external traffic policy.
    pub const EXTERNAL: u8 = 3;
    /// Marks a cluster IP as such (key with port 0); belongs to no Service port.
    pub const CLUSTER_ADDRESS: u8 = 4;
    /// The same for a load balancer's address or an external IP, where echo requests to it are answered.
    pub const OTHER_ADDRESS: u8 = 5;

    /// Whether a frontend is such a mark, which belongs to no Service port.
    #[inline(always)]
    pub const fn is_mark(scope: u8) -> bool {
        scope >= CLUSTER_ADDRESS
    }
}

/// Flags of a Service port.
pub mod flag {
    /// `internalTrafficPolicy: Local`.
    pub const INTERNAL_LOCAL: u32 = 1;
    /// `externalTrafficPolicy: Local`.
    pub const EXTERNAL_LOCAL: u32 = 2;
    /// Its load balancer addresses admit only clients in SOURCE_RANGES.
    pub const SOURCE_RANGES: u32 = 4;
    /// Some endpoint of the Service port exists anywhere: with an empty list a packet is dropped, not
    /// refused.
    pub const HAS_ENDPOINTS: u32 = 8;
    /// A TCP connection is cut when its backend goes ([`super::serving`]).
    pub const CUT: u32 = 16;
}

/// State of a backend number.
pub mod backend_state {
    /// No owner, or an endpoint that no longer serves: no flow but an old TCP one may use it.
    pub const GONE: u8 = 0;
    /// Serves, whether or not it may get new flows (that is a matter of the lists).
    pub const SERVING: u8 = 1;
}

/// Lists that hold a backend.
pub mod backend_flag {
    /// In the list for the whole cluster.
    pub const IN_CLUSTER: u8 = 1;
    /// In the list of this node's endpoints.
    pub const IN_LOCAL: u8 = 2;
}

/// What a device can do.
pub mod device_flag {
    /// Its packets begin with an Ethernet header, and it has hooks: direct flows may use it.
    pub const ETHERNET: u32 = 1;
    /// It is one end of a pair whose other end is in another network namespace: a packet can be put in there at once.
    pub const PEER: u32 = 2;
    /// XDP may send frames out of it.
    pub const XDP: u32 = 4;
}

/// Role of a device.
pub mod role {
    /// Leads out of the node.
    pub const NODE: u8 = 1;
    /// Leads to pods.
    pub const POD: u8 = 2;
    /// A tunnel between nodes.
    pub const TUNNEL: u8 = 3;
}

/// What SERVICES says of what a client addresses.
pub enum Frontend {
    /// No Service.
    None,
    /// A port of a cluster IP that no Service has.
    UnknownPort,
    /// A Service port.
    Port(ServiceRef),
    /// The agent kept writing while it was read.
    Unsettled,
}

/// Looks up what a client addresses. Cost: one bucket of SERVICES, two for an address without that port.
#[inline(always)]
pub fn frontend<A: Address, E: Env + Tables<A>>(env: &E, at: Endpoint<A>, protocol: u8) -> Frontend {
    let key = ServiceKey::new(at.address, at.port, protocol);
    let mut found = ServiceRef::default();
    match frontend_table::find(env, &key, &mut found) {
        Peek::BUSY => return Frontend::Unsettled,
        seen if seen.is_found() => return Frontend::Port(found),
        _ => {}
    }
    match whole_address(env, at.address) {
        Whole::ClusterIp => Frontend::UnknownPort,
        Whole::Unsettled => Frontend::Unsettled,
        Whole::None | Whole::Other => Frontend::None,
    }
}

/// What SERVICES says of an address as such, whatever the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whole {
    /// Nothing: no Service, or only some ports of it.
    None,
    /// A cluster IP, which is a Service's with all its ports.
    ClusterIp,
    /// A load balancer's address or an external IP, which answers echo requests.
    Other,
    /// The agent kept writing while it was read.
    Unsettled,
}

/// Looks up an address as such. Cost: one bucket of SERVICES, seldom two.
#[inline(always)]
pub fn whole_address<A: Address, E: Env + Tables<A>>(env: &E, address: A) -> Whole {
    let mut found = ServiceRef::default();
    match frontend_table::find(env, &ServiceKey::whole(address), &mut found) {
        Peek::BUSY => Whole::Unsettled,
        seen if !seen.is_found() => Whole::None,
        _ if found.scope == scope::CLUSTER_ADDRESS => Whole::ClusterIp,
        _ => Whole::Other,
    }
}

/// Reads a Service record that no writer is in the middle of; `None` if it was never written or two
/// attempts met a writer.
#[inline(always)]
pub fn record<A: Address, T: Tables<A>>(tables: &T, number: u32) -> Option<Service> {
    let first = tables.service(number)?;
    if first.before == first.after && first.before != 0 {
        return Some(first);
    }
    let second = tables.service(number)?;
    (second.before == second.after && second.before != 0).then_some(second)
}

/// The backend behind a reference, if its number still has the same owner and it still serves.
#[inline(always)]
pub fn serving<A: Address, T: Tables<A>>(tables: &T, reference: BackendRef) -> Option<Backend<A>> {
    let backend = tables.backend(reference.number())?;
    (backend.generation == reference.generation() && backend.state == backend_state::SERVING).then_some(backend)
}
