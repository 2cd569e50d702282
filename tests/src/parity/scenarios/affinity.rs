//! Session affinity: one endpoint for all connections of a client.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::parity::{
    Scenario,
    objects::Made,
    play::{Asker, Play, web},
    scenario::ORDINARY,
    stage::PORT,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "with session affinity one endpoint answers all requests of a client",
        upstream: &[
            "service.go: should have session affinity work for service with type clusterIP [LinuxOnly]",
            "service.go: should have session affinity work for NodePort service [LinuxOnly]",
            "networking.go: should function for client IP based session affinity: http [LinuxOnly]",
            "networking.go: should function for client IP based session affinity: udp [LinuxOnly]",
            "dual_stack.go: should function for client IP based session affinity: http [LinuxOnly]",
            "dual_stack.go: should function for client IP based session affinity: udp [LinuxOnly]",
        ],
        fields: &["sessionAffinity"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP", "outside -> node port", "pod -> node port"],
        run: |play| Box::pin(sticks(play)),
        ..ORDINARY
    },
    Scenario {
        name: "session affinity is switched off and on again on a live Service",
        upstream: &[
            "service.go: should be able to switch session affinity for service with type clusterIP [LinuxOnly]",
            "service.go: should be able to switch session affinity for NodePort service [LinuxOnly]",
        ],
        fields: &["sessionAffinity"],
        paths: &["pod -> cluster IP", "outside -> node port"],
        run: |play| Box::pin(switched(play)),
        ..ORDINARY
    },
    Scenario {
        name: "session affinity ends when a client asks nothing for its timeout",
        upstream: &[
            "service.go: should have session affinity timeout work for service with type clusterIP [LinuxOnly]",
            "service.go: should have session affinity timeout work for NodePort service [LinuxOnly]",
        ],
        fields: &["sessionAffinityConfig"],
        paths: &["pod -> cluster IP", "outside -> node port"],
        run: |play| Box::pin(times_out(play)),
        ..ORDINARY
    },
    Scenario {
        name: "session affinity holds at a load balancer's address, and is switched there",
        upstream: &[
            "loadbalancer.go: should have session affinity work for LoadBalancer service with Local traffic policy",
            "loadbalancer.go: should be able to switch session affinity for LoadBalancer service with Local traffic policy",
            "loadbalancer.go: should have session affinity work for LoadBalancer service with Cluster traffic policy",
            "loadbalancer.go: should be able to switch session affinity for LoadBalancer service with Cluster traffic policy",
        ],
        fields: &["sessionAffinity", "externalTrafficPolicy", "status.loadBalancer"],
        paths: &["outside -> load balancer"],
        run: |play| Box::pin(at_load_balancers(play)),
        ..ORDINARY
    },
];

/// Seconds without a request after which an endpoint is picked anew.
const TIMEOUT: u64 = 3;

/// How many pauses one endpoint may outlive: with three endpoints it is picked so often in a row once in 50,000 times.
const MOST_PAUSES: u32 = 11;

async fn service(play: &Play<'_>, fields: Value) -> Result<Made> {
    let mut spec = json!({
        "type": "NodePort",
        "sessionAffinity": "ClientIP",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": PORT}],
    });
    if let (Some(spec), Value::Object(fields)) = (spec.as_object_mut(), fields) {
        spec.extend(fields);
    }
    play.service("web", spec).await
}

async fn sticks(play: &Play<'_>) -> Result<()> {
    let service = service(play, json!({})).await?;
    let (inside, outside) = (play.cluster_ip(&service, 80)?, play.node_port(&service, 80, 1)?);
    for asker in [Asker::Pod(1), Asker::Pod(3), Asker::Node(3)] {
        play.ask(asker, inside)?.stays_with_one_of(&web(None)).await?;
    }
    let first = play.ask(Asker::Outside, outside)?.stays_with_one_of(&web(None)).await?;
    let again = play.ask(Asker::Outside, outside)?.stays_with_one_of(&web(None)).await?;
    ensure!(first == again, "{first} answered, and then {again}");
    Ok(())
}

async fn switched(play: &Play<'_>) -> Result<()> {
    let service = service(play, json!({})).await?;
    let asked = [
        play.ask(Asker::Pod(1), play.cluster_ip(&service, 80)?)?,
        play.ask(Asker::Outside, play.node_port(&service, 80, 2)?)?,
    ];
    for asking in &asked {
        asking.stays_with_one_of(&web(None)).await?;
    }
    play.edit(&service, json!({"sessionAffinity": "None", "sessionAffinityConfig": null})).await?;
    for asking in &asked {
        asking.answered_by(&web(None)).await?;
    }
    play.edit(&service, json!({"sessionAffinity": "ClientIP"})).await?;
    for asking in &asked {
        asking.stays_with_one_of(&web(None)).await?;
    }
    Ok(())
}

async fn times_out(play: &Play<'_>) -> Result<()> {
    let config = json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": TIMEOUT}}});
    let service = service(play, config).await?;
    let asked = [
        play.ask(Asker::Pod(1), play.cluster_ip(&service, 80)?)?,
        play.ask(Asker::Outside, play.node_port(&service, 80, 2)?)?,
    ];
    for asking in &asked {
        let mut answered = BTreeSet::new();
        let mut pauses = 0;
        while answered.len() < 2 {
            ensure!(pauses < MOST_PAUSES, "{asking}: only {answered:?} answers, also after {pauses} pauses");
            answered.insert(asking.stays_with_one_of(&web(None)).await?);
            // That nothing is asked for so long is what this is about.
            sleep(Duration::from_secs(TIMEOUT + 1)).await;
            pauses += 1;
        }
    }
    Ok(())
}

async fn at_load_balancers(play: &Play<'_>) -> Result<()> {
    for (which, policy) in [(1, "Cluster"), (2, "Local")] {
        let address = play.free_address(which);
        let spec = json!({
            "type": "LoadBalancer",
            "externalTrafficPolicy": policy,
            "sessionAffinity": "ClientIP",
            "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": PORT}],
        });
        let service = play.service(&policy.to_lowercase(), spec).await?;
        play.load_balancer(&service, json!([{"ip": address}])).await?;
        // Two of the three pods are on node 2.
        play.stage().lab().route_to_node(address, 2)?;
        let pods = if policy == "Local" { web(Some(2)) } else { web(None) };
        let asking = play.ask(Asker::Outside, SocketAddr::new(address, 80))?;
        asking.stays_with_one_of(&pods).await?;
        play.edit(&service, json!({"sessionAffinity": "None", "sessionAffinityConfig": null})).await?;
        asking.answered_by(&pods).await?;
        play.edit(&service, json!({"sessionAffinity": "ClientIP"})).await?;
        asking.stays_with_one_of(&pods).await?;
    }
    Ok(())
}
