//! Node ports on a node's loopback addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use serde_json::json;

use crate::{
    net::Protocol,
    parity::{
        Case, Differs, Family, Scenario, Subject, Turn,
        play::{Asker, Play, web},
        scenario::{TCP, TCP_AND_UDP},
        stage::{NODES, PORT},
    },
};

/// Which loopback addresses kube-proxy serves.
const NOT_BY_KUBE_PROXY: [Differs; 2] = [
    Differs {
        subject: Subject::KubeProxyNftables,
        cases: |case: Case| case.protocol == Protocol::Udp,
        reason: "it listens on loopback addresses itself, for TCP alone",
    },
    Differs {
        subject: Subject::KubeProxyIptables,
        cases: |case: Case| case.family == Family::IPv6,
        reason: "the kernel routes no packet from ::1 to another host",
    },
];

const PATHS: &[&str] = &["process of a node -> loopback address"];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a node port on a loopback address leads to endpoints on this node and others",
        upstream: &["localhost_nodeports.go: should proxy localhost NodePort traffic to backends across nodes"],
        fields: &["ports[].nodePort"],
        paths: PATHS,
        families: Family::BOTH,
        protocols: TCP_AND_UDP,
        turn: Turn::Shared,
        differs: &NOT_BY_KUBE_PROXY,
        run: |play| Box::pin(spreads(play)),
    },
    Scenario {
        name: "session affinity holds on a loopback address",
        upstream: &["localhost_nodeports.go: should honor sessionAffinity=ClientIP for localhost NodePort"],
        fields: &["sessionAffinity", "ports[].nodePort"],
        paths: PATHS,
        families: Family::BOTH,
        protocols: TCP_AND_UDP,
        turn: Turn::Shared,
        differs: &NOT_BY_KUBE_PROXY,
        run: |play| Box::pin(sticks(play)),
    },
    Scenario {
        name: "much data goes through a loopback address",
        upstream: &[
            "localhost_nodeports.go: should let a node pull an image from a registry exposed via localhost NodePort",
        ],
        fields: &["ports[].nodePort"],
        paths: PATHS,
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Shared,
        differs: &NOT_BY_KUBE_PROXY,
        run: |play| Box::pin(much_data(play)),
    },
];

/// Makes a Service and gives its node port on the loopback address.
async fn on_loopback(play: &Play<'_>, affinity: &str) -> Result<SocketAddr> {
    let spec = json!({
        "type": "NodePort",
        "sessionAffinity": affinity,
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": PORT}],
    });
    let service = play.service("web", spec).await?;
    let loopback: IpAddr = match play.family() {
        Family::IPv4 => Ipv4Addr::LOCALHOST.into(),
        Family::IPv6 => Ipv6Addr::LOCALHOST.into(),
    };
    Ok(SocketAddr::new(loopback, service.node_port(80, play.protocol())?))
}

async fn spreads(play: &Play<'_>) -> Result<()> {
    let to = on_loopback(play, "None").await?;
    for node in NODES {
        play.ask(Asker::Node(node), to)?.answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn sticks(play: &Play<'_>) -> Result<()> {
    let to = on_loopback(play, "ClientIP").await?;
    for node in [1, 3] {
        play.ask(Asker::Node(node), to)?.stays_with_one_of(&web(None)).await?;
    }
    Ok(())
}

async fn much_data(play: &Play<'_>) -> Result<()> {
    let to = on_loopback(play, "None").await?;
    play.ask(Asker::Node(1), to)?.asking_for(60_000).answered_by(&web(None)).await
}
