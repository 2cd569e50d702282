//! Devices that appear while the agent runs.
#![cfg(feature = "kernel")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, tc::TcAttachType};
use futures::StreamExt as _;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{RouteNetlinkMessage, link::LinkAttribute},
    sys::AsyncSocket as _,
};
use svclb_tests::net::{Netns, Scene, SceneOptions};
use svclb_userspace::host::{self, link::Kind};

const EXAMPLE: &str = include_str!("../../examples/httpd.yaml");

/// The devices made at once.
const DEVICES: usize = 200;

/// 99 of 100 devices must have their hooks within this time.
const HOOKED_WITHIN: Duration = Duration::from_millis(10);

/// All devices must be there and hooked within this time.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_devices_at_once_are_hooked_within_milliseconds() -> Result<()> {
    let scene = Scene::new(SceneOptions::default(), EXAMPLE).await?;
    let node = scene.lab.node(1).netns().clone();
    // To make TCX links holds the lock of the network configuration of the whole machine for milliseconds.
    for node in scene.lab.nodes() {
        until_linked(node.netns())?;
    }
    let far_ends = Netns::new("far ends")?;
    let news = follow(&node)?;
    let mut lines = String::new();
    for number in 0..DEVICES {
        writeln!(lines, "link add podx{number} type veth peer name far{number} netns {}", far_ends.path())?;
        writeln!(lines, "link set podx{number} up")?;
    }
    node.ip(&lines)?;
    let devices = news.join().map_err(|_panic| anyhow::anyhow!("the following thread panicked"))??;
    let mut delays: Vec<Duration> = devices.values().filter_map(Device::delay).collect();
    delays.sort_unstable();
    let (middle, last) = (delays[DEVICES / 2], delays[DEVICES * 99 / 100 - 1]);
    eprintln!("{DEVICES} devices: half hooked within {middle:?}, 99 of 100 within {last:?}");
    assert!(last <= HOOKED_WITHIN, "99 of 100 devices were hooked within {last:?}");
    Ok(())
}

/// Waits until all devices of a node have TCX links, which the agent makes when nothing else is to be done.
fn until_linked(node: &Netns) -> Result<()> {
    node.run(|| {
        let deadline = Instant::now() + DEADLINE;
        let links = host::snapshot().context("list the node's devices")?;
        for link in links.links().filter(|link| link.kind != Kind::Loopback) {
            let linked = || {
                [TcAttachType::Ingress, TcAttachType::Egress].into_iter().all(|direction| {
                    SchedClassifier::query_tcx(&link.name, direction).is_ok_and(|(_, programs)| !programs.is_empty())
                })
            };
            while !linked() {
                ensure!(Instant::now() < deadline, "no TCX links on {} within {DEADLINE:?}", link.name);
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    })
}

/// What the kernel has told of a device.
#[derive(Default)]
struct Device {
    appeared: Option<Instant>,
    ingress: Option<Instant>,
    egress: Option<Instant>,
}

impl Device {
    /// From its first message to the later of its two hooks; nothing before that.
    fn delay(&self) -> Option<Duration> {
        Some(self.ingress?.max(self.egress?).saturating_duration_since(self.appeared?))
    }
}

type Devices = BTreeMap<u32, Device>;

/// Listens for news of devices and of filters on a thread of its own, until all devices are hooked; the socket
/// is open when this returns. New devices are hooked by filters of clsact first.
fn follow(node: &Netns) -> Result<thread::JoinHandle<Result<Devices>>> {
    let node = node.clone();
    let (ready, started) = mpsc::channel();
    let follower = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut connection, _handle, mut messages) =
                node.enter(|| new_multicast_connection(&[MulticastGroup::Link, MulticastGroup::Tc]))?;
            // Some 2,000 messages come within a moment, and none may be lost.
            setsockopt(connection.socket_mut().socket_ref(), sockopt::RcvBufForce, &(16 << 20))?;
            tokio::spawn(connection);
            ready.send(())?;
            let mut devices = Devices::new();
            while devices.values().filter(|device| device.delay().is_some()).count() < DEVICES {
                let next = tokio::time::timeout(DEADLINE, messages.next()).await;
                let (message, _) = next.context("news of devices stopped")?.context("the socket closed")?;
                if let NetlinkPayload::InnerMessage(message) = message.payload {
                    take(&mut devices, message);
                }
            }
            Ok(devices)
        })
    });
    started.recv().context("open the socket for news of devices")?;
    Ok(follower)
}

fn take(devices: &mut Devices, message: RouteNetlinkMessage) {
    /// `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS` (linux/pkt_sched.h).
    const INGRESS: u16 = 0xfff2;
    const EGRESS: u16 = 0xfff3;
    match message {
        RouteNetlinkMessage::NewLink(link) => {
            let ours = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with("podx"));
            if link.attributes.iter().any(ours) {
                devices.entry(link.header.index).or_default().appeared.get_or_insert_with(Instant::now);
            }
        }
        RouteNetlinkMessage::NewTrafficFilter(filter) => {
            let Some(device) = devices.get_mut(&filter.header.index.cast_unsigned()) else { return };
            match filter.header.parent.minor {
                INGRESS => device.ingress.get_or_insert_with(Instant::now),
                EGRESS => device.egress.get_or_insert_with(Instant::now),
                _ => return,
            };
        }
        _ => {}
    }
}
