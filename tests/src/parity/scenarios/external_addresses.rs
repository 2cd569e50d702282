//! Addresses that are no node's: external IPs, and what several kinds of addresses do to one another.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use crate::parity::{
    Differs, Family, Scenario, Subject, Turn,
    play::{Asker, Play, web},
    scenario::{ORDINARY, TCP_AND_UDP},
    stage::{NODES, PORT},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "an external IP that no node has is led to the endpoints",
        upstream: &[
            "service.go: should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node",
        ],
        fields: &["externalIPs"],
        paths: &["pod -> external IP", "process of a node -> external IP", "outside -> external IP"],
        run: |play| Box::pin(external_ip(play)),
        ..ORDINARY
    },
    Scenario {
        name: "external IP, load balancer and cluster IP of one Service keep each to its own policy",
        upstream: &[],
        fields: &["externalIPs", "status.loadBalancer", "externalTrafficPolicy", "internalTrafficPolicy"],
        paths: &[
            "outside -> external IP",
            "outside -> load balancer",
            "pod -> external IP",
            "pod -> load balancer",
            "process of a node -> load balancer",
            "pod -> cluster IP",
        ],
        run: |play| Box::pin(both_policies_local(play)),
        ..ORDINARY
    },
    Scenario {
        name: "source ranges of the other family filter nobody",
        upstream: &[],
        fields: &["loadBalancerSourceRanges"],
        paths: &["outside -> load balancer", "pod -> load balancer"],
        run: |play| Box::pin(ranges_of_the_other_family(play)),
        ..ORDINARY
    },
    Scenario {
        name: "who is outside the source ranges learns nothing of a Service without endpoints",
        upstream: &[],
        fields: &["loadBalancerSourceRanges"],
        paths: &["outside -> load balancer", "pod -> load balancer"],
        families: Family::BOTH,
        protocols: TCP_AND_UDP,
        turn: Turn::Shared,
        differs: &[Differs::always(
            Subject::KubeProxyIptables,
            "a Service without endpoints has no rules for its source ranges, so everybody is refused",
        )],
        run: |play| Box::pin(ranges_without_endpoints(play)),
    },
];

async fn external_ip(play: &Play<'_>) -> Result<()> {
    let address = play.free_address(1);
    let spec = json!({
        "externalIPs": [address],
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": PORT}],
    });
    play.service("web", spec).await?;
    let to = SocketAddr::new(address, 80);
    for node in NODES {
        let own = play.node_address(node)?;
        play.ask(Asker::Pod(node), to)?.seen_as(own).answered_by(&web(None)).await?;
        play.ask(Asker::Node(node), to)?.seen_as(own).answered_by(&web(None)).await?;
    }
    play.stage().lab().route_load_balancer(to.ip())?;
    play.ask(Asker::Outside, to)?.seen_as(play.node_address(1)?).answered_by(&web(None)).await
}

async fn both_policies_local(play: &Play<'_>) -> Result<()> {
    let (external, balanced) = (play.free_address(1), play.free_address(2));
    let spec = json!({
        "type": "LoadBalancer",
        "externalIPs": [external],
        "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Local",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": PORT}],
    });
    let service = play.service("web", spec).await?;
    play.load_balancer(&service, json!([{"ip": balanced}])).await?;
    for address in [external, balanced] {
        let to = SocketAddr::new(address, 80);
        play.stage().lab().route_load_balancer(to.ip())?;
        play.ask(Asker::Outside, to)?.seen_as_itself().answered_by(&web(Some(1))).await?;
        for node in NODES {
            play.ask(Asker::Pod(node), to)?.seen_as_itself().answered_by(&web(None)).await?;
            play.ask(Asker::Node(node), to)?.seen_as_itself().answered_by(&web(None)).await?;
        }
    }
    let to = play.cluster_ip(&service, 80)?;
    play.ask(Asker::Pod(2), to)?.seen_as_itself().answered_by(&web(Some(2))).await?;
    play.ask(Asker::Pod(3), to)?.is_dropped().await
}

/// A Service with an address of a load balancer, which admits these ranges.
async fn balanced(play: &Play<'_>, selector: Value, ranges: Value) -> Result<SocketAddr> {
    let address = play.free_address(1);
    let spec = json!({
        "type": "LoadBalancer",
        "loadBalancerSourceRanges": ranges,
        "selector": selector,
        "ports": [{"port": 80, "targetPort": PORT}],
    });
    let service = play.service("web", spec).await?;
    play.load_balancer(&service, json!([{"ip": address}])).await?;
    Ok(SocketAddr::new(address, 80))
}

async fn ranges_of_the_other_family(play: &Play<'_>) -> Result<()> {
    let range = match play.family() {
        Family::IPv4 => "2001:db8:ffff::/64",
        Family::IPv6 => "100.64.0.0/24",
    };
    let to = balanced(play, json!({"app": "web"}), json!([range])).await?;
    for asker in [Asker::Outside, Asker::Pod(3)] {
        play.ask(asker, to)?.answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn ranges_without_endpoints(play: &Play<'_>) -> Result<()> {
    let (own, length) = match play.family() {
        Family::IPv4 => (play.address(Asker::Pod(1))?, 32),
        Family::IPv6 => (play.address(Asker::Pod(1))?, 128),
    };
    let to = balanced(play, play.own_pods(), json!([format!("{own}/{length}")])).await?;
    play.ask(Asker::Pod(1), to)?.is_refused().await?;
    for asker in [Asker::Outside, Asker::Pod(3)] {
        play.ask(asker, to)?.is_dropped().await?;
    }
    Ok(())
}
