//! The lab itself, without an agent: what the other network tests stand on.
#![cfg(feature = "kernel")]

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use svclb_tests::net::{
    Client, FailureKind, Families, Inventory, Lab, LabOptions, Load, LoadPlan, Offload, PodNetwork, Policy, SourcePort,
    Underlay,
};

const DEADLINE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_reach_each_other_in_every_kind_of_lab() -> Result<()> {
    for (underlay, families, offload) in [
        (Underlay::Direct, Families::Both, Offload::On),
        (Underlay::Direct, Families::Both, Offload::Off),
        (Underlay::Direct, Families::Ipv6, Offload::Gro),
        (Underlay::Vxlan, Families::Both, Offload::Off),
        (Underlay::Vxlan, Families::Ipv6, Offload::On),
    ] {
        let lab = Lab::new(LabOptions { underlay, offload, families, control_plane: true, ..LabOptions::default() })?;
        for network in [PodNetwork::Routed, PodNetwork::Bridged, PodNetwork::Ptp] {
            let client = lab.node(1).pod("client", network)?;
            for node in lab.nodes() {
                let server = node.pod("server", network)?;
                let _answerer = server.answer(&[80])?;
                for (netns, own) in [(client.netns(), client.address()), (&lab.client().netns, lab.client().address)] {
                    let asker = Client::new(netns, DEADLINE);
                    for address in server.addresses() {
                        let to = SocketAddr::new(address, 80);
                        let place =
                            format!("{underlay:?} {families:?} {offload:?} {network:?} {} -> {to}", netns.label());
                        if underlay == Underlay::Vxlan && netns.label() == "outside client" && node.number() == 2 {
                            continue;
                        }
                        let reply = asker.http(to).await.expect(&place);
                        assert_eq!(reply.answer.pod, "server", "{place}");
                        assert_eq!(reply.answer.client.ip(), own.of_family(address), "{place}");
                        let reply = asker.udp(to).await.expect(&place);
                        assert_eq!(reply.answer.client.ip(), own.of_family(address), "{place}");
                        let reply = asker.sctp(to).await.expect(&place);
                        assert_eq!(reply.answer.client.ip(), own.of_family(address), "{place}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_lets_only_its_clients_in() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let node = lab.node(1);
    let (friend, stranger) = (node.pod("friend", PodNetwork::Routed)?, node.pod("stranger", PodNetwork::Routed)?);
    let server = node.pod("server", PodNetwork::Routed)?;
    let _answerer = server.answer(&[80, 81])?;
    node.enforce(&Policy {
        clients: friend.address().both().into(),
        backends: server.address().both().into(),
        ports: [80].into(),
    })?;
    let brief = Duration::from_millis(300);
    for address in server.address().both() {
        let (open, shut) = (SocketAddr::new(address, 80), SocketAddr::new(address, 81));
        let asker = Client::new(friend.netns(), DEADLINE);
        asker.http(open).await.expect("the friend is let in");
        asker.udp(open).await.expect("the friend is let in");
        let asker = Client::new(stranger.netns(), brief);
        let failure = asker.http(open).await.expect_err("the stranger is not let in");
        assert_eq!(failure.kind, FailureKind::TimedOut);
        assert_eq!(asker.udp(open).await.expect_err("nor by UDP").kind, FailureKind::TimedOut);
        let asker = Client::new(friend.netns(), brief);
        assert_eq!(asker.http(shut).await.expect_err("the port is not open").kind, FailureKind::TimedOut);
    }
    let before = node.dropped_by_policy()?;
    assert!(before >= 6);
    // kubelet's rule.
    let nobody = "127.0.0.1:9";
    node.netns().run(|| UdpSocket::bind("127.0.0.1:0")?.send_to(b"from a loopback address", nobody))?;
    assert_eq!(node.dropped_by_policy()?, before);
    let sent =
        node.netns().run(|| UdpSocket::bind(SocketAddr::new(node.address().v4.into(), 0))?.send_to(b"x", nobody));
    assert_eq!(sent.expect_err("it is dropped on its way out").kind(), ErrorKind::PermissionDenied);
    assert_eq!(node.dropped_by_policy()?, before + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_source_ports_are_told_apart() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let (client, server) =
        (lab.node(1).pod("client", PodNetwork::Routed)?, lab.node(2).pod("server", PodNetwork::Routed)?);
    let answerer = server.answer(&[80])?;
    let asker = Client::new(client.netns(), DEADLINE);
    for address in server.address().both() {
        let to = SocketAddr::new(address, 80);
        let mut fixed = asker.datagrams(to, SourcePort::Fixed(5353)).await?;
        assert_eq!(fixed.ask().await?.answer.client.port(), 5353);
        assert_eq!(fixed.ask().await?.answer.client.port(), 5353);
        let mut open = asker.connect(to).await?;
        let first = open.ask().await?.answer.client;
        assert_eq!(open.ask().await?.answer.client, first);
        let nobody = SocketAddr::new(address, 9);
        assert_eq!(asker.http(nobody).await.expect_err("nobody listens").kind, FailureKind::Refused);
        assert_eq!(asker.udp(nobody).await.expect_err("nobody listens").kind, FailureKind::Refused);
    }
    assert_eq!((answerer.http_requests(), answerer.datagrams()), (4, 4));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_is_accounted_for_exactly() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let server = lab.node(2).pod("server", PodNetwork::Routed)?;
    let answerer = server.answer(&[80])?;
    let asker = Client::new(&lab.client().netns, DEADLINE);
    let to = SocketAddr::new(server.address().v4.into(), 80);
    let plan = LoadPlan { new_per_second: 300, open: 10, pause: Duration::from_millis(20) };
    let load = Load::start(&asker, to, plan);
    while load.so_far().answered < 300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(answerer);
    while load.so_far().failed() < 50 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let report = load.stop().await;
    assert_eq!(report.opened, 10, "{report}");
    assert_eq!(report.broken, 10, "{report}");
    assert_eq!(report.started + report.broken, report.answered + report.failed(), "{report}");
    assert!(report.failures.get(&FailureKind::Refused).is_some_and(|refused| *refused >= 30), "{report}");
    Ok(())
}

#[test]
fn a_lab_leaves_nothing_behind() -> Result<()> {
    let before = Inventory::take();
    let lab = Lab::new(LabOptions::default())?;
    let pod = lab.node(1).pod("short-lived", PodNetwork::Bridged)?;
    drop(pod);
    let links = lab.node(1).netns().command("ip").args(["-o", "link"]).output()?;
    assert!(!String::from_utf8_lossy(&links.stdout).contains("pod"), "the pod's device is gone with the pod");
    drop(lab);
    assert_eq!(before.left_since(), Vec::<std::path::PathBuf>::new());
    Ok(())
}
