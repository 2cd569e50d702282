//! Every path to a Service, with an agent on each node: strict reverse path check, a network policy in the
//! FORWARD hook and kubelet's rule in INPUT and OUTPUT, pods routed, bridged and point to point, VXLAN between nodes, nodes
//! with both families and with IPv6 alone, offloads on, off and GRO, TCX and clsact. First a request each, then a
//! megabyte in both directions.
#![cfg(feature = "kernel")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use svclb_tests::net::{Client, Effort, Families, LabOptions, Offload, PodNetwork, Scene, SceneOptions, Underlay};

const EXAMPLE: &str = include_str!("../../examples/httpd.yaml");

async fn every_path(network: PodNetwork, offload: Offload, attach: &'static str) -> Result<()> {
    every_path_in(LabOptions { offload, ..LabOptions::default() }, network, attach).await
}

async fn every_path_in(lab: LabOptions, network: PodNetwork, attach: &'static str) -> Result<()> {
    let options = SceneOptions { lab, network, attach, policy: true, ..SceneOptions::default() };
    let mut scene = Scene::new(options, EXAMPLE).await?;
    scene.expect_good_round().await?;
    let bulk = Effort { at_least: 1, deadline: Duration::from_secs(10), stream: 1 << 20, ..Effort::default() };
    scene.expect_good_round_with(bulk).await.context("a megabyte over TCP")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_routed_pods() -> Result<()> {
    every_path(PodNetwork::Routed, Offload::On, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_routed_pods_and_real_checksums() -> Result<()> {
    every_path(PodNetwork::Routed, Offload::Off, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_bridged_pods() -> Result<()> {
    every_path(PodNetwork::Bridged, Offload::On, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_bridged_pods_and_real_checksums() -> Result<()> {
    every_path(PodNetwork::Bridged, Offload::Off, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_ptp_pods() -> Result<()> {
    every_path(PodNetwork::Ptp, Offload::On, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_ptp_pods_and_real_checksums() -> Result<()> {
    every_path(PodNetwork::Ptp, Offload::Off, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_clsact_and_ptp_pods() -> Result<()> {
    every_path(PodNetwork::Ptp, Offload::Off, "clsact").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_reach_node_ports_on_loopback_addresses_past_the_rule_of_kubelet() -> Result<()> {
    for network in [PodNetwork::Routed, PodNetwork::Ptp] {
        let scene = Scene::new(SceneOptions { network, policy: true, ..SceneOptions::default() }, EXAMPLE).await?;
        let node = scene.lab.node(1);
        let process = Client::new(node.netns(), Duration::from_secs(2));
        let before = node.dropped_by_policy()?;
        for to in ["127.0.0.1:30088", "[::1]:30088"] {
            let to: SocketAddr = to.parse()?;
            process.http(to).await.with_context(|| format!("TCP to {to}, pods {network:?}"))?;
            process.udp(to).await.with_context(|| format!("UDP to {to}, pods {network:?}"))?;
        }
        assert_eq!(node.dropped_by_policy()?, before);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_clsact_and_routed_pods() -> Result<()> {
    every_path(PodNetwork::Routed, Offload::Off, "clsact").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_clsact_and_bridged_pods() -> Result<()> {
    every_path(PodNetwork::Bridged, Offload::Off, "clsact").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_over_vxlan_between_nodes() -> Result<()> {
    let over = |offload| LabOptions { underlay: Underlay::Vxlan, offload, ..LabOptions::default() };
    every_path_in(over(Offload::Off), PodNetwork::Routed, "auto").await?;
    every_path_in(over(Offload::On), PodNetwork::Bridged, "auto").await?;
    every_path_in(over(Offload::Off), PodNetwork::Ptp, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_where_nodes_join_what_they_receive() -> Result<()> {
    every_path(PodNetwork::Routed, Offload::Gro, "auto").await?;
    let lab = LabOptions { underlay: Underlay::Vxlan, offload: Offload::Gro, ..LabOptions::default() };
    every_path_in(lab, PodNetwork::Bridged, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_where_there_is_ipv6_alone() -> Result<()> {
    let lab = |underlay| LabOptions { families: Families::Ipv6, underlay, ..LabOptions::default() };
    every_path_in(lab(Underlay::Direct), PodNetwork::Routed, "auto").await?;
    every_path_in(lab(Underlay::Vxlan), PodNetwork::Bridged, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_tcx_links_alone() -> Result<()> {
    every_path(PodNetwork::Routed, Offload::Off, "tcx").await?;
    every_path(PodNetwork::Bridged, Offload::Off, "tcx").await
}
