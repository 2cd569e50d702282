//! `svclb list` and `svclb cleanup` beside agents that serve.
#![cfg(feature = "kernel")]

use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use svclb_tests::net::{Scene, SceneOptions, agent_binary};

const EXAMPLE: &str = include_str!("../../examples/httpd.yaml");

/// Runs `svclb` on node 1.
fn svclb(scene: &Scene, arguments: &[&str]) -> Result<Output> {
    let node = scene.lab.node(1);
    let mut command = scene.lab.bpffs().applied_to(node.netns().command(agent_binary()?));
    command.args(arguments).arg("--bpffs").arg(scene.lab.bpffs().folder(node.name()));
    command.output().context("run svclb")
}

fn list(scene: &Scene, what: &str) -> Result<Vec<Value>> {
    let output = svclb(scene, &["list", what, "-o", "json"])?;
    ensure!(output.status.success(), "list {what}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(|| format!("list {what} prints a JSON array"))
}

/// The rows whose field has this value.
fn with<'a>(rows: &'a [Value], field: &str, value: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row[field] == value).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_shows_what_is_served_and_cleanup_leaves_nothing() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default(), EXAMPLE).await?;
    scene.expect_good_round().await?;

    let services = list(&scene, "services")?;
    let node_ports = with(&services, "address", "192.0.2.11:30088");
    assert_eq!(node_ports.len(), 2, "one for each protocol: {services:?}");
    for row in &services {
        assert_eq!(row["endpoints"].as_array().map(Vec::len), Some(3), "{row}");
    }
    let backends = list(&scene, "backends")?;
    assert_eq!(backends.len(), 3 * 2 * 2, "three pods, two protocols, two families: {backends:?}");
    let flows = list(&scene, "flows")?;
    let udp = with(&flows, "protocol", "UDP");
    assert!(udp.iter().any(|flow| flow["masquerade"].is_string()), "outside -> NodePort is masqueraded: {flows:?}");
    let devices = list(&scene, "devices")?;
    let outward = with(&devices, "name", "eth0");
    assert_eq!(outward.len(), 1, "{devices:?}");
    assert_eq!(outward[0]["role"], "node");
    assert_eq!(outward[0]["masquerade"][0], "192.0.2.11");
    let drops = list(&scene, "drops")?;
    let inconsistent = with(&drops, "name", "drop_inconsistent");
    assert_eq!(inconsistent[0]["count"], 0);

    let refused = svclb(&scene, &["cleanup"])?;
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("another agent works with"), "{words}");

    scene.kill_agent(1).await?;
    assert_eq!(list(&scene, "services")?, services, "the tables outlive the agent");
    let done = svclb(&scene, &["cleanup"])?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let folder = scene.lab.bpffs().folder(scene.lab.node(1).name());
    assert!(!scene.lab.bpffs().run(|| folder.exists()), "{} is left", folder.display());
    let nothing = svclb(&scene, &["list", "services"])?;
    assert_eq!(nothing.status.code(), Some(1));
    let words = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(words.contains("has an agent run with --bpffs"), "{words}");
    Ok(())
}
