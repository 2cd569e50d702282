//! EndpointSlices: where the endpoints of a Service are.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Family, Protocol, ServiceName};

/// Namespace and name of an `EndpointSlice`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SliceName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of a slice. Ports without a name or number are left out when the slice is decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePort {
    /// Name: the Service port that it serves.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number, never 0.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its first address.
    pub address: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, even if it is about to go.
    pub serving: bool,
    /// Is about to go.
    pub terminating: bool,
    /// Node that it runs on.
    pub node: Option<Arc<str>>,
    /// Who should use it; none if that is left open. Few endpoints have hints, and there are many endpoints.
    pub hints: Option<Box<Hints>>,
}

impl Endpoint {
    /// Zones whose nodes should use it.
    pub fn zone_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    /// Nodes that should use it.
    pub fn node_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }
}

/// Who should use an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hints {
    /// Zones.
    zones: Vec<Arc<str>>,
    /// Nodes.
    nodes: Vec<Arc<str>>,
}

impl Hints {
    /// Hints for zones and nodes; none if there are neither.
    pub fn of(zones: Vec<Arc<str>>, nodes: Vec<Arc<str>>) -> Option<Box<Self>> {
        let some = !zones.is_empty() || !nodes.is_empty();
        some.then(|| Box::new(Self { zones, nodes }))
    }
}

/// What one slice says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    /// Namespace and name.
    pub name: SliceName,
    /// The Service that it belongs to.
    pub service: ServiceName,
    /// Family of its addresses.
    pub family: Family,
    /// Ports, the same for all its endpoints.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When the change happened that led to this state, if whoever made the slice says so.
    pub changed: Option<SystemTime>,
}
