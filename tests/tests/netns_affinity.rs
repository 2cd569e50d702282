//! Session affinity, seen by real clients: of pods, from outside, and of processes of a node, which are served at their
//! sockets.
#![cfg(feature = "kernel")]

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use svclb_tests::net::{Client, Load, LoadPlan, Protocol, Scene, SceneOptions};
use tokio::time::sleep;

/// Three pods of a Deployment, and a Service with these fields.
fn web(deployment: &str, fields: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {deployment}}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
        - {{name: web, image: web, ports: [{{containerPort: 8080}}, {{containerPort: 8080, protocol: UDP}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {{app: web}}
  ports:
    - {{name: tcp, port: 80, targetPort: 8080, nodePort: 30080}}
    - {{name: udp, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}}
{fields}"
    )
}

fn client_ip(seconds: u32) -> String {
    format!("  sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}\n")
}

fn cluster_ips() -> [SocketAddr; 2] {
    ["10.96.0.16:80", "[fd00:10:96::10]:80"].map(|text| text.parse().expect("an address and a port"))
}

/// How many requests in a row tell whether there is affinity: by chance one of three pods answers all of them once in
/// four million times.
const REQUESTS: usize = 15;

/// The pods that answer [`REQUESTS`] requests, each from a socket of its own.
async fn pods(client: &Client, to: SocketAddr, protocol: Protocol) -> Result<BTreeSet<String>> {
    let mut pods = BTreeSet::new();
    for _ in 0..REQUESTS {
        let outcome = if protocol == Protocol::Udp { client.udp(to).await } else { client.http(to).await };
        pods.insert(outcome?.answer.pod);
    }
    Ok(pods)
}

/// The timeout of those who wait for it, in seconds.
const TIMEOUT: u32 = 2;

/// How many timeouts a client may come back to its pod by chance, one of three: once in 150,000 times.
const MOST_PAUSES: usize = 11;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_and_processes_of_a_node_stay_with_their_pod_until_the_timeout_or_its_end() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default(), &web("first", &client_ip(TIMEOUT))).await?;
    let process = Client::new(scene.lab.node(2).netns(), Duration::from_secs(2));
    let mut routes = Vec::new();
    for client in [scene.inside(), process] {
        for to in cluster_ips() {
            routes.extend([Protocol::Tcp, Protocol::Udp].map(|protocol| (client.clone(), to, protocol)));
        }
    }
    let mut seen = vec![BTreeSet::new(); routes.len()];
    let mut pauses = 0;
    while seen.iter().any(|seen| seen.len() < 2) {
        ensure!(pauses <= MOST_PAUSES, "only these pods answer, whatever the pause: {seen:?}");
        for ((client, to, protocol), seen) in routes.iter().zip(&mut seen) {
            let now = pods(client, *to, *protocol).await?;
            ensure!(now.len() == 1, "{now:?} answer for {to} {protocol}");
            seen.extend(now);
        }
        // That nothing is asked for so long is what this is about.
        sleep(Duration::from_millis(u64::from(TIMEOUT) * 1000 + 500)).await;
        pauses += 1;
    }
    // A Deployment of another name in its place: its pods are others.
    scene.apply(&web("second", &client_ip(3600)))?;
    for (client, to, protocol) in &routes {
        scene
            .wait_until("one of the other pods answers", async |scene| {
                scene.cluster.reap()?;
                let now = pods(client, *to, *protocol).await;
                Ok(now.is_ok_and(|now| now.len() == 1 && now.iter().all(|pod| pod.starts_with("second"))))
            })
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn affinity_comes_changes_and_goes_under_load_and_no_request_is_lost() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default(), &web("web", "")).await?;
    let patience = Duration::from_secs(15);
    let process = Client::new(scene.lab.node(1).netns(), patience);
    let [cluster4, cluster6] = cluster_ips();
    let routes = [
        (scene.inside().patient(patience), cluster4),
        (scene.inside().patient(patience), cluster6),
        (scene.outside().patient(patience), scene.node_port(1, false, 30080)),
        (scene.outside().patient(patience), scene.node_port(2, true, 30080)),
        (process, cluster4),
    ];
    let plan = LoadPlan { new_per_second: 50, open: 5, pause: Duration::from_millis(100) };
    let loads: Vec<Load> = routes.iter().map(|(client, to)| Load::start(client, *to, plan)).collect();
    let steps = [client_ip(3600), client_ip(1), String::new(), client_ip(60), String::new()];
    for fields in steps {
        scene.apply(&web("web", &fields))?;
        for (client, to) in &routes {
            scene
                .wait_until("the agents have followed", async |_scene| {
                    let answered = pods(client, *to, Protocol::Tcp).await?;
                    Ok(if fields.is_empty() { answered.len() == 3 } else { answered.len() == 1 })
                })
                .await?;
        }
        if fields.is_empty() {
            continue;
        }
        // The load renews what it holds, however short the timeout is.
        for ((client, to), load) in routes.iter().zip(&loads) {
            let before = load.so_far();
            let [only] = pods(client, *to, Protocol::Tcp)
                .await?
                .into_iter()
                .collect::<Vec<_>>()
                .try_into()
                .map_err(|several: Vec<String>| anyhow::anyhow!("{several:?} answer for {to} with{fields}"))?;
            let after = load.so_far();
            for (pod, count) in &after.by_pod {
                let answered = count - before.by_pod.get(pod).copied().unwrap_or_default();
                ensure!(answered == 0 || *pod == only, "{pod} answers the load for {to}, and {only} others\n{fields}");
            }
        }
    }
    for load in loads {
        let report = load.stop().await;
        ensure!(report.failed() == 0 && report.broken == 0, "requests failed or connections broke: {report}");
        ensure!(report.answered > 0 && report.exchanges > 0, "there was no load: {report}");
    }
    Ok(())
}
