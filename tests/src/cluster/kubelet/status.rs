//! What a kubelet reports of a pod.

use std::net::IpAddr;

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{PodWanted, READY_ANNOTATION, node::seconds};

/// What the runtime needs to know of a Pod, or nothing for an object that is not whole.
pub(super) fn wanted(pod: &Pod) -> Option<PodWanted> {
    let spec = pod.spec.as_ref()?;
    let mut ports: Vec<u16> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten().filter(|container| is_sidecar(container)))
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    Some(PodWanted {
        uid: pod.metadata.uid.clone()?,
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.name.clone()?,
        ports,
        host_network: spec.host_network.unwrap_or(false),
    })
}

/// Whether an init container goes on running beside the containers (KEP-753).
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether the test wants the pod to be ready.
pub(super) fn shall_be_ready(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(READY_ANNOTATION))
        .is_none_or(|value| value != "false")
}

/// A patch (strategic merge) that makes the pod one that has run since `started` at `addresses`.
pub(super) fn running(pod: &Pod, node: &[IpAddr], addresses: &[IpAddr], started: Timestamp) -> Value {
    let ready = shall_be_ready(pod);
    let containers: &[Container] = pod.spec.as_ref().map_or(&[], |spec| &spec.containers);
    let statuses: Vec<_> = containers
        .iter()
        .map(|container| {
            json!({
                "name": container.name,
                "image": container.image.clone().unwrap_or_default(),
                "imageID": "",
                "ready": ready,
                "started": true,
                "restartCount": 0,
                "state": {"running": {"startedAt": seconds(started)}},
            })
        })
        .collect();
    json!({"status": {
        "phase": "Running",
        "startTime": seconds(started),
        "hostIP": node.first(),
        "hostIPs": list(node),
        "podIP": addresses.first(),
        "podIPs": list(addresses),
        "containerStatuses": statuses,
        "conditions": [
            condition("PodReadyToStartContainers", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
    }})
}

/// A patch (strategic merge) that makes the pod one whose containers have all ended in good order. Its
/// endpoint goes with that, before the object does.
pub(super) fn ended(pod: &Pod, started: Timestamp) -> Value {
    let containers: &[Container] = pod.spec.as_ref().map_or(&[], |spec| &spec.containers);
    let statuses: Vec<_> = containers
        .iter()
        .map(|container| {
            let times = json!({
                "exitCode": 0, "reason": "Completed",
                "startedAt": seconds(started), "finishedAt": seconds(Timestamp::now()),
            });
            json!({
                "name": container.name,
                "image": container.image.clone().unwrap_or_default(),
                "imageID": "",
                "ready": false,
                "started": false,
                "restartCount": 0,
                "state": {"running": null, "terminated": times},
            })
        })
        .collect();
    json!({"status": {
        "phase": "Succeeded",
        "containerStatuses": statuses,
        "conditions": [condition("ContainersReady", false), condition("Ready", false)],
    }})
}

fn condition(kind: &str, holds: bool) -> Value {
    json!({
        "type": kind,
        "status": if holds { "True" } else { "False" },
        "lastTransitionTime": seconds(Timestamp::now()),
    })
}

fn list(addresses: &[IpAddr]) -> Vec<Value> {
    addresses.iter().map(|address| json!({"ip": address})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "default", "uid": "u1", "annotations": annotations},
            "spec": {"containers": [
                {"name": "web", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]},
                {"name": "metrics", "ports": [{"containerPort": 9090}]},
            ]},
        }))
        .expect("a pod")
    }

    #[test]
    fn a_port_that_is_named_for_two_protocols_is_listened_on_once() {
        assert_eq!(wanted(&pod(&json!({}))).expect("whole").ports, [80, 9090]);
    }

    #[test]
    fn init_containers_serve_when_they_go_on_running() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "default", "uid": "u1"},
            "spec": {
                "containers": [{"name": "web"}],
                "initContainers": [
                    {"name": "once", "ports": [{"containerPort": 81}]},
                    {"name": "beside", "restartPolicy": "Always", "ports": [{"containerPort": 82}]},
                ],
            },
        }))
        .expect("a pod");
        assert_eq!(wanted(&pod).expect("whole").ports, [82]);
    }

    #[test]
    fn a_pod_is_ready_unless_its_annotation_says_no() {
        assert!(shall_be_ready(&pod(&json!({}))));
        assert!(shall_be_ready(&pod(&json!({"svclb.test/ready": "true"}))));
        assert!(!shall_be_ready(&pod(&json!({"svclb.test/ready": "false"}))));
    }

    #[test]
    fn every_container_has_the_state_of_its_pod() {
        let patch = running(&pod(&json!({"svclb.test/ready": "false"})), &[], &[], Timestamp::UNIX_EPOCH);
        let statuses = patch["status"]["containerStatuses"].as_array().expect("a list");
        assert_eq!(statuses.iter().map(|status| &status["name"]).collect::<Vec<_>>(), ["web", "metrics"]);
        assert!(statuses.iter().all(|status| status["ready"] == json!(false)));
    }
}
