//! Services and their ports.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

use super::Family;

/// What Kubernetes sets when a Service asks for affinity and names no timeout: three hours.
pub const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// Namespace and name of a Service. Of the size of a pointer, as many tables hold it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceName(Arc<ServiceNameParts>);

/// The parts of a [`ServiceName`].
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceNameParts {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ServiceName {
    /// From its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(ServiceNameParts { namespace: namespace.into(), name: name.into() }))
    }
}

impl Deref for ServiceName {
    type Target = ServiceNameParts;

    fn deref(&self) -> &ServiceNameParts {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol of a Service port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// From Kubernetes' name; an absent one is TCP.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// `spec.type` of a Service that has something to serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceKind {
    /// `ClusterIP`.
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
}

/// What becomes of a TCP connection when its endpoint serves no more.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum WhenBackendGoes {
    /// It goes on to its end with the endpoint that it has, as with kube-proxy.
    #[default]
    Drain,
    /// It is cut: both sides are told at once.
    Cut,
}

/// One port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Name, empty for the only port of a Service.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of cluster IPs, external IPs and load balancer addresses.
    pub port: u16,
    /// Port of the node's addresses; 0 for none.
    pub node_port: u16,
}

/// What one Service says. Headless ones, `ExternalName` and hidden ones never become one of these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// Type.
    pub kind: ServiceKind,
    /// Which families it serves, by [`Family::index`].
    pub families: [bool; 2],
    /// Cluster IP of each family, by [`Family::index`]. Only a Service from a file can serve a family
    /// without one.
    pub cluster_ips: [Option<IpAddr>; 2],
    /// `spec.externalIPs`, both families.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses that the node captures (`ipMode` absent or `VIP`), both families.
    pub ingress_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, both families.
    pub source_ranges: Vec<IpNet>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.healthCheckNodePort`, of a load balancer with [`Self::external_local`] alone.
    pub health_check_port: Option<u16>,
    /// `sessionAffinity: ClientIP` and its timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// What becomes of its TCP connections.
    pub when_backend_goes: WhenBackendGoes,
    /// Ports.
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Cluster IP of a family.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips[family.index()]
    }
}

/// One port of one Service: what has a service number in each family. Of the size of a pointer, as many tables
/// hold it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortKey(Arc<PortKeyParts>);

/// The parts of a [`PortKey`].
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortKeyParts {
    /// The Service.
    pub service: ServiceName,
    /// Name of the port.
    pub port: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
}

impl PortKey {
    /// From its parts.
    pub fn new(service: ServiceName, port: impl Into<Arc<str>>, protocol: Protocol) -> Self {
        Self(Arc::new(PortKeyParts { service, port: port.into(), protocol }))
    }
}

impl Deref for PortKey {
    type Target = PortKeyParts;

    fn deref(&self) -> &PortKeyParts {
        &self.0
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (separator, port) = if self.port.is_empty() { ("", "") } else { (":", &*self.port) };
        write!(f, "{}{separator}{port}/{}", self.service, self.protocol)
    }
}
