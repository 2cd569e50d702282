//! Labels by which a Service or a slice is none of the proxy's.

use anyhow::Result;
use serde_json::json;

use crate::parity::{
    Scenario,
    play::{Asker, Play, web},
    scenario::ORDINARY,
    stage::PORT,
};

/// The label of Services that another proxy serves.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// The label of slices that are none of a proxy's.
const HEADLESS: &str = "service.kubernetes.io/headless";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a Service that names another proxy is not served, and is when the label goes",
        upstream: &["service.go: should implement service.kubernetes.io/service-proxy-name"],
        fields: &["service.kubernetes.io/service-proxy-name"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(proxy_name(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a slice that is labelled headless counts no more",
        upstream: &["service.go: should implement service.kubernetes.io/headless"],
        fields: &["service.kubernetes.io/headless"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(headless(play)),
        ..ORDINARY
    },
];

async fn proxy_name(play: &Play<'_>) -> Result<()> {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]});
    let toggled = play.service("toggled", spec.clone()).await?;
    let disabled = play.service_with("disabled", json!({PROXY_NAME: "another"}), spec).await?;
    let to = play.cluster_ip(&toggled, 80)?;
    let asked = [play.ask(Asker::Pod(1), to)?, play.ask(Asker::Node(3), to)?];
    let label = |value: serde_json::Value| json!({"metadata": {"labels": {PROXY_NAME: value}}});
    for asking in &asked {
        asking.answered_by(&web(None)).await?;
    }
    play.patch(&toggled, label(json!("another"))).await?;
    for asking in &asked {
        asking.is_not_answered().await?;
    }
    play.patch(&toggled, label(json!(null))).await?;
    for asking in &asked {
        asking.answered_by(&web(None)).await?;
    }
    let to = play.cluster_ip(&disabled, 80)?;
    for asker in [Asker::Pod(1), Asker::Node(3)] {
        play.ask(asker, to)?.is_not_answered().await?;
    }
    Ok(())
}

async fn headless(play: &Play<'_>) -> Result<()> {
    let service = play.service("web", json!({"ports": [{"name": "http", "port": 80}]})).await?;
    let endpoints = json!([{"addresses": [play.pod_address("web-1")?.to_string()]}]);
    play.slice(&service, "by-hand", endpoints, json!([{"name": "http", "port": PORT}])).await?;
    let to = play.cluster_ip(&service, 80)?;
    let asked = [play.ask(Asker::Pod(2), to)?, play.ask(Asker::Node(3), to)?];
    let label = |value: serde_json::Value| json!({"metadata": {"labels": {HEADLESS: value}}});
    for asking in &asked {
        asking.answered_by(&web(Some(1))).await?;
    }
    play.edit_slice("by-hand", label(json!(""))).await?;
    for asking in &asked {
        asking.is_refused().await?;
    }
    play.edit_slice("by-hand", label(json!(null))).await?;
    for asking in &asked {
        asking.answered_by(&web(Some(1))).await?;
    }
    Ok(())
}
