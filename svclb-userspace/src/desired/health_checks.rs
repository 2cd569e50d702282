//! Health check ports: what a load balancer that asks this node about a Service is told.

use std::collections::HashSet;
use std::net::IpAddr;

use svclb_common::addr::{Addr4, Addr6};

use super::endpoints;
use crate::model::{Family, FamilyAddress, Service, Slice};

/// What is told about one Service, and on which port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    local: [Option<usize>; 2],
}

impl HealthCheck {
    /// A health check on a port, with the number of ready endpoints on this node, by [`Family::index`];
    /// none for a family that the Service does not serve.
    pub const fn new(port: u16, local: [Option<usize>; 2]) -> Self {
        Self { port, local }
    }

    /// The number of endpoints that a load balancer is told which asks through an address of `family`.
    ///
    /// A load balancer may reach nodes by addresses of a family that the Service does not serve: it is told
    /// what counts for the other one.
    pub fn local_endpoints(&self, family: Family) -> usize {
        let other = Family::ALL[1 - family.index()];
        self.local[family.index()].or(self.local[other.index()]).unwrap_or(0)
    }
}

/// What is to be told about a Service; none if it has no health check port.
///
/// An endpoint counts if it is ready and on this node, once for all ports of the Service. Terminating
/// endpoints that still serve do not: they get what arrives, and the load balancer is to look elsewhere.
pub fn health_check<'a>(
    service: &Service,
    slices: &(impl Iterator<Item = &'a Slice> + Clone),
    node: &str,
) -> Option<HealthCheck> {
    let port = service.health_check_port.filter(|_| service.external_local)?;
    let local = [local::<Addr4>(service, slices, node), local::<Addr6>(service, slices, node)];
    Some(HealthCheck::new(port, local))
}

fn local<'a, A: FamilyAddress>(
    service: &Service,
    slices: &(impl Iterator<Item = &'a Slice> + Clone),
    node: &str,
) -> Option<usize> {
    if !service.families[A::FAMILY.index()] {
        return None;
    }
    let mut found: HashSet<IpAddr> = HashSet::new();
    for port in &service.ports {
        let merged = endpoints::endpoints::<A>(port, slices.clone());
        let local = merged.values().filter(|endpoint| endpoint.ready && endpoint.node.as_deref() == Some(node));
        found.extend(local.map(|endpoint| endpoint.address));
    }
    Some(found.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{
        Endpoint, Protocol, ServiceKind, ServiceName, ServicePort, SliceName, SlicePort, WhenBackendGoes,
    };

    fn port(name: &str) -> (ServicePort, SlicePort) {
        let (name, protocol): (Arc<str>, _) = (name.into(), Protocol::Tcp);
        let own = ServicePort { name: name.clone(), protocol, port: 80, node_port: 30_080 };
        (own, SlicePort { name, protocol, port: 8080 })
    }

    fn service(families: [bool; 2]) -> Service {
        Service {
            name: ServiceName::new("default", "web"),
            kind: ServiceKind::LoadBalancer,
            families,
            cluster_ips: [None, None],
            external_ips: vec![],
            ingress_ips: vec![],
            source_ranges: vec![],
            internal_local: false,
            external_local: true,
            health_check_port: Some(31_000),
            affinity_seconds: None,
            when_backend_goes: WhenBackendGoes::Drain,
            ports: vec![port("a").0, port("b").0],
        }
    }

    /// A slice of endpoints, each as `ADDRESS NODE CONDITIONS`, that serve both ports.
    fn slice(name: &str, endpoints: &[&str]) -> Slice {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|text| {
                let [address, node, conditions] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
                Endpoint {
                    address: address.parse().expect("an address"),
                    ready: conditions.contains("ready"),
                    serving: conditions.contains("ready") || conditions.contains("serving"),
                    terminating: conditions.contains("terminating"),
                    node: Some(node.into()),
                    hints: None,
                }
            })
            .collect();
        Slice {
            name: SliceName { namespace: "default".into(), name: name.into() },
            service: ServiceName::new("default", "web"),
            family: endpoints.first().map_or(Family::V4, |endpoint: &Endpoint| Family::of(endpoint.address)),
            ports: vec![port("a").1, port("b").1],
            endpoints,
            changed: None,
        }
    }

    fn counted(families: [bool; 2], slices: &[Slice]) -> [usize; 2] {
        let check = health_check(&service(families), &slices.iter(), "n1").expect("it has a port");
        Family::ALL.map(|family| check.local_endpoints(family))
    }

    #[test]
    fn ready_endpoints_of_this_node_count_once() {
        let v4 = slice("v4", &["10.0.0.1 n1 ready", "10.0.0.2 n1 ready", "10.0.0.3 n2 ready", "10.0.0.4 n1 none"]);
        let again = slice("v4-again", &["10.0.0.1 n1 ready"]);
        let v6 = slice("v6", &["fd00::1 n1 ready"]);
        assert_eq!(counted([true, true], &[v4, again, v6]), [2, 1]);
    }

    #[test]
    fn terminating_endpoints_count_only_while_they_are_ready() {
        let v4 = slice("v4", &["10.0.0.1 n1 serving,terminating"]);
        assert_eq!(counted([true, false], &[v4]), [0, 0]);
        let all = ["10.0.1.1 n1 serving,terminating", "10.0.1.2 n1 serving", "10.0.1.3 n1 terminating"];
        assert_eq!(counted([true, false], &[slice("v4", &all)]), [0, 0]);
        let not_ready_published = slice("v4", &["10.0.0.1 n1 ready,terminating"]);
        assert_eq!(counted([true, false], &[not_ready_published]), [1, 1]);
    }

    #[test]
    fn a_family_that_the_service_does_not_serve_is_told_of_the_other() {
        let slices = [slice("v4", &["10.0.0.1 n1 ready"]), slice("v6", &["fd00::1 n1 ready", "fd00::2 n1 ready"])];
        assert_eq!(counted([true, false], &slices), [1, 1]);
        assert_eq!(counted([false, true], &slices), [2, 2]);
        assert_eq!(counted([true, true], &slices[..1]), [1, 0]);
    }

    #[test]
    fn without_the_policy_local_there_is_no_health_check() {
        let service = Service { external_local: false, ..service([true, false]) };
        assert_eq!(health_check(&service, &std::iter::empty(), "n1"), None);
    }
}
