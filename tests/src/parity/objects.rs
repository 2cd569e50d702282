//! What scenarios make in the cluster: Services, pods, slices.

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};

use super::{scenario::Family, stage::NAMESPACE};
use crate::{cluster::PodPlace, net::Protocol};

/// A Service as the API server completed it.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its name in the cluster.
    pub name: String,
    object: Service,
}

impl Made {
    pub(super) fn of(object: Service) -> Result<Self> {
        let name = object.metadata.name.clone().context("a Service has a name")?;
        Ok(Self { name, object })
    }

    /// Its cluster address of a family.
    pub fn cluster_ip(&self, family: Family) -> Result<IpAddr> {
        let spec = self.object.spec.as_ref().context("a Service has a spec")?;
        let all = spec.cluster_ips.iter().flatten().filter_map(|text| text.parse::<IpAddr>().ok());
        all.into_iter()
            .find(|address| address.is_ipv6() == (family == Family::IPv6))
            .with_context(|| format!("{} has no cluster address of {}: {spec:?}", self.name, family.name()))
    }

    /// The node port that belongs to a port.
    pub fn node_port(&self, port: u16, protocol: Protocol) -> Result<u16> {
        let spec = self.object.spec.as_ref().context("a Service has a spec")?;
        let own = spec.ports.iter().flatten().find(|own| {
            own.port == i32::from(port) && own.protocol.as_deref().unwrap_or("TCP") == protocol.to_string()
        });
        let number = own.and_then(|own| own.node_port).and_then(|number| u16::try_from(number).ok());
        number.with_context(|| format!("{} has no node port for {port} {protocol}: {spec:?}", self.name))
    }

    /// The port on which nodes tell load balancers of its endpoints.
    pub fn health_check_port(&self) -> Option<u16> {
        let spec = self.object.spec.as_ref()?;
        spec.health_check_node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
    }
}

/// A pod that a scenario made and that runs.
#[derive(Debug, Clone)]
pub struct MadePod {
    /// Its name in the cluster, by which its answers name it.
    pub name: String,
    /// Where it runs.
    pub place: PodPlace,
}

/// A pod to make. It serves TCP and UDP on its ports and is ready at once unless it says otherwise.
#[derive(Debug, Clone)]
pub struct NewPod {
    name: String,
    node: u8,
    ports: Vec<(&'static str, u16)>,
    sidecar_ports: Vec<(&'static str, u16)>,
    host_network: bool,
    ready: bool,
    grace: u32,
}

impl NewPod {
    /// A pod on a node, which serves nothing yet.
    pub fn new(name: &str, node: u8) -> Self {
        Self {
            name: name.to_owned(),
            node,
            ports: Vec::new(),
            sidecar_ports: Vec::new(),
            host_network: false,
            ready: true,
            grace: 1,
        }
    }

    /// Serves on a port, which has this name, and for UDP the name with `-udp` behind it.
    #[must_use]
    pub fn port(mut self, name: &'static str, number: u16) -> Self {
        self.ports.push((name, number));
        self
    }

    /// Serves on a port of an init container that goes on running.
    #[must_use]
    pub fn sidecar_port(mut self, name: &'static str, number: u16) -> Self {
        self.sidecar_ports.push((name, number));
        self
    }

    /// On its node's own network.
    #[must_use]
    pub fn on_host_network(self) -> Self {
        Self { host_network: true, ..self }
    }

    /// Not ready, until [`Play::set_ready`](super::play::Play::set_ready) says so.
    #[must_use]
    pub fn not_ready(self) -> Self {
        Self { ready: false, ..self }
    }

    /// Serves for so many seconds after it has been deleted.
    #[must_use]
    pub fn grace(self, seconds: u32) -> Self {
        Self { grace: seconds, ..self }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The object, in a namespace that a scenario has for itself by the names and the label `case`.
    pub(super) fn object(&self, name: &str, case: &str) -> Result<Pod> {
        let ports = |list: &[(&str, u16)]| -> Vec<Value> {
            let both = |(name, number): &(&str, u16)| {
                [
                    json!({"name": name, "containerPort": number}),
                    json!({"name": format!("{name}-udp"), "containerPort": number, "protocol": "UDP"}),
                ]
            };
            list.iter().flat_map(both).collect()
        };
        let sidecars = if self.sidecar_ports.is_empty() {
            json!([])
        } else {
            let ports = ports(&self.sidecar_ports);
            json!([{"name": "beside", "image": "answerer", "restartPolicy": "Always", "ports": ports}])
        };
        let ready = self.ready.to_string();
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": {"case": case, "pod": self.name},
                "annotations": {"svclb.test/ready": ready},
            },
            "spec": {
                "nodeName": format!("node{}", self.node),
                "hostNetwork": self.host_network,
                "terminationGracePeriodSeconds": self.grace,
                "initContainers": sidecars,
                "containers": [{"name": "answerer", "image": "answerer", "ports": ports(&self.ports)}],
            },
        }))
        .context("write a pod")
    }
}

/// An EndpointSlice written by hand.
pub(super) fn slice(
    name: &str,
    service: &str,
    family: Family,
    endpoints: &Value,
    ports: &Value,
) -> Result<EndpointSlice> {
    serde_json::from_value(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family.name(),
        "endpoints": endpoints,
        "ports": ports,
    }))
    .context("write an EndpointSlice")
}
