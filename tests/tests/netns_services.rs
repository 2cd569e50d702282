//! What a Service can ask for, seen by real clients.
#![cfg(feature = "kernel")]

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use svclb_tests::net::{Ending, FailureKind, PodNetwork, Scene, SceneOptions};

/// A Deployment and a dual-stack Service `web`, port 80, TCP and UDP; `spec` is put into the Service.
fn web(replicas: u32, spec: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
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
{spec}"
    )
}

async fn good_scene(options: SceneOptions, manifests: &str) -> Result<Scene> {
    let mut scene = Scene::new(options, manifests).await?;
    scene.expect_good_round().await?;
    Ok(scene)
}

/// The manifests of [`web`] under another name, with another node port.
fn called(name: &str, node_port: u16, manifests: &str) -> String {
    manifests.replace("web", name).replace("30080", &node_port.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_local_keeps_traffic_on_the_node_and_the_clients_address() -> Result<()> {
    let services = [
        called("spread", 30081, &web(3, "  externalTrafficPolicy: Local\n")),
        // The node without a pod drops what comes from outside.
        called("alone", 30082, &web(1, "  externalTrafficPolicy: Local\n")),
        called("inner", 30083, &web(4, "  internalTrafficPolicy: Local\n")),
        called("hidden", 30084, &web(1, "  internalTrafficPolicy: Local\n")),
        // A client stays with a pod, and with one that its policy admits.
        called(
            "sticky",
            30085,
            &web(4, "  externalTrafficPolicy: Local\n  internalTrafficPolicy: Local\n  sessionAffinity: ClientIP\n"),
        ),
    ];
    good_scene(SceneOptions::default(), &services.join("---\n")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_pods_and_an_unknown_port_refuse_within_a_second() -> Result<()> {
    let mut scene = good_scene(SceneOptions::default(), &web(0, "")).await?;
    for to in [SocketAddr::from(([10, 96, 0, 16], 81)), "[fd00:10:96::10]:81".parse()?] {
        let failure = scene.inside().http(to).await.expect_err("no Service has this port");
        assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
        assert!(failure.after < Duration::from_secs(1), "{failure}");
        let failure = scene.inside().udp(to).await.expect_err("no Service has this port");
        assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    }
    scene.apply(&web(2, ""))?;
    scene.expect_good_round().await?;
    scene.apply(&web(0, ""))?;
    // Pods in their grace period serve as long as there are no others.
    scene.expect_good_round().await?;
    scene.wait_until("the pods end", async |scene| scene.cluster.reap()).await?;
    scene.expect_good_round().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_address_lets_its_source_ranges_in_and_nobody_else() -> Result<()> {
    let load_balancer = |ranges: &str| {
        let spec = format!(
            "  loadBalancerSourceRanges: [{ranges}]\nstatus:\n  loadBalancer: {{ingress: [{{ip: 203.0.113.7}}]}}\n"
        );
        web(3, &spec).replace("type: NodePort", "type: LoadBalancer")
    };
    let mut scene = Scene::new(SceneOptions::default(), &load_balancer("198.51.100.0/24")).await?;
    scene.lab.route_load_balancer([203, 0, 113, 7].into())?;
    scene.expect_good_round().await?;
    scene.apply(&load_balancer("192.0.2.128/25"))?;
    let to = SocketAddr::from(([203, 0, 113, 7], 80));
    scene
        .wait_until("the outside client is shut out", async |scene| {
            let outcome = scene.outside().http(to).await;
            Ok(outcome.is_err_and(|failure| failure.kind == FailureKind::TimedOut))
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_and_a_pod_that_ends_break_no_open_connection() -> Result<()> {
    let ending = Ending::Announced(Duration::from_mins(1));
    let options = SceneOptions { ending, network: PodNetwork::Bridged, ..SceneOptions::default() };
    let mut scene = Scene::new(options, &web(3, "")).await?;
    let inside = scene.inside();
    let mut open = Vec::new();
    for _ in 0..12 {
        for to in [SocketAddr::from(([10, 96, 0, 16], 80)), "[fd00:10:96::10]:80".parse()?] {
            open.push(inside.connect(to).await?);
        }
        open.push(scene.outside().connect(scene.node_port(2, false, 30080)).await?);
        open.push(scene.outside().connect(scene.node_port(2, true, 30080)).await?);
    }
    let edited = web(3, "").replace("port: 80,", "port: 90,");
    for manifests in [edited, web(1, ""), web(3, "")] {
        scene.apply(&manifests)?;
        scene.expect_good_round().await?;
        for connection in &mut open {
            connection.ask().await?;
        }
    }
    Ok(())
}
