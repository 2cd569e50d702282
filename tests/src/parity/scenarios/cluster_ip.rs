//! Cluster addresses: who reaches which endpoints, and as whom.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    net::{Client, Protocol, StrayServer},
    parity::{
        Differs, Family, Scenario, Subject, Turn,
        objects::NewPod,
        play::{Asker, Play, only, web},
        scenario::{ALL_PROTOCOLS, ORDINARY, TCP},
        stage::{HOST, HOST_PORT, NODES, PORT, WEB},
    },
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a pod reaches all endpoints of a cluster IP and is seen as itself",
        upstream: &[
            "service.go: should preserve source pod IP for traffic thru service cluster IP [LinuxOnly]",
            "networking.go: should function for pod-Service: http",
            "networking.go: should function for pod-Service: udp",
            "networking.go: should function for pod-Service: sctp",
            "dual_stack.go: should function for pod-Service: http",
            "dual_stack.go: should function for pod-Service: udp",
            "dual_stack.go: should function for pod-Service: sctp",
        ],
        fields: &["clusterIPs", "selector"],
        paths: &["pod -> cluster IP"],
        protocols: ALL_PROTOCOLS,
        run: |play| Box::pin(pods_are_seen_as_themselves(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a process of a node reaches all endpoints of a cluster IP",
        upstream: &[
            "networking.go: should function for node-Service: http",
            "networking.go: should function for node-Service: udp",
            "networking.go: should function for node-Service: sctp",
            "dual_stack.go: should function for node-Service: http",
            "dual_stack.go: should function for node-Service: udp",
        ],
        fields: &["clusterIPs"],
        paths: &["process of a node -> cluster IP"],
        protocols: ALL_PROTOCOLS,
        differs: &[Differs {
            subject: Subject::Svclb,
            cases: |case| case.protocol == Protocol::Sctp,
            reason: "the kernel asks nobody about the SCTP sockets of the node's own processes: they are refused at once",
        }],
        run: |play| Box::pin(nodes_are_seen_as_themselves(play)),
        ..ORDINARY
    },
    Scenario {
        name: "an endpoint reaches all endpoints of its own Service",
        upstream: &[
            "networking.go: should function for endpoint-Service: http",
            "networking.go: should function for endpoint-Service: udp",
            "networking.go: should function for endpoint-Service: sctp",
            "dual_stack.go: should function for endpoint-Service: http",
            "dual_stack.go: should function for endpoint-Service: udp",
        ],
        fields: &["clusterIPs"],
        paths: &["endpoint -> cluster IP"],
        protocols: ALL_PROTOCOLS,
        run: |play| Box::pin(endpoints_reach_their_service(play)),
        ..ORDINARY
    },
    Scenario {
        name: "the only endpoint of a Service reaches itself, and sees its node",
        upstream: &["service.go: should allow pods to hairpin back to themselves through services"],
        fields: &["clusterIPs"],
        paths: &["endpoint -> cluster IP -> itself"],
        run: |play| Box::pin(hairpin(play)),
        ..ORDINARY
    },
    Scenario {
        name: "endpoints on the nodes' own network are reached from pods and nodes",
        upstream: &[
            "networking.go: should function for service endpoints using hostNetwork",
            "dual_stack.go: should function for service endpoints using hostNetwork",
        ],
        fields: &["clusterIPs", "ports[].nodePort"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP", "pod -> node port", "outside -> node port"],
        run: |play| Box::pin(endpoints_on_host_network(play)),
        ..ORDINARY
    },
    Scenario {
        name: "two Services lead to the same endpoints",
        upstream: &["networking.go: should function for multiple endpoint-Services with same selector"],
        fields: &["selector"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(two_services(play)),
        ..ORDINARY
    },
    Scenario {
        name: "requests of more than one packet are answered",
        upstream: &[
            "networking.go: should be able to handle large requests: http",
            "networking.go: should be able to handle large requests: udp",
            "dual_stack.go: should be able to handle large requests: http",
            "dual_stack.go: should be able to handle large requests: udp",
        ],
        fields: &["clusterIPs", "ports[].nodePort"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP", "outside -> node port"],
        run: |play| Box::pin(large_requests(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a cluster IP that is routed to a node serves clients outside, in the node's name",
        upstream: &[],
        fields: &["clusterIPs", "internalTrafficPolicy"],
        paths: &["outside -> cluster IP"],
        run: |play| Box::pin(routed_from_outside(play)),
        ..ORDINARY
    },
    Scenario {
        name: "segments outside of the window do not break a connection",
        upstream: &[
            "conntrack.go: proxy implementation should not be vulnerable to the invalid conntrack state bug [Privileged]",
        ],
        fields: &["clusterIPs"],
        paths: &["pod -> cluster IP"],
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Shared,
        differs: &[Differs::always(
            Subject::KubeProxyNftables,
            "connection tracking does not translate such a segment, so the client sees one of a stranger and answers \
             with a reset, which the server takes for its own; the iptables mode drops it on the way",
        )],
        run: |play| Box::pin(stray_segments(play)),
    },
    Scenario {
        name: "a cluster IP does not answer pings",
        upstream: &[],
        fields: &["clusterIPs"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(pings(play)),
    },
    Scenario {
        name: "endpoints come and go under a Service that stays",
        upstream: &[
            "service.go: should serve a basic endpoint from pods",
            "networking.go: should update endpoints: http",
            "networking.go: should update endpoints: udp",
            "dual_stack.go: should update endpoints: http",
            "dual_stack.go: should update endpoints: udp",
        ],
        fields: &["selector"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(endpoints_come_and_go(play)),
        ..ORDINARY
    },
];

async fn pods_are_seen_as_themselves(play: &Play<'_>) -> Result<()> {
    let service =
        play.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]})).await?;
    let to = play.cluster_ip(&service, 80)?;
    for node in NODES {
        play.ask(Asker::Pod(node), to)?.seen_as_itself().on_port(PORT).answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn nodes_are_seen_as_themselves(play: &Play<'_>) -> Result<()> {
    let service =
        play.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]})).await?;
    let to = play.cluster_ip(&service, 80)?;
    for node in NODES {
        play.ask(Asker::Node(node), to)?.seen_as_itself().answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn endpoints_reach_their_service(play: &Play<'_>) -> Result<()> {
    let service =
        play.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]})).await?;
    let to = play.cluster_ip(&service, 80)?;
    for (pod, _) in WEB {
        play.ask(Asker::In(pod), to)?.answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn hairpin(play: &Play<'_>) -> Result<()> {
    let pod = play.pod(NewPod::new("lonely", 1).port("http", 8080)).await?;
    let service =
        play.service("web", json!({"selector": play.own_pods(), "ports": [{"port": 80, "targetPort": 8080}]})).await?;
    let to = play.cluster_ip(&service, 80)?;
    let node = play.node_address(1)?;
    play.ask(Asker::In(&pod.name), to)?.seen_as(node).answered_by(&only(&[&pod])).await
}

async fn endpoints_on_host_network(play: &Play<'_>) -> Result<()> {
    let service = play
        .service(
            "host",
            json!({"type": "NodePort", "selector": {"app": "host"}, "ports": [{"port": 80, "targetPort": HOST_PORT}]}),
        )
        .await?;
    let all = HOST.into_iter().map(|(pod, _)| pod.to_owned()).collect();
    let to = play.cluster_ip(&service, 80)?;
    for node in NODES {
        play.ask(Asker::Pod(node), to)?.answered_by(&all).await?;
        play.ask(Asker::Node(node), to)?.answered_by(&all).await?;
        let to = play.node_port(&service, 80, node)?;
        play.ask(Asker::Pod(node), to)?.answered_by(&all).await?;
        play.ask(Asker::Outside, to)?.answered_by(&all).await?;
    }
    Ok(())
}

async fn endpoints_come_and_go(play: &Play<'_>) -> Result<()> {
    let service =
        play.service("web", json!({"selector": play.own_pods(), "ports": [{"port": 80, "targetPort": 8080}]})).await?;
    let to = play.cluster_ip(&service, 80)?;
    let askers = [play.ask(Asker::Pod(3), to)?, play.ask(Asker::Node(1), to)?];
    for asking in &askers {
        asking.is_refused().await?;
    }
    let first = play.pod(NewPod::new("first", 1).port("http", 8080)).await?;
    for asking in &askers {
        asking.answered_by(&only(&[&first])).await?;
    }
    let second = play.pod(NewPod::new("second", 2).port("http", 8080)).await?;
    for asking in &askers {
        asking.answered_by(&only(&[&first, &second])).await?;
    }
    play.delete_pod(&first).await?;
    for asking in &askers {
        asking.answered_by(&only(&[&second])).await?;
    }
    play.delete_pod(&second).await?;
    for asking in &askers {
        asking.is_refused().await?;
    }
    Ok(())
}

async fn two_services(play: &Play<'_>) -> Result<()> {
    for name in ["one", "other"] {
        let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]});
        let service = play.service(name, spec).await?;
        play.ask(Asker::Pod(1), play.cluster_ip(&service, 80)?)?.answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn large_requests(play: &Play<'_>) -> Result<()> {
    let spec = json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]});
    let service = play.service("web", spec).await?;
    let to = play.cluster_ip(&service, 80)?;
    for asker in [Asker::Pod(1), Asker::Pod(3), Asker::Node(1)] {
        play.ask(asker, to)?.asking_for(2000).answered_by(&web(None)).await?;
    }
    let to = play.node_port(&service, 80, 3)?;
    play.ask(Asker::Outside, to)?.asking_for(2000).answered_by(&web(None)).await
}

async fn routed_from_outside(play: &Play<'_>) -> Result<()> {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]});
    let service = play.service("web", spec).await?;
    let to = play.cluster_ip(&service, 80)?;
    play.stage().lab().route_load_balancer(to.ip())?;
    let node = play.node_address(1)?;
    play.ask(Asker::Outside, to)?.seen_as(node).answered_by(&web(None)).await?;
    play.edit(&service, json!({"internalTrafficPolicy": "Local"})).await?;
    play.ask(Asker::Outside, to)?.seen_as(node).answered_by(&web(Some(1))).await
}

async fn pings(play: &Play<'_>) -> Result<()> {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]});
    let service = play.service("web", spec).await?;
    let to = play.cluster_ip(&service, 80)?;
    for asker in [Asker::Pod(1), Asker::Node(1)] {
        play.ask(asker, to)?.answered_by(&web(None)).await?;
        let mut ping = play.netns(asker)?.command("ping");
        ping.args(["-c", "1", "-W", "1", &to.ip().to_string()]);
        let output = tokio::process::Command::from(ping).output().await.context("run ping")?;
        // 1: no answer, 2: it could not even ask.
        ensure!(!output.status.success(), "from {asker}: {} answers pings", to.ip());
    }
    Ok(())
}

async fn stray_segments(play: &Play<'_>) -> Result<()> {
    let pod = play.pod(NewPod::new("web", 1).port("http", 8080)).await?;
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    let service = play.service("web", json!({"selector": play.own_pods(), "ports": ports})).await?;
    let to = play.cluster_ip(&service, 80)?;
    play.ask(Asker::Pod(3), to)?.answered_by(&only(&[&pod])).await?;

    let strays = StrayServer::listen(&pod.place.netns)?;
    let client = Client::new(&play.netns(Asker::Pod(3))?, Duration::from_secs(2));
    let mut connection = client.connect(to).await.context("open a connection")?;
    for round in 1..=10 {
        let reply = connection.ask().await.with_context(|| format!("after {} rounds of strays", round - 1))?;
        strays.send(reply.answer.local, reply.answer.client, 3)?;
    }
    connection.ask().await.context("after all strays")?;
    Ok(())
}
