//! Processes of a node reach Services through their sockets; nobody else's sockets are touched.
#![cfg(feature = "kernel")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use svclb_tests::net::{Answer, Client, FailureKind, Netns, Scene, SceneOptions, agent_binary};

const SERVICES: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - {name: web, image: web, ports: [{containerPort: 8080}, {containerPort: 8080, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports:
    - {name: tcp, port: 80, targetPort: 8080, nodePort: 30080}
    - {name: udp, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: nobody}
  ports:
    - {name: tcp, port: 80, targetPort: 8080, nodePort: 30081}
    - {name: udp, port: 80, targetPort: 8080, nodePort: 30081, protocol: UDP}
";

const PATIENCE: Duration = Duration::from_secs(2);

/// Everything by which a process of a node reaches a Service with this node port, and the cluster IP of the first.
fn frontends(scene: &Scene, node: u8, port: u16) -> Result<Vec<SocketAddr>> {
    let mut all: Vec<SocketAddr> = vec![
        scene.node_port(node, false, port),
        scene.node_port(node, true, port),
        format!("127.0.0.1:{port}").parse()?,
        format!("127.1.2.3:{port}").parse()?,
        format!("[::1]:{port}").parse()?,
    ];
    if port == 30080 {
        all.extend(["10.96.0.16:80".parse::<SocketAddr>()?, "[fd00:10:96::10]:80".parse()?]);
    }
    let mapped: Vec<SocketAddr> = all
        .iter()
        .filter_map(|to| match to.ip() {
            IpAddr::V4(ip) => Some(SocketAddr::new(ip.to_ipv6_mapped().into(), to.port())),
            IpAddr::V6(_) => None,
        })
        .collect();
    all.extend(mapped);
    Ok(all)
}

/// A datagram from a socket that is not connected: who answered, and from where the answer seems to come.
fn datagram(netns: &Netns, to: SocketAddr) -> io::Result<(Answer, SocketAddr)> {
    netns.run(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"hello", to)?;
        let mut buffer = [0; 2048];
        let (length, from) = socket.recv_from(&mut buffer)?;
        let answer = serde_json::from_slice(buffer.get(..length).unwrap_or_default()).map_err(io::Error::other)?;
        Ok((answer, from))
    })
}

/// A connection's peer as its process sees it.
fn peer_of_connection(netns: &Netns, to: SocketAddr) -> io::Result<SocketAddr> {
    netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)?.peer_addr())
}

/// Reaches a Service in every way, several times; the pods that answered.
async fn reach(netns: &Netns, to: SocketAddr) -> Result<BTreeSet<String>> {
    let client = Client::new(netns, PATIENCE);
    let mut pods = BTreeSet::new();
    for _ in 0..8 {
        pods.insert(client.http(to).await.with_context(|| format!("TCP to {to}"))?.answer.pod);
        pods.insert(client.udp(to).await.with_context(|| format!("connected UDP to {to}"))?.answer.pod);
        let (answer, from) = datagram(netns, to).with_context(|| format!("UDP to {to}"))?;
        ensure!(from == to, "a datagram to {to} is answered from {from}");
        pods.insert(answer.pod);
    }
    let peer = peer_of_connection(netns, to).with_context(|| format!("TCP to {to}"))?;
    ensure!(peer == to, "the peer of a connection to {to} is {peer}");
    Ok(pods)
}

async fn reach_all(scene: &Scene, node: u8) -> Result<()> {
    for to in frontends(scene, node, 30080)? {
        let pods = reach(scene.lab.node(node).netns(), to).await?;
        ensure!(pods.len() == 2, "both pods serve {to}, not only {pods:?}");
    }
    Ok(())
}

async fn is_refused_at_once(netns: &Netns, to: SocketAddr) -> Result<()> {
    let began = Instant::now();
    let failure = Client::new(netns, PATIENCE).http(to).await.err().with_context(|| format!("{to} is served"))?;
    ensure!(failure.kind == FailureKind::Refused, "TCP: {failure}");
    let error = datagram(netns, to).err().with_context(|| format!("{to} is served"))?;
    ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "UDP to {to}: {error}");
    ensure!(began.elapsed() < Duration::from_secs(1), "{to} took {:?}", began.elapsed());
    Ok(())
}

/// The pinned links of a node's agent, by name, with the numbers of their files.
fn links(scene: &Scene, node: u8) -> Result<BTreeMap<String, u64>> {
    let folder = scene.lab.bpffs().folder(scene.lab.node(node).name()).join("sockets");
    scene.lab.bpffs().run(|| {
        let mut links = BTreeMap::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry?;
            links.insert(entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.ino());
        }
        Ok(links)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_a_node_reach_services_and_nobody_else_is_touched() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default(), SERVICES).await?;

    // Two agents on one machine, one cgroup: each serves its own node.
    for node in [1, 2] {
        reach_all(&scene, node).await?;
    }
    let node = scene.lab.node(1).netns().clone();
    for to in frontends(&scene, 1, 30081)? {
        is_refused_at_once(&node, to).await?;
    }
    // A port of a cluster IP that no Service has.
    is_refused_at_once(&node, "10.96.0.16:81".parse()?).await?;

    // A process of another namespace, in the same cgroup: what is no Service's there stays so.
    let stranger = scene.lab.client().netns.clone();
    for to in ["127.0.0.1:30080".parse()?, "[::1]:30080".parse()?] {
        let failure = Client::new(&stranger, PATIENCE).http(to).await.err().context("a stranger is served")?;
        ensure!(failure.kind == FailureKind::Refused, "{failure}");
    }

    // The hooks outlive the agent, and the next one takes them over.
    let before = links(&scene, 1)?;
    ensure!(before.len() == 8, "{before:?}");
    scene.kill_agents().await?;
    reach_all(&scene, 1).await?;
    scene.start_agents().await?;
    ensure!(links(&scene, 1)? == before, "the links of before are used: {before:?}, {:?}", links(&scene, 1)?);
    reach_all(&scene, 1).await?;

    // Cleanup takes them away.
    scene.kill_agents().await?;
    let mut command = scene.lab.bpffs().applied_to(node.command(agent_binary()?));
    let folder = scene.lab.bpffs().folder(scene.lab.node(1).name());
    let done = command.args(["cleanup", "--bpffs"]).arg(folder).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // The kernel detaches a link a moment after its pin is gone.
    let client = Client::new(&node, PATIENCE);
    let own = "127.0.0.1:30080".parse()?;
    scene
        .wait_until("hooks are gone", async |_scene| {
            let outcome = client.http(own).await;
            Ok(outcome.is_err_and(|failure| failure.kind == FailureKind::Refused))
        })
        .await?;
    reach_all(&scene, 2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_sends_datagrams_leaves_a_backend_that_goes() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default(), SERVICES).await?;
    let node = scene.lab.node(1).netns().clone();
    let to: SocketAddr = "10.96.0.16:80".parse()?;
    let socket = node.run(|| UdpSocket::bind("0.0.0.0:0"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let ask = || -> Result<String> {
        socket.send_to(b"hello", to)?;
        let mut buffer = [0; 2048];
        let (length, from) = socket.recv_from(&mut buffer)?;
        ensure!(from == to, "answered from {from}");
        let answer: Answer = serde_json::from_slice(buffer.get(..length).unwrap_or_default())?;
        Ok(answer.pod)
    };
    let first = ask()?;
    for _ in 0..10 {
        ensure!(ask()? == first, "the datagrams of a socket go to one pod");
    }
    // A Deployment of another name in its place: its pods are others.
    scene.apply(&SERVICES.replacen("metadata: {name: web}\n", "metadata: {name: next}\n", 1))?;
    scene
        .wait_until("another pod answers", async |scene| {
            scene.cluster.reap()?;
            Ok(ask().is_ok_and(|pod| pod != first))
        })
        .await
}

/// A UDP socket of a node that is connected, and the pod that answers it.
struct Conversation(UdpSocket);

impl Conversation {
    fn begin(netns: &Netns, to: SocketAddr) -> Result<Self> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = netns.run(|| UdpSocket::bind(any))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    fn ask(&self) -> io::Result<String> {
        self.0.send(b"hello")?;
        let mut buffer = [0; 2048];
        let length = self.0.recv(&mut buffer)?;
        let answer: Answer =
            serde_json::from_slice(buffer.get(..length).unwrap_or_default()).map_err(io::Error::other)?;
        Ok(answer.pod)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_udp_socket_is_closed_when_its_backend_goes_and_no_other_is() -> Result<()> {
    let one = SERVICES.replacen("replicas: 2", "replicas: 1", 1);
    let mut scene = Scene::new(SceneOptions::default(), &one).await?;
    let node = scene.lab.node(1).netns().clone();
    let services = ["10.96.0.16:80", "[fd00:10:96::10]:80", "[::ffff:10.96.0.16]:80", "127.0.0.1:30080"];
    let mut led = Vec::new();
    for to in services {
        let conversation = Conversation::begin(&node, to.parse()?)?;
        let pod = conversation.ask().with_context(|| format!("UDP to {to}"))?;
        led.push((to, conversation, pod));
    }
    // To the pod's own address, which no Service gave.
    let state = scene.cluster.state();
    let pod = SocketAddr::new(state.pods.first().context("a pod")?.address.v4.into(), 8080);
    let direct = Conversation::begin(&node, pod)?;
    direct.ask()?;

    scene.apply(&one.replacen("metadata: {name: web}\n", "metadata: {name: next}\n", 1))?;
    scene
        .wait_until("the sockets are closed", async |scene| {
            scene.cluster.reap()?;
            Ok(led.iter().all(|(_, conversation, _)| {
                conversation.0.take_error().is_ok_and(|error| error.is_some()) || conversation.0.peer_addr().is_err()
            }))
        })
        .await?;
    ensure!(direct.0.peer_addr()? == pod, "a socket that was connected to a pod itself is left alone");
    for (to, conversation, before) in led {
        conversation.0.connect(to.parse::<SocketAddr>()?)?;
        let now = conversation.ask().with_context(|| format!("UDP to {to}, connected again"))?;
        ensure!(now != before, "{to} is served by {before}, which is gone");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcp_connection_of_a_node_is_cut_where_its_service_asks_for_it() -> Result<()> {
    let cut = "\
---
apiVersion: v1
kind: Service
metadata: {name: cut, annotations: {svclb.io/when-backend-goes: cut}}
spec:
  clusterIP: 10.96.0.77
  selector: {app: web}
  ports: [{name: tcp, port: 80, targetPort: 8080}]
";
    let one = SERVICES.replacen("replicas: 2", "replicas: 1", 1) + cut;
    let mut scene = Scene::new(SceneOptions::default(), &one).await?;
    let node = scene.lab.node(1).netns().clone();
    let connect = |to: &str| -> Result<TcpStream> {
        let to = to.parse()?;
        let stream = node.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let (mut cut, mut drained) = (connect("10.96.0.77:80")?, connect("10.96.0.16:80")?);
    let state = |stream: &mut TcpStream| stream.read(&mut [0; 1]).err().map(|error| error.kind());
    ensure!([&mut cut, &mut drained].map(state) == [Some(io::ErrorKind::WouldBlock); 2], "both are open");
    // The pod lives on, so that it ends no connection itself, and serves neither Service any more.
    scene.apply(&one.replace("  selector: {app: web}\n  ports:", "  selector: {app: nobody}\n  ports:"))?;
    scene
        .wait_until("the connection is cut", async |_| Ok(state(&mut cut) == Some(io::ErrorKind::ConnectionAborted)))
        .await?;
    ensure!(state(&mut drained) == Some(io::ErrorKind::WouldBlock), "a Service that does not ask drains");
    Ok(())
}
