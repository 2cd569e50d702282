//! The paths that requests to Services take, and what must be seen at their end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use serde::Serialize;

use super::{
    allocate::full_name,
    lab::{Lab, NODES},
    netns::Netns,
    node::Node,
    pod::{Pod, PodNetwork},
    policy::PolicyEngine,
    state::{ClusterState, PodState},
};

/// The kinds of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// From a pod that is no backend to a cluster address.
    PodToClusterIp,
    /// The same, until each backend on the other node has answered.
    PodToOtherNode,
    /// From a backend to a cluster address, until it has answered itself.
    Hairpin,
    /// From outside to the node port of a node.
    OutsideToNodePort,
    /// From a pod to the node port of its own node.
    PodToOwnNodePort,
    /// From outside to an address of a load balancer that leads to a node.
    OutsideToLoadBalancer,
    /// From a pod that the policy keeps out.
    ForbiddenPod,
}

impl PathKind {
    /// Whether the path is there for the answers of some of the endpoints; others may answer as well.
    pub fn is_about_some_pods(self) -> bool {
        matches!(self, Self::PodToOtherNode | Self::Hairpin)
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PodToClusterIp => "pod -> ClusterIP",
            Self::PodToOtherNode => "pod -> ClusterIP, other node",
            Self::Hairpin => "pod -> ClusterIP -> itself",
            Self::OutsideToNodePort => "outside -> NodePort",
            Self::PodToOwnNodePort => "pod -> own node's NodePort",
            Self::OutsideToLoadBalancer => "outside -> load balancer",
            Self::ForbiddenPod => "forbidden pod -> ClusterIP",
        })
    }
}

/// TCP, UDP or SCTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// HTTP, a new connection for each request.
    Tcp,
    /// Datagrams, a new source port for each.
    Udp,
    /// A message, a new association for each.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// What a line of the table is about. Several paths may share a line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Line {
    /// `NAMESPACE/NAME` of the Service.
    pub service: String,
    /// The kind of path.
    pub kind: PathKind,
    /// Where it begins: a node's name, `outside`, `each pod`.
    pub from: String,
    /// The address asked.
    pub to: SocketAddr,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

/// What a pod that answers must report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The client's address.
    pub client: IpAddr,
    /// Its own address and port.
    pub local: SocketAddr,
}

/// What must come of the requests on a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Only these pods answer.
    Answers {
        /// What each of them must report.
        seen: BTreeMap<String, Seen>,
        /// Those that must have answered after enough requests.
        all_of: BTreeSet<String>,
        /// Whether one pod answers all (session affinity).
        same: bool,
    },
    /// Every request is refused at once: no pod serves.
    Refused,
    /// No request gets any answer: no pod of this node serves and the policy is Local, or a network policy
    /// drops it.
    Silence,
}

/// One path.
#[derive(Debug, Clone)]
pub struct Path {
    /// The line it belongs to.
    pub line: Line,
    /// Where the requests are made.
    pub from: Netns,
    /// What must come of them.
    pub expect: Expect,
}

/// The pods that ask and are no backends, one a node, and one that a policy keeps out.
#[derive(Debug)]
pub struct Askers {
    /// One for each node.
    pub pods: Vec<Pod>,
    /// One that the policy keeps out, when there is a policy.
    pub forbidden: Option<Pod>,
}

impl Askers {
    /// Makes the pods; the policy, where there is one, lets in those that may ask.
    pub fn new(lab: &Lab, network: PodNetwork, policy: Option<&PolicyEngine>) -> Result<Self> {
        let pods = lab.nodes().iter().map(|node| node.pod(&format!("client-{}", node.number()), network));
        let pods: Vec<Pod> = pods.collect::<Result<_>>()?;
        let mut forbidden = None;
        if let Some(policy) = policy {
            pods.iter().try_for_each(|pod| policy.admit_client(pod.address()))?;
            forbidden = Some(lab.node(NODES[0]).pod("forbidden", network)?);
        }
        Ok(Self { pods, forbidden })
    }
}

/// All paths to all Services of a cluster.
pub fn all_paths(lab: &Lab, askers: &Askers, state: &ClusterState) -> Vec<Path> {
    let mut paths = Vec::new();
    for service in &state.services {
        let Some(spec) = &service.spec else { continue };
        // Whose endpoints were written by hand leads to who knows where.
        if spec.selector.as_ref().is_none_or(BTreeMap::is_empty) {
            continue;
        }
        let addresses = spec.cluster_ips.iter().flatten().filter_map(|address| address.parse::<IpAddr>().ok());
        for address in addresses {
            for port in spec.ports.iter().flatten() {
                if let Some(target) = Target::new(lab, state, service, port, address) {
                    target.cluster_paths(askers, &mut paths);
                    target.node_port_paths(askers, &mut paths);
                    target.load_balancer_paths(&mut paths);
                }
            }
        }
    }
    paths
}

/// One port of a Service in one family.
struct Target<'a> {
    lab: &'a Lab,
    service: &'a Service,
    address: IpAddr,
    port: u16,
    node_port: Option<u16>,
    protocol: Protocol,
    backends: Vec<(&'a PodState, SocketAddr)>,
    /// Pods that may answer as well.
    lingering: Vec<(&'a PodState, SocketAddr)>,
}

impl<'a> Target<'a> {
    fn new(
        lab: &'a Lab,
        state: &'a ClusterState,
        service: &'a Service,
        port: &ServicePort,
        address: IpAddr,
    ) -> Option<Self> {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return None,
        };
        let with_endpoint = |pods: Vec<&'a PodState>| -> Vec<(&'a PodState, SocketAddr)> {
            pods.into_iter().filter_map(|pod| Some((pod, pod.endpoint(port, address)?))).collect()
        };
        let backends = with_endpoint(state.backends(service));
        let lingering = match protocol {
            Protocol::Tcp | Protocol::Sctp => Vec::new(),
            Protocol::Udp => with_endpoint(state.lingering(service)),
        };
        let node_port = port.node_port.and_then(|number| u16::try_from(number).ok());
        let port = u16::try_from(port.port).ok()?;
        Some(Self { lab, service, address, port, node_port, protocol, backends, lingering })
    }

    fn line(&self, kind: PathKind, from: &str, to: SocketAddr) -> Line {
        Line { service: full_name(self.service), kind, from: from.to_owned(), to, protocol: self.protocol }
    }

    fn policy_is_local(&self, of: impl Fn(&k8s_openapi::api::core::v1::ServiceSpec) -> Option<&String>) -> bool {
        self.service.spec.as_ref().and_then(of).is_some_and(|policy| policy == "Local")
    }

    fn affinity(&self) -> bool {
        let affinity = self.service.spec.as_ref().and_then(|spec| spec.session_affinity.as_deref());
        affinity == Some("ClientIP")
    }

    /// What a client that asks at `node` must get. `client` gives the address that a backend must see.
    fn expect(&self, only_node: Option<u8>, client: impl Fn(&PodState) -> IpAddr) -> Expect {
        if self.backends.is_empty() {
            return Expect::Refused;
        }
        let seen = |pods: &[(&PodState, SocketAddr)]| -> BTreeMap<String, Seen> {
            pods.iter()
                .filter(|(pod, _)| only_node.is_none_or(|node| pod.node == node))
                .map(|(pod, local)| (pod.name.clone(), Seen { client: client(pod), local: *local }))
                .collect()
        };
        let mut all = seen(&self.backends);
        if all.is_empty() {
            return Expect::Silence;
        }
        let same = self.affinity();
        let all_of = if same { BTreeSet::new() } else { all.keys().cloned().collect() };
        all.extend(seen(&self.lingering));
        Expect::Answers { seen: all, all_of, same }
    }

    fn cluster_paths(&self, askers: &Askers, paths: &mut Vec<Path>) {
        let to = SocketAddr::new(self.address, self.port);
        let local = self.policy_is_local(|spec| spec.internal_traffic_policy.as_ref());
        for asker in &askers.pods {
            let (from, own) = (asker.netns().clone(), asker.address().of_family(self.address));
            let name = self.lab.node(asker.node()).name();
            let expect = self.expect(local.then_some(asker.node()), |_| own);
            if let Expect::Answers { seen, same: false, .. } = &expect {
                let elsewhere = |name: &&String| {
                    self.backends.iter().any(|(pod, _)| pod.name == **name && pod.node != asker.node())
                };
                let far: BTreeSet<String> = seen.keys().filter(elsewhere).cloned().collect();
                if !far.is_empty() {
                    let expect = Expect::Answers { seen: seen.clone(), all_of: far, same: false };
                    let line = self.line(PathKind::PodToOtherNode, name, to);
                    paths.push(Path { line, from: from.clone(), expect });
                }
            }
            paths.push(Path { line: self.line(PathKind::PodToClusterIp, name, to), from, expect });
        }
        for (pod, _) in &self.backends {
            let own = pod.address.of_family(self.address);
            let node = self.lab.node(pod.node);
            let own_masqueraded = node.masquerade_address(pod.node, pod.network).of_family(self.address);
            let client = |other: &PodState| {
                if other.name == pod.name { own_masqueraded } else { own }
            };
            let mut expect = self.expect(local.then_some(pod.node), client);
            if let Expect::Answers { all_of, same: false, .. } = &mut expect {
                *all_of = BTreeSet::from([pod.name.clone()]);
            }
            let line = self.line(PathKind::Hairpin, "each pod", to);
            paths.push(Path { line, from: pod.netns.clone(), expect });
        }
        if let Some(forbidden) = &askers.forbidden {
            let line = self.line(PathKind::ForbiddenPod, self.lab.node(forbidden.node()).name(), to);
            let expect = if self.backends.is_empty() { Expect::Refused } else { Expect::Silence };
            paths.push(Path { line, from: forbidden.netns().clone(), expect });
        }
    }

    fn node_port_paths(&self, askers: &Askers, paths: &mut Vec<Path>) {
        let Some(node_port) = self.node_port else {
            return;
        };
        for node in self.lab.nodes() {
            let to = SocketAddr::new(node.address().of_family(self.address), node_port);
            let line = self.line(PathKind::OutsideToNodePort, "outside", to);
            paths.push(Path { line, from: self.lab.client().netns.clone(), expect: self.expect_from_outside(node) });
        }
        let local = self.policy_is_local(|spec| spec.external_traffic_policy.as_ref());
        for asker in &askers.pods {
            let node = self.lab.node(asker.node());
            let to = SocketAddr::new(node.address().of_family(self.address), node_port);
            let own = asker.address().of_family(self.address);
            // With the policy Local, traffic from pods goes to all endpoints and keeps its source, as if
            // the pod had asked the cluster address.
            let expect = self.expect(None, |pod| {
                if local { own } else { node.masquerade_address(pod.node, pod.network).of_family(self.address) }
            });
            let line = self.line(PathKind::PodToOwnNodePort, node.name(), to);
            paths.push(Path { line, from: asker.netns().clone(), expect });
        }
    }

    fn load_balancer_paths(&self, paths: &mut Vec<Path>) {
        let status = self.service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        for ingress in status.iter().flat_map(|status| status.ingress.iter().flatten()) {
            let Some(address) = ingress.ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
                continue;
            };
            let by_proxy = ingress.ip_mode.as_deref() == Some("Proxy");
            if address.is_ipv4() != self.address.is_ipv4() || by_proxy {
                continue;
            }
            let node = self.lab.load_balancer_node();
            let line = self.line(PathKind::OutsideToLoadBalancer, "outside", SocketAddr::new(address, self.port));
            paths.push(Path { line, from: self.lab.client().netns.clone(), expect: self.expect_from_outside(node) });
        }
    }

    /// What a client outside must get at a node.
    fn expect_from_outside(&self, node: &Node) -> Expect {
        if self.policy_is_local(|spec| spec.external_traffic_policy.as_ref()) {
            let client = self.lab.client().address.of_family(self.address);
            self.expect(Some(node.number()), |_| client)
        } else {
            self.expect(None, |pod| node.masquerade_address(pod.node, pod.network).of_family(self.address))
        }
    }
}
