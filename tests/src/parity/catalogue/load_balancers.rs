//! The files about addresses of load balancers and about which endpoint is near.

use super::{Upstream, no_proxy, traffic};

pub(super) const TESTS: &[Upstream] = &[
    traffic(
        "loadbalancer.go: should be able to change the type and ports of a TCP service",
        "from a cluster IP to a node port, to a load balancer, with other numbers, and back; each answers just as long",
    ),
    traffic("loadbalancer.go: should be able to change the type and ports of a UDP service", "the same with datagrams"),
    traffic(
        "loadbalancer.go: should only allow access from service loadbalancer source ranges",
        "only sources in the ranges are served at the address; ranges that hold everything, nothing, and none at all",
    ),
    traffic(
        "loadbalancer.go: should have session affinity work for LoadBalancer service with Local traffic policy",
        "fifteen answers of one pod at the address",
    ),
    traffic(
        "loadbalancer.go: should be able to switch session affinity for LoadBalancer service with Local traffic policy",
        "on, off, on at the address",
    ),
    traffic(
        "loadbalancer.go: should have session affinity work for LoadBalancer service with Cluster traffic policy",
        "fifteen answers of one pod at the address",
    ),
    traffic(
        "loadbalancer.go: should be able to switch session affinity for LoadBalancer service with Cluster traffic policy",
        "on, off, on at the address",
    ),
    no_proxy(
        "loadbalancer.go: should handle load balancer cleanup finalizer for service",
        "about a finalizer that the cloud's controller writes",
    ),
    traffic(
        "loadbalancer.go: should be able to create LoadBalancer Service without NodePort and change it",
        "the address is served without node ports, and with them once they are wanted",
    ),
    traffic(
        "loadbalancer.go: should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on different nodes",
        "a client that keeps its port is answered by the next pod, on another node",
    ),
    traffic(
        "loadbalancer.go: should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on the same nodes",
        "the same where the next pod is on the same node",
    ),
    traffic(
        "loadbalancer.go: should not have connectivity disruption during rolling update with externalTrafficPolicy=Cluster",
        "hardly any request fails while pods are replaced one by one",
    ),
    traffic(
        "loadbalancer.go: should not have connectivity disruption during rolling update with externalTrafficPolicy=Local",
        "the same with clients' addresses kept",
    ),
    traffic(
        "loadbalancer.go: should work for type=LoadBalancer",
        "clients' addresses are kept at the address, and the health check's port is let go when the type changes",
    ),
    traffic(
        "loadbalancer.go: should only target nodes with endpoints",
        "load balancers hear of just those nodes that have an endpoint",
    ),
    traffic(
        "loadbalancer.go: should target all nodes with endpoints",
        "endpoints on all nodes are reached by the address",
    ),
    traffic("loadbalancer.go: should work from pods", "a pod reaches the address, and its own address is seen"),
    traffic(
        "traffic_distribution.go: should route traffic to an endpoint in the same zone when using PreferClose",
        "a client is served by the endpoint of its zone, and by all where its zone has none",
    ),
    traffic(
        "traffic_distribution.go: should route traffic correctly between pods on multiple nodes when using PreferClose",
        "the same where the zone's endpoint is on another node",
    ),
    traffic(
        "traffic_distribution.go: should route traffic to an endpoint in the same zone when using PreferSameZone",
        "as with PreferClose",
    ),
    traffic(
        "traffic_distribution.go: should route traffic correctly between pods on multiple nodes when using PreferSameZone",
        "as with PreferClose",
    ),
    traffic(
        "traffic_distribution.go: should route traffic to an endpoint on the same node or fall back to same zone when using PreferSameNode",
        "the own node's endpoint first, then the zone's",
    ),
    traffic(
        "traffic_distribution.go: should route traffic to an endpoint on the same node when using PreferSameNode and fall back when the endpoint becomes unavailable",
        "another one while the own node's is away, and the own again when it is back",
    ),
    traffic(
        "topology_hints.go: should distribute endpoints evenly",
        "with hints of the controller each zone is served by its own endpoints",
    ),
];
