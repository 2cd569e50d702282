//! What load balancers and operators hear from a node, asked by real clients.
#![cfg(feature = "kernel")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use svclb_tests::net::{Client, Ending, Netns, Scene, SceneOptions};

/// A Service of one family alone with `replicas` pods, which nodes are asked about on `port`.
fn web(replicas: u32, port: u16) -> String {
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
      containers: [{{name: web, image: web, ports: [{{containerPort: 8080}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: {port}
  ipFamilyPolicy: SingleStack
  ipFamilies: [IPv4]
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]
"
    )
}

/// What a server in a node answers, as status and body; none if it does not answer.
async fn get(netns: &Netns, to: SocketAddr, path: &str) -> Option<(u16, String)> {
    Client::new(netns, Duration::from_secs(5)).get(to, path).await.ok()
}

/// Waits until the nodes 1 and 2 answer with these numbers of endpoints, in both families; none: nobody listens.
async fn expect(scene: &mut Scene, port: u16, endpoints: [Option<u64>; 2]) -> Result<()> {
    let what = format!("port {port} is answered with {endpoints:?}");
    let wanted = async |scene: &mut Scene| {
        for (node, endpoints) in [1, 2].into_iter().zip(endpoints) {
            for v6 in [false, true] {
                let to = scene.node_port(node, v6, port);
                let found = get(&scene.lab.client().netns, to, "/").await;
                let (Some((status, body)), Some(endpoints)) = (&found, endpoints) else {
                    if found.is_none() == endpoints.is_none() {
                        continue;
                    }
                    return Ok(false);
                };
                let body: Value = serde_json::from_str(body)?;
                let service = json!({"namespace": "default", "name": "web"});
                ensure!(body["service"] == service && body["serviceProxyHealthy"] == true, "{body}");
                ensure!((*status == 200) == (body["localEndpoints"] != 0), "{status} {body}");
                if body["localEndpoints"] != endpoints {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    };
    scene.wait_until(&what, wanted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_balancers_hear_which_nodes_have_endpoints() -> Result<()> {
    let ending = Ending::Announced(Duration::from_mins(1));
    let options = SceneOptions { ending, ..SceneOptions::default() };
    let mut scene = Scene::new(options, &web(3, 32_000)).await?;
    expect(&mut scene, 32_000, [Some(2), Some(1)]).await?;
    scene.apply(&web(1, 32_000))?;
    expect(&mut scene, 32_000, [Some(1), Some(0)]).await?;
    // A pod that ends serves as long as it is the last one, but no load balancer is to count on it.
    scene.apply(&web(0, 32_000))?;
    expect(&mut scene, 32_000, [Some(0), Some(0)]).await?;
    scene.apply(&web(2, 32_001))?;
    expect(&mut scene, 32_000, [None, None]).await?;
    expect(&mut scene, 32_001, [Some(1), Some(1)]).await?;
    scene.kill_agents().await?;
    scene.start_agents().await?;
    expect(&mut scene, 32_001, [Some(1), Some(1)]).await?;
    scene.apply(&web(2, 32_001).replace("type: LoadBalancer", "type: NodePort"))?;
    expect(&mut scene, 32_001, [None, None]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_hear_of_the_node_under_kube_proxys_paths_and_names() -> Result<()> {
    let scene = &mut Scene::new(SceneOptions::default(), &web(1, 32_000)).await?;
    let to = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    // Node 2 has no pod of the Service.
    let netns = scene.lab.node(2).netns().clone();
    let answer = async |port: u16, path: &str| get(&netns, to(port), path).await.context("nobody listens");
    let (status, body) = answer(10256, "/healthz").await?;
    let body: Value = serde_json::from_str(&body)?;
    ensure!(status == 200 && body["nodeEligible"] == true && body["healthy"] == true, "{status} {body}");
    ensure!(answer(10256, "/livez").await?.0 == 200);
    ensure!(answer(10249, "/proxyMode").await? == (200, "svclb".to_owned()));
    let (_, metrics) = answer(10249, "/metrics").await?;
    for line in [
        r#"kubeproxy_proxy_healthz_total{code="200"} 1"#,
        r#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 1"#,
        r#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 0"#,
        "kubeproxy_sync_proxy_rules_service_changes_pending 0",
        "svclb_health_check_listeners 2",
    ] {
        ensure!(metrics.lines().any(|own| own == line), "{line} is not in\n{metrics}");
    }
    ensure!(answer(10249, "/healthz").await? == (200, "ok".to_owned()));
    let (_, slis) = answer(10249, "/metrics/slis").await?;
    let ping = r#"kubernetes_healthcheck{name="ping",type="healthz"} 1"#;
    ensure!(slis.lines().any(|own| own == ping), "{ping} is not in\n{slis}");
    let (_, options) = answer(10249, "/configz").await?;
    let options: Value = serde_json::from_str(&options)?;
    ensure!(options["svclb"]["node-name"] == "node2", "{options}");
    Ok(())
}
