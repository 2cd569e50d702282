//! Direct mode (`--forwarding direct`): every path, past a FORWARD hook that lets nothing through.
#![cfg(feature = "kernel")]

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use svclb_tests::net::{Client, LabOptions, Offload, PodNetwork, Scene, SceneOptions};

const EXAMPLE: &str = include_str!("../../examples/httpd.yaml");
const DIRECT: [&str; 2] = ["--forwarding", "direct"];

async fn direct(network: PodNetwork, lab: LabOptions, attach: &'static str) -> Result<Scene> {
    let agent_arguments = DIRECT.to_vec();
    Scene::new(SceneOptions { lab, network, attach, agent_arguments, ..SceneOptions::default() }, EXAMPLE).await
}

/// Closes the FORWARD hook of every node but for what pods here and the other node, or its pods, say to each other: that is
/// no Service's any more, or not yet. What is left to the stack of the first node is dropped.
fn close(scene: &Scene) -> Result<()> {
    for node in scene.lab.nodes() {
        let (here, there) = (node.number(), 3 - node.number());
        let own = (format!("10.244.{here}.0/24"), format!("fd00:10:244:{here}::/64"));
        let other = (
            format!("{{ 10.244.{there}.0/24, 192.0.2.1{there} }}"),
            format!("{{ fd00:10:244:{there}::/64, 2001:db8:1::1{there} }}"),
        );
        let rules = format!(
            "table inet closed {{ chain forward {{ type filter hook forward priority 0; policy drop;\n\
             ip saddr {} ip daddr {} accept\nip saddr {} ip daddr {} accept\n\
             ip6 saddr {} ip6 daddr {} accept\nip6 saddr {} ip6 daddr {} accept\n}}\n}}\n",
            own.0, other.0, other.0, own.0, own.1, other.1, other.1, own.1
        );
        let output = node.netns().command("nft").arg(&rules).output()?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

async fn every_path(network: PodNetwork, lab: LabOptions, attach: &'static str) -> Result<()> {
    let mut scene = direct(network, lab, attach).await?;
    close(&scene)?;
    scene.expect_good_round().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_goes_past_a_closed_forward_hook_with_routed_pods() -> Result<()> {
    every_path(PodNetwork::Routed, LabOptions::default(), "clsact").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_directly_with_bridged_pods() -> Result<()> {
    // Not closed: IPv6 between two pods of one bridge goes through the stack.
    let lab = LabOptions { offload: Offload::Off, ..LabOptions::default() };
    direct(PodNetwork::Bridged, lab, "auto").await?.expect_good_round().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_goes_past_a_closed_forward_hook_with_ptp_pods() -> Result<()> {
    every_path(PodNetwork::Ptp, LabOptions { offload: Offload::Off, ..LabOptions::default() }, "auto").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_policy_of_the_node_keeps_nobody_out() -> Result<()> {
    let agent_arguments = DIRECT.to_vec();
    let scene = Scene::new(SceneOptions { policy: true, agent_arguments, ..SceneOptions::default() }, EXAMPLE).await?;
    let forbidden = scene.askers.forbidden.as_ref().expect("a pod that the policy keeps out");
    let to: SocketAddr = ([10, 96, 0, 16], 8082).into();
    let client = Client::new(forbidden.netns(), Duration::from_millis(500));
    // Endpoints of the other node are behind that node's policy, which sees the pod's own address.
    let mut reached = false;
    for _ in 0..20 {
        reached |= client.http(to).await.is_ok();
    }
    ensure!(reached, "no endpoint of this node answers");
    let log = fs::read_to_string(scene.agent_log(1))?;
    ensure!(log.contains("pass this node's netfilter by") && log.contains("inet "), "no warning with names:\n{log}");
    Ok(())
}
