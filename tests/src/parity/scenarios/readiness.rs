//! Endpoints that are not ready, or about to go.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    cluster::{
        EndpointState,
        timeline::{Route, Timeline, describe},
    },
    net::Client,
    parity::{
        Scenario,
        objects::{Made, MadePod, NewPod},
        play::{Asker, Play, only},
        scenario::ORDINARY,
        stage::NODES,
    },
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "with publishNotReadyAddresses pods serve that are not ready, and not without it",
        upstream: &[
            "service.go: should create endpoints for unready pods",
            "service.go: should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true",
        ],
        fields: &["publishNotReadyAddresses"],
        paths: &["pod -> cluster IP", "outside -> node port"],
        run: |play| Box::pin(published(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a pod that is not ready does not serve, also while it ends",
        upstream: &[
            "service.go: should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is false",
        ],
        fields: &["publishNotReadyAddresses", "conditions"],
        paths: &["pod -> cluster IP", "outside -> node port"],
        run: |play| Box::pin(not_published(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a pod that was evicted refuses, also where not ready addresses are published",
        upstream: &["service.go: should be rejected for evicted pods (no endpoints exist)"],
        fields: &["publishNotReadyAddresses"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(evicted(play)),
        ..ORDINARY
    },
    Scenario {
        name: "the last pod serves a cluster IP until its end",
        upstream: &[
            "service.go: should fallback to terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Cluster",
        ],
        fields: &["conditions", "internalTrafficPolicy"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(last_of_cluster(play)),
        ..ORDINARY
    },
    Scenario {
        name: "with internalTrafficPolicy Local the last pod of a node serves that node until its end",
        upstream: &[
            "service.go: should fallback to local terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Local",
        ],
        fields: &["conditions", "internalTrafficPolicy"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(last_of_node(play)),
        ..ORDINARY
    },
    Scenario {
        name: "the last pod serves node ports until its end",
        upstream: &[
            "service.go: should fallback to terminating endpoints when there are no ready endpoints with externallTrafficPolicy=Cluster",
        ],
        fields: &["conditions", "externalTrafficPolicy"],
        paths: &["outside -> node port", "pod -> node port"],
        run: |play| Box::pin(last_behind_node_ports(play)),
        ..ORDINARY
    },
    Scenario {
        name: "with externalTrafficPolicy Local the last pod of a node serves that node's port until its end",
        upstream: &[
            "service.go: should fallback to local terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Local",
        ],
        fields: &["conditions", "externalTrafficPolicy"],
        paths: &["outside -> node port"],
        run: |play| Box::pin(last_behind_own_node_port(play)),
        ..ORDINARY
    },
    Scenario {
        name: "no request fails while ready pods take the place of others",
        upstream: &[
            "pod_lifecycle.go: should be able to have zero downtime on a Blue Green deployment using Services and Readiness Gates",
        ],
        fields: &["conditions", "selector"],
        paths: &["pod -> cluster IP", "outside -> node port"],
        run: |play| Box::pin(blue_and_green(play)),
        ..ORDINARY
    },
];

/// Longer than any scenario takes: who ends serves to the end of it.
const LONG_GRACE: u32 = 600;

async fn published(play: &Play<'_>) -> Result<()> {
    let pod = play.pod(NewPod::new("web", 1).port("http", 8080).not_ready().grace(LONG_GRACE)).await?;
    let service = service(play, json!({"type": "NodePort", "publishNotReadyAddresses": true})).await?;
    let asked = [
        play.ask(Asker::Pod(2), play.cluster_ip(&service, 80)?)?,
        play.ask(Asker::Outside, play.node_port(&service, 80, 1)?)?,
        play.ask(Asker::Outside, play.node_port(&service, 80, 2)?)?,
    ];
    for asking in &asked {
        asking.answered_by(&only(&[&pod])).await?;
    }
    play.edit(&service, json!({"publishNotReadyAddresses": false})).await?;
    for asking in &asked {
        asking.is_refused().await?;
    }
    play.edit(&service, json!({"publishNotReadyAddresses": true})).await?;
    for asking in &asked {
        asking.answered_by(&only(&[&pod])).await?;
    }
    play.delete_pod(&pod).await?;
    play.endpoints(&service, |found| found.iter().all(|one| one.terminating)).await?;
    for asking in &asked {
        asking.answered_by(&only(&[&pod])).await?;
    }
    Ok(())
}

async fn not_published(play: &Play<'_>) -> Result<()> {
    let pod = play.pod(NewPod::new("web", 1).port("http", 8080).not_ready().grace(LONG_GRACE)).await?;
    let service = service(play, json!({"type": "NodePort"})).await?;
    let mut asked = vec![play.ask(Asker::Pod(2), play.cluster_ip(&service, 80)?)?];
    for node in NODES {
        asked.push(play.ask(Asker::Outside, play.node_port(&service, 80, node)?)?);
    }
    for asking in &asked {
        asking.is_refused().await?;
    }
    play.delete_pod(&pod).await?;
    play.endpoints(&service, |found| found.iter().all(|one| one.terminating && !one.serving)).await?;
    for asking in &asked {
        asking.is_refused().await?;
    }
    Ok(())
}

async fn evicted(play: &Play<'_>) -> Result<()> {
    let pod = play.pod(NewPod::new("web", 1).port("http", 8080)).await?;
    let service = service(play, json!({"publishNotReadyAddresses": true})).await?;
    let to = play.cluster_ip(&service, 80)?;
    for asker in [Asker::Pod(2), Asker::Node(2)] {
        play.ask(asker, to)?.answered_by(&only(&[&pod])).await?;
    }
    let not_ready = json!([{"type": "Ready", "status": "False"}]);
    play.patch_pod_status(&pod, json!({"phase": "Failed", "reason": "Evicted", "conditions": not_ready})).await?;
    for asker in [Asker::Pod(2), Asker::Node(2)] {
        play.ask(asker, to)?.is_refused().await?;
    }
    Ok(())
}

async fn last_of_cluster(play: &Play<'_>) -> Result<()> {
    let (pod, service) = ending(play, json!({})).await?;
    let to = play.cluster_ip(&service, 80)?;
    for node in NODES {
        play.ask(Asker::Pod(node), to)?.answered_by(&only(&[&pod])).await?;
        play.ask(Asker::Node(node), to)?.answered_by(&only(&[&pod])).await?;
    }
    // As soon as another is ready it serves alone.
    let next = play.pod(NewPod::new("next", 2).port("http", 8080)).await?;
    for asker in [Asker::Pod(1), Asker::Node(1)] {
        play.ask(asker, to)?.answered_by(&only(&[&next])).await?;
    }
    Ok(())
}

async fn last_of_node(play: &Play<'_>) -> Result<()> {
    let (pod, service) = ending(play, json!({"internalTrafficPolicy": "Local"})).await?;
    let to = play.cluster_ip(&service, 80)?;
    for asker in [Asker::Pod(1), Asker::Node(1)] {
        play.ask(asker, to)?.answered_by(&only(&[&pod])).await?;
    }
    play.ask(Asker::Pod(2), to)?.is_dropped().await?;
    play.ask(Asker::Node(2), to)?.is_not_answered().await
}

async fn last_behind_node_ports(play: &Play<'_>) -> Result<()> {
    let (pod, service) = ending(play, json!({"type": "NodePort"})).await?;
    for node in NODES {
        let to = play.node_port(&service, 80, node)?;
        for asker in [Asker::Outside, Asker::Pod(node)] {
            play.ask(asker, to)?.answered_by(&only(&[&pod])).await?;
        }
    }
    Ok(())
}

async fn last_behind_own_node_port(play: &Play<'_>) -> Result<()> {
    let (pod, service) = ending(play, json!({"type": "NodePort", "externalTrafficPolicy": "Local"})).await?;
    let own = play.node_port(&service, 80, 1)?;
    play.ask(Asker::Outside, own)?.seen_as_itself().answered_by(&only(&[&pod])).await?;
    for node in [2, 3] {
        play.ask(Asker::Outside, play.node_port(&service, 80, node)?)?.is_dropped().await?;
    }
    Ok(())
}

async fn blue_and_green(play: &Play<'_>) -> Result<()> {
    let blue =
        [NewPod::new("blue-1", 1), NewPod::new("blue-2", 2)].map(|pod| play.pod(pod.port("http", 8080).grace(10)));
    let [blue_1, blue_2] = blue;
    let (blue_1, blue_2) = (blue_1.await?, blue_2.await?);
    let service = service(play, json!({"type": "NodePort"})).await?;
    let inside = (Asker::Pod(3), play.cluster_ip(&service, 80)?);
    let outside = (Asker::Outside, play.node_port(&service, 80, 3)?);
    for (asker, to) in [inside, outside] {
        play.ask(asker, to)?.answered_by(&only(&[&blue_1, &blue_2])).await?;
    }
    let mut routes = Vec::new();
    for (asker, to) in [inside, outside] {
        let client = Client::new(&play.netns(asker)?, Duration::from_secs(5));
        routes.push(Route { name: asker.to_string(), client, to, protocol: play.protocol() });
    }
    let start = std::time::Instant::now();
    let requests = Timeline::start(routes, Duration::from_millis(20));
    let changed = replace(play, inside, [&blue_1, &blue_2]).await;
    let records = requests.stop().await;
    changed?;
    let failed: Vec<_> = records.iter().filter(|record| record.outcome.is_err()).collect();
    ensure!(failed.is_empty(), "of {} requests failed:\n{}", records.len(), describe(failed, start));
    Ok(())
}

/// Green pods become ready, then the blue ones are taken out and deleted.
async fn replace(play: &Play<'_>, inside: (Asker<'_>, std::net::SocketAddr), blue: [&MadePod; 2]) -> Result<()> {
    let (asker, to) = inside;
    let green_1 = play.pod(NewPod::new("green-1", 1).port("http", 8080).not_ready()).await?;
    let green_2 = play.pod(NewPod::new("green-2", 3).port("http", 8080).not_ready()).await?;
    play.set_ready(&green_1, true).await?;
    play.set_ready(&green_2, true).await?;
    play.ask(asker, to)?.answered_by(&only(&[blue[0], blue[1], &green_1, &green_2])).await?;
    for pod in blue {
        play.set_ready(pod, false).await?;
    }
    play.ask(asker, to)?.answered_by(&only(&[&green_1, &green_2])).await?;
    for pod in blue {
        play.delete_pod(pod).await?;
    }
    play.ask(asker, to)?.answered_by(&only(&[&green_1, &green_2])).await
}

/// A Service of the case's own pods, with these fields besides.
async fn service(play: &Play<'_>, fields: serde_json::Value) -> Result<Made> {
    let mut spec = json!({"selector": play.own_pods(), "ports": [{"port": 80, "targetPort": 8080}]});
    if let (Some(spec), serde_json::Value::Object(fields)) = (spec.as_object_mut(), fields) {
        spec.extend(fields);
    }
    play.service("web", spec).await
}

/// A Service whose only pod, on node 1, is about to go and serves as yet.
async fn ending(play: &Play<'_>, fields: serde_json::Value) -> Result<(MadePod, Made)> {
    let pod = play.pod(NewPod::new("last", 1).port("http", 8080).grace(LONG_GRACE)).await?;
    let service = service(play, fields).await?;
    let named = |found: &[EndpointState]| found.iter().filter_map(|one| one.pod.clone()).collect::<BTreeSet<_>>();
    let own = only(&[&pod]);
    play.endpoints(&service, |found| named(found) == own && found.iter().all(|one| one.ready)).await?;
    play.delete_pod(&pod).await?;
    play.endpoints(&service, |found| named(found) == own && found.iter().all(|one| one.terminating && one.serving))
        .await?;
    Ok((pod, service))
}
