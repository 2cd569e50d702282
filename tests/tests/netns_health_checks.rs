//! What load balancers and operators hear from a node, asked by real clients.
#![cfg(feature = "kernel")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use svclb_tests::net::{Ending, Netns, Scene, SceneOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};

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

/// What a server in a node answers, as status and body; none if it does not listen.
async fn get(netns: &Netns, to: SocketAddr, path: &str) -> Result<Option<(u16, String)>> {
    let socket = netns.enter(|| if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?;
    let ask = async {
        let Ok(mut stream) = socket.connect(to).await else { return Ok(None) };
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let (head, body) = text.split_once("\r\n\r\n").context("no headers")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok(Some((status, body.to_owned())))
    };
    timeout(Duration::from_secs(5), ask).await?
}

/// Waits until the nodes 1 and 2 answer with these numbers of endpoints, in both families; none: nobody listens.
async fn expect(scene: &mut Scene, port: u16, endpoints: [Option<u64>; 2]) -> Result<()> {
    let what = format!("port {port} is answered with {endpoints:?}");
    let wanted = async |scene: &mut Scene| {
        for (node, endpoints) in [1, 2].into_iter().zip(endpoints) {
            for v6 in [false, true] {
                let to = scene.node_port(node, v6, port);
                let found = get(&scene.lab.client().netns, to, "/").await?;
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
