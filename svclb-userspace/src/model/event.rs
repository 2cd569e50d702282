//! What a source sends.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Node, Service, ServiceName, Slice, SliceName};

/// Kinds of objects that a source lists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Service.
    Service,
    /// `EndpointSlice`.
    Slice,
    /// The own Node.
    Node,
    /// `ServiceCIDR`.
    ServiceCidr,
}

impl Kind {
    /// The kinds whose first complete list the agent waits for.
    pub const REQUIRED: [Self; 3] = [Self::Service, Self::Slice, Self::Node];

    /// Whether it is one of them.
    pub fn is_required(self) -> bool {
        Self::REQUIRED.contains(&self)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::Slice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        })
    }
}

/// One thing that a source learnt.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A list of this kind begins: what is not applied until [`Event::Listed`] is gone.
    ListStarted(Kind),
    /// The list of this kind is complete.
    Listed(Kind),
    /// A Service is new or changed.
    ServiceApplied(Arc<Service>),
    /// A Service is gone, or nothing of it is served any more.
    ServiceDeleted(ServiceName),
    /// A slice is new or changed.
    SliceApplied(Arc<Slice>),
    /// A slice is gone.
    SliceDeleted(SliceName),
    /// The own Node is new or changed.
    NodeApplied(Node),
    /// The own Node is gone.
    NodeDeleted,
    /// A `ServiceCIDR` is new or changed: its name and its prefixes.
    ServiceCidrApplied(Arc<str>, Vec<IpNet>),
    /// A `ServiceCIDR` is gone.
    ServiceCidrDeleted(Arc<str>),
    /// An object, or part of one, cannot be used.
    Bad(Problem),
}

/// The object that a [`Problem`] or [`Notice`] is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Object {
    /// API version, as in `v1`.
    pub api_version: &'static str,
    /// Kind, as in `Service`.
    pub kind: &'static str,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// UID, empty for objects from files.
    pub uid: Arc<str>,
}

impl Object {
    /// A Service by its name alone.
    pub fn service(name: &ServiceName) -> Self {
        let (namespace, name) = (name.namespace.clone(), name.name.clone());
        Self { api_version: "v1", kind: "Service", namespace, name, uid: "".into() }
    }

    /// A Node. Its name stands for its UID, as in the kubelet's Events: `kubectl describe node` looks for that.
    pub fn node(name: &str) -> Self {
        Self { api_version: "v1", kind: "Node", namespace: "".into(), name: name.into(), uid: name.into() }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Why an object, or part of it, is not used. Becomes a log line, a metric and an Event.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Problem {
    /// The object.
    pub object: Object,
    /// A word for machines, in upper camel case.
    pub reason: &'static str,
    /// A sentence for people: what is not used, why, and what to do.
    pub message: String,
}

/// What becomes an Event on an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// The object.
    pub object: Object,
    /// Something is wrong.
    pub warns: bool,
    /// A word for machines, in upper camel case.
    pub reason: &'static str,
    /// What was being done, in upper camel case.
    pub action: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl From<Problem> for Notice {
    fn from(Problem { object, reason, message }: Problem) -> Self {
        Self { object, warns: true, reason, action: "Serve", message }
    }
}
