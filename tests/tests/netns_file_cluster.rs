//! Manifests become pods and complete objects, without an agent.
#![cfg(feature = "kernel")]

use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};

use anyhow::Result;
use svclb_tests::net::{
    Askers, Client, Ending, FileCluster, Lab, LabOptions, Manifests, PathKind, PodNetwork, PolicyEngine, Protocol,
    all_paths,
};

const EXAMPLE: &str = include_str!("../../examples/httpd.yaml");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_becomes_three_pods_and_a_complete_service() -> Result<()> {
    let (lab, folder) = (Lab::new(LabOptions::default())?, tempfile::tempdir()?);
    let grace = Duration::from_millis(200);
    let mut cluster = FileCluster::new(&lab, folder.path(), PodNetwork::Routed, Ending::Announced(grace))?;
    let added = cluster.apply(&lab, &Manifests::parse(EXAMPLE)?)?;
    assert_eq!(
        added,
        [
            "Service default/httpd-svc has the cluster address 10.96.0.16",
            "Service default/httpd-svc has the cluster address fd00:10:96::10"
        ]
    );
    let state = cluster.state();
    let nodes: Vec<u8> = state.pods.iter().map(|pod| pod.node).collect();
    assert_eq!(nodes, [1, 2, 1]);
    for pod in &state.pods {
        for address in pod.address.both() {
            let reply = Client::new(&lab.client().netns, grace * 5).http(SocketAddr::new(address, 80)).await?;
            assert_eq!(reply.answer.pod, pod.name);
        }
    }
    let written = Manifests::read(&[folder.path().join("pods.yaml"), folder.path().join("services.yaml")])?;
    assert_eq!(written.pods.len(), 3);
    let spec = written.services[0].spec.as_ref().expect("a Service has a spec");
    assert_eq!(spec.cluster_ips.as_deref(), Some(&["10.96.0.16".to_owned(), "fd00:10:96::10".to_owned()][..]));
    assert!(fs::read_to_string(folder.path().join("nodes.yaml"))?.contains("2001:db8:1::12"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_are_to_go_answer_through_their_grace_period() -> Result<()> {
    let (lab, folder) = (Lab::new(LabOptions::default())?, tempfile::tempdir()?);
    let grace = Duration::from_millis(300);
    let mut cluster = FileCluster::new(&lab, folder.path(), PodNetwork::Bridged, Ending::Announced(grace))?;
    cluster.apply(&lab, &Manifests::parse(EXAMPLE)?)?;
    let first = cluster.state().pods[0].clone();
    cluster.apply(&lab, &Manifests::parse(&EXAMPLE.replace("replicas: 3", "replicas: 0"))?)?;
    assert!(fs::read_to_string(folder.path().join("pods.yaml"))?.contains("deletionTimestamp"));
    let asker = Client::new(&lab.client().netns, grace);
    let to = SocketAddr::new(first.address.v4.into(), 80);
    asker.http(to).await?;
    let begun = std::time::Instant::now();
    while !cluster.reap()? {
        assert!(begun.elapsed() < grace * 10, "the grace period ends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    asker.http(to).await.expect_err("the pod is gone");
    assert!(!fs::read_to_string(folder.path().join("pods.yaml"))?.contains("kind: Pod"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_of_the_example_is_asked_in_both_families_and_protocols() -> Result<()> {
    let (lab, folder) = (Lab::new(LabOptions::default())?, tempfile::tempdir()?);
    let mut cluster = FileCluster::new(&lab, folder.path(), PodNetwork::Routed, Ending::Forgotten(Duration::ZERO))?;
    cluster.apply(&lab, &Manifests::parse(EXAMPLE)?)?;
    let askers = Askers::new(&lab, PodNetwork::Routed, Some(&*PolicyEngine::start(&lab)?))?;
    let lines: BTreeSet<_> = all_paths(&lab, &askers, &cluster.state()).into_iter().map(|path| path.line).collect();
    for (v4, protocol) in [(true, Protocol::Tcp), (true, Protocol::Udp), (false, Protocol::Tcp), (false, Protocol::Udp)]
    {
        let count = |kind: PathKind| {
            let same = |line: &&_| matches(line, kind, v4, protocol);
            lines.iter().filter(same).count()
        };
        assert_eq!(count(PathKind::PodToClusterIp), 2);
        assert_eq!(count(PathKind::PodToOtherNode), 2);
        assert_eq!(count(PathKind::Hairpin), 1);
        assert_eq!(count(PathKind::OutsideToNodePort), 2);
        assert_eq!(count(PathKind::PodToOwnNodePort), 2);
        assert_eq!(count(PathKind::ForbiddenPod), 1);
    }
    Ok(())
}

fn matches(line: &svclb_tests::net::Line, kind: PathKind, v4: bool, protocol: Protocol) -> bool {
    line.kind == kind && line.to.is_ipv4() == v4 && line.protocol == protocol
}
