//! Services that are made, changed from one type to another, deleted and made again.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::parity::{
    Family, Scenario,
    objects::Made,
    play::{Asker, Play, web},
    scenario::ORDINARY,
    stage::PORT,
};

use std::net::SocketAddr;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a Service that goes takes no other along",
        upstream: &["service.go: should be able to up and down services"],
        fields: &["clusterIPs"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(up_and_down(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a Service that is made again under its old address answers",
        upstream: &["service.go: should work after the service has been recreated"],
        fields: &["clusterIPs"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(made_again(play)),
        ..ORDINARY
    },
    Scenario {
        name: "an external name becomes a cluster IP, and a node port",
        upstream: &[
            "service.go: should be able to change the type from ExternalName to ClusterIP",
            "service.go: should be able to change the type from ExternalName to NodePort",
        ],
        fields: &["type"],
        paths: &["pod -> cluster IP", "outside -> node port"],
        run: |play| Box::pin(from_external_name(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a node port and a cluster IP become an external name, and answer no more",
        upstream: &[
            "service.go: should be able to change the type from ClusterIP to ExternalName",
            "service.go: should be able to change the type from NodePort to ExternalName",
        ],
        fields: &["type"],
        paths: &["pod -> cluster IP", "outside -> node port"],
        run: |play| Box::pin(to_external_name(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a node port is free as soon as its Service is deleted",
        upstream: &[
            "service.go: should release NodePorts on delete",
            "networking.go: should update nodePort: http",
            "networking.go: should update nodePort: udp",
        ],
        fields: &["ports[].nodePort"],
        paths: &["outside -> node port", "process of a node -> node port"],
        run: |play| Box::pin(node_port_released(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a Service has the addresses of the families that it asks for",
        upstream: &[
            "dual_stack.go: should create a single stack service with cluster ip from primary service range",
            "dual_stack.go: should create service with ipv4 cluster ip",
            "dual_stack.go: should create service with ipv6 cluster ip",
            "dual_stack.go: should create service with ipv4,v6 cluster ip",
            "dual_stack.go: should create service with ipv6,v4 cluster ip",
        ],
        fields: &["ipFamilies", "ipFamilyPolicy"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(families(play)),
        ..ORDINARY
    },
    Scenario {
        name: "cluster IPs of a range that was added later are served",
        upstream: &["service_cidrs.go: should create Services and serve on different Service CIDRs"],
        fields: &["clusterIPs", "ports[].nodePort"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP", "outside -> node port"],
        run: |play| Box::pin(another_range(play)),
        ..ORDINARY
    },
];

/// A Service of the standing pods.
async fn web_service(play: &Play<'_>, name: &str, kind: &str) -> Result<Made> {
    let spec = json!({"type": kind, "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]});
    play.service(name, spec).await
}

async fn up_and_down(play: &Play<'_>) -> Result<()> {
    let first = web_service(play, "first", "ClusterIP").await?;
    let second = web_service(play, "second", "ClusterIP").await?;
    for asker in [Asker::Pod(1), Asker::Node(3)] {
        for service in [&first, &second] {
            play.ask(asker, play.cluster_ip(service, 80)?)?.answered_by(&web(None)).await?;
        }
    }
    play.delete_service(&first).await?;
    for asker in [Asker::Pod(1), Asker::Node(3)] {
        play.ask(asker, play.cluster_ip(&first, 80)?)?.is_not_answered().await?;
        play.ask(asker, play.cluster_ip(&second, 80)?)?.answered_by(&web(None)).await?;
    }
    let third = web_service(play, "third", "ClusterIP").await?;
    for asker in [Asker::Pod(1), Asker::Node(3)] {
        for service in [&second, &third] {
            play.ask(asker, play.cluster_ip(service, 80)?)?.answered_by(&web(None)).await?;
        }
    }
    Ok(())
}

async fn made_again(play: &Play<'_>) -> Result<()> {
    let service = web_service(play, "web", "ClusterIP").await?;
    let to = play.cluster_ip(&service, 80)?;
    for asker in [Asker::Pod(1), Asker::Node(1)] {
        play.ask(asker, to)?.answered_by(&web(None)).await?;
    }
    play.delete_service(&service).await?;
    for asker in [Asker::Pod(1), Asker::Node(1)] {
        play.ask(asker, to)?.is_not_answered().await?;
    }
    let spec = json!({
        "clusterIP": to.ip().to_string(),
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": PORT}],
    });
    play.service("web", spec).await?;
    for asker in [Asker::Pod(1), Asker::Node(1)] {
        play.ask(asker, to)?.answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn from_external_name(play: &Play<'_>) -> Result<()> {
    for kind in ["ClusterIP", "NodePort"] {
        let spec = json!({"type": "ExternalName", "externalName": "example.com"});
        let named = play.service(&kind.to_lowercase(), spec).await?;
        let spec = json!({
            "type": kind,
            "externalName": null,
            "ipFamilyPolicy": "SingleStack",
            "ipFamilies": [play.family().name()],
            "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": PORT}],
        });
        let service = play.edit(&named, spec).await?;
        play.ask(Asker::Pod(1), play.cluster_ip(&service, 80)?)?.answered_by(&web(None)).await?;
        if kind == "NodePort" {
            play.ask(Asker::Outside, play.node_port(&service, 80, 3)?)?.answered_by(&web(None)).await?;
        }
    }
    Ok(())
}

async fn to_external_name(play: &Play<'_>) -> Result<()> {
    for kind in ["ClusterIP", "NodePort"] {
        let service = web_service(play, &kind.to_lowercase(), kind).await?;
        let mut asked = vec![play.ask(Asker::Pod(1), play.cluster_ip(&service, 80)?)?];
        if kind == "NodePort" {
            asked.push(play.ask(Asker::Outside, play.node_port(&service, 80, 3)?)?);
        }
        for asking in &asked {
            asking.answered_by(&web(None)).await?;
        }
        play.edit(&service, json!({"type": "ExternalName", "externalName": "example.com"})).await?;
        for asking in &asked {
            asking.is_not_answered().await?;
        }
    }
    Ok(())
}

async fn node_port_released(play: &Play<'_>) -> Result<()> {
    let service = web_service(play, "first", "NodePort").await?;
    let number = service.node_port(80, play.protocol())?;
    let mut asked = Vec::new();
    for node in [1, 3] {
        let to = SocketAddr::new(play.node_address(node)?, number);
        asked.extend([play.ask(Asker::Outside, to)?, play.ask(Asker::Node(node), to)?]);
    }
    for asking in &asked {
        asking.answered_by(&web(None)).await?;
    }
    play.delete_service(&service).await?;
    for asking in &asked {
        // Nothing listens there: the node itself says so.
        asking.is_refused().await?;
    }
    let ports = json!([{"port": 81, "targetPort": PORT, "nodePort": number}]);
    play.service("second", json!({"type": "NodePort", "selector": {"app": "web"}, "ports": ports})).await?;
    for asking in &asked {
        asking.answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn families(play: &Play<'_>) -> Result<()> {
    let (first, second) = (play.family(), play.family().other());
    let ports = json!([{"port": 80, "targetPort": PORT}]);
    let answers = async |service: &Made, family: Family| {
        let to = SocketAddr::new(service.cluster_ip(family)?, 80);
        play.ask(Asker::Pod(1), to)?.answered_by(&web(None)).await
    };

    let plain = json!({"ipFamilyPolicy": "SingleStack", "selector": {"app": "web"}, "ports": ports});
    let plain = play.service("plain", plain).await?;
    ensure!(plain.cluster_ip(Family::IPv6).is_err(), "the primary family is IPv4: {plain:?}");
    answers(&plain, Family::IPv4).await?;

    let both = json!({
        "ipFamilyPolicy": "RequireDualStack",
        "ipFamilies": [first.name(), second.name()],
        "selector": {"app": "web"},
        "ports": ports,
    });
    let both = play.service("both", both).await?;
    answers(&both, first).await?;
    answers(&both, second).await?;

    let one = play.service("one", json!({"selector": {"app": "web"}, "ports": ports})).await?;
    ensure!(one.cluster_ip(second).is_err(), "it asked for one family: {one:?}");
    answers(&one, first).await?;
    let joined = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": [first.name(), second.name()]});
    let joined = play.edit(&one, joined).await?;
    answers(&joined, second).await?;
    answers(&joined, first).await
}

async fn another_range(play: &Play<'_>) -> Result<()> {
    let digit = play.protocol() as u8 + 1;
    let (range, address) = match play.family() {
        Family::IPv4 => (format!("198.18.{digit}.0/24"), format!("198.18.{digit}.77")),
        Family::IPv6 => (format!("fd00:10:97:{digit}::/112"), format!("fd00:10:97:{digit}::77")),
    };
    let name = play.name_of("range");
    let object = format!(
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: {name}}}\nspec: {{cidrs: ['{range}']}}\n"
    );
    play.apply(&object, &[("servicecidr", &name)])?;
    play.stage().cluster().wait_for_kubectl(
        &["get", "servicecidr", &name, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"],
        |status| status == "True",
    )?;
    let spec = json!({
        "type": "NodePort",
        "clusterIP": address,
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": PORT}],
    });
    let service = play.service("web", spec).await?;
    let to = play.cluster_ip(&service, 80)?;
    play.ask(Asker::Pod(1), to)?.seen_as_itself().answered_by(&web(None)).await?;
    play.ask(Asker::Node(3), to)?.answered_by(&web(None)).await?;
    play.ask(Asker::Outside, play.node_port(&service, 80, 2)?)?.answered_by(&web(None)).await
}
