//! What a Service becomes, and what is said of bad ones.

use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use super::{WithoutClusterIp, project};
use crate::model::{Family, Service, WhenBackendGoes};

fn projected(spec: &Value) -> (Option<Service>, Vec<&'static str>) {
    let object = json!({"metadata": {"name": "web"}, "spec": spec});
    let object: api::Service = serde_json::from_value(object).expect("a Service");
    let (service, problems) = project(&object, WithoutClusterIp::Ignored);
    (service, problems.into_iter().map(|problem| problem.reason).collect())
}

/// The cluster IPs of both families, `-` for none.
fn cluster_ips(spec: &Value) -> [String; 2] {
    let service = projected(spec).0.expect("something to serve");
    Family::ALL.map(|family| service.cluster_ip(family).map_or("-".to_owned(), |ip| ip.to_string()))
}

#[test]
fn each_family_has_the_cluster_ip_at_its_place_in_ip_families() {
    let both =
        |families: [&str; 2], ips: [&str; 2]| json!({"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families});
    let expected = ["10.0.0.1", "fd00::1"];
    assert_eq!(cluster_ips(&both(["IPv4", "IPv6"], ["10.0.0.1", "fd00::1"])), expected);
    assert_eq!(cluster_ips(&both(["IPv6", "IPv4"], ["fd00::1", "10.0.0.1"])), expected);
    assert_eq!(cluster_ips(&json!({"clusterIP": "10.0.0.1"})), ["10.0.0.1", "-"]);
    let single = json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv6"]});
    assert_eq!(cluster_ips(&single), ["-", "fd00::1"]);
}

#[test]
fn a_service_without_cluster_ip_counts_only_in_files() {
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}], "ipFamilies": ["IPv4"]});
    assert_eq!(projected(&spec).0, None);
    let object = json!({"metadata": {"name": "web"}, "spec": spec});
    let object: api::Service = serde_json::from_value(object).expect("a Service");
    let service = project(&object, WithoutClusterIp::Served).0.expect("node ports to serve");
    assert_eq!((service.families, service.cluster_ips), ([true, false], [None, None]));
}

#[test]
fn a_bad_source_range_shuts_the_load_balancer_addresses() {
    let object = json!({
        "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "loadBalancerSourceRanges": ["10.0.0.0/8", "nonsense"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
    });
    let object: api::Service = serde_json::from_value(object).expect("a Service");
    let (service, problems) = project(&object, WithoutClusterIp::Ignored);
    assert!(service.expect("the cluster IP is served").ingress_ips.is_empty());
    assert_eq!(problems[0].reason, "BadSourceRange");
    assert!(problems[0].message.contains("\"nonsense\""), "{}", problems[0].message);
}

#[test]
fn parts_that_are_bad_are_left_out_and_named() {
    let ports = json!([
        {"name": "good", "port": 80},
        {"name": "large", "port": 70_000},
        {"name": "odd", "port": 81, "protocol": "QUIC"},
        {"name": "good", "port": 82},
        {"name": "sctp", "port": 83, "protocol": "SCTP"},
    ]);
    let (service, problems) =
        projected(&json!({"clusterIP": "10.0.0.1", "ports": ports, "externalIPs": ["203.0.113.1", "x"]}));
    let service = service.expect("the good parts are served");
    let names: Vec<&str> = service.ports.iter().map(|port| &*port.name).collect();
    assert_eq!(names, ["good", "sctp"]);
    assert_eq!(service.external_ips.len(), 1);
    let expected = ["BadAddress", "BadPort", "UnknownProtocol", "DuplicatePort"];
    assert_eq!(problems, expected);
}

#[test]
fn connections_are_cut_only_where_the_annotation_says_so_and_another_value_is_named() {
    let annotated = |annotations: &Value| {
        let object = json!({
            "metadata": {"namespace": "shop", "name": "web", "annotations": annotations},
            "spec": {"clusterIP": "10.0.0.1"},
        });
        let object: api::Service = serde_json::from_value(object).expect("a Service");
        let (service, problems) = project(&object, WithoutClusterIp::Ignored);
        (service.expect("it has a cluster IP").when_backend_goes, problems)
    };
    assert_eq!(annotated(&json!(null)), (WhenBackendGoes::Drain, vec![]));
    assert_eq!(annotated(&json!({"svclb.io/when-backend-goes": "drain"})), (WhenBackendGoes::Drain, vec![]));
    assert_eq!(annotated(&json!({"svclb.io/when-backend-goes": "cut"})), (WhenBackendGoes::Cut, vec![]));
    let (when, problems) = annotated(&json!({"svclb.io/when-backend-goes": "Cut"}));
    assert_eq!((when, problems[0].reason, &*problems[0].object.name), (WhenBackendGoes::Drain, "BadAnnotation", "web"));
    let message = &problems[0].message;
    assert!(
        ["svclb.io/when-backend-goes", "\"Cut\"", "\"drain\"", "\"cut\""].iter().all(|word| message.contains(word))
    );
}

#[test]
fn only_a_load_balancer_with_the_policy_local_has_a_health_check_port() {
    let port = |kind: &str, policy: &str, port: i32| {
        let spec = json!({
            "type": kind, "clusterIP": "10.0.0.1", "externalTrafficPolicy": policy, "healthCheckNodePort": port,
        });
        let (service, problems) = projected(&spec);
        (service.expect("it has a cluster IP").health_check_port, problems)
    };
    assert_eq!(port("LoadBalancer", "Local", 31_000), (Some(31_000), vec![]));
    assert_eq!(port("LoadBalancer", "Cluster", 31_000), (None, vec![]));
    assert_eq!(port("NodePort", "Local", 31_000), (None, vec![]));
    assert_eq!(port("LoadBalancer", "Local", 0), (None, vec![]));
    assert_eq!(port("LoadBalancer", "Local", 70_000), (None, vec!["BadPort"]));
}

#[test]
fn every_type_of_service_is_taken_for_what_it_is() {
    let udp = |name: &str, port: u16| json!({"name": name, "port": port, "protocol": "UDP"});
    let two = json!([udp("p1", 1234), udp("p2", 1235)]);
    let balancer = |extra: Value| {
        let mut spec = json!({
            "type": "LoadBalancer", "clusterIP": "172.16.55.11", "loadBalancerIP": "5.6.7.8", "ports": two,
        });
        let spec_fields = spec.as_object_mut().expect("a map");
        spec_fields.extend(extra.as_object().expect("a map").clone());
        spec
    };
    let local = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 345});
    let cases = [
        (json!({"clusterIP": "None", "ports": [udp("p", 1)]}), json!([]), "-"),
        (json!({"clusterIP": "None"}), json!([]), "-"),
        (json!({"clusterIP": "None", "ports": [{"name": "p", "port": 1, "protocol": "SCTP"}]}), json!([]), "-"),
        (json!({"type": "ExternalName", "clusterIP": "172.16.55.4", "externalName": "a.example"}), json!([]), "-"),
        (json!({"clusterIP": ""}), json!([]), "-"),
        (json!({"clusterIP": "172.16.55.4", "ports": two}), json!([]), "p1/UDP p2/UDP"),
        (
            json!({
                "type": "NodePort", "clusterIP": "172.16.55.10",
                "ports": [{"name": "p1", "port": 345, "protocol": "UDP", "nodePort": 30345}, {"name": "p2", "port": 344}],
            }),
            json!([]),
            "p1/UDP p2/TCP",
        ),
        (balancer(json!({})), json!([{"ip": "10.1.2.4"}]), "p1/UDP p2/UDP at 10.1.2.4"),
        (balancer(json!({})), json!([{"ip": "10.1.2.4", "ipMode": "VIP"}]), "p1/UDP p2/UDP at 10.1.2.4"),
        (balancer(json!({})), json!([{"ip": "10.1.2.4", "ipMode": "Proxy"}]), "p1/UDP p2/UDP"),
        (balancer(local), json!([{"ip": "10.1.2.3"}]), "p1/UDP p2/UDP at 10.1.2.3 health 345"),
        (
            balancer(json!({"loadBalancerSourceRanges": [" 10.1.2.0/28"]})),
            json!([{"ip": "10.1.2.3"}]),
            "p1/UDP p2/UDP at 10.1.2.3 from 10.1.2.0/28",
        ),
    ];
    for (spec, ingress, expected) in cases {
        let object = json!({
            "metadata": {"name": "web"}, "spec": spec, "status": {"loadBalancer": {"ingress": ingress}},
        });
        let object: api::Service = serde_json::from_value(object).expect("a Service");
        let taken = project(&object, WithoutClusterIp::Ignored).0.map_or("-".to_owned(), |service| summary(&service));
        assert_eq!(taken, expected, "{spec}");
    }
}

fn summary(service: &Service) -> String {
    let mut words: Vec<String> = service.ports.iter().map(|port| format!("{}/{}", port.name, port.protocol)).collect();
    words.extend(service.ingress_ips.iter().map(|ip| format!("at {ip}")));
    words.extend(service.source_ranges.iter().map(|range| format!("from {range}")));
    words.extend(service.health_check_port.map(|port| format!("health {port}")));
    words.join(" ")
}
