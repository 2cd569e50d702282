//! Endpoints that are written by hand, in one slice or several.

use anyhow::Result;
use serde_json::{Value, json};

use crate::parity::{
    Scenario,
    play::{Asker, Play, web},
    scenario::ORDINARY,
    stage::{MORE, PORT},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "ports that stand in slices of their own are all reached",
        upstream: &[
            "endpointslice.go: should support a Service with multiple ports specified in multiple EndpointSlices",
        ],
        fields: &["ports"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(a_slice_for_each_port(play)),
        ..ORDINARY
    },
    Scenario {
        name: "endpoints that stand in slices of their own are all reached",
        upstream: &[
            "endpointslice.go: should support a Service with multiple endpoint IPs specified in multiple EndpointSlices",
        ],
        fields: &["endpoints"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(a_slice_for_each_endpoint(play)),
        ..ORDINARY
    },
    Scenario {
        name: "one address in two subsets of Endpoints is reached on the ports of both",
        upstream: &[
            "endpointslicemirroring.go: should mirror a custom Endpoint with multiple subsets and same IP address",
        ],
        fields: &["ports"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(mirrored_subsets(play)),
        ..ORDINARY
    },
    Scenario {
        name: "an endpoint that moves from one slice to another serves all the time",
        upstream: &[],
        fields: &["endpoints"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(moves_between_slices(play)),
        ..ORDINARY
    },
];

/// Endpoints at the addresses of standing pods.
fn endpoints(play: &Play<'_>, pods: &[&str]) -> Result<Value> {
    let all = pods.iter().map(|pod| Ok(json!({"addresses": [play.pod_address(pod)?.to_string()]})));
    Ok(Value::Array(all.collect::<Result<_>>()?))
}

async fn a_slice_for_each_port(play: &Play<'_>) -> Result<()> {
    let ports = json!([{"name": "first", "port": 80}, {"name": "second", "port": 81}]);
    let service = play.service("web", json!({"ports": ports})).await?;
    for (name, port) in [("first", PORT), ("second", MORE)] {
        play.slice(&service, name, endpoints(play, &["web-1"])?, json!([{"name": name, "port": port}])).await?;
    }
    for (port, target) in [(80, PORT), (81, MORE)] {
        let to = play.cluster_ip(&service, port)?;
        play.ask(Asker::Pod(2), to)?.on_port(target).answered_by(&web(Some(1))).await?;
    }
    Ok(())
}

async fn a_slice_for_each_endpoint(play: &Play<'_>) -> Result<()> {
    let service = play.service("web", json!({"ports": [{"name": "http", "port": 80}]})).await?;
    for pod in ["web-1", "web-2", "web-3"] {
        play.slice(&service, pod, endpoints(play, &[pod])?, json!([{"name": "http", "port": PORT}])).await?;
    }
    let to = play.cluster_ip(&service, 80)?;
    for asker in [Asker::Pod(1), Asker::Node(1)] {
        play.ask(asker, to)?.answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn mirrored_subsets(play: &Play<'_>) -> Result<()> {
    let ports = json!([{"name": "first", "port": 80}, {"name": "second", "port": 81}]);
    let service = play.service("web", json!({"ports": ports})).await?;
    let (address, protocol) = (play.pod_address("web-1")?, play.protocol());
    let object = format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: {}}}\nsubsets:\n\
         - {{addresses: [{{ip: '{address}'}}], ports: [{{name: first, port: {PORT}, protocol: {protocol}}}]}}\n\
         - {{addresses: [{{ip: '{address}'}}], ports: [{{name: second, port: {MORE}, protocol: {protocol}}}]}}\n",
        service.name
    );
    play.apply(&object, &[("endpoints", &service.name)])?;
    for (port, target) in [(80, PORT), (81, MORE)] {
        let to = play.cluster_ip(&service, port)?;
        play.ask(Asker::Pod(2), to)?.on_port(target).answered_by(&web(Some(1))).await?;
    }
    Ok(())
}

async fn moves_between_slices(play: &Play<'_>) -> Result<()> {
    let ports = json!([{"name": "http", "port": PORT}]);
    let service = play.service("web", json!({"ports": [{"name": "http", "port": 80}]})).await?;
    play.slice(&service, "one", endpoints(play, &["web-1"])?, ports.clone()).await?;
    let asking = play.ask(Asker::Pod(2), play.cluster_ip(&service, 80)?)?;
    asking.answered_by(&web(Some(1))).await?;
    // It stands in both for a moment, and then in the other alone.
    play.slice(&service, "other", endpoints(play, &["web-1"])?, ports).await?;
    play.edit_slice("one", json!({"endpoints": []})).await?;
    let mut requests = 0;
    let settled = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while std::time::Instant::now() < settled {
        requests += 1;
        asking.once().await.map_err(|failure| anyhow::anyhow!("request {requests} after the move: {failure}"))?;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    asking.answered_by(&web(Some(1))).await
}
