//! SCTP through the whole of it: an agent on each node, a network policy, real packets whose checksum is verified at
//! both ends. The ends are raw sockets, as few kernels have SCTP; where the kernel has it (`cargo xtask vm --kernel 6.1
//! --test netns_sctp`) they are its own sockets, which leave the checksum to a device.
#![cfg(feature = "kernel")]

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::Result;
use svclb_tests::net::{
    Answerer, Client, Ending, FailureKind, LabOptions, NODES, Offload, PodNetwork, Scene, SceneOptions, SourcePort,
    Underlay,
};

/// Pods behind SCTP ports that lead to another number; a Service of each policy, and one without pods.
const SIGNALLING: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: signalling}
spec:
  replicas: 3
  selector: {matchLabels: {app: signalling}}
  template:
    metadata: {labels: {app: signalling}}
    spec:
      containers: [{name: s, image: s, ports: [{name: m3ua, containerPort: 5000, protocol: SCTP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: signalling}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: signalling}
  ports: [{port: 2905, targetPort: m3ua, nodePort: 30905, protocol: SCTP}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  externalTrafficPolicy: Local
  selector: {app: signalling}
  ports: [{port: 2905, targetPort: m3ua, nodePort: 30906, protocol: SCTP}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: nobody}
  ports: [{port: 2905, protocol: SCTP}]
";

async fn every_path(network: PodNetwork, lab: LabOptions) -> Result<()> {
    let had_module = has_module();
    let options = SceneOptions { lab, network, policy: true, ..SceneOptions::default() };
    let mut scene = Scene::new(options, SIGNALLING).await?;
    scene.expect_good_round().await?;
    assert_eq!(has_module(), had_module, "somebody loaded the module of SCTP");
    Ok(())
}

/// Whether the module of SCTP is loaded. That there are Services with SCTP loads none.
fn has_module() -> bool {
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    modules.lines().any(|line| line.starts_with("sctp "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_for_sctp_with_routed_pods() -> Result<()> {
    every_path(PodNetwork::Routed, LabOptions { offload: Offload::Off, ..LabOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_for_sctp_with_bridged_pods() -> Result<()> {
    every_path(PodNetwork::Bridged, LabOptions::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_works_for_sctp_over_vxlan() -> Result<()> {
    let lab = LabOptions { underlay: Underlay::Vxlan, offload: Offload::Off, ..LabOptions::default() };
    every_path(PodNetwork::Routed, lab).await
}

/// One pod with this name behind a Service.
fn one_pod(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: diameter}}}}
spec:
  containers: [{{name: d, image: d, ports: [{{containerPort: 3868, protocol: SCTP}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: diameter}}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {{app: diameter}}
  ports: [{{port: 3900, targetPort: 3868, nodePort: 30068, protocol: SCTP}}]
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_association_whose_pod_goes_is_aborted_and_begins_again_with_another() -> Result<()> {
    let had_module = has_module();
    // The pod that is no more stays, and would answer.
    let options = SceneOptions { ending: Ending::Forgotten(Duration::from_mins(1)), ..SceneOptions::default() };
    let mut scene = Scene::new(options, &one_pod("first")).await?;
    let mut associations = Vec::new();
    for (v6, port) in [(false, 3900), (true, 3910)] {
        let cluster: SocketAddr =
            if v6 { "[fd00:10:96::10]:3900".parse()? } else { SocketAddr::from(([10, 96, 0, 16], 3900)) };
        let paths: [(Client, SocketAddr); 3] = [
            (scene.inside(), cluster),
            (scene.outside(), scene.node_port(1, v6, 30068)),
            (scene.outside(), scene.node_port(2, v6, 30068)),
        ];
        for (port, (client, to)) in (port..).zip(paths) {
            let mut association = client.associate(to, SourcePort::Fixed(port)).await?;
            assert_eq!(association.ask().await?.answer.pod, "first", "{to}");
            association.begin().await?;
            assert_eq!(association.ask().await?.answer.pod, "first", "{to}: a client that begins again");
            associations.push((client, to, association));
        }
    }
    scene.apply(&one_pod("second"))?;
    for (client, to, association) in &mut associations {
        let what = format!("{to} is answered by the second pod");
        scene
            .wait_until(&what, async |_scene| {
                Ok(client.sctp(*to).await.is_ok_and(|reply| reply.answer.pod == "second"))
            })
            .await?;
        let of_first = |count: fn(&Answerer) -> u64| scene.cluster.answerer("first").map(count);
        let asked_before = of_first(Answerer::sctp_messages);
        let failure = association.ask().await.expect_err("nobody has the association");
        assert_eq!(failure.kind, FailureKind::Reset, "{to}: {failure}");
        assert_eq!(of_first(Answerer::sctp_messages), asked_before, "the pod that is no endpoint any more was asked");
        assert_eq!(of_first(Answerer::damaged_sctp_packets), Some(0), "every checksum was right");
        association.begin().await?;
        assert_eq!(association.ask().await?.answer.pod, "second", "{to}");
    }
    assert_eq!(has_module(), had_module, "somebody loaded the module of SCTP");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_a_node_are_refused_by_an_sctp_service_within_a_round_trip() -> Result<()> {
    let scene = Scene::new(SceneOptions::default(), SIGNALLING).await?;
    for node in NODES {
        let process = Client::new(scene.lab.node(node).netns(), Duration::from_secs(5));
        for (served, to) in [
            (true, "10.96.0.16:2905"),
            (true, "[fd00:10:96::10]:2905"),
            (false, "10.96.0.18:2905"),
            (false, "[fd00:10:96::12]:2905"),
        ] {
            let failure = process.sctp(to.parse()?).await.expect_err(to);
            let what = format!("node {node} to {to}, which has endpoints: {served}: {failure}");
            assert_eq!(failure.kind, FailureKind::Refused, "{what}");
            assert!(failure.after < Duration::from_secs(1), "{what}");
        }
    }
    Ok(())
}
