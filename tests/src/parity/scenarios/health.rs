//! What nodes tell operators and load balancers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::parity::{
    Family, Scenario, Turn,
    objects::NewPod,
    play::{Asker, Play, only},
    scenario::TCP,
    stage::NODES,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a node says that it is well, and in which mode it is served",
        upstream: &["networking.go: should check kube-proxy urls"],
        fields: &["/healthz", "/livez", "/proxyMode"],
        paths: &["outside -> node", "process of a node -> node"],
        families: &[Family::IPv4],
        protocols: TCP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(urls(play)),
    },
    Scenario {
        name: "node ports and what load balancers hear follow externalTrafficPolicy",
        upstream: &[
            "service.go: should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes",
        ],
        fields: &["externalTrafficPolicy", "healthCheckNodePort", "ports[].nodePort"],
        paths: &["outside -> node port", "outside -> health check port", "process of a node -> node port"],
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(policy_changes(play)),
    },
    Scenario {
        name: "load balancers do not count on a pod that ends, while the node port still serves",
        upstream: &["service.go: should fail health check node port if there are only terminating endpoints"],
        fields: &["healthCheckNodePort", "conditions"],
        paths: &["outside -> node port", "outside -> health check port"],
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(only_terminating(play)),
    },
];

async fn urls(play: &Play<'_>) -> Result<()> {
    for node in NODES {
        let health = SocketAddr::new(play.node_address(node)?, 10256);
        let (status, body) = play.get(Asker::Outside, health, "/healthz").await??;
        ensure!(status == 200 && body.contains("lastUpdated"), "node{node} /healthz: {status} {body}");
        let (status, _body) = play.get(Asker::Outside, health, "/livez").await??;
        ensure!(status == 200, "node{node} /livez: {status}");
        let metrics = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
        let (status, body) = play.get(Asker::Node(node), metrics, "/proxyMode").await??;
        let mode = play.subject().name().trim_start_matches("kube-proxy-");
        ensure!(status == 200 && body == mode, "node{node} /proxyMode: {status} {body}");
    }
    Ok(())
}

async fn policy_changes(play: &Play<'_>) -> Result<()> {
    let pod = play.pod(NewPod::new("web", 1).port("http", 8080)).await?;
    let (own, ports) = (only(&[&pod]), json!([{"port": 80, "targetPort": 8080}]));
    let spec = json!({
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "selector": play.own_pods(),
        "ports": ports,
    });
    let service = play.service("web", spec).await?;
    let health = service.health_check_port().context("a health check port")?;
    let at = |node| play.node_port(&service, 80, node);
    let local = async || {
        play.load_balancers_hear(1, health, Some(200)).await?;
        play.load_balancers_hear(2, health, Some(503)).await?;
        play.load_balancers_hear(3, health, Some(503)).await?;
        play.ask(Asker::Outside, at(1)?)?.seen_as_itself().answered_by(&own).await?;
        play.ask(Asker::Node(3), at(1)?)?.seen_as_itself().answered_by(&own).await?;
        // A client on the node itself is led on, as the node's own clients are everywhere.
        play.ask(Asker::Node(3), at(3)?)?.answered_by(&own).await?;
        play.ask(Asker::Outside, at(2)?)?.is_dropped().await?;
        play.ask(Asker::Node(3), at(2)?)?.is_dropped().await
    };
    local().await?;
    play.edit(&service, json!({"externalTrafficPolicy": "Cluster"})).await?;
    for node in NODES {
        play.load_balancers_hear(node, health, None).await?;
        play.ask(Asker::Outside, at(node)?)?.seen_as(at(node)?.ip()).answered_by(&own).await?;
    }
    play.edit(&service, json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": health})).await?;
    local().await
}

async fn only_terminating(play: &Play<'_>) -> Result<()> {
    let pod = play.pod(NewPod::new("web", 1).port("http", 8080).grace(600)).await?;
    let spec = json!({
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "selector": play.own_pods(),
        "ports": [{"port": 80, "targetPort": 8080}],
    });
    let service = play.service("web", spec).await?;
    let health = service.health_check_port().context("a health check port")?;
    let asking = play.ask(Asker::Outside, play.node_port(&service, 80, 1)?)?.seen_as_itself();
    play.load_balancers_hear(1, health, Some(200)).await?;
    asking.answered_by(&only(&[&pod])).await?;
    play.delete_pod(&pod).await?;
    play.load_balancers_hear(1, health, Some(503)).await?;
    asking.answered_by(&only(&[&pod])).await
}
