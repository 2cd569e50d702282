//! What serves while the agent, the API server or the kernel's tables are taken away.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::parity::{
    Differs, Family, Scenario, Subject, Turn,
    objects::Made,
    play::{Asker, Play, web},
    scenario::TCP,
    stage::PORT,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "Services answer while who serves them is restarted, and new ones afterwards",
        upstream: &["service.go: should work after restarting kube-proxy"],
        fields: &["clusterIPs", "ports[].nodePort"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP", "outside -> node port"],
        families: Family::BOTH,
        protocols: TCP,
        turn: Turn::Alone,
        differs: &[],
        run: |play| Box::pin(restart(play)),
    },
    Scenario {
        name: "Services answer while the API server is restarted, and new ones afterwards",
        upstream: &["service.go: should work after restarting apiserver"],
        fields: &["clusterIPs", "ports[].nodePort"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP", "outside -> node port"],
        families: &[Family::IPv4],
        protocols: TCP,
        turn: Turn::Alone,
        differs: &[],
        run: |play| Box::pin(api_server(play)),
    },
    Scenario {
        name: "Services answer again when somebody flushes the node's tables of rules",
        upstream: &["networking.go: should recreate its iptables rules if they are deleted"],
        fields: &["clusterIPs", "ports[].nodePort"],
        paths: &["pod -> cluster IP", "process of a node -> cluster IP", "outside -> node port"],
        families: &[Family::IPv4],
        protocols: TCP,
        turn: Turn::Alone,
        differs: &[Differs::always(
            Subject::KubeProxyNftables,
            "nothing looks whether its table is still there; it comes back half a minute after the next change",
        )],
        run: |play| Box::pin(flushed(play)),
    },
];

/// How long until everybody has found the API server again: they ask ever more seldom while there is none.
const FOUND_AGAIN_WITHIN: Duration = Duration::from_mins(2);

/// How long until a subject has noticed that its rules are gone: kube-proxy looks every 30 seconds.
const NOTICED_WITHIN: Duration = Duration::from_secs(90);

async fn web_service(play: &Play<'_>, name: &str) -> Result<Made> {
    let spec = json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]});
    play.service(name, spec).await
}

/// The Service answers on all paths.
async fn answers(play: &Play<'_>, service: &Made, within: Duration) -> Result<()> {
    let to = play.cluster_ip(service, 80)?;
    for asker in [Asker::Pod(1), Asker::Node(1)] {
        play.ask(asker, to)?.within(within).answered_by(&web(None)).await?;
    }
    play.ask(Asker::Outside, play.node_port(service, 80, 1)?)?.within(within).answered_by(&web(None)).await
}

async fn restart(play: &Play<'_>) -> Result<()> {
    let old = web_service(play, "old").await?;
    answers(play, &old, Duration::ZERO).await?;
    play.stage().stop_processes().await?;
    let meanwhile = answers(play, &old, Duration::ZERO).await.context("while nobody runs");
    play.stage().start_processes().await?;
    meanwhile?;
    answers(play, &old, Duration::ZERO).await?;
    let new = web_service(play, "new").await?;
    answers(play, &new, Duration::ZERO).await
}

async fn api_server(play: &Play<'_>) -> Result<()> {
    let old = web_service(play, "old").await?;
    answers(play, &old, Duration::ZERO).await?;
    let plane = play.stage().cluster().plane();
    plane.stop_api_server();
    let meanwhile = answers(play, &old, Duration::ZERO).await.context("while there is no API server");
    plane.start_api_server()?;
    meanwhile?;
    answers(play, &old, Duration::ZERO).await?;
    let new = web_service(play, "new").await?;
    answers(play, &new, FOUND_AGAIN_WITHIN).await
}

async fn flushed(play: &Play<'_>) -> Result<()> {
    let service = web_service(play, "web").await?;
    answers(play, &service, Duration::ZERO).await?;
    let node = play.netns(Asker::Node(1))?;
    // Every table of rules that a tool of the system empties, of netfilter and of traffic control.
    let flush = "nft flush ruleset; for t in nat filter mangle raw; do iptables -t $t -F; iptables -t $t -X; \
                 ip6tables -t $t -F; ip6tables -t $t -X; done; \
                 for d in $(ls /sys/class/net); do tc qdisc del dev $d clsact; done; true";
    let mut shell = node.command("sh");
    shell.args(["-c", flush]).stderr(std::process::Stdio::null());
    tokio::process::Command::from(shell).status().await.context("flush the tables of node1")?;
    let outcome = answers(play, &service, NOTICED_WITHIN).await;
    // What a subject does not notice by itself it writes anew when it is started.
    play.stage().stop_processes().await?;
    play.stage().start_processes().await?;
    outcome
}
