//! `internalTrafficPolicy`: clients of a node get the endpoints of that node.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;

use crate::parity::{
    Scenario,
    play::{Asker, Play, web},
    scenario::ORDINARY,
    stage::{HOST, HOST_PORT, NODES, PORT},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "with internalTrafficPolicy Local pods get the endpoints of their own node",
        upstream: &["service.go: should respect internalTrafficPolicy=Local Pod to Pod"],
        fields: &["internalTrafficPolicy"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(pods_to_pods(play)),
        ..ORDINARY
    },
    Scenario {
        name: "with internalTrafficPolicy Local processes of a node get the endpoints of that node",
        upstream: &["service.go: should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod"],
        fields: &["internalTrafficPolicy"],
        paths: &["process of a node -> cluster IP"],
        run: |play| Box::pin(nodes_to_pods(play)),
        ..ORDINARY
    },
    Scenario {
        name: "with internalTrafficPolicy Local endpoints on the nodes' network serve their own node",
        upstream: &["service.go: should respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true)"],
        fields: &["internalTrafficPolicy"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(to_host_network(play)),
        ..ORDINARY
    },
];

/// The cluster IP of a Service that leads to these pods' port, on the client's own node alone.
async fn local(play: &Play<'_>, app: &str, port: u16) -> Result<SocketAddr> {
    let spec = json!({
        "internalTrafficPolicy": "Local",
        "selector": {"app": app},
        "ports": [{"port": 80, "targetPort": port}],
    });
    play.cluster_ip(&play.service(app, spec).await?, 80)
}

async fn pods_to_pods(play: &Play<'_>) -> Result<()> {
    let to = local(play, "web", PORT).await?;
    for node in NODES {
        let asking = play.ask(Asker::Pod(node), to)?;
        if web(Some(node)).is_empty() {
            asking.is_dropped().await?;
        } else {
            asking.seen_as_itself().answered_by(&web(Some(node))).await?;
        }
    }
    Ok(())
}

async fn nodes_to_pods(play: &Play<'_>) -> Result<()> {
    let to = local(play, "web", PORT).await?;
    for node in NODES {
        let asking = play.ask(Asker::Node(node), to)?;
        if web(Some(node)).is_empty() {
            asking.is_not_answered().await?;
        } else {
            asking.answered_by(&web(Some(node))).await?;
        }
    }
    Ok(())
}

async fn to_host_network(play: &Play<'_>) -> Result<()> {
    let to = local(play, "host", HOST_PORT).await?;
    for (pod, node) in HOST {
        let own = [pod.to_owned()].into();
        play.ask(Asker::Pod(node), to)?.answered_by(&own).await?;
        play.ask(Asker::Node(node), to)?.answered_by(&own).await?;
    }
    play.ask(Asker::Pod(3), to)?.is_dropped().await?;
    play.ask(Asker::Node(3), to)?.is_not_answered().await
}
