//! `svclb list` and `svclb cleanup` beside agents that serve.
#![cfg(feature = "kernel")]

use anyhow::Result;
use serde_json::Value;
use svclb_tests::net::{Scene, SceneOptions};

const EXAMPLE: &str = include_str!("../../examples/httpd.yaml");

/// The rows whose field has this value.
fn with<'a>(rows: &'a [Value], field: &str, value: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row[field] == value).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_shows_what_is_served_and_cleanup_leaves_nothing() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default(), EXAMPLE).await?;
    scene.expect_good_round().await?;

    let services = scene.list(1, "services")?;
    let node_ports = with(&services, "address", "192.0.2.11:30088");
    assert_eq!(node_ports.len(), 2, "one for each protocol: {services:?}");
    for row in &services {
        assert_eq!(row["endpoints"].as_array().map(Vec::len), Some(3), "{row}");
    }
    let backends = scene.list(1, "backends")?;
    assert_eq!(backends.len(), 3 * 2 * 2, "three pods, two protocols, two families: {backends:?}");
    let flows = scene.list(1, "flows")?;
    let udp = with(&flows, "protocol", "UDP");
    assert!(udp.iter().any(|flow| flow["masquerade"].is_string()), "outside -> NodePort is masqueraded: {flows:?}");
    let devices = scene.list(1, "devices")?;
    let outward = with(&devices, "name", "eth0");
    assert_eq!(outward.len(), 1, "{devices:?}");
    assert_eq!(outward[0]["role"], "node");
    assert_eq!(outward[0]["masquerade"][0], "192.0.2.11");
    let drops = scene.list(1, "drops")?;
    let inconsistent = with(&drops, "name", "drop_inconsistent");
    assert_eq!(inconsistent[0]["count"], 0);

    let refused = scene.svclb(1, &["cleanup"])?;
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("another agent works with"), "{words}");

    scene.kill_agent(1).await?;
    assert_eq!(scene.list(1, "services")?, services, "the tables outlive the agent");
    let done = scene.svclb(1, &["cleanup"])?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let folder = scene.lab.bpffs().folder(scene.lab.node(1).name());
    assert!(!scene.lab.bpffs().run(|| folder.exists()), "{} is left", folder.display());
    let nothing = scene.svclb(1, &["list", "services"])?;
    assert_eq!(nothing.status.code(), Some(1));
    let words = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(words.contains("has an agent run with --bpffs"), "{words}");
    Ok(())
}
