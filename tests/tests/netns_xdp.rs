//! Frames of direct flows that XDP sends on, on their way from outside to a pod of another node and back.
#![cfg(feature = "kernel")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use svclb_common::{config::Sizes, verdict::Counter};
use svclb_tests::net::{Connection, Datagrams, LabOptions, Load, LoadPlan, Offload, Scene, SceneOptions, SourcePort};
use svclb_userspace::bpf::load::{Object, Options};

/// The only pod is on node 1, and clients ask node 2.
const SERVICE: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers: [{name: web, image: web, ports: [{containerPort: 8080}, {containerPort: 7, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: echo, port: 7, nodePort: 30007, protocol: UDP}
";

/// The node that is asked, and sends on.
const ASKED: u8 = 2;
const DIRECT: [&str; 2] = ["--forwarding", "direct"];
/// Exchanges that are counted: some of their packets are left to `tc`, as one tick in a hundred is.
const EXCHANGES: u64 = 100;

/// Every checksum is computed by its sender and checked by its receiver; a frame at XDP has no other way to have one.
fn options(xdp: &'static str) -> SceneOptions {
    SceneOptions {
        lab: LabOptions { offload: Offload::Off, frames: true, ..LabOptions::default() },
        policy: true,
        agent_arguments: [&DIRECT[..], &["--xdp", xdp]].concat(),
        ..SceneOptions::default()
    }
}

/// How the frames of a device meet the program, as `svclb list devices` says.
fn way(scene: &Scene, device: &str) -> Result<String> {
    let devices = scene.list(ASKED, "devices")?;
    let row = devices.iter().find(|row| row["name"] == device).with_context(|| format!("no {device}"))?;
    row["xdp"].as_str().map(str::to_owned).context("the column xdp")
}

/// A conversation of each kind with the node that is asked.
struct Conversations {
    connections: Vec<Connection>,
    datagrams: Vec<Datagrams>,
}

impl Conversations {
    async fn begin(scene: &Scene) -> Result<Self> {
        let client = scene.outside();
        let (mut connections, mut datagrams) = (Vec::new(), Vec::new());
        for v6 in [false, true] {
            let mut connection = client.connect(scene.node_port(ASKED, v6, 30080)).await?;
            connection.ask().await?;
            connections.push(connection);
            let mut socket = client.datagrams(scene.node_port(ASKED, v6, 30007), SourcePort::Fresh).await?;
            socket.ask().await?;
            datagrams.push(socket);
        }
        Ok(Self { connections, datagrams })
    }

    /// Some exchanges in each.
    async fn go_on(&mut self) -> Result<()> {
        for _ in 0..EXCHANGES {
            for connection in &mut self.connections {
                connection.ask().await?;
            }
            for socket in &mut self.datagrams {
                socket.ask().await?;
            }
        }
        Ok(())
    }

    /// Goes on, and says how many packets XDP took meanwhile.
    async fn taken(&mut self, scene: &Scene) -> Result<u64> {
        let before = scene.count(ASKED, Counter::XdpForwarded)?;
        self.go_on().await?;
        Ok(scene.count(ASKED, Counter::XdpForwarded)? - before)
    }
}

/// A request and its reply in each of four conversations.
const PACKETS: u64 = EXCHANGES * 4 * 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xdp_sends_on_what_follows_the_first_packets_of_tc() -> Result<()> {
    let scene = Scene::new(options("native"), SERVICE).await?;
    assert_eq!(way(&scene, "eth0")?, "native");
    let before = scene.count(ASKED, Counter::RequestForwarded)?;
    let mut conversations = Conversations::begin(&scene).await?;
    let first = scene.count(ASKED, Counter::RequestForwarded)? - before;
    assert!(first >= 4, "tc makes the flows, and sends their first packets on: {first}");
    let taken = conversations.taken(&scene).await?;
    assert!(taken >= PACKETS / 2, "XDP sends on what follows: {taken} of {PACKETS} packets and more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_cannot_is_named_and_tc_goes_on() -> Result<()> {
    let mut options = options("native");
    options.lab.frames = false;
    let scene = Scene::new(options, SERVICE).await?;
    assert_eq!(way(&scene, "eth0")?, "");
    let log = std::fs::read_to_string(scene.agent_log(ASKED))?;
    assert!(log.contains("the other end of this pair takes no frames"), "{log}");
    assert_eq!(Conversations::begin(&scene).await?.taken(&scene).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_leaves_a_pair_to_tc_as_nothing_tells_whether_its_other_end_takes_frames() -> Result<()> {
    let scene = Scene::new(options("auto"), SERVICE).await?;
    assert_eq!(way(&scene, "eth0")?, "");
    assert_eq!(Conversations::begin(&scene).await?.taken(&scene).await?, 0);
    Ok(())
}

/// With offload a socket behind a veth leaves the checksum of its packets to a device, and nothing at XDP says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_whose_checksum_is_left_to_a_device_take_the_way_through_tc() -> Result<()> {
    let mut options = options("native");
    options.lab.offload = Offload::On;
    let scene = Scene::new(options, SERVICE).await?;
    assert_eq!(way(&scene, "eth0")?, "native");
    let taken = Conversations::begin(&scene).await?.taken(&scene).await?;
    assert!(taken <= PACKETS / 10, "XDP took {taken} packets");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_die_and_come_back_lose_nothing_and_xdp_goes_on_without_them() -> Result<()> {
    let mut scene = Scene::new(options("native"), SERVICE).await?;
    let plan = LoadPlan { new_per_second: 50, open: 10, pause: Duration::from_millis(20) };
    let to: [SocketAddr; 2] = [false, true].map(|v6| scene.node_port(ASKED, v6, 30080));
    let client = scene.outside().patient(Duration::from_secs(15));
    let loads = to.map(|to| Load::start(&client, to, plan));
    let mut conversations = Conversations::begin(&scene).await?;
    for _ in 0..2 {
        scene.kill_agents().await?;
        let taken = conversations.taken(&scene).await?;
        assert!(taken >= PACKETS / 2, "without an agent: {taken}");
        scene.start_agents().await?;
        assert_eq!(way(&scene, "eth0")?, "native");
    }
    for load in loads {
        let report = load.stop().await;
        ensure!(report.failed() == 0 && report.broken == 0, "{report}");
    }
    Ok(())
}

/// The policy of connection tracking drops the rest of a connection whose beginning it has not seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_outlive_the_xdp_program_in_spite_of_a_policy() -> Result<()> {
    let mut scene = Scene::new(options("native"), SERVICE).await?;
    let mut conversations = Conversations::begin(&scene).await?;
    assert!(conversations.taken(&scene).await? > 0);
    scene.kill_agents().await?;
    scene.start_agents_with(&DIRECT).await?;
    assert_eq!(way(&scene, "eth0")?, "");
    assert_eq!(conversations.taken(&scene).await?, 0, "nothing is left of the program");
    scene.kill_agents().await?;
    scene.start_agents_with(&[&DIRECT[..], &["--xdp", "native"]].concat()).await?;
    assert!(conversations.taken(&scene).await? > 0, "and they are taken up again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleanup_takes_the_xdp_program_away() -> Result<()> {
    let mut scene = Scene::new(options("native"), SERVICE).await?;
    let programs = |scene: &Scene| -> Result<bool> {
        let shown = scene.lab.node(ASKED).netns().command("ip").args(["-json", "link", "show", "eth0"]).output()?;
        let links: Vec<Value> = serde_json::from_slice(&shown.stdout)?;
        Ok(links.iter().any(|link| link.get("xdp").is_some()))
    };
    assert!(programs(&scene)?);
    scene.kill_agents().await?;
    assert!(programs(&scene)?, "it outlives the agent");
    let done = scene.svclb(ASKED, &["cleanup"])?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!programs(&scene)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_of_another_stays_and_tc_goes_on() -> Result<()> {
    let mut scene = Scene::new(options("off"), SERVICE).await?;
    // Any program will do; without CONFIG this one lets everything pass.
    let mut other =
        Object::load(&Options { bpffs: None, sizes: Sizes::for_memory(0), test_mode: false, programs: &[] })?;
    other.load_xdp_program()?;
    let program = other.xdp_program()?;
    scene.lab.node(ASKED).netns().enter(|| program.attach("eth0", aya::programs::XdpMode::Driver))?;
    scene.kill_agents().await?;
    scene.start_agents_with(&[&DIRECT[..], &["--xdp", "native"]].concat()).await?;
    assert_eq!(way(&scene, "eth0")?, "");
    let log = std::fs::read_to_string(scene.agent_log(ASKED))?;
    assert!(log.contains("another XDP program is there, and stays"), "{log}");
    assert_eq!(Conversations::begin(&scene).await?.taken(&scene).await?, 0);
    Ok(())
}
