//! A new pod is hooked by filters first, and by links soon after. No packet is lost while one takes over
//! from the other.
#![cfg(feature = "kernel")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use svclb_tests::net::{Client, PodNetwork, Scene, SceneOptions};
use tokio::task::JoinSet;

const ECHO: &str = "apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  containers: [{name: echo, image: echo, ports: [{containerPort: 7, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports: [{port: 7, protocol: UDP}]
";

/// From before the links are made until after: they are made 0.3 s after the last new device.
const WATCHED: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_datagram_is_lost_while_links_take_over_from_filters() -> Result<()> {
    let scene = Scene::new(SceneOptions::default(), ECHO).await?;
    let echo = "10.96.0.16:7".parse()?;
    scene.inside().udp(echo).await.context("the Service works")?;
    for round in 0..3 {
        let pod = scene.lab.node(1).pod(&format!("new-{round}"), PodNetwork::Routed)?;
        let client = Client::new(pod.netns(), Duration::from_secs(2));
        let hooked_by = Instant::now() + Duration::from_secs(1);
        while client.udp(echo).await.is_err() {
            assert!(Instant::now() < hooked_by, "the new pod is hooked at once");
        }
        let start = Instant::now();
        while start.elapsed() < WATCHED {
            let mut requests = JoinSet::new();
            for _ in 0..50 {
                let client = client.clone();
                requests.spawn(async move { client.udp(echo).await });
            }
            for outcome in requests.join_all().await {
                outcome.with_context(|| format!("{:?} after the pod was hooked", start.elapsed()))?;
            }
        }
    }
    Ok(())
}
