//! A client that keeps its source port while endpoints change: what was decided for its first datagram must not hold
//! for ever.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use crate::parity::{
    Family, Scenario, Turn,
    objects::{Made, NewPod},
    play::{Asker, Play, only, web},
    scenario::UDP,
    stage::{MORE, PORT},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a client with one source port is answered by the next pod when the first is gone, at a cluster IP",
        upstream: &[
            "conntrack.go: should be able to preserve UDP traffic when server pod cycles for a ClusterIP service",
            "conntrack.go: should be able to preserve UDP traffic when server pod cycles for a ClusterIP service and client is hostNetwork",
            "conntrack.go: should be able to preserve UDP traffic when server pod cycles for a ClusterIP service with InternalTrafficPolicy set to Local",
        ],
        fields: &["clusterIPs", "internalTrafficPolicy"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        families: Family::BOTH,
        protocols: UDP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(at_cluster_ips(play)),
    },
    Scenario {
        name: "a client with one source port is answered by the next pod when the first is gone, at a node port",
        upstream: &[
            "conntrack.go: should be able to preserve UDP traffic when server pod cycles for a NodePort service",
        ],
        fields: &["ports[].nodePort"],
        paths: &["outside -> node port", "pod -> node port"],
        families: Family::BOTH,
        protocols: UDP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(at_node_ports(play)),
    },
    Scenario {
        name: "a client with one source port is answered by the next pod when the first is gone, at a load balancer",
        upstream: &[
            "loadbalancer.go: should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on different nodes",
            "loadbalancer.go: should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on the same nodes",
        ],
        fields: &["status.loadBalancer"],
        paths: &["outside -> load balancer"],
        families: Family::BOTH,
        protocols: UDP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(at_load_balancers(play)),
    },
    Scenario {
        name: "a client that asked too early is answered once an endpoint is ready",
        upstream: &["conntrack.go: should be able to preserve UDP traffic when initial unready endpoints get ready"],
        fields: &["conditions"],
        paths: &["pod -> cluster IP", "outside -> node port"],
        families: Family::BOTH,
        protocols: UDP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(asked_too_early(play)),
    },
    Scenario {
        name: "a client with one source port is led to the new target port",
        upstream: &[
            "conntrack.go: should be able to cleanup conntrack entries when UDP service target port changes for a NodePort service",
        ],
        fields: &["ports[].targetPort", "ports[].nodePort"],
        paths: &["pod -> cluster IP", "outside -> node port"],
        families: Family::BOTH,
        protocols: UDP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(target_port_changes(play)),
    },
];

/// A Service of the pods of this case.
async fn service(play: &Play<'_>, name: &str, fields: Value) -> Result<Made> {
    let mut spec = json!({"selector": play.own_pods(), "ports": [{"port": 80, "targetPort": 8080}]});
    if let (Some(spec), Value::Object(fields)) = (spec.as_object_mut(), fields) {
        spec.extend(fields);
    }
    play.service(name, spec).await
}

/// One pod serves, the next one takes its place.
async fn cycle(play: &Play<'_>, nodes: [u8; 2], asked: &[(Asker<'_>, SocketAddr)]) -> Result<()> {
    let port = play.source_port();
    let first = play.pod(NewPod::new("first", nodes[0]).port("http", 8080)).await?;
    for (asker, to) in asked {
        play.ask(*asker, *to)?.from_port(port).answered_by(&only(&[&first])).await?;
    }
    let next = play.pod(NewPod::new("next", nodes[1]).port("http", 8080)).await?;
    play.delete_pod(&first).await?;
    for (asker, to) in asked {
        play.ask(*asker, *to)?.from_port(port).answered_by(&only(&[&next])).await?;
    }
    play.delete_pod(&next).await
}

async fn at_cluster_ips(play: &Play<'_>) -> Result<()> {
    let everywhere = service(play, "cluster", json!({})).await?;
    let own_node = service(play, "local", json!({"internalTrafficPolicy": "Local"})).await?;
    let (all, local) = (play.cluster_ip(&everywhere, 80)?, play.cluster_ip(&own_node, 80)?);
    cycle(play, [1, 1], &[(Asker::Pod(1), local), (Asker::Pod(3), all), (Asker::Node(2), all)]).await
}

async fn at_node_ports(play: &Play<'_>) -> Result<()> {
    let service = service(play, "web", json!({"type": "NodePort"})).await?;
    let at = |node| play.node_port(&service, 80, node);
    cycle(play, [1, 2], &[(Asker::Outside, at(1)?), (Asker::Pod(3), at(2)?), (Asker::Node(2), at(3)?)]).await
}

async fn at_load_balancers(play: &Play<'_>) -> Result<()> {
    for (which, name, nodes) in [(1, "other-node", [1, 2]), (2, "same-node", [1, 1])] {
        let address = play.free_address(which);
        let service = service(play, name, json!({"type": "LoadBalancer"})).await?;
        play.load_balancer(&service, json!([{"ip": address}])).await?;
        let asking = play.ask(Asker::Outside, SocketAddr::new(address, 80))?.from_port(play.source_port());
        let pod = |which: &str, node| play.pod(NewPod::new(&format!("{name}-{which}"), node).port("http", 8080));
        let first = pod("first", nodes[0]).await?;
        asking.answered_by(&only(&[&first])).await?;
        let next = pod("next", nodes[1]).await?;
        play.delete_pod(&first).await?;
        asking.answered_by(&only(&[&next])).await?;
        play.delete_pod(&next).await?;
        play.endpoints(&service, <[_]>::is_empty).await?;
    }
    Ok(())
}

async fn asked_too_early(play: &Play<'_>) -> Result<()> {
    let pod = play.pod(NewPod::new("web", 1).port("http", 8080).not_ready()).await?;
    let service = service(play, "web", json!({"type": "NodePort"})).await?;
    let port = play.source_port();
    let asked = [
        play.ask(Asker::Pod(2), play.cluster_ip(&service, 80)?)?.from_port(port),
        play.ask(Asker::Outside, play.node_port(&service, 80, 2)?)?.from_port(port),
    ];
    for asking in &asked {
        asking.is_not_answered().await?;
    }
    play.set_ready(&pod, true).await?;
    for asking in &asked {
        asking.answered_by(&only(&[&pod])).await?;
    }
    Ok(())
}

async fn target_port_changes(play: &Play<'_>) -> Result<()> {
    let ports = |target: u16| json!([{"port": 80, "targetPort": target}]);
    let spec = json!({"type": "NodePort", "selector": {"app": "web"}, "ports": ports(PORT)});
    let service = play.service("web", spec).await?;
    let asked = [
        play.ask(Asker::Pod(1), play.cluster_ip(&service, 80)?)?,
        play.ask(Asker::Outside, play.node_port(&service, 80, 3)?)?,
    ];
    let asked = asked.map(|asking| asking.from_port(play.source_port()));
    for asking in &asked {
        asking.clone().on_port(PORT).stays_with_one_of(&web(None)).await?;
    }
    let number = service.node_port(80, play.protocol())?;
    let moved = json!([{"port": 80, "targetPort": MORE, "nodePort": number}]);
    play.edit(&service, json!({"ports": moved})).await?;
    for asking in &asked {
        asking.clone().on_port(MORE).stays_with_one_of(&web(None)).await?;
    }
    Ok(())
}
