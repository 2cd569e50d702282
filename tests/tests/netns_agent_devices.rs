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
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{RouteNetlinkMessage, link::LinkAttribute},
};
use svclb_tests::net::{Netns, Scene, SceneOptions};

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
    let far_ends = Netns::new("far ends")?;
    let (announced, hooked) = (announcements(&node)?, hooks(&node));
    let mut lines = String::new();
    for number in 0..DEVICES {
        writeln!(lines, "link add podx{number} type veth peer name far{number} netns {}", far_ends.path())?;
        writeln!(lines, "link set podx{number} up")?;
    }
    node.ip(&lines)?;
    let announced = join(announced).context("listen for RTM_NEWLINK")?;
    let hooked = join(hooked).context("look for hooks")?;
    let mut delays = Vec::new();
    for (name, when) in &hooked {
        let news = announced.get(name).with_context(|| format!("no RTM_NEWLINK for {name}"))?;
        delays.push(when.saturating_duration_since(*news));
    }
    delays.sort_unstable();
    let (middle, last) = (delays[DEVICES / 2], delays[DEVICES * 99 / 100 - 1]);
    eprintln!("{DEVICES} devices: half hooked within {middle:?}, 99 of 100 within {last:?}");
    assert!(last <= HOOKED_WITHIN, "99 of 100 devices were hooked within {last:?}");
    Ok(())
}

/// When each device appeared or was hooked.
type Times = BTreeMap<String, Instant>;
type Watcher = thread::JoinHandle<Result<Times>>;

fn join(watcher: Watcher) -> Result<Times> {
    watcher.join().map_err(|_panic| anyhow::anyhow!("the watching thread panicked"))?
}

fn is_ours(name: &str) -> bool {
    name.starts_with("podx")
}

/// Listens for news of devices on a thread of its own; the socket is open when this returns.
fn announcements(node: &Netns) -> Result<Watcher> {
    let node = node.clone();
    let (ready, started) = mpsc::channel();
    let watcher = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, _handle, mut messages) =
                node.enter(|| new_multicast_connection(&[MulticastGroup::Link]))?;
            tokio::spawn(connection);
            ready.send(())?;
            let mut times = Times::new();
            while times.len() < DEVICES {
                let next = tokio::time::timeout(DEADLINE, messages.next()).await;
                let (message, _) = next.context("news of devices stopped")?.context("the socket closed")?;
                let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload else {
                    continue;
                };
                for attribute in link.attributes {
                    if let LinkAttribute::IfName(name) = attribute
                        && is_ours(&name)
                    {
                        times.entry(name).or_insert_with(Instant::now);
                    }
                }
            }
            Ok(times)
        })
    });
    started.recv().context("open the socket for news of devices")?;
    Ok(watcher)
}

/// Looks again and again which devices have programs in both directions.
fn hooks(node: &Netns) -> Watcher {
    let node = node.clone();
    thread::spawn(move || {
        node.enter(|| {
            let start = Instant::now();
            let mut times = Times::new();
            let mut missing: Vec<String> = (0..DEVICES).map(|number| format!("podx{number}")).collect();
            while !missing.is_empty() {
                ensure!(start.elapsed() < DEADLINE, "{} devices have no hooks", missing.len());
                missing.retain(|name| {
                    let hooked = [TcAttachType::Ingress, TcAttachType::Egress].into_iter().all(|direction| {
                        SchedClassifier::query_tcx(name, direction).is_ok_and(|(_, programs)| !programs.is_empty())
                    });
                    if hooked {
                        times.insert(name.clone(), Instant::now());
                    }
                    !hooked
                });
                thread::sleep(Duration::from_micros(300));
            }
            Ok(times)
        })
    })
}
