//! Services that nobody serves, and ports that no Service has.

use anyhow::Result;
use serde_json::json;

use crate::{
    net::Protocol,
    parity::{
        Case, Differs, Family, Scenario, Subject, Turn,
        play::{Asker, Play, web},
        scenario::{ORDINARY, TCP_AND_UDP},
        stage::{NODES, PORT},
    },
};

/// kube-proxy has netfilter refuse, where Linux tells an application later or otherwise than of a closed port.
const LATER: [Differs; 2] = [
    Differs { subject: Subject::KubeProxyNftables, cases: is_told_otherwise, reason: TOLD_OTHERWISE },
    Differs { subject: Subject::KubeProxyIptables, cases: is_told_otherwise, reason: TOLD_OTHERWISE },
];

const TOLD_OTHERWISE: &str = "netfilter refuses TCP of IPv6 with an ICMPv6 error, of which Linux tells the application \
    only after its second SYN, and a datagram of the node's own processes fails with EPERM";

fn is_told_otherwise(case: Case) -> bool {
    case.protocol == Protocol::Udp || case.family == Family::IPv6
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a Service without endpoints refuses everybody",
        upstream: &["service.go: should be rejected when no endpoints exist"],
        fields: &["selector", "ports[].nodePort"],
        paths: EVERY_PATH,
        run: |play| Box::pin(nobody_serves(play, false)),
        ..ORDINARY
    },
    Scenario {
        name: "a Service without endpoints refuses everybody at once, as a closed port does",
        upstream: &[],
        fields: &["selector", "ports[].nodePort"],
        paths: EVERY_PATH,
        families: Family::BOTH,
        protocols: TCP_AND_UDP,
        turn: Turn::Shared,
        differs: &LATER,
        run: |play| Box::pin(nobody_serves(play, true)),
    },
    Scenario {
        name: "a port that a cluster IP does not have refuses",
        upstream: &[],
        fields: &["clusterIPs", "ports"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        families: Family::BOTH,
        protocols: TCP_AND_UDP,
        turn: Turn::Shared,
        differs: &[Differs::always(
            Subject::KubeProxyIptables,
            "packets to a port that no Service has are routed on, towards a network that does not exist",
        )],
        run: |play| Box::pin(unknown_port(play)),
    },
];

/// The paths by which a Service without endpoints is asked.
const EVERY_PATH: &[&str] = &[
    "pod -> cluster IP",
    "process of a node -> cluster IP",
    "pod -> node port",
    "outside -> node port",
    "process of a node -> node port",
];

async fn nobody_serves(play: &Play<'_>, at_once: bool) -> Result<()> {
    let spec = json!({
        "type": "NodePort",
        "selector": play.own_pods(),
        "ports": [{"port": 80, "targetPort": PORT}],
    });
    let service = play.service("empty", spec).await?;
    let mut asked = Vec::new();
    for node in NODES {
        let (cluster_ip, node_port) = (play.cluster_ip(&service, 80)?, play.node_port(&service, 80, node)?);
        asked.extend([play.ask(Asker::Pod(node), cluster_ip)?, play.ask(Asker::Node(node), cluster_ip)?]);
        for asker in [Asker::Outside, Asker::Pod(node), Asker::Node(node)] {
            asked.push(play.ask(asker, node_port)?);
        }
    }
    for asking in asked {
        if at_once {
            asking.is_refused_at_once().await?;
        } else {
            asking.is_refused().await?;
        }
    }
    Ok(())
}

async fn unknown_port(play: &Play<'_>) -> Result<()> {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]});
    let service = play.service("web", spec).await?;
    play.ask(Asker::Pod(1), play.cluster_ip(&service, 80)?)?.answered_by(&web(None)).await?;
    let to = play.cluster_ip(&service, 81)?;
    play.ask(Asker::Pod(1), to)?.is_refused().await?;
    play.ask(Asker::Node(1), to)?.is_refused().await
}
