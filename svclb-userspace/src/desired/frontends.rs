//! Frontends: the addresses and ports at which clients reach a Service port.

use std::collections::BTreeMap;
use std::net::IpAddr;

use svclb_common::addr::Be16;
use svclb_common::schema::ServiceKey;
use svclb_common::service::scope;

use super::Place;
use super::sorted::Sorted;
use crate::model::{FamilyAddress, Service, ServicePort};

/// The frontends of one port in one family, with their scope.
///
/// - The cluster IP with the port, and the cluster IP itself (port 0), whose other ports are refused.
/// - Load balancer addresses with the port, whatever the Service's type.
/// - External IPs with the port, inside `--external-ip-cidrs` where that is given: who may create Services can
///   otherwise take any address's traffic, as with kube-proxy.
/// - With `--ping-services` those load balancer addresses and external IPs (port 0) that are not this node's own, so
///   that echo requests to them are answered.
/// - The node's addresses with the node port, and the loopback address where the node's own processes are served.
///
/// Where two roles meet in one key, the earlier in this list wins.
pub fn frontends<A: FamilyAddress>(service: &Service, port: &ServicePort, place: &Place) -> Sorted<ServiceKey<A>, u8> {
    let mut frontends = BTreeMap::new();
    let protocol = port.protocol.number();
    let mut add = |address: A, port: u16, scope: u8| {
        frontends.entry(ServiceKey::new(address, Be16::new(port), protocol)).or_insert(scope);
    };
    let cluster_ip = service.cluster_ip(A::FAMILY).and_then(A::of);
    if let Some(address) = cluster_ip {
        add(address, port.port, scope::CLUSTER);
    }
    for address in service.ingress_ips.iter().filter_map(|ip| A::of(*ip)) {
        add(address, port.port, scope::LOAD_BALANCER);
    }
    for address in external_ips::<A>(service, place) {
        add(address, port.port, scope::EXTERNAL);
    }
    if port.node_port != 0 {
        for address in place.node_port_addresses.iter().filter_map(|ip| A::of(*ip)) {
            add(address, port.node_port, scope::NODE_PORT);
        }
        if place.loopback_node_ports {
            add(A::LOOPBACK, port.node_port, scope::NODE_PORT);
        }
    }
    if place.ping_services {
        let ingress = service.ingress_ips.iter().filter_map(|ip| A::of(*ip));
        for address in ingress.chain(external_ips::<A>(service, place)) {
            if !place.node_addresses.iter().any(|own| A::of(*own) == Some(address)) {
                frontends.insert(ServiceKey::whole(address), scope::OTHER_ADDRESS);
            }
        }
    }
    if let Some(address) = cluster_ip {
        frontends.insert(ServiceKey::whole(address), scope::CLUSTER_ADDRESS);
    }
    frontends.into_iter().collect()
}

/// The external IPs of one family that the operator admits.
pub fn external_ips<A: FamilyAddress>(service: &Service, place: &Place) -> impl Iterator<Item = A> {
    service.external_ips.iter().filter(|ip| is_admitted(**ip, place)).filter_map(|ip| A::of(*ip))
}

/// The external IPs that the operator does not admit, both families.
pub fn not_admitted(service: &Service, place: &Place) -> Vec<IpAddr> {
    service.external_ips.iter().copied().filter(|ip| !is_admitted(*ip, place)).collect()
}

fn is_admitted(ip: IpAddr, place: &Place) -> bool {
    place.external_ip_cidrs.as_ref().is_none_or(|cidrs| cidrs.iter().any(|cidr| cidr.contains(&ip)))
}

/// Whether a port is reachable from outside the cluster in this family: its policy for external
/// traffic then matters.
pub fn is_external<A: FamilyAddress>(service: &Service, port: &ServicePort, place: &Place) -> bool {
    port.node_port != 0
        || service.ingress_ips.iter().any(|ip| A::of(*ip).is_some())
        || external_ips::<A>(service, place).next().is_some()
}
