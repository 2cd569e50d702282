//! As many Services as one likes, each with as many endpoints, as Kubernetes objects.

pub(super) mod fill;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::json;
use svclb_userspace::{
    k8s::{
        service::{self, WithoutClusterIp},
        slice,
    },
    model::{Event, Family, Kind},
};

/// Port of each Service.
pub const SERVICE_PORT: u16 = 80;
/// Port of each endpoint.
pub const ENDPOINT_PORT: u16 = 8080;
/// The Service whose endpoints may change.
const CHANGING: u32 = 0;
/// Namespace of all of them.
pub const NAMESPACE: &str = "bench";

/// Services that differ in nothing but their names and addresses.
#[derive(Clone, Debug)]
pub struct Population {
    /// How many.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
    /// Their families, the first one first.
    pub families: Vec<Family>,
}

impl Population {
    /// Cluster IP and port of a Service.
    pub fn frontend(&self, service: u32, family: Family) -> SocketAddr {
        let number = service + 256;
        let address = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + number)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits((0xfd00_0010_0096_u128 << 80) + u128::from(number))),
        };
        SocketAddr::new(address, SERVICE_PORT)
    }

    /// An endpoint of a Service.
    pub fn endpoint(&self, service: u32, number: u32, family: Family) -> SocketAddr {
        pod(service * self.endpoints + number, family, ENDPOINT_PORT)
    }

    /// A place where a pod could be that is no endpoint.
    pub fn stranger(&self, number: u32, family: Family) -> SocketAddr {
        pod(self.services * self.endpoints + number, family, ENDPOINT_PORT)
    }

    /// A Service.
    ///
    /// # Panics
    /// If what is made here were no Service.
    pub fn service(&self, number: u32) -> Service {
        let addresses: Vec<_> =
            self.families.iter().map(|family| self.frontend(number, *family).ip().to_string()).collect();
        let families: Vec<_> = self.families.iter().map(ToString::to_string).collect();
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name(number), "namespace": NAMESPACE },
            "spec": {
                "clusterIP": addresses.first(),
                "clusterIPs": addresses,
                "ipFamilies": families,
                "ipFamilyPolicy": if families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
                "ports": [{ "name": "http", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": ENDPOINT_PORT }],
            },
        });
        serde_json::from_value(service).expect("this is a Service")
    }

    /// The slices of a Service, one for each family.
    pub fn slices(&self, number: u32) -> Vec<EndpointSlice> {
        self.families.iter().map(|family| self.slice(number, *family, self.endpoints)).collect()
    }

    /// The slice of a Service in a family, with the first `endpoints` of its endpoints.
    ///
    /// # Panics
    /// If what is made here were no slice.
    pub fn slice(&self, number: u32, family: Family, endpoints: u32) -> EndpointSlice {
        let endpoints: Vec<_> = (0..endpoints)
            .map(|endpoint| {
                json!({
                    "addresses": [self.endpoint(number, endpoint, family).ip().to_string()],
                    "conditions": { "ready": true, "serving": true, "terminating": false },
                    "nodeName": format!("node{}", endpoint + 1),
                })
            })
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", name(number), family.to_string().to_lowercase()),
                "namespace": NAMESPACE,
                "labels": { "kubernetes.io/service-name": name(number) },
            },
            "addressType": family.to_string(),
            "ports": [{ "name": "http", "protocol": "TCP", "port": ENDPOINT_PORT }],
            "endpoints": endpoints,
        });
        serde_json::from_value(slice).expect("this is a slice")
    }

    /// The slice of the Service whose endpoints may change.
    pub fn changing(&self, family: Family, endpoints: u32) -> EndpointSlice {
        self.slice(CHANGING, family, endpoints)
    }

    /// What a source would tell of them, as complete lists.
    pub fn events(&self) -> Vec<Event> {
        let services = (0..self.services)
            .filter_map(|number| service::project(&self.service(number), WithoutClusterIp::Ignored).0)
            .map(|service| Event::ServiceApplied(service.into()));
        let slices = (0..self.services)
            .flat_map(|number| self.slices(number))
            .filter_map(|own| slice::project(&own).0)
            .map(|slice| Event::SliceApplied(slice.into()));
        let mut events: Vec<Event> = Kind::REQUIRED.into_iter().map(Event::ListStarted).collect();
        events.extend(services);
        events.extend(slices);
        events.extend(Kind::REQUIRED.into_iter().map(Event::Listed));
        events
    }
}

/// The name of a Service.
pub fn name(number: u32) -> String {
    format!("service-{number:05}")
}

fn pod(number: u32, family: Family, port: u16) -> SocketAddr {
    let number = number + 256;
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(0x0a90_0000 + number)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits((0xfd00_0010_0244_u128 << 80) + u128::from(number))),
    };
    SocketAddr::new(address, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_made_counts_for_the_agent() {
        let population = Population { services: 4, endpoints: 3, families: Family::ALL.to_vec() };
        let events = population.events();
        let services = events.iter().filter(|event| matches!(event, Event::ServiceApplied(_))).count();
        let endpoints: usize = events
            .iter()
            .map(|event| if let Event::SliceApplied(slice) = event { slice.endpoints.len() } else { 0 })
            .sum();
        assert_eq!((services, endpoints), (4, 2 * 4 * 3));
    }
}
