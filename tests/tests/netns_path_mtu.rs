//! Ping, traceroute and path MTU discovery through every kind of frontend, in both families: the errors of routers, of the
//! nodes and of those behind them reach who sent the packet that they are about.
#![cfg(feature = "kernel")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use svclb_tests::net::{
    Client, Heard, LabOptions, Netns, Offload, PodNetwork, Probe, Scene, SceneOptions, Tracer, Underlay,
};

/// A Service with one pod, which is on node 1, for TCP and UDP.
fn service(name: &str, node_port: u16, spec: &str, load_balancer: [&str; 2]) -> String {
    let [v4, v6] = load_balancer;
    format!(
        "kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{containers: [{{name: echo, image: echo, ports: [{{containerPort: 8080}}]}}]}}
---
kind: Service
metadata: {{name: {name}}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {{app: {name}}}
  ports:
  - {{name: tcp, port: 80, targetPort: 8080, nodePort: {node_port}}}
  - {{name: udp, port: 80, targetPort: 8080, nodePort: {node_port}, protocol: UDP}}
{spec}
status: {{loadBalancer: {{ingress: [{{ip: {v4}}}, {{ip: '{v6}'}}]}}}}
"
    )
}

/// Addresses of load balancers: one leads to the node without the pod, the other to the pod's.
const FAR: [&str; 2] = ["203.0.113.7", "2001:db8:7::7"];
const NEAR: [&str; 2] = ["203.0.113.8", "2001:db8:7::8"];
/// External IPs, which lead to the node without the pod.
const EXTERNAL: [&str; 2] = ["203.0.113.9", "2001:db8:7::9"];

fn services() -> String {
    let external = format!("  externalIPs: ['{}', '{}']", EXTERNAL[0], EXTERNAL[1]);
    let web = service("web", 30080, &external, FAR);
    format!("{web}---\n{}", service("seen", 30081, "  externalTrafficPolicy: Local", NEAR))
}

/// Whom a router on the way behind the first one calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hop {
    /// The router between nodes and outside.
    Router,
    /// A node, by any of its addresses.
    Node(u8),
    /// The frontend: what is behind it is hidden from the client.
    Frontend,
}

/// A way to a pod.
struct Way {
    name: &'static str,
    from: Netns,
    to: SocketAddr,
    hops: &'static [Hop],
}

fn ways(scene: &Scene) -> Vec<Way> {
    use Hop::{Frontend, Node, Router};

    let (pod, far_pod, outside) = (scene.asker(1).netns(), scene.asker(2).netns(), &scene.lab.client().netns);
    let mut ways = Vec::new();
    for v6 in [false, true] {
        let at = |addresses: [&str; 2]| -> SocketAddr {
            SocketAddr::new(addresses[usize::from(v6)].parse().expect("an address"), 80)
        };
        let cluster = at(["10.96.0.16", "fd00:10:96::10"]);
        let node_port = |node, port| scene.node_port(node, v6, port);
        let all: [(&str, &Netns, SocketAddr, &[Hop]); 10] = [
            ("cluster IP, pod of this node", pod, cluster, &[Node(1)]),
            ("cluster IP, pod of another node", far_pod, cluster, &[Node(2), Node(1)]),
            ("a pod's own node port", pod, node_port(1, 30080), &[Frontend]),
            ("node port, pod of another node", outside, node_port(2, 30080), &[Router, Frontend, Frontend]),
            ("node port, pod of this node", outside, node_port(1, 30080), &[Router, Frontend]),
            ("node port, policy Local", outside, node_port(1, 30081), &[Router, Node(1)]),
            ("load balancer, pod of another node", outside, at(FAR), &[Router, Frontend, Frontend]),
            ("load balancer, policy Local", outside, at(NEAR), &[Router, Node(1)]),
            ("external IP, pod of another node", outside, at(EXTERNAL), &[Router, Frontend, Frontend]),
            ("cluster IP, policy Local for others", far_pod, at(["10.96.0.17", "fd00:10:96::11"]), &[Node(2), Node(1)]),
        ];
        ways.extend(all.map(|(name, from, to, hops)| Way { name, from: from.clone(), to, hops }));
    }
    ways
}

/// Whether it is this hop that speaks by this name.
fn is(scene: &Scene, hop: Hop, by: IpAddr, frontend: IpAddr) -> bool {
    match hop {
        Hop::Router => scene.lab.router_address().has(by),
        Hop::Frontend => by == frontend,
        Hop::Node(number) => {
            let node = scene.lab.node(number);
            node.address().has(by) || node.gateway_address().has(by) || node.addresses_seen_elsewhere().contains(&by)
        }
    }
}

async fn scene(network: PodNetwork, lab: LabOptions) -> Result<Scene> {
    let agent_arguments = vec!["--ping-services"];
    let scene = Scene::new(
        SceneOptions { lab, network, policy: true, agent_arguments, ..SceneOptions::default() },
        &services(),
    )
    .await?;
    for (addresses, node) in [(FAR, 2), (NEAR, 1), (EXTERNAL, 2)] {
        for address in addresses {
            scene.lab.route_to_node(address.parse()?, node)?;
        }
    }
    Ok(scene)
}

/// Traceroute by UDP and by TCP names every router, and ping is answered.
fn traced(scene: &Scene) -> Result<()> {
    for Way { name, from, to, hops } in ways(scene) {
        for probe in [Probe::Udp, Probe::Tcp] {
            let trace = Tracer::new(&from, probe, to)?.trace().with_context(|| format!("{name}, {probe:?} to {to}"))?;
            let words = || format!("{name}, {probe:?} to {to}: {trace:?} in place of {hops:?}");
            ensure!(trace.len() == hops.len() + 1, words());
            for (heard, hop) in trace.iter().zip(hops) {
                let Heard::Error { by, errno: Errno::EHOSTUNREACH, .. } = *heard else { anyhow::bail!(words()) };
                ensure!(is(scene, *hop, by, to.ip()), words());
            }
        }
        let ping = Tracer::new(&from, Probe::Echo, to)?.ask(56, 64)?;
        ensure!(ping == Heard::Answer, "{name}: ping to {to}: {ping:?}");
    }
    Ok(())
}

/// What the routes of the router and of the nodes take: less and less, the farther they are from the client outside.
const NARROW: [u32; 3] = [1330, 1315, 1300];

/// A datagram that is one packet, as is the answer, and too long for every route.
const LONG: usize = 1310;

/// Over routes that take less than all devices: UDP is told what fits, in both directions; TCP finds it out.
async fn discovered(scene: &Scene) -> Result<()> {
    let [router, far, near] = NARROW;
    scene.lab.narrow_router(router)?;
    scene.lab.node(2).narrow_routes(far)?;
    scene.lab.node(1).narrow_routes(near)?;
    let mut asked = BTreeSet::new();
    for (number, Way { name, from, to, hops }) in ways(scene).into_iter().enumerate() {
        // Who has learned it by one protocol or port knows it for the others: so both protocols come first in turn.
        let is_new = asked.insert((from.label().to_owned(), to.ip()));
        let tcp = Client::new(&from, Duration::from_secs(5)).asking_for(60_000);
        if number % 2 == 0 {
            tcp.http(to).await.with_context(|| format!("{name}: TCP to {to}"))?;
        }
        let mut udp = Tracer::new(&from, Probe::Udp, to)?;
        let mut told = Vec::new();
        loop {
            match udp.ask(LONG, 64)? {
                Heard::Answer => break,
                // The answer was too long for its way, which its sender knows now.
                Heard::Nothing => told.push(0),
                Heard::Error { errno: Errno::EMSGSIZE, takes, .. } => told.push(takes),
                heard @ Heard::Error { .. } => anyhow::bail!("{name}: UDP to {to}: {heard:?}"),
            }
            ensure!(told.len() < 10, "{name}: UDP to {to}: no end of {told:?}");
        }
        let learned: Vec<u32> = told.into_iter().filter(|takes| *takes != 0).collect();
        ensure!(learned.is_sorted_by(|one, next| one > next), "{name}: UDP to {to} learns {learned:?}");
        if number % 2 == 0 {
            continue;
        }
        if is_new {
            let first = match hops.first() {
                Some(Hop::Router) => router,
                Some(Hop::Node(2)) => far,
                _ => near,
            };
            // Routers cut what an IPv4 sender has cut for the first of them.
            let last = if to.is_ipv4() { first } else { near };
            let ends = (learned.first(), learned.last());
            ensure!(ends == (Some(&first), Some(&last)), "{name}: UDP to {to} learns {learned:?}, not {first}..{last}");
        }
        tcp.http(to).await.with_context(|| format!("{name}: TCP to {to} after UDP"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ping_traceroute_and_path_mtu_discovery_work_through_every_frontend_with_routed_pods() -> Result<()> {
    let scene = scene(PodNetwork::Routed, LabOptions { offload: Offload::Off, ..LabOptions::default() }).await?;
    traced(&scene)?;
    discovered(&scene).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ping_traceroute_and_path_mtu_discovery_work_through_every_frontend_over_vxlan() -> Result<()> {
    let scene = scene(PodNetwork::Routed, LabOptions { underlay: Underlay::Vxlan, ..LabOptions::default() }).await?;
    traced(&scene)?;
    discovered(&scene).await
}
