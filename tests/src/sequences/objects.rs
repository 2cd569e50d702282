//! Services, slices and the Node in few words, and what Kubernetes makes of them.
//!
//! There are few names, addresses and ports, so that random ones meet: a cluster IP goes from one Service to
//! another, two want the same node port, an endpoint stands in two slices.

use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, Node, NodeAddress, NodeStatus, Service, ServicePort,
    ServiceSpec, ServiceStatus, SessionAffinityConfig,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use svclb_userspace::k8s::node::ZONE_LABEL;
use svclb_userspace::k8s::service::{PROXY_NAME_LABEL, WHEN_BACKEND_GOES_ANNOTATION};
use svclb_userspace::k8s::slice::{HEADLESS_LABEL, SERVICE_NAME_LABEL};
use svclb_userspace::model::{Family, Protocol};

/// The name of the node on which the agent runs.
pub(super) const NODE: &str = "n1";

/// An address: its family and its number in a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ip(pub(super) Family, pub(super) u8);

impl Ip {
    fn within(self, network: u8) -> String {
        let Self(family, number) = self;
        match family {
            Family::V4 => format!("10.{network}.0.{number}"),
            Family::V6 => format!("fd00:{network}::{number}"),
        }
    }
}

/// Which cluster IPs a Service has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ClusterIps {
    /// None yet.
    Pending,
    /// None ever.
    Headless,
    /// One.
    One(Family),
    /// Of both families, this one first.
    Both(Family),
}

/// `spec.type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// A port of a Service, 0 on the node for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Port {
    pub(super) name: char,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    pub(super) on_node: u16,
}

/// An entry of `status.loadBalancer.ingress`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ingress {
    Ip(Ip),
    Vip(Ip),
    Proxy(Ip),
    HostName,
}

/// `spec.loadBalancerSourceRanges` has these in it.
pub(super) const RANGES: [&str; 8] = [
    "10.9.1.0/24",
    "10.9.0.0/16",
    " 10.244.0.0/16",
    "10.2.0.0/24",
    "fd00:9:1::/48",
    "0.0.0.0/0",
    "fd00:244::/32",
    "nonsense",
];

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ServiceWords {
    pub(super) uid: u32,
    pub(super) kind: Type,
    /// Number of its cluster IPs, in both families.
    pub(super) address: u8,
    pub(super) cluster_ips: ClusterIps,
    pub(super) ports: Vec<Port>,
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
    pub(super) affinity: Option<i32>,
    pub(super) when_backend_goes: Option<&'static str>,
    pub(super) ranges: Vec<&'static str>,
    pub(super) external: Vec<Ip>,
    pub(super) ingress: Vec<Ingress>,
    pub(super) health_check_port: i32,
    pub(super) hidden: bool,
    pub(super) note: u8,
}

impl ServiceWords {
    /// What a Service is at first.
    pub(super) fn new(number: u8, uid: u32) -> Self {
        Self {
            uid,
            kind: Type::ClusterIp,
            address: number + 1,
            cluster_ips: ClusterIps::One(Family::V4),
            ports: vec![Port { name: 'a', protocol: Protocol::Tcp, number: 80, on_node: 0 }],
            internal_local: false,
            external_local: false,
            affinity: None,
            when_backend_goes: None,
            ranges: Vec::new(),
            external: Vec::new(),
            ingress: Vec::new(),
            health_check_port: 0,
            hidden: false,
            note: 0,
        }
    }

    /// The Service that it is.
    pub(super) fn object(&self, number: u8) -> Service {
        let serves = self.kind != Type::ExternalName;
        let families = match self.cluster_ips {
            ClusterIps::Pending | ClusterIps::Headless => vec![],
            ClusterIps::One(family) => vec![family],
            ClusterIps::Both(first) => vec![first, Family::ALL[1 - first.index()]],
        };
        let addresses: Vec<String> = match self.cluster_ips {
            ClusterIps::Headless => vec!["None".to_owned()],
            _ => families.iter().map(|family| Ip(*family, self.address).within(96)).collect(),
        };
        let local = |local: bool| Some(if local { "Local" } else { "Cluster" }.to_owned());
        let affinity = self.affinity.map(|timeout_seconds| SessionAffinityConfig {
            client_ip: Some(ClientIPConfig { timeout_seconds: Some(timeout_seconds) }),
        });
        let spec = ServiceSpec {
            type_: Some(
                match self.kind {
                    Type::ClusterIp => "ClusterIP",
                    Type::NodePort => "NodePort",
                    Type::LoadBalancer => "LoadBalancer",
                    Type::ExternalName => "ExternalName",
                }
                .to_owned(),
            ),
            external_name: (!serves).then(|| "elsewhere.example".to_owned()),
            cluster_ip: addresses.first().filter(|_| serves).cloned(),
            cluster_ips: serves.then_some(addresses),
            ip_families: serves.then(|| families.iter().map(ToString::to_string).collect()),
            ports: Some(self.ports.iter().map(Port::of_service).collect()),
            internal_traffic_policy: local(self.internal_local),
            external_traffic_policy: local(self.external_local),
            session_affinity: Some(if affinity.is_some() { "ClientIP" } else { "None" }.to_owned()),
            session_affinity_config: affinity,
            load_balancer_source_ranges: Some(self.ranges.iter().map(ToString::to_string).collect()),
            external_ips: Some(self.external.iter().map(|ip| ip.within(97)).collect()),
            health_check_node_port: Some(self.health_check_port),
            ..ServiceSpec::default()
        };
        let status = LoadBalancerStatus { ingress: Some(self.ingress.iter().copied().map(Ingress::entry).collect()) };
        let mut labels = std::collections::BTreeMap::from([("note".to_owned(), self.note.to_string())]);
        if self.hidden {
            labels.insert(PROXY_NAME_LABEL.to_owned(), "another".to_owned());
        }
        let annotation = |value: &str| (WHEN_BACKEND_GOES_ANNOTATION.to_owned(), value.to_owned());
        let metadata = ObjectMeta {
            uid: Some(self.uid.to_string()),
            labels: Some(labels),
            annotations: self.when_backend_goes.map(|value| [annotation(value)].into()),
            ..named(&service_name(number))
        };
        let status = ServiceStatus { load_balancer: Some(status), ..ServiceStatus::default() };
        Service { metadata, spec: Some(spec), status: Some(status) }
    }

    /// Whether a watch of Services that the proxy serves shows it.
    pub(super) fn is_shown(&self) -> bool {
        !self.hidden && (self.cluster_ips != ClusterIps::Headless || self.kind == Type::ExternalName)
    }
}

impl Port {
    fn of_service(&self) -> ServicePort {
        ServicePort {
            name: Some(self.name.to_string()),
            protocol: Some(self.protocol.to_string()),
            port: self.number.into(),
            node_port: (self.on_node != 0).then_some(self.on_node.into()),
            target_port: Some(IntOrString::String("named".to_owned())),
            ..ServicePort::default()
        }
    }
}

impl Ingress {
    fn entry(self) -> LoadBalancerIngress {
        // The same network as externalIPs: what one Service has as the one may be another's other.
        let (ip, mode) = match self {
            Self::Ip(ip) => (Some(ip.within(97)), None),
            Self::Vip(ip) => (Some(ip.within(97)), Some("VIP")),
            Self::Proxy(ip) => (Some(ip.within(97)), Some("Proxy")),
            Self::HostName => (None, None),
        };
        let hostname = ip.is_none().then(|| "balancer.example".to_owned());
        LoadBalancerIngress { ip, ip_mode: mode.map(str::to_owned), hostname, ..LoadBalancerIngress::default() }
    }
}

/// One endpoint of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct EndpointWords {
    pub(super) number: u8,
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
    pub(super) node: Option<u8>,
    pub(super) zone_hints: Vec<u8>,
    pub(super) node_hints: Vec<u8>,
}

/// A port of a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlicePort {
    pub(super) name: Option<char>,
    pub(super) protocol: Protocol,
    pub(super) port: Option<u16>,
}

/// An `EndpointSlice`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SliceWords {
    /// The Service that its label names.
    pub(super) service: Option<u8>,
    /// None for host names.
    pub(super) family: Option<Family>,
    pub(super) headless: bool,
    pub(super) ports: Vec<SlicePort>,
    pub(super) endpoints: Vec<EndpointWords>,
}

impl SliceWords {
    /// What a slice is at first.
    pub(super) fn new(number: u8, services: u8) -> Self {
        Self {
            service: Some(number % services),
            family: Some(Family::V4),
            headless: false,
            ports: vec![SlicePort { name: Some('a'), protocol: Protocol::Tcp, port: Some(8080) }],
            endpoints: Vec::new(),
        }
    }

    /// The slice that it is.
    pub(super) fn object(&self, number: u8) -> EndpointSlice {
        let mut labels = std::collections::BTreeMap::new();
        if let Some(service) = self.service {
            labels.insert(SERVICE_NAME_LABEL.to_owned(), service_name(service));
        }
        if self.headless {
            labels.insert(HEADLESS_LABEL.to_owned(), String::new());
        }
        let ports = self.ports.iter().map(|port| EndpointPort {
            name: port.name.map(String::from),
            protocol: Some(port.protocol.to_string()),
            port: port.port.map(i32::from),
            ..EndpointPort::default()
        });
        EndpointSlice {
            metadata: ObjectMeta { labels: Some(labels), ..named(&format!("slice-{number}")) },
            address_type: self.family.map_or_else(|| "FQDN".to_owned(), |family| family.to_string()),
            ports: Some(ports.collect()),
            endpoints: Some(self.endpoints.iter().map(|endpoint| endpoint.object(self.family)).collect()),
        }
    }
}

impl EndpointWords {
    fn object(&self, family: Option<Family>) -> Endpoint {
        let address = family.map_or_else(|| "pod.example".to_owned(), |family| Ip(family, self.number).within(244));
        let zones = self.zone_hints.iter().map(|zone| ForZone { name: zone_name(*zone) });
        let nodes = self.node_hints.iter().map(|node| ForNode { name: node_name(*node) });
        Endpoint {
            addresses: vec![address],
            conditions: Some(EndpointConditions {
                ready: self.ready,
                serving: self.serving,
                terminating: self.terminating,
            }),
            node_name: self.node.map(node_name),
            hints: Some(EndpointHints { for_zones: Some(zones.collect()), for_nodes: Some(nodes.collect()) }),
            ..Endpoint::default()
        }
    }
}

/// The own Node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NodeWords {
    pub(super) zone: Option<u8>,
    pub(super) addresses: Vec<Ip>,
}

impl NodeWords {
    /// The Node that it is.
    pub(super) fn object(&self) -> Node {
        let labels = self.zone.map(|zone| (ZONE_LABEL.to_owned(), zone_name(zone))).into_iter().collect();
        let addresses = self
            .addresses
            .iter()
            .map(|ip| NodeAddress { address: ip.within(2), type_: "InternalIP".to_owned() })
            .collect();
        Node {
            metadata: ObjectMeta { namespace: None, labels: Some(labels), ..named(NODE) },
            status: Some(NodeStatus { addresses: Some(addresses), ..NodeStatus::default() }),
            ..Node::default()
        }
    }
}

/// The address of one of the node's devices.
pub(super) fn host_address(ip: Ip) -> std::net::IpAddr {
    ip.within(2).parse().expect("an address")
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some("default".to_owned()), ..ObjectMeta::default() }
}

fn service_name(number: u8) -> String {
    format!("service-{number}")
}

fn zone_name(number: u8) -> String {
    format!("zone-{number}")
}

fn node_name(number: u8) -> String {
    format!("n{number}")
}
