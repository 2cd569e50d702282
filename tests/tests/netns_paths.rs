//! Every path to a Service, with an agent on each node: strict reverse path check, a network policy in the
//! FORWARD hook, pods routed and bridged, checksum offload on and off, TCX and clsact.
#![cfg(feature = "kernel")]

use anyhow::Result;
use svclb_tests::net::{LabOptions, Offload, PodNetwork, Scene, SceneOptions, Underlay};

const EXAMPLE: &str = include_str!("../../examples/httpd.yaml");

async fn every_path(network: PodNetwork, offload: Offload, attach: &'static str) -> Result<()> {
    let lab = LabOptions { offload, ..LabOptions::default() };
    let options = SceneOptions { lab, network, attach, policy: true, ..SceneOptions::default() };
    let mut scene = Scene::new(options, EXAMPLE).await?;
    scene.expect_good_round().await
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
async fn every_path_works_with_clsact_and_routed_pods() -> Result<()> {
    every_path(PodNetwork::Routed, Offload::Off, "clsact").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_clsact_and_bridged_pods() -> Result<()> {
    every_path(PodNetwork::Bridged, Offload::Off, "clsact").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_over_vxlan_between_nodes() -> Result<()> {
    let lab = LabOptions { underlay: Underlay::Vxlan, offload: Offload::Off, ..LabOptions::default() };
    let options = SceneOptions { lab, policy: true, ..SceneOptions::default() };
    let mut scene = Scene::new(options, EXAMPLE).await?;
    scene.expect_good_round().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_with_tcx_links_alone() -> Result<()> {
    every_path(PodNetwork::Routed, Offload::Off, "tcx").await?;
    every_path(PodNetwork::Bridged, Offload::Off, "tcx").await
}
