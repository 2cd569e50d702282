//! Node ports: on which nodes they lead where, and whom the endpoints see.

use anyhow::Result;
use serde_json::json;

use crate::parity::{
    Scenario,
    play::{Asker, Play, web},
    scenario::{ORDINARY, SCTP},
    stage::{NODES, PORT},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a node port of any node leads everybody to all endpoints, in that node's name",
        upstream: &[
            "service.go: should be able to create a functioning NodePort service",
            "networking.go: should support basic nodePort: udp functionality",
            "networking.go: should function for pod-Service: http",
            "networking.go: should function for pod-Service: udp",
            "networking.go: should function for node-Service: http",
            "networking.go: should function for node-Service: udp",
        ],
        fields: &["ports[].nodePort"],
        paths: &[
            "outside -> node port",
            "pod -> node port",
            "pod -> another node's port",
            "process of a node -> node port",
            "process of a node -> another node's port",
        ],
        run: |play| Box::pin(node_ports_of_all_nodes(play, |_| true)),
        ..ORDINARY
    },
    Scenario {
        name: "a node port of SCTP leads pods and clients outside to all endpoints, in its node's name",
        upstream: &["networking.go: should function for pod-Service: sctp"],
        fields: &["ports[].nodePort"],
        paths: &["outside -> node port", "pod -> node port", "pod -> another node's port"],
        protocols: SCTP,
        run: |play| Box::pin(node_ports_of_all_nodes(play, |asker| !matches!(asker, Asker::Node(_)))),
        ..ORDINARY
    },
    Scenario {
        name: "with externalTrafficPolicy Local endpoints see the client, and nodes without one drop",
        upstream: &["service.go: should support externalTrafficPolicy=Local for type=NodePort"],
        fields: &["externalTrafficPolicy", "ports[].nodePort"],
        paths: &[
            "outside -> node port",
            "process of a node -> another node's port",
            "pod -> node port",
            "process of a node -> node port",
        ],
        run: |play| Box::pin(external_policy_local(play)),
        ..ORDINARY
    },
];

async fn node_ports_of_all_nodes(play: &Play<'_>, asks: fn(&Asker<'_>) -> bool) -> Result<()> {
    let spec = json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]});
    let service = play.service("web", spec).await?;
    for node in NODES {
        let to = play.node_port(&service, 80, node)?;
        for asker in play.everybody().filter(asks) {
            play.ask(asker, to)?.seen_as(to.ip()).on_port(PORT).answered_by(&web(None)).await?;
        }
    }
    Ok(())
}

async fn external_policy_local(play: &Play<'_>) -> Result<()> {
    let service = play
        .service(
            "web",
            json!({
                "type": "NodePort",
                "externalTrafficPolicy": "Local",
                "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": PORT}],
            }),
        )
        .await?;
    for node in [1, 2] {
        let to = play.node_port(&service, 80, node)?;
        play.ask(Asker::Outside, to)?.seen_as_itself().answered_by(&web(Some(node))).await?;
        play.ask(Asker::Node(3), to)?.seen_as_itself().answered_by(&web(Some(node))).await?;
    }
    let without = play.node_port(&service, 80, 3)?;
    play.ask(Asker::Outside, without)?.is_dropped().await?;
    play.ask(Asker::Node(1), without)?.is_dropped().await?;
    // Who is on the node itself has come through no load balancer: for him all endpoints serve.
    play.ask(Asker::Pod(3), without)?.seen_as_itself().answered_by(&web(None)).await?;
    play.ask(Asker::Node(3), without)?.seen_as_itself().answered_by(&web(None)).await
}
