//! TCP connections whose endpoint goes, with real sockets at both ends: they go on, or are cut where their Service asks
//! for it.
#![cfg(feature = "kernel")]

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use svclb_tests::net::{LabOptions, Netns, Offload, Pair, PodNetwork, Scene, SceneOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

/// The endpoint's port.
const PORT: u16 = 9000;
/// Longer than a reset needs, shorter than the kernel's patience with a peer that is silent.
const SOON: Duration = Duration::from_secs(5);
/// How long agents may take to follow a change.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);

/// A Service whose endpoint is a pod, or nobody.
fn manifests(when_backend_goes: Option<&str>, endpoint: Option<Pair>) -> String {
    let annotations = when_backend_goes.map(|value| format!("{{svclb.io/when-backend-goes: {value}}}"));
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: held, annotations: {}}}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  ports: [{{port: 7, nodePort: 30007}}]
",
        annotations.as_deref().unwrap_or("{}")
    );
    for address in endpoint.iter().flat_map(Pair::both) {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let slice = format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: held-{}, labels: {{kubernetes.io/service-name: held}}}}
addressType: {family}
ports: [{{name: \"\", port: {PORT}}}]
endpoints: [{{addresses: [\"{address}\"]}}]
",
            family.to_lowercase()
        );
        text.push_str(&slice);
    }
    text
}

/// A connection, seen from both sides.
struct Held {
    to: SocketAddr,
    client: TcpStream,
    server: TcpStream,
}

impl Held {
    async fn open(netns: &Netns, to: SocketAddr, listener: &TcpListener) -> Result<Self> {
        let socket = netns.enter(|| if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?;
        let client = timeout(SOON, socket.connect(to)).await.with_context(|| format!("connect to {to}"))??;
        let (server, _) = timeout(SOON, listener.accept()).await.with_context(|| format!("accept from {to}"))??;
        Ok(Self { to, client, server })
    }

    /// Both sides speak, and are heard.
    async fn exchange(&mut self) -> Result<()> {
        say(&mut self.client).await?;
        ensure!(hear(&mut self.server).await? == 1, "{}: the server hears the client", self.to);
        say(&mut self.server).await?;
        ensure!(hear(&mut self.client).await? == 1, "{}: the client hears the server", self.to);
        Ok(())
    }

    /// One side speaks once: both hear of a reset, and nothing else.
    async fn expect_cut(mut self, client_speaks: bool) {
        let speaker = if client_speaks { &mut self.client } else { &mut self.server };
        say(speaker).await.expect("nobody has been reset before");
        for (side, stream) in [("client", &mut self.client), ("server", &mut self.server)] {
            let heard = hear(stream).await.map_err(|error| error.kind());
            let what = if client_speaks { "the client speaks" } else { "the server speaks" };
            assert_eq!(heard, Err(ErrorKind::ConnectionReset), "{}: {what}, and the {side}", self.to);
        }
    }

    /// The client speaks until it is reset.
    async fn expect_cut_at_last(mut self) {
        let began = Instant::now();
        loop {
            match say(&mut self.client).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return,
                Err(error) => panic!("{}: {error}", self.to),
            }
            assert!(began.elapsed() < FOLLOWED_WITHIN, "{}: nobody resets the connection", self.to);
        }
    }
}

async fn say(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"!").await
}

async fn hear(stream: &mut TcpStream) -> io::Result<usize> {
    let mut heard = [0; 16];
    timeout(SOON, stream.read(&mut heard)).await.unwrap_or_else(|late| Err(late.into()))
}

/// A client's namespace and what it asks.
type Way = (Netns, SocketAddr);

/// The ways to the Service: cluster IP and node ports, with and without masquerade, and the endpoint to itself.
fn ways(scene: &Scene) -> Result<Vec<Way>> {
    let mut ways = Vec::new();
    for v6 in [false, true] {
        let cluster: SocketAddr =
            if v6 { "[fd00:10:96::10]:7".parse()? } else { SocketAddr::from(([10, 96, 0, 16], 7)) };
        let outside = scene.lab.client().netns.clone();
        ways.extend([
            (scene.asker(1).netns().clone(), cluster),
            (scene.asker(2).netns().clone(), cluster),
            (outside.clone(), scene.node_port(1, v6, 30007)),
            (outside, scene.node_port(2, v6, 30007)),
        ]);
    }
    Ok(ways)
}

/// The endpoint listens, in both families.
fn listen(scene: &Scene) -> Result<[TcpListener; 2]> {
    let endpoint = scene.asker(2);
    let listen = |ip: IpAddr| -> io::Result<TcpListener> {
        let listener = endpoint.netns().enter(|| std::net::TcpListener::bind((ip, PORT)))?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let [v4, v6] = endpoint.address().both();
    Ok([listen(v4)?, listen(v6)?])
}

/// Opens a connection on every way, once its node serves it.
async fn open_all(ways: &[Way], listeners: &[TcpListener; 2]) -> Result<Vec<Held>> {
    let mut held = Vec::new();
    for (netns, to) in ways {
        held.push(Held::open(netns, *to, &listeners[usize::from(to.is_ipv6())]).await?);
    }
    Ok(held)
}

async fn either_side_is_cut(network: PodNetwork, lab: LabOptions) -> Result<()> {
    let options = SceneOptions { network, lab, ..SceneOptions::default() };
    let mut scene = Scene::new(options, &manifests(Some("cut"), None)).await?;
    let listeners = listen(&scene)?;
    let endpoint = scene.asker(2).address();
    scene.apply(&manifests(Some("cut"), Some(endpoint)))?;
    let ways = ways(&scene)?;
    wait_until_served(&mut scene, &ways, &listeners).await?;
    let first = open_all(&ways, &listeners).await?;
    let mut client_speaks = open_all(&ways, &listeners).await?;
    let mut server_speaks = open_all(&ways, &listeners).await?;
    for held in client_speaks.iter_mut().chain(&mut server_speaks) {
        held.exchange().await?;
    }
    scene.apply(&manifests(Some("cut"), None))?;
    // From then on every node knows that the endpoint is gone.
    for held in first {
        held.expect_cut_at_last().await;
    }
    for held in client_speaks {
        held.expect_cut(true).await;
    }
    for held in server_speaks {
        held.expect_cut(false).await;
    }
    Ok(())
}

/// Waits until a connection can be opened on every way.
async fn wait_until_served(scene: &mut Scene, ways: &[Way], listeners: &[TcpListener; 2]) -> Result<()> {
    for (netns, to) in ways {
        let listener = &listeners[usize::from(to.is_ipv6())];
        scene
            .wait_until(&format!("{to} is served"), async |_scene| Ok(Held::open(netns, *to, listener).await.is_ok()))
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_packet_of_either_side_resets_both_with_routed_pods() -> Result<()> {
    either_side_is_cut(PodNetwork::Routed, LabOptions { offload: Offload::Off, ..LabOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_packet_of_either_side_resets_both_with_bridged_pods() -> Result<()> {
    either_side_is_cut(PodNetwork::Bridged, LabOptions::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_drained_until_the_service_asks_for_the_cut() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default(), &manifests(None, None)).await?;
    let listeners = listen(&scene)?;
    let endpoint = scene.asker(2).address();
    scene.apply(&manifests(None, Some(endpoint)))?;
    let ways = ways(&scene)?;
    wait_until_served(&mut scene, &ways, &listeners).await?;
    let mut all = open_all(&ways, &listeners).await?;
    scene.apply(&manifests(Some("drain"), None))?;
    for (netns, to) in &ways {
        let listener = &listeners[usize::from(to.is_ipv6())];
        let what = format!("nobody serves {to}");
        scene.wait_until(&what, async |_scene| Ok(Held::open(netns, *to, listener).await.is_err())).await?;
    }
    for held in &mut all {
        held.exchange().await?;
    }
    scene.apply(&manifests(Some("cut"), None))?;
    for held in all {
        held.expect_cut_at_last().await;
    }
    Ok(())
}
