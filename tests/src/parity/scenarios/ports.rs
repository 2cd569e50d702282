//! Ports of a Service: several, named, added, removed, and one number for two protocols.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    net::Protocol,
    parity::{
        Family, Scenario, Turn,
        objects::NewPod,
        play::{Asker, Play, only, web},
        scenario::{ORDINARY, TCP},
        stage::{MORE, PORT},
    },
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "each port of a Service leads to the port that it names",
        upstream: &["service.go: should serve multiport endpoints from pods"],
        fields: &["ports", "ports[].targetPort"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(several_ports(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a port that is added to a live Service answers, one that is removed does no more",
        upstream: &["service.go: should be updated after adding or deleting ports"],
        fields: &["ports"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP"],
        run: |play| Box::pin(ports_come_and_go(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a named port is on each endpoint the number that it has there",
        upstream: &[
            "service.go: should support named targetPorts that resolve to different ports on different endpoints",
        ],
        fields: &["ports[].targetPort"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(named_ports(play)),
        ..ORDINARY
    },
    Scenario {
        name: "ports of an init container that goes on running are reached, by number and by name",
        upstream: &[
            "service.go: should connect to the ports exposed by restartable init containers",
            "service.go: should connect to the named ports exposed by restartable init containers",
        ],
        fields: &["ports[].targetPort"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(sidecar_ports(play)),
        ..ORDINARY
    },
    Scenario {
        name: "TCP and UDP of one port number are apart",
        upstream: &[
            "service.go: should serve endpoints on same port and different protocols",
            "service.go: should serve endpoints on same port and different protocol for internal traffic on Type LoadBalancer",
        ],
        fields: &["ports[].protocol"],
        paths: &["pod -> cluster IP"],
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(one_number_two_protocols(play)),
    },
    Scenario {
        name: "a node port of TCP is joined by UDP under the same number",
        upstream: &[
            "service.go: should be able to update service type to NodePort listening on same port number but different protocols",
        ],
        fields: &["ports[].nodePort", "ports[].protocol"],
        paths: &["outside -> node port", "pod -> node port"],
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(node_port_of_two_protocols(play)),
    },
    Scenario {
        name: "a Service with a port of SCTP makes the kernel load nothing, and its other ports are served",
        upstream: &["service.go: should allow creating a basic SCTP service with pod and endpoints [LinuxOnly]"],
        fields: &["ports[].protocol"],
        paths: &["pod -> cluster IP"],
        run: |play| Box::pin(sctp_loads_nothing(play)),
        ..ORDINARY
    },
];

async fn several_ports(play: &Play<'_>) -> Result<()> {
    let ports = json!([
        {"name": "first", "port": 80, "targetPort": PORT},
        {"name": "second", "port": 81, "targetPort": play.port_name("more")},
    ]);
    let service = play.service("web", json!({"selector": {"app": "web"}, "ports": ports})).await?;
    for (port, target) in [(80, PORT), (81, MORE)] {
        let to = play.cluster_ip(&service, port)?;
        play.ask(Asker::Pod(1), to)?.on_port(target).answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn ports_come_and_go(play: &Play<'_>) -> Result<()> {
    let first = json!({"name": "first", "port": 80, "targetPort": PORT});
    let second = json!({"name": "second", "port": 81, "targetPort": MORE});
    let service = play.service("web", json!({"selector": {"app": "web"}, "ports": [first]})).await?;
    let at = |port| play.cluster_ip(&service, port);
    for asker in [Asker::Pod(1), Asker::Node(2)] {
        play.ask(asker, at(80)?)?.on_port(PORT).answered_by(&web(None)).await?;
    }
    play.edit(&service, json!({"ports": [first, second]})).await?;
    for asker in [Asker::Pod(1), Asker::Node(2)] {
        play.ask(asker, at(81)?)?.on_port(MORE).answered_by(&web(None)).await?;
        play.ask(asker, at(80)?)?.on_port(PORT).answered_by(&web(None)).await?;
    }
    play.edit(&service, json!({"ports": [second]})).await?;
    for asker in [Asker::Pod(1), Asker::Node(2)] {
        play.ask(asker, at(80)?)?.is_not_answered().await?;
        play.ask(asker, at(81)?)?.on_port(MORE).answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn named_ports(play: &Play<'_>) -> Result<()> {
    let one = play.pod(NewPod::new("one", 1).port("http", 8080)).await?;
    let other = play.pod(NewPod::new("other", 2).port("http", 9090)).await?;
    let ports = json!([{"port": 80, "targetPort": play.port_name("http")}]);
    let service = play.service("web", json!({"selector": play.own_pods(), "ports": ports})).await?;
    let asking = play.ask(Asker::Pod(3), play.cluster_ip(&service, 80)?)?;
    asking.on_port_of(&one.name, 8080).on_port_of(&other.name, 9090).answered_by(&only(&[&one, &other])).await
}

async fn sidecar_ports(play: &Play<'_>) -> Result<()> {
    let pod = play.pod(NewPod::new("web", 1).port("http", 8080).sidecar_port("beside", 8090)).await?;
    let ports = json!([
        {"name": "number", "port": 80, "targetPort": 8090},
        {"name": "name", "port": 81, "targetPort": play.port_name("beside")},
    ]);
    let service = play.service("web", json!({"selector": play.own_pods(), "ports": ports})).await?;
    for port in [80, 81] {
        play.ask(Asker::Pod(2), play.cluster_ip(&service, port)?)?.on_port(8090).answered_by(&only(&[&pod])).await?;
    }
    Ok(())
}

async fn one_number_two_protocols(play: &Play<'_>) -> Result<()> {
    let tcp = json!({"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": PORT});
    let udp = json!({"name": "udp", "port": 80, "protocol": "UDP", "targetPort": MORE});
    for kind in ["ClusterIP", "LoadBalancer"] {
        let spec = json!({"type": kind, "selector": {"app": "web"}, "ports": [tcp, udp]});
        let service = play.service(&kind.to_lowercase(), spec).await?;
        let to = play.cluster_ip(&service, 80)?;
        let by = |protocol| play.ask_by(Asker::Pod(1), to, protocol);
        by(Protocol::Tcp)?.on_port(PORT).answered_by(&web(None)).await?;
        by(Protocol::Udp)?.on_port(MORE).answered_by(&web(None)).await?;
        play.edit(&service, json!({"ports": [udp]})).await?;
        by(Protocol::Tcp)?.is_not_answered().await?;
        by(Protocol::Udp)?.on_port(MORE).answered_by(&web(None)).await?;
        play.edit(&service, json!({"ports": [tcp]})).await?;
        by(Protocol::Udp)?.is_not_answered().await?;
        by(Protocol::Tcp)?.on_port(PORT).answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn node_port_of_two_protocols(play: &Play<'_>) -> Result<()> {
    let tcp = json!({"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": PORT});
    let service = play.service("web", json!({"selector": {"app": "web"}, "ports": [tcp]})).await?;
    play.ask(Asker::Pod(1), play.cluster_ip(&service, 80)?)?.answered_by(&web(None)).await?;
    let service = play.edit(&service, json!({"type": "NodePort"})).await?;
    let number = service.node_port(80, Protocol::Tcp)?;
    let ports = json!([
        {"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": PORT, "nodePort": number},
        {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": PORT, "nodePort": number},
    ]);
    for node in [1, 3] {
        let to = play.node_port(&service, 80, node)?;
        play.ask_by(Asker::Outside, to, Protocol::Tcp)?.answered_by(&web(None)).await?;
    }
    play.edit(&service, json!({"ports": ports})).await?;
    for node in [1, 3] {
        let to = play.node_port(&service, 80, node)?;
        for asker in [Asker::Outside, Asker::Pod(node)] {
            play.ask_by(asker, to, Protocol::Udp)?.answered_by(&web(None)).await?;
            play.ask_by(asker, to, Protocol::Tcp)?.answered_by(&web(None)).await?;
        }
    }
    Ok(())
}

async fn sctp_loads_nothing(play: &Play<'_>) -> Result<()> {
    // A kernel that can load no modules has no such file.
    let modules = || std::fs::read_to_string("/proc/modules").unwrap_or_default();
    let has_sctp = || modules().lines().any(|line| line.starts_with("sctp "));
    let before = has_sctp();
    let ports = json!([
        {"name": "telephony", "port": 5060, "protocol": "SCTP", "targetPort": 5060},
        {"name": "other", "port": 80, "targetPort": PORT},
    ]);
    let service = play.service("web", json!({"selector": {"app": "web"}, "ports": ports})).await?;
    play.ask(Asker::Pod(1), play.cluster_ip(&service, 80)?)?.answered_by(&web(None)).await?;
    ensure!(has_sctp() == before, "a module for SCTP was loaded");
    Ok(())
}
