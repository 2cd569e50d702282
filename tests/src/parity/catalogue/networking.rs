//! The files about paths between pods, nodes and Services.

use super::{Upstream, no_proxy, traffic};

/// Why a test of pods alone is none of ours.
const PODS: &str = "about the network between pods, without a Service";

/// Why a test of names is none of ours.
const NAMES: &str = "about what the cluster's name server answers";

/// Why a test of the way out of the cluster is none of ours.
const OUT: &str = "about the way out of the cluster";

/// Why a test of host ports is none of ours.
const HOST_PORTS: &str = "about host ports, which the network plugin serves";

pub(super) const TESTS: &[Upstream] = &[
    no_proxy("networking.go: should provide Internet connection for containers", OUT),
    no_proxy("networking.go: should provider Internet connection for containers using DNS", OUT),
    no_proxy(
        "networking.go: should provide unchanging, static URL paths for kubernetes api services",
        "about the API server's own paths",
    ),
    traffic(
        "networking.go: should check kube-proxy urls",
        "/healthz says when it was last updated, /proxyMode answers",
    ),
    traffic(
        "networking.go: should function for pod-Service: http",
        "a pod reaches cluster IP and node port, all endpoints",
    ),
    traffic("networking.go: should function for pod-Service: udp", "the same with datagrams"),
    traffic("networking.go: should function for pod-Service: sctp", "the same with SCTP"),
    traffic("networking.go: should function for node-Service: http", "a process of a node reaches both"),
    traffic("networking.go: should function for node-Service: udp", "the same with datagrams"),
    traffic("networking.go: should function for node-Service: sctp", "the same with SCTP"),
    traffic("networking.go: should function for endpoint-Service: http", "an endpoint reaches both, itself included"),
    traffic("networking.go: should function for endpoint-Service: udp", "the same with datagrams"),
    traffic("networking.go: should function for endpoint-Service: sctp", "the same with SCTP"),
    traffic(
        "networking.go: should function for multiple endpoint-Services with same selector",
        "two Services with the same pods are reached by all of them",
    ),
    traffic("networking.go: should update endpoints: http", "a pod that was deleted answers no more"),
    traffic("networking.go: should update endpoints: udp", "the same with datagrams"),
    traffic("networking.go: should update nodePort: http", "a node port whose Service was deleted answers no more"),
    traffic("networking.go: should update nodePort: udp", "the same with datagrams"),
    traffic("networking.go: should support basic nodePort: udp functionality", "a datagram to a node port is answered"),
    traffic(
        "networking.go: should function for client IP based session affinity: http [LinuxOnly]",
        "one endpoint answers all requests of a client",
    ),
    traffic(
        "networking.go: should function for client IP based session affinity: udp [LinuxOnly]",
        "the same with datagrams",
    ),
    traffic("networking.go: should be able to handle large requests: http", "requests of more than a packet"),
    traffic(
        "networking.go: should be able to handle large requests: udp",
        "datagrams of more than a packet, in fragments",
    ),
    traffic(
        "networking.go: should function for service endpoints using hostNetwork",
        "endpoints on the nodes' network are reached from pods and nodes, by cluster IP and node port",
    ),
    traffic(
        "networking.go: should recreate its iptables rules if they are deleted",
        "what serves comes back when somebody else removes it",
    ),
    no_proxy("networking.go: should allow creating a Pod with an SCTP HostPort [LinuxOnly]", HOST_PORTS),
    no_proxy("dual_stack.go: should have at least one dual-stack node", "about the nodes' addresses"),
    no_proxy("dual_stack.go: should create pod, add ipv6 and ipv4 ip to pod ips", PODS),
    no_proxy("dual_stack.go: should create pod, add ipv6 and ipv4 ip to host ips", PODS),
    no_proxy("dual_stack.go: should be able to reach pod on ipv4 and ipv6 ip", PODS),
    traffic(
        "dual_stack.go: should create a single stack service with cluster ip from primary service range",
        "one cluster IP, of the primary family",
    ),
    traffic("dual_stack.go: should create service with ipv4 cluster ip", "one cluster IP, of IPv4"),
    traffic("dual_stack.go: should create service with ipv6 cluster ip", "one cluster IP, of IPv6"),
    traffic("dual_stack.go: should create service with ipv4,v6 cluster ip", "cluster IPs of both families, IPv4 first"),
    traffic("dual_stack.go: should create service with ipv6,v4 cluster ip", "cluster IPs of both families, IPv6 first"),
    traffic("dual_stack.go: should function for pod-Service: http", "as in networking.go, secondary family"),
    traffic("dual_stack.go: should function for pod-Service: udp", "as in networking.go, secondary family"),
    traffic("dual_stack.go: should function for pod-Service: sctp", "as in networking.go, secondary family"),
    traffic("dual_stack.go: should function for node-Service: http", "as in networking.go, secondary family"),
    traffic("dual_stack.go: should function for node-Service: udp", "as in networking.go, secondary family"),
    traffic("dual_stack.go: should function for endpoint-Service: http", "as in networking.go, secondary family"),
    traffic("dual_stack.go: should function for endpoint-Service: udp", "as in networking.go, secondary family"),
    traffic("dual_stack.go: should update endpoints: http", "as in networking.go, secondary family"),
    traffic("dual_stack.go: should update endpoints: udp", "as in networking.go, secondary family"),
    traffic(
        "dual_stack.go: should function for client IP based session affinity: http [LinuxOnly]",
        "as in networking.go, secondary family",
    ),
    traffic(
        "dual_stack.go: should function for client IP based session affinity: udp [LinuxOnly]",
        "as in networking.go, secondary family",
    ),
    traffic("dual_stack.go: should be able to handle large requests: http", "as in networking.go, secondary family"),
    traffic("dual_stack.go: should be able to handle large requests: udp", "as in networking.go, secondary family"),
    traffic(
        "dual_stack.go: should function for service endpoints using hostNetwork",
        "as in networking.go, secondary family",
    ),
    traffic(
        "conntrack.go: should be able to preserve UDP traffic when server pod cycles for a NodePort service",
        "a client that keeps its port is answered by the next pod when the first is gone",
    ),
    traffic(
        "conntrack.go: should be able to preserve UDP traffic when server pod cycles for a ClusterIP service",
        "the same by the cluster IP",
    ),
    traffic(
        "conntrack.go: should be able to preserve UDP traffic when server pod cycles for a ClusterIP service with InternalTrafficPolicy set to Local",
        "the same, and the policy does not make the proxy forget that the new pod serves",
    ),
    traffic(
        "conntrack.go: should be able to preserve UDP traffic when server pod cycles for a ClusterIP service and client is hostNetwork",
        "the same for a process of a node",
    ),
    traffic(
        "conntrack.go: should be able to preserve UDP traffic when initial unready endpoints get ready",
        "a client that asked before there was an endpoint is answered once there is",
    ),
    traffic(
        "conntrack.go: proxy implementation should not be vulnerable to the invalid conntrack state bug [Privileged]",
        "a packet outside of the window does not break the connection",
    ),
    traffic(
        "conntrack.go: should be able to cleanup conntrack entries when UDP service target port changes for a NodePort service",
        "a client that keeps its port is led to the new port",
    ),
    traffic(
        "kube_proxy.go: should set TCP CLOSE_WAIT timeout [Privileged]",
        "half closed connections are kept for an hour",
    ),
    no_proxy(
        "kube_proxy.go: should update metric for tracking accepted packets destined for localhost nodeports",
        "about a counter that only rules of the iptables mode have",
    ),
    traffic(
        "localhost_nodeports.go: should proxy localhost NodePort traffic to backends across nodes",
        "127.0.0.1 and ::1 of a node lead to endpoints on it and elsewhere",
    ),
    traffic(
        "localhost_nodeports.go: should honor sessionAffinity=ClientIP for localhost NodePort",
        "one endpoint answers what a node asks on its loopback address",
    ),
    traffic(
        "localhost_nodeports.go: should let a node pull an image from a registry exposed via localhost NodePort",
        "much data over such a connection",
    ),
    no_proxy("no_snat.go: Should be able to send traffic between Pods without SNAT", PODS),
    no_proxy(
        "hostport.go: validates that there is no conflict between pods with same hostPort but different hostIP and protocol [LinuxOnly]",
        HOST_PORTS,
    ),
    no_proxy("pod_lifecycle.go: should be able to connect from a Pod to a terminating Pod", PODS),
    no_proxy("pod_lifecycle.go: should be able to connect to other Pod from a terminating Pod", PODS),
    traffic(
        "pod_lifecycle.go: should be able to have zero downtime on a Blue Green deployment using Services and Readiness Gates",
        "no request fails while one set of pods takes the place of another",
    ),
    no_proxy("dns.go: should provide DNS for the cluster", NAMES),
    no_proxy("dns.go: should resolve DNS of partial qualified names for the cluster [LinuxOnly]", NAMES),
    no_proxy("dns.go: should provide /etc/hosts entries for the cluster", NAMES),
    no_proxy("dns.go: should provide DNS for services", NAMES),
    no_proxy("dns.go: should provide DNS for a service with multiple EndpointSlices and no Endpoints", NAMES),
    no_proxy("dns.go: should resolve DNS of partial qualified names for services [LinuxOnly]", NAMES),
    no_proxy("dns.go: should provide DNS for pods for Hostname", NAMES),
    no_proxy("dns.go: should provide DNS for pods for Subdomain", NAMES),
    no_proxy("dns.go: should provide DNS for ExternalName services", NAMES),
    no_proxy("dns.go: should support configurable pod DNS nameservers", NAMES),
    no_proxy("dns.go: should support configurable pod resolv.conf", NAMES),
    no_proxy(
        "dns.go: should work with the pod containing more than 6 DNS search paths and longer than 256 search list characters",
        NAMES,
    ),
    no_proxy(
        "dns.go: should work with a search path containing an underscore and a search path with a single dot",
        NAMES,
    ),
    no_proxy("dns.go: should work with a service name that starts with a digit", NAMES),
    no_proxy(
        "dns.go: should resolve DNS of partial qualified names for services on hostNetwork pods with dnsPolicy: ClusterFirstWithHostNet [LinuxOnly]",
        NAMES,
    ),
    no_proxy("dns.go: spec.Hostname field is not silently ignored and is used for hostname for a Pod", NAMES),
    no_proxy(
        "dns.go: spec.Hostname field is silently ignored and the node hostname is used when hostNetwork is set to true for a Pod",
        NAMES,
    ),
];
