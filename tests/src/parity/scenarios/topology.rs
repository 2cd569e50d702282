//! Endpoints that are near: of the client's zone, of its node. The controller writes hints, the subject obeys them.
//!
//! Node N is in zone N. Where two nodes have to be in one zone, node 3 is moved, and the scenario has the cluster for
//! itself.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Value, json};

use crate::parity::{
    Family, Scenario, Turn,
    objects::{Made, MadePod, NewPod},
    play::{Asker, Play, only},
    scenario::{ORDINARY, TCP},
};

const PATHS: &[&str] = &["pod -> cluster IP", "process of a node -> cluster IP"];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "with a preference for the zone clients get its endpoints, and all where it has none",
        upstream: &[
            "traffic_distribution.go: should route traffic to an endpoint in the same zone when using PreferClose",
            "traffic_distribution.go: should route traffic to an endpoint in the same zone when using PreferSameZone",
        ],
        fields: &["trafficDistribution"],
        paths: PATHS,
        run: |play| Box::pin(same_zone(play)),
        ..ORDINARY
    },
    Scenario {
        name: "with a preference for the zone the endpoint may be on another node of it",
        upstream: &[
            "traffic_distribution.go: should route traffic correctly between pods on multiple nodes when using PreferClose",
            "traffic_distribution.go: should route traffic correctly between pods on multiple nodes when using PreferSameZone",
        ],
        fields: &["trafficDistribution"],
        paths: PATHS,
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Alone,
        differs: &[],
        run: |play| Box::pin(zone_of_two_nodes(play)),
    },
    Scenario {
        name: "with a preference for the node clients get its endpoint, else the zone's",
        upstream: &[
            "traffic_distribution.go: should route traffic to an endpoint on the same node or fall back to same zone when using PreferSameNode",
        ],
        fields: &["trafficDistribution"],
        paths: PATHS,
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Alone,
        differs: &[],
        run: |play| Box::pin(same_node_or_zone(play)),
    },
    Scenario {
        name: "with a preference for the node clients get others while its endpoint is away",
        upstream: &[
            "traffic_distribution.go: should route traffic to an endpoint on the same node when using PreferSameNode and fall back when the endpoint becomes unavailable",
        ],
        fields: &["trafficDistribution", "conditions"],
        paths: PATHS,
        run: |play| Box::pin(away_for_a_while(play)),
        ..ORDINARY
    },
    Scenario {
        name: "with topology-mode Auto each zone is served by its own endpoints",
        upstream: &["topology_hints.go: should distribute endpoints evenly"],
        fields: &["service.kubernetes.io/topology-mode"],
        paths: PATHS,
        run: |play| Box::pin(topology_mode_auto(play)),
        ..ORDINARY
    },
];

/// A pod on each of these nodes.
async fn pods(play: &Play<'_>, nodes: &[u8]) -> Result<Vec<MadePod>> {
    let mut made = Vec::new();
    for node in nodes {
        made.push(play.pod(NewPod::new(&format!("on-{node}"), *node).port("http", 8080)).await?);
    }
    Ok(made)
}

fn spec(play: &Play<'_>, preference: Option<&str>) -> Value {
    json!({
        "trafficDistribution": preference,
        "selector": play.own_pods(),
        "ports": [{"port": 80, "targetPort": 8080}],
    })
}

/// Pod and process of a node get these endpoints.
async fn get(play: &Play<'_>, service: &Made, node: u8, endpoints: &BTreeSet<String>) -> Result<()> {
    let to = play.cluster_ip(service, 80)?;
    play.ask(Asker::Pod(node), to)?.answered_by(endpoints).await?;
    play.ask(Asker::Node(node), to)?.answered_by(endpoints).await
}

async fn same_zone(play: &Play<'_>) -> Result<()> {
    let pods = pods(play, &[1, 2]).await?;
    let (first, second) = (&pods[0], &pods[1]);
    for preference in ["PreferClose", "PreferSameZone"] {
        let service = play.service(&preference.to_lowercase(), spec(play, Some(preference))).await?;
        get(play, &service, 1, &only(&[first])).await?;
        get(play, &service, 2, &only(&[second])).await?;
        get(play, &service, 3, &only(&[first, second])).await?;
    }
    Ok(())
}

/// Moves node 3 to a zone.
fn move_node_3(play: &Play<'_>, zone: &str) -> Result<()> {
    let label = format!("topology.kubernetes.io/zone={zone}");
    play.stage().cluster().plane().kubectl(["label", "node", "node3", "--overwrite", &label]).map(drop)
}

/// Plays with node 3 in the zone of node 1, and moves it back.
async fn with_node_3_in_zone_1(play: &Play<'_>, played: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    move_node_3(play, "zone1")?;
    let outcome = played().await;
    move_node_3(play, "zone3")?;
    outcome
}

async fn zone_of_two_nodes(play: &Play<'_>) -> Result<()> {
    let pods = pods(play, &[1, 2]).await?;
    let (first, second) = (&pods[0], &pods[1]);
    for preference in ["PreferClose", "PreferSameZone"] {
        let service = play.service(&preference.to_lowercase(), spec(play, Some(preference))).await?;
        get(play, &service, 3, &only(&[first, second])).await?;
        with_node_3_in_zone_1(play, async || {
            get(play, &service, 3, &only(&[first])).await?;
            get(play, &service, 2, &only(&[second])).await
        })
        .await?;
        get(play, &service, 3, &only(&[first, second])).await?;
    }
    Ok(())
}

async fn same_node_or_zone(play: &Play<'_>) -> Result<()> {
    let pods = pods(play, &[1, 2]).await?;
    let (first, second) = (&pods[0], &pods[1]);
    let service = play.service("web", spec(play, Some("PreferSameNode"))).await?;
    with_node_3_in_zone_1(play, async || {
        get(play, &service, 1, &only(&[first])).await?;
        get(play, &service, 2, &only(&[second])).await?;
        get(play, &service, 3, &only(&[first])).await
    })
    .await
}

async fn away_for_a_while(play: &Play<'_>) -> Result<()> {
    let pods = pods(play, &[1, 2]).await?;
    let (first, second) = (&pods[0], &pods[1]);
    let service = play.service("web", spec(play, Some("PreferSameNode"))).await?;
    get(play, &service, 1, &only(&[first])).await?;
    play.set_ready(first, false).await?;
    get(play, &service, 1, &only(&[second])).await?;
    play.set_ready(first, true).await?;
    get(play, &service, 1, &only(&[first])).await
}

async fn topology_mode_auto(play: &Play<'_>) -> Result<()> {
    let pods = pods(play, &[1, 2, 3]).await?;
    let mode = json!({"service.kubernetes.io/topology-mode": "Auto"});
    let service = play.annotated_service("web", mode, spec(play, None)).await?;
    for (node, pod) in (1..).zip(&pods) {
        get(play, &service, node, &only(&[pod])).await?;
    }
    Ok(())
}
