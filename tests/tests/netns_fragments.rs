//! Datagrams that are too long for one packet take every path to a Service, as short ones do: with and without
//! netfilter putting them together on the way (`nf_defrag`, which connection tracking brings along).
#![cfg(feature = "kernel")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use svclb_tests::net::{Client, Effort, LabOptions, Offload, PodNetwork, Scene, SceneOptions, Underlay};

/// Services with the name, the node port, the number of pods and a line of their own each; all answer UDP.
fn services(all: &[(&str, u16, u32, &str)]) -> String {
    let service = |(name, port, replicas, line): &(&str, u16, u32, &str)| {
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers: [{{name: echo, image: echo, ports: [{{containerPort: 7, protocol: UDP}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {{app: {name}}}
  ports: [{{port: 7, nodePort: {port}, protocol: UDP}}]
{line}"
        )
    };
    all.iter().map(service).collect::<Vec<_>>().join("---\n")
}

/// Every kind of path there is: pods here and there, the policies Local, and nobody.
fn all_kinds() -> String {
    services(&[
        ("echo", 30007, 3, ""),
        ("outer", 30008, 2, "  externalTrafficPolicy: Local\n"),
        ("inner", 30009, 3, "  internalTrafficPolicy: Local\n"),
        ("nobody", 30010, 0, ""),
    ])
}

/// Two fragments and 41, with the most common MTU.
const LENGTHS: [usize; 2] = [2000, 60_000];

async fn every_path(network: PodNetwork, policy: bool, lab: LabOptions) -> Result<()> {
    let options = SceneOptions { lab, network, policy, ..SceneOptions::default() };
    let mut scene = Scene::new(options, &all_kinds()).await?;
    for datagram in LENGTHS {
        let effort = Effort { at_least: 3, datagram, stream: datagram, ..Effort::default() };
        scene.expect_good_round_with(effort).await.with_context(|| format!("datagrams of {datagram} bytes"))?;
    }
    Ok(())
}

/// A lab in which every checksum is computed and checked.
fn checked() -> LabOptions {
    LabOptions { offload: Offload::Off, ..LabOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_datagrams_take_every_path_with_routed_pods() -> Result<()> {
    every_path(PodNetwork::Routed, false, LabOptions::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_datagrams_take_every_path_with_routed_pods_and_a_policy() -> Result<()> {
    every_path(PodNetwork::Routed, true, checked()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_datagrams_take_every_path_with_bridged_pods() -> Result<()> {
    every_path(PodNetwork::Bridged, false, checked()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_datagrams_take_every_path_with_bridged_pods_and_a_policy() -> Result<()> {
    every_path(PodNetwork::Bridged, true, LabOptions::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_datagrams_take_every_path_over_vxlan_between_nodes() -> Result<()> {
    let lab = LabOptions { underlay: Underlay::Vxlan, ..checked() };
    every_path(PodNetwork::Routed, false, lab).await?;
    every_path(PodNetwork::Routed, true, lab).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_datagrams_of_processes_of_a_node_reach_services() -> Result<()> {
    let scene = Scene::new(SceneOptions::default(), &services(&[("echo", 30007, 2, "")])).await?;
    let client = Client::new(scene.lab.node(1).netns(), Duration::from_secs(2));
    for datagram in LENGTHS {
        let client = client.clone().asking_for(datagram);
        let frontends: [SocketAddr; 6] = [
            "10.96.0.16:7".parse()?,
            "[fd00:10:96::10]:7".parse()?,
            scene.node_port(1, false, 30007),
            scene.node_port(1, true, 30007),
            "127.0.0.1:30007".parse()?,
            scene.node_port(2, false, 30007),
        ];
        for to in frontends {
            for _ in 0..8 {
                let reply = client.udp(to).await.with_context(|| format!("{datagram} bytes to {to}"))?;
                ensure!(reply.answer.asked.len() == datagram, "{to}: {} bytes came", reply.answer.asked.len());
            }
        }
    }
    Ok(())
}
