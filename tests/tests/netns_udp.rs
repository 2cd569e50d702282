//! A UDP client that keeps its source port: its next datagram goes to the right place, whatever has
//! changed, and none ever to a pod that is no endpoint any more.
#![cfg(feature = "kernel")]

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use svclb_tests::net::{Client, Datagrams, Ending, FailureKind, Scene, SceneOptions, SourcePort};

/// One pod with this name behind a Service, or none.
fn one_pod(name: Option<&str>) -> String {
    let pod = name.map(|name| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: echo}}}}
spec:
  containers: [{{name: echo, image: echo, ports: [{{containerPort: 7, protocol: UDP}}]}}]
---
"
        )
    });
    pod.unwrap_or_default()
        + "apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: echo}
  ports: [{port: 7, nodePort: 30007, protocol: UDP}]
"
}

/// A scene with the pod `first`, and clients on every kind of path, each with one source port.
struct Cast {
    scene: Scene,
    clients: Vec<(Client, SocketAddr, Datagrams)>,
}

/// Pods that are no more stay until after the tests: a datagram to one of them would be answered, and seen.
const STAY: Duration = Duration::from_mins(1);

impl Cast {
    async fn new() -> Result<Self> {
        let options = SceneOptions { ending: Ending::Forgotten(STAY), ..SceneOptions::default() };
        let scene = Scene::new(options, &one_pod(Some("first"))).await?;
        let mut clients = Vec::new();
        for (v6, ports) in [(false, 5300), (true, 5310)] {
            let cluster: SocketAddr =
                if v6 { "[fd00:10:96::10]:7".parse()? } else { SocketAddr::from(([10, 96, 0, 16], 7)) };
            let paths = [
                (scene.inside(), cluster),
                (scene.outside(), scene.node_port(1, v6, 30007)),
                (scene.outside(), scene.node_port(2, v6, 30007)),
                (scene.inside(), scene.node_port(1, v6, 30007)),
            ];
            for (port, (client, to)) in (ports..).zip(paths) {
                let mut datagrams = client.datagrams(to, SourcePort::Fixed(port)).await?;
                assert_eq!(datagrams.ask().await?.answer.pod, "first");
                clients.push((client, to, datagrams));
            }
        }
        Ok(Self { scene, clients })
    }

    /// Waits until fresh clients get this outcome on every path, then expects it at once from those that
    /// keep their port.
    async fn expect_everywhere(&mut self, pod: Option<&str>) -> Result<()> {
        for (client, to, _) in &self.clients {
            let what = format!("{to} is answered by {pod:?}");
            self.scene
                .wait_until(&what, async |_scene| {
                    Ok(match (client.udp(*to).await, pod) {
                        (Ok(reply), Some(pod)) => reply.answer.pod == pod,
                        (Err(failure), None) => failure.kind == FailureKind::Refused,
                        _ => false,
                    })
                })
                .await?;
        }
        let asked_before = self.scene.cluster.answerer("first").map(svclb_tests::net::Answerer::datagrams);
        for (_, to, datagrams) in &mut self.clients {
            match (datagrams.ask().await, pod) {
                (Ok(reply), Some(pod)) => assert_eq!(reply.answer.pod, pod, "{to}"),
                (Err(failure), None) => assert_eq!(failure.kind, FailureKind::Refused, "{to}: {failure}"),
                (outcome, _) => panic!("{to} is to be answered by {pod:?}, and there came {outcome:?}"),
            }
        }
        if pod != Some("first") {
            let asked_now = self.scene.cluster.answerer("first").map(svclb_tests::net::Answerer::datagrams);
            assert_eq!(asked_now, asked_before, "the pod that is no endpoint any more was asked");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_datagram_goes_to_the_right_place_when_pods_come_and_go() -> Result<()> {
    let mut cast = Cast::new().await?;
    for pod in [Some("second"), None, Some("third"), Some("fourth")] {
        cast.scene.apply(&one_pod(pod))?;
        cast.expect_everywhere(pod).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_datagram_is_answered_when_its_service_is_made_again() -> Result<()> {
    let mut cast = Cast::new().await?;
    let whole = one_pod(Some("first"));
    let (pod, _service) = whole.split_once("---\n").expect("two objects");
    cast.scene.apply(pod)?;
    let (client, to, _) = &cast.clients[0];
    cast.scene.wait_until("the Service is gone", async |_scene| Ok(client.udp(*to).await.is_err())).await?;
    cast.scene.apply(&whole)?;
    cast.expect_everywhere(Some("first")).await
}
