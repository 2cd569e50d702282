//! Addresses of load balancers that lead to nodes. A cloud would write them into the status; here a scenario does.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    cluster::timeline::{Route, Timeline, describe},
    net::Client,
    parity::{
        Family, Scenario, Turn,
        objects::{Made, NewPod},
        play::{Asker, Play, only, web},
        scenario::{ORDINARY, TCP},
        stage::{NODES, PORT},
    },
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "type and ports of a Service change from cluster IP to load balancer and back",
        upstream: &[
            "loadbalancer.go: should be able to change the type and ports of a TCP service",
            "loadbalancer.go: should be able to change the type and ports of a UDP service",
        ],
        fields: &["type", "ports", "ports[].nodePort", "status.loadBalancer"],
        paths: &["outside -> node port", "outside -> load balancer", "pod -> cluster IP"],
        run: |play| Box::pin(type_and_ports(play)),
        ..ORDINARY
    },
    Scenario {
        name: "source ranges admit their sources to a load balancer's address, and nobody else",
        upstream: &["loadbalancer.go: should only allow access from service loadbalancer source ranges"],
        fields: &["loadBalancerSourceRanges"],
        paths: &[
            "pod -> load balancer",
            "process of a node -> load balancer",
            "outside -> load balancer",
            "outside -> node port",
        ],
        run: |play| Box::pin(source_ranges(play)),
        ..ORDINARY
    },
    Scenario {
        name: "a load balancer's address is served without node ports, and with them once they are wanted",
        upstream: &["loadbalancer.go: should be able to create LoadBalancer Service without NodePort and change it"],
        fields: &["allocateLoadBalancerNodePorts"],
        paths: &["outside -> load balancer", "outside -> node port"],
        run: |play| Box::pin(without_node_ports(play)),
        ..ORDINARY
    },
    Scenario {
        name: "with externalTrafficPolicy Local clients of a load balancer are seen, on every node with endpoints",
        upstream: &[
            "loadbalancer.go: should work for type=LoadBalancer",
            "loadbalancer.go: should target all nodes with endpoints",
            "loadbalancer.go: should work from pods",
        ],
        fields: &["externalTrafficPolicy", "status.loadBalancer", "healthCheckNodePort"],
        paths: &["outside -> load balancer", "pod -> load balancer", "outside -> health check port"],
        run: |play| Box::pin(policy_local(play)),
        ..ORDINARY
    },
    Scenario {
        name: "load balancers hear of just those nodes that have an endpoint",
        upstream: &["loadbalancer.go: should only target nodes with endpoints"],
        fields: &["healthCheckNodePort"],
        paths: &["outside -> load balancer", "outside -> health check port"],
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Shared,
        differs: &[],
        run: |play| Box::pin(only_nodes_with_endpoints(play)),
    },
    Scenario {
        name: "an address with ipMode Proxy is left to the load balancer",
        upstream: &[],
        fields: &["status.loadBalancer"],
        paths: &["pod -> load balancer"],
        run: |play| Box::pin(mode_proxy(play)),
        ..ORDINARY
    },
    Scenario {
        name: "hardly any request fails while the pods behind a load balancer are replaced one by one",
        upstream: &[
            "loadbalancer.go: should not have connectivity disruption during rolling update with externalTrafficPolicy=Cluster",
            "loadbalancer.go: should not have connectivity disruption during rolling update with externalTrafficPolicy=Local",
        ],
        fields: &["externalTrafficPolicy", "conditions"],
        paths: &["outside -> load balancer"],
        run: |play| Box::pin(rolling_update(play)),
        ..ORDINARY
    },
];

/// A Service of type LoadBalancer with an address, and that address with port 80.
async fn balanced(play: &Play<'_>, name: &str, which: u8, fields: Value) -> Result<(Made, SocketAddr)> {
    let mut spec = json!({
        "type": "LoadBalancer",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": PORT}],
    });
    if let (Some(spec), Value::Object(fields)) = (spec.as_object_mut(), fields) {
        spec.extend(fields);
    }
    let service = play.service(name, spec).await?;
    let address = play.free_address(which);
    let service = play.load_balancer(&service, json!([{"ip": address}])).await?;
    Ok((service, SocketAddr::new(address, 80)))
}

async fn type_and_ports(play: &Play<'_>) -> Result<()> {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"name": "web", "port": 80, "targetPort": PORT}]});
    let service = play.service("web", spec).await?;
    let inside = |service: &Made, port| -> Result<_> { play.ask(Asker::Pod(1), play.cluster_ip(service, port)?) };
    inside(&service, 80)?.answered_by(&web(None)).await?;

    let service = play.edit(&service, json!({"type": "NodePort"})).await?;
    let first_port = play.ask(Asker::Outside, play.node_port(&service, 80, 1)?)?;
    first_port.answered_by(&web(None)).await?;

    play.edit(&service, json!({"type": "LoadBalancer"})).await?;
    let address = play.free_address(1);
    let service = play.load_balancer(&service, json!([{"ip": address}])).await?;
    let at = |port| play.ask(Asker::Outside, SocketAddr::new(address, port));
    at(80)?.answered_by(&web(None)).await?;
    first_port.answered_by(&web(None)).await?;

    // Another node port: the API server gives one where the old one is taken away.
    let ports = json!([{"name": "web", "port": 80, "targetPort": PORT, "nodePort": 0}]);
    let old = service.node_port(80, play.protocol())?;
    let service = play.edit(&service, json!({"ports": ports})).await?;
    if service.node_port(80, play.protocol())? != old {
        play.ask(Asker::Outside, play.node_port(&service, 80, 1)?)?.answered_by(&web(None)).await?;
        first_port.is_refused().await?;
    }

    // Another port.
    let number = service.node_port(80, play.protocol())?;
    let ports = json!([{"name": "web", "port": 81, "targetPort": PORT, "nodePort": number}]);
    let service = play.edit(&service, json!({"ports": ports})).await?;
    at(81)?.answered_by(&web(None)).await?;
    at(80)?.is_not_answered().await?;
    let second_port = play.ask(Asker::Outside, play.node_port(&service, 81, 1)?)?;
    second_port.answered_by(&web(None)).await?;

    // Back to a cluster IP. A cloud takes its address out of the status then.
    let ports = json!([{"name": "web", "port": 81, "targetPort": PORT, "nodePort": null}]);
    let service = play.edit(&service, json!({"type": "ClusterIP", "ports": ports})).await?;
    play.load_balancer(&service, json!([])).await?;
    at(81)?.is_not_answered().await?;
    second_port.is_refused().await?;
    inside(&service, 81)?.answered_by(&web(None)).await
}

async fn source_ranges(play: &Play<'_>) -> Result<()> {
    let whole = if play.family() == Family::IPv4 { 32 } else { 128 };
    let pod = format!("{}/{whole}", play.address(Asker::Pod(1))?);
    let node = format!("{}/{whole}", play.address(Asker::Node(1))?);
    let ranges = json!({"loadBalancerSourceRanges": [pod, node]});
    let (service, to) = balanced(play, "web", 1, ranges).await?;
    play.ask(Asker::Pod(1), to)?.answered_by(&web(None)).await?;
    play.ask(Asker::Node(1), to)?.answered_by(&web(None)).await?;
    for asker in [Asker::Pod(3), Asker::Outside] {
        play.ask(asker, to)?.is_dropped().await?;
    }
    play.ask(Asker::Node(3), to)?.is_not_answered().await?;
    // Node ports are not filtered.
    play.ask(Asker::Outside, play.node_port(&service, 80, 1)?)?.answered_by(&web(None)).await?;

    let halves = match play.family() {
        Family::IPv4 => ["0.0.0.0/1", "128.0.0.0/1"],
        Family::IPv6 => ["::/1", "8000::/1"],
    };
    play.edit(&service, json!({"loadBalancerSourceRanges": halves})).await?;
    for asker in [Asker::Pod(1), Asker::Pod(3), Asker::Node(3), Asker::Outside] {
        play.ask(asker, to)?.answered_by(&web(None)).await?;
    }

    let nobody = if play.family() == Family::IPv4 { "100.64.0.1/32" } else { "2001:db8:ffff::1/128" };
    play.edit(&service, json!({"loadBalancerSourceRanges": [nobody]})).await?;
    for asker in [Asker::Pod(1), Asker::Outside] {
        play.ask(asker, to)?.is_dropped().await?;
    }
    play.edit(&service, json!({"loadBalancerSourceRanges": null})).await?;
    for asker in [Asker::Pod(1), Asker::Pod(3), Asker::Node(3), Asker::Outside] {
        play.ask(asker, to)?.answered_by(&web(None)).await?;
    }
    Ok(())
}

async fn without_node_ports(play: &Play<'_>) -> Result<()> {
    let (service, to) = balanced(play, "web", 1, json!({"allocateLoadBalancerNodePorts": false})).await?;
    ensure!(service.node_port(80, play.protocol()).is_err(), "it has a node port: {service:?}");
    play.ask(Asker::Outside, to)?.answered_by(&web(None)).await?;
    let service = play.edit(&service, json!({"allocateLoadBalancerNodePorts": true})).await?;
    play.ask(Asker::Outside, play.node_port(&service, 80, 2)?)?.answered_by(&web(None)).await?;
    play.ask(Asker::Outside, to)?.answered_by(&web(None)).await
}

async fn policy_local(play: &Play<'_>) -> Result<()> {
    let (service, to) = balanced(play, "web", 1, json!({"externalTrafficPolicy": "Local"})).await?;
    for node in [1, 2] {
        play.stage().lab().route_to_node(to.ip(), node)?;
        play.ask(Asker::Outside, to)?.seen_as_itself().answered_by(&web(Some(node))).await?;
    }
    for node in NODES {
        play.ask(Asker::Pod(node), to)?.seen_as_itself().answered_by(&web(None)).await?;
    }
    let health = service.health_check_port().context("a health check port")?;
    play.load_balancers_hear(1, health, Some(200)).await?;
    play.edit(&service, json!({"type": "NodePort"})).await?;
    play.load_balancers_hear(1, health, None).await
}

async fn only_nodes_with_endpoints(play: &Play<'_>) -> Result<()> {
    let fields = json!({
        "externalTrafficPolicy": "Local",
        "selector": play.own_pods(),
        "ports": [{"port": 80, "targetPort": 8080}],
    });
    let (service, to) = balanced(play, "web", 1, fields).await?;
    let health = service.health_check_port().context("a health check port")?;
    for node in NODES {
        let pod = play.pod(NewPod::new(&format!("on-{node}"), node).port("http", 8080)).await?;
        for other in NODES {
            let status = if other == node { 200 } else { 503 };
            play.load_balancers_hear(other, health, Some(status)).await?;
        }
        play.stage().lab().route_to_node(to.ip(), node)?;
        play.ask(Asker::Outside, to)?.seen_as_itself().answered_by(&only(&[&pod])).await?;
        play.delete_pod(&pod).await?;
        play.endpoints(&service, <[_]>::is_empty).await?;
    }
    Ok(())
}

async fn mode_proxy(play: &Play<'_>) -> Result<()> {
    let (service, to) = balanced(play, "web", 1, json!({})).await?;
    play.ask(Asker::Pod(1), to)?.answered_by(&web(None)).await?;
    play.load_balancer(&service, json!([{"ip": to.ip(), "ipMode": "Proxy"}])).await?;
    play.ask(Asker::Pod(1), to)?.is_not_answered().await?;
    play.load_balancer(&service, json!([{"ip": to.ip(), "ipMode": "VIP"}])).await?;
    play.ask(Asker::Pod(1), to)?.answered_by(&web(None)).await
}

async fn rolling_update(play: &Play<'_>) -> Result<()> {
    for (which, policy) in [(1, "Cluster"), (2, "Local")] {
        let label = policy.to_lowercase();
        let fields = json!({
            "externalTrafficPolicy": policy,
            "selector": play.own_pods(),
            "ports": [{"port": 80, "targetPort": 8080}],
        });
        let (service, to) = balanced(play, &label, which, fields).await?;
        // The address leads to node 1, where there must be a pod all the time.
        let new = |generation: &str, number: u8| {
            let pod = NewPod::new(&format!("{label}-{generation}-{number}"), 1).port("http", 8080).grace(3);
            play.pod(pod)
        };
        let mut old = Vec::new();
        for number in 1..=3 {
            old.push(new("old", number).await?);
        }
        play.ask(Asker::Outside, to)?.answered_by(&only(&old.iter().collect::<Vec<_>>())).await?;
        let client = Client::new(&play.netns(Asker::Outside)?, Duration::from_secs(3));
        let route = Route { name: policy.to_owned(), client, to, protocol: play.protocol() };
        let start = Instant::now();
        let requests = Timeline::start(vec![route], Duration::from_millis(20));
        let mut renewed = Vec::new();
        for (number, old) in (1..).zip(&old) {
            renewed.push(new("new", number).await?);
            play.delete_pod(old).await?;
        }
        let followed = play.ask(Asker::Outside, to)?.answered_by(&only(&renewed.iter().collect::<Vec<_>>())).await;
        let records = requests.stop().await;
        followed?;
        let failed: Vec<_> = records.iter().filter(|record| record.outcome.is_err()).collect();
        // So many of a hundred may fail, as Kubernetes' own test has it.
        ensure!(
            failed.len() * 100 <= records.len() * 5,
            "{} of {} requests failed:\n{}",
            failed.len(),
            records.len(),
            describe(failed, start)
        );
        for pod in &renewed {
            play.delete_pod(pod).await?;
        }
        play.endpoints(&service, <[_]>::is_empty).await?;
    }
    Ok(())
}
