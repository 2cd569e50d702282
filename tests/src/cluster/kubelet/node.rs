//! The Node object and its heartbeat.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, Node},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::cluster::binary::KUBERNETES;

/// The name under which the kubelet writes.
const MANAGER: &str = "svclb-test-kubelet";

/// The namespace of the leases by which nodes show that they are alive.
const LEASES: &str = "kube-node-lease";

/// How often the lease is renewed, as the real kubelet does.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A node to register.
#[derive(Debug, Clone)]
pub struct NodeWanted {
    /// Its name, under which the agent asks for it.
    pub name: String,
    /// Its addresses, the one of the primary family first.
    pub addresses: Vec<IpAddr>,
    /// The ranges of its pods, at most one of each family.
    pub pod_cidrs: Vec<String>,
    /// Its zone, if any, for topology hints.
    pub zone: Option<String>,
}

/// Writes the Node, its status and its first lease.
pub(super) async fn register(client: &Client, node: &NodeWanted) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let force = PatchParams::apply(MANAGER).force();
    nodes.patch(&node.name, &force, &Patch::Apply(object(node))).await.context("write the Node")?;
    // Not an apply: its schema knows one address of each type, and a node has an InternalIP of each family.
    let status = Patch::Merge(status(node, Timestamp::now()));
    nodes.patch_status(&node.name, &PatchParams::default(), &status).await.context("write the Node's status")?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASES}});
    namespaces.patch(LEASES, &force, &Patch::Apply(namespace)).await.context("write the leases' namespace")?;
    renew(client, node).await
}

/// Renews the lease for ever. A renewal that fails is tried again at the next beat: the API server may be
/// away for a while.
pub(super) async fn keep_alive(client: Client, node: Arc<NodeWanted>) {
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        beat.tick().await;
        if let Err(error) = renew(&client, &node).await {
            tracing::info!(node = node.name, "the lease was not renewed: {error:#}");
        }
    }
}

async fn renew(client: &Client, node: &NodeWanted) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node.name},
        "spec": {
            "holderIdentity": node.name,
            "leaseDurationSeconds": 40,
            "renewTime": format!("{:.6}", Timestamp::now()),
        },
    });
    leases
        .patch(&node.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(lease))
        .await
        .context("renew the node's lease")?;
    Ok(())
}

/// The Node without its status.
fn object(node: &NodeWanted) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    });
    if let Some(zone) = &node.zone {
        labels["topology.kubernetes.io/zone"] = json!(zone);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs},
    })
}

/// The status of a node that is well and has room.
fn status(node: &NodeWanted, now: Timestamp) -> Value {
    let addresses = node
        .addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .chain([json!({"type": "Hostname", "address": node.name})])
        .collect::<Vec<_>>();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "a node of the lab",
            "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(now),
        })
    };
    let room = json!({"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "230"});
    let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    json!({"status": {
        "nodeInfo": {
            "kubeletVersion": KUBERNETES,
            "kernelVersion": kernel.unwrap_or_default(),
            "osImage": "a network namespace",
            "containerRuntimeVersion": "netns://1",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
        "addresses": addresses,
        "capacity": room,
        "allocatable": room,
        "conditions": [
            condition("Ready", "True", "KubeletReady"),
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
        ],
    }})
}

/// A time as Kubernetes writes it: whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}
