//! `service.go`, and the files about endpoints and cluster addresses.

use super::{Upstream, no_proxy, traffic};

/// Why a test of objects alone is none of ours.
const API: &str = "about objects at the API server alone";

/// Why a test of the slice controllers is none of ours.
const CONTROLLER: &str = "about what the controllers write, not about who reads it";

pub(super) const TESTS: &[Upstream] = &[
    no_proxy("apiserver.go: should provide secure master service", API),
    no_proxy("apiserver.go: should have Endpoints and EndpointSlices pointing to API Server", API),
    no_proxy("endpoints.go: should test the lifecycle of an Endpoint", API),
    no_proxy(
        "endpoints.go: should create and delete Endpoints for a Service with a selector that matches no pods",
        CONTROLLER,
    ),
    no_proxy("endpoints.go: should create Endpoints for Pods matching a Service", CONTROLLER),
    no_proxy("service.go: should find a service from listing all namespaces", API),
    no_proxy("service.go: should complete a service status lifecycle", API),
    no_proxy("service.go: should delete a collection of services", API),
    no_proxy("service.go: should prevent NodePort collisions", API),
    no_proxy("service.go: should check NodePort out-of-range", API),
    traffic(
        "service.go: should serve a basic endpoint from pods",
        "a Service is reached while its pods come and go: none, one, two, one, none",
    ),
    traffic("service.go: should serve multiport endpoints from pods", "each port leads to the pod that serves it"),
    traffic(
        "service.go: should be updated after adding or deleting ports",
        "a port that is added to a live Service answers, one that is removed does no more",
    ),
    traffic(
        "service.go: should preserve source pod IP for traffic thru service cluster IP [LinuxOnly]",
        "a pod's own address is seen at the other end of a cluster IP, on its node and on another",
    ),
    traffic(
        "service.go: should allow pods to hairpin back to themselves through services",
        "the only pod of a Service reaches itself through it",
    ),
    traffic(
        "service.go: should be able to up and down services",
        "one Service goes, another comes, a third stays; each cluster IP answers just as long",
    ),
    traffic(
        "service.go: should work after the service has been recreated",
        "a Service that is deleted and made again answers on its new cluster IP",
    ),
    traffic("service.go: should work after restarting kube-proxy", "old and new Services answer after a restart"),
    traffic(
        "service.go: should work after restarting apiserver",
        "old Services answer, and one that is made after the restart",
    ),
    traffic(
        "service.go: should be able to create a functioning NodePort service",
        "cluster IP and node port of two nodes answer",
    ),
    traffic(
        "service.go: should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node",
        "an external IP that no node has is led to the endpoints",
    ),
    traffic(
        "service.go: should be able to update service type to NodePort listening on same port number but different protocols",
        "TCP alone becomes a node port, then UDP joins under the same number, and both answer",
    ),
    traffic(
        "service.go: should be able to change the type from ExternalName to ClusterIP",
        "the new cluster IP answers",
    ),
    traffic(
        "service.go: should be able to change the type from ExternalName to NodePort",
        "the new cluster IP and node port answer",
    ),
    traffic(
        "service.go: should be able to change the type from ClusterIP to ExternalName",
        "the name leads elsewhere; of a proxy it asks that the cluster IP is let go",
    ),
    traffic(
        "service.go: should be able to change the type from NodePort to ExternalName",
        "the same, and that the node port is let go",
    ),
    traffic(
        "service.go: should release NodePorts on delete",
        "the number can be used again, and nothing listens on it on the node",
    ),
    traffic(
        "service.go: should create endpoints for unready pods",
        "with publishNotReadyAddresses pods that are not ready are reached, without it they are not",
    ),
    traffic(
        "service.go: should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true",
        "cluster IP and node ports reach a pod that is unready and then terminating",
    ),
    traffic(
        "service.go: should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is false",
        "cluster IP and node ports reach no pod that is unready, also while it terminates",
    ),
    traffic(
        "service.go: should have session affinity work for service with type clusterIP [LinuxOnly]",
        "fifteen answers of one pod of three",
    ),
    traffic(
        "service.go: should have session affinity timeout work for service with type clusterIP [LinuxOnly]",
        "after the timeout another pod may answer, and does in time",
    ),
    traffic(
        "service.go: should be able to switch session affinity for service with type clusterIP [LinuxOnly]",
        "on: one pod; off: several; on again: one",
    ),
    traffic(
        "service.go: should have session affinity work for NodePort service [LinuxOnly]",
        "fifteen answers of one pod of three, by a node port",
    ),
    traffic(
        "service.go: should have session affinity timeout work for NodePort service [LinuxOnly]",
        "the timeout, by a node port",
    ),
    traffic(
        "service.go: should be able to switch session affinity for NodePort service [LinuxOnly]",
        "on, off, on, by a node port",
    ),
    traffic(
        "service.go: should implement service.kubernetes.io/service-proxy-name",
        "a Service with the label is not served, whether it is made with it or gets it later",
    ),
    traffic(
        "service.go: should implement service.kubernetes.io/headless",
        "a slice that gets the label counts no more",
    ),
    traffic(
        "service.go: should be rejected when no endpoints exist",
        "a connection to a Service without endpoints is refused, not left waiting",
    ),
    traffic(
        "service.go: should be rejected for evicted pods (no endpoints exist)",
        "the same where the only pod was evicted, though not ready addresses are published",
    ),
    traffic(
        "service.go: should respect internalTrafficPolicy=Local Pod to Pod",
        "pods reach the endpoint of their own node and none of others",
    ),
    traffic(
        "service.go: should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod",
        "the same for clients on the nodes' network",
    ),
    traffic(
        "service.go: should respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true)",
        "the same for endpoints on the nodes' network",
    ),
    traffic(
        "service.go: should support externalTrafficPolicy=Local for type=NodePort",
        "an endpoint sees the address of a client on another node",
    ),
    traffic(
        "service.go: should fail health check node port if there are only terminating endpoints",
        "load balancers hear that a node has no endpoint, while its node port still serves",
    ),
    traffic(
        "service.go: should fallback to terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Cluster",
        "the last pod serves the cluster IP until its end",
    ),
    traffic(
        "service.go: should fallback to local terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Local",
        "the last pod of a node serves that node's clients until its end, and no others",
    ),
    traffic(
        "service.go: should fallback to terminating endpoints when there are no ready endpoints with externallTrafficPolicy=Cluster",
        "the last pod serves node ports until its end",
    ),
    traffic(
        "service.go: should fallback to local terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Local",
        "the last pod of a node serves that node's port until its end",
    ),
    traffic(
        "service.go: should serve endpoints on same port and different protocols",
        "TCP and UDP of one number are apart: one that is removed takes the other not along",
    ),
    traffic(
        "service.go: should serve endpoints on same port and different protocol for internal traffic on Type LoadBalancer",
        "the same with type LoadBalancer, by the cluster IP",
    ),
    traffic(
        "service.go: should allow creating a basic SCTP service with pod and endpoints [LinuxOnly]",
        "a Service of SCTP does not make the kernel load a module",
    ),
    traffic(
        "service.go: should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes",
        "Local, Cluster, Local again: who answers on which node, and what load balancers hear, changes with it",
    ),
    traffic(
        "service.go: should connect to the ports exposed by restartable init containers",
        "a port of an init container that goes on running is reached",
    ),
    traffic(
        "service.go: should connect to the named ports exposed by restartable init containers",
        "the same by the port's name",
    ),
    traffic(
        "service.go: should support named targetPorts that resolve to different ports on different endpoints",
        "each pod is asked on the number that its own port of that name has",
    ),
    no_proxy(
        "endpointslice.go: should create and delete EndpointSlices for a Service with a selector that matches no pods",
        CONTROLLER,
    ),
    no_proxy("endpointslice.go: should create Endpoints and EndpointSlices for Pods matching a Service", CONTROLLER),
    no_proxy("endpointslice.go: should support creating EndpointSlice API operations", API),
    traffic(
        "endpointslice.go: should support a Service with multiple ports specified in multiple EndpointSlices",
        "ports that stand in slices of their own are all reached",
    ),
    traffic(
        "endpointslice.go: should support a Service with multiple endpoint IPs specified in multiple EndpointSlices",
        "endpoints that stand in slices of their own are all reached",
    ),
    no_proxy(
        "endpointslicemirroring.go: should mirror a custom Endpoints resource through create update and delete",
        CONTROLLER,
    ),
    traffic(
        "endpointslicemirroring.go: should mirror a custom Endpoint with multiple subsets and same IP address",
        "one address in two subsets with a port each: both ports are reached",
    ),
    traffic(
        "service_cidrs.go: should create Services and serve on different Service CIDRs",
        "a Service whose cluster IP is from a range that was added later answers, by its node port too",
    ),
    no_proxy("service_cidrs.go: should support ServiceCIDR API operations", API),
    no_proxy("service_cidrs.go: should support IPAddress API operations", API),
    no_proxy("service_latency.go: should not be very high", "about how soon the controllers write endpoints"),
];
