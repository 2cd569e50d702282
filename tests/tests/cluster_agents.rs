//! Agents on a real API server, with their own account and the rights of `deploy/`.
#![cfg(feature = "cluster")]

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{core::v1::Service, events::v1::Event};
use kube::{Api, api::ListParams};
use svclb_tests::{
    cluster::{
        EndpointState, KubeProxyConfig, LabCluster,
        timeline::{Record, Route, Timeline, describe},
    },
    net::{
        Agent, AgentCommand, AgentSource, Client, FailureKind, LabOptions, NODES, Pod, PodNetwork, Protocol,
        agent_binary,
    },
};
use tempfile::TempDir;
use tokio::time::sleep;

/// How long a pod serves after it has been deleted.
const GRACE: Duration = Duration::from_secs(3);

/// How long a request may take: longer than any failure may.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long until an agent has followed a change of the endpoints on this machine, under load.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(1);

/// How long until an agent has found its API server again: it asks ever more seldom while there is none.
const CAUGHT_UP_WITHIN: Duration = Duration::from_mins(1);

/// The cluster IP of a Service whose endpoints are written by hand.
const BY_HAND: &str = "10.96.99.99";

/// A request on each route in so much time.
const PAUSE: Duration = Duration::from_millis(20);

const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 3
      containers:
      - name: web
        image: answerer
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: http, protocol: TCP, port: 8080, targetPort: 80, nodePort: 30080}
  - {name: http-udp, protocol: UDP, port: 8080, targetPort: 80, nodePort: 30080}
";

/// A cluster with the Deployment `web`, an agent on each node, and a pod that asks.
struct Scene {
    agents: Vec<Agent>,
    client: Pod,
    cluster: LabCluster,
    _logs: TempDir,
}

impl Scene {
    /// With agents as `deploy/` has them.
    async fn new() -> Result<Self> {
        Self::with(as_deployed(&[])).await
    }

    /// With agents that are started as `agent` says, whose files may be in the folder that it is given.
    async fn with(agent: impl FnOnce(&LabCluster, &Path) -> Result<AgentCommand>) -> Result<Self> {
        let cluster = LabCluster::start(LabOptions::default(), PodNetwork::Routed)?;
        let plane = cluster.plane();
        plane.apply_yaml(WEB)?;
        cluster.wait_for_endpoints("web", |found| all_ready(found, 3))?;
        let logs = tempfile::tempdir()?;
        let how = agent(&cluster, logs.path())?;
        let mut agents = Vec::new();
        for node in NODES {
            agents.push(Agent::start(cluster.lab(), node, &how).await?);
        }
        let client = cluster.lab().node(1).pod("client", PodNetwork::Routed)?;
        Ok(Self { agents, client, cluster, _logs: logs })
    }

    /// From the pod to the cluster IPs, and from outside to the node ports of both nodes; both families,
    /// TCP and UDP.
    fn routes(&self) -> Result<Vec<Route>> {
        let services: Api<Service> = Api::default_namespaced(self.cluster.plane().client());
        let service = self.cluster.plane().runtime().run(async move { services.get("web").await })?;
        let cluster_ips = service.spec.and_then(|spec| spec.cluster_ips).context("web has cluster IPs")?;
        let inside = Client::new(self.client.netns(), DEADLINE);
        let outside = Client::new(&self.cluster.lab().client().netns, DEADLINE);
        let mut routes = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for cluster_ip in &cluster_ips {
                let to = SocketAddr::new(cluster_ip.parse()?, 8080);
                routes.push(route("pod", &inside, to, protocol));
            }
            for node in self.cluster.lab().nodes() {
                for address in node.address().both() {
                    routes.push(route("outside", &outside, SocketAddr::new(address, 30080), protocol));
                }
            }
        }
        Ok(routes)
    }

    /// Waits until on every route each of these pods has answered.
    async fn wait_for_answers(&self, pods: &BTreeSet<String>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        for route in self.routes()? {
            let mut answered = BTreeSet::new();
            while answered != *pods {
                ensure!(Instant::now() < deadline, "{}: only {answered:?} of {pods:?} have answered", route.name);
                let outcome = match route.protocol {
                    Protocol::Tcp => route.client.http(route.to).await,
                    Protocol::Udp => route.client.udp(route.to).await,
                    Protocol::Sctp => route.client.sctp(route.to).await,
                };
                answered.extend(outcome.ok().map(|reply| reply.answer.pod).filter(|pod| pods.contains(pod)));
            }
        }
        Ok(())
    }

    /// The Events of the namespace `default`, where those about nodes are, too.
    fn events(&self) -> Result<Vec<Event>> {
        let events: Api<Event> = Api::default_namespaced(self.cluster.plane().client());
        Ok(self.cluster.plane().runtime().run(async move { events.list(&ListParams::default()).await })?.items)
    }

    fn scale(&self, replicas: usize) -> Result<()> {
        self.cluster.plane().kubectl(["scale", "deployment/web", &format!("--replicas={replicas}")]).map(drop)
    }

    /// An error when an agent or a part of the control plane has ended.
    fn check(&mut self) -> Result<()> {
        self.agents.iter_mut().try_for_each(Agent::check)?;
        self.cluster.plane().check()
    }
}

/// How agents are started with the rights of `deploy/`, and with more arguments.
fn as_deployed(more: &[&str]) -> impl Fn(&LabCluster, &Path) -> Result<AgentCommand> {
    let more = more.iter().map(Into::into).collect::<Vec<_>>();
    move |cluster, logs| {
        cluster.plane().apply([Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rbac.yaml")])?;
        Ok(AgentCommand {
            binary: agent_binary()?,
            source: AgentSource::Kubeconfig(cluster.plane().agent_kubeconfig()),
            more: more.clone(),
            logs: logs.to_owned(),
        })
    }
}

fn route(from: &str, client: &Client, to: SocketAddr, protocol: Protocol) -> Route {
    Route { name: format!("{from} to {to} {protocol}"), client: client.clone(), to, protocol }
}

/// Whether there are so many pods, all ready, in slices of both families.
fn all_ready(endpoints: &[EndpointState], count: usize) -> bool {
    let of_v6 = |wanted: bool| endpoints.iter().filter(move |one| one.address.is_ipv6() == wanted).count();
    endpoints.iter().all(|endpoint| endpoint.ready) && of_v6(true) == count && of_v6(false) == count
}

fn pods(endpoints: &[EndpointState]) -> BTreeSet<String> {
    endpoints.iter().filter_map(|endpoint| endpoint.pod.clone()).collect()
}

fn is_about(event: &Event, name: &str) -> bool {
    event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(name)
}

/// The failed requests that were sent in this span.
fn failures(records: &[Record], span: std::ops::Range<Instant>) -> Vec<&Record> {
    records.iter().filter(|record| record.outcome.is_err() && span.contains(&record.sent)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_serve_a_deployment_with_the_rights_of_their_own_account() -> Result<()> {
    let mut scene = Scene::new().await?;
    let endpoints = scene.cluster.endpoints("web")?;
    scene.wait_for_answers(&pods(&endpoints)).await?;
    let addresses: BTreeSet<IpAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    assert_eq!(addresses.len(), 6, "three pods with two addresses each");
    scene.check()
}

/// The `ConfigMap` kube-proxy of a cluster made by kubeadm.
const KUBEADM: &str = include_str!("../../examples/kube-proxy.yaml");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_in_the_place_of_kube_proxy_serve_and_warn_of_the_missing_file_system_alone() -> Result<()> {
    let config = KubeProxyConfig::parse(KUBEADM)?;
    let mut scene = Scene::with(|cluster, folder| config.agent(cluster.plane(), folder)).await?;
    scene.wait_for_answers(&pods(&scene.cluster.endpoints("web")?)).await?;
    let process = Client::new(scene.cluster.lab().node(2).netns(), DEADLINE);
    for route in scene.routes()?.iter().filter(|route| route.name.starts_with("pod") && route.protocol == Protocol::Tcp)
    {
        process.http(route.to).await.with_context(|| format!("a process of the node asks {}", route.to))?;
    }
    for agent in &scene.agents {
        let warnings = agent.warnings()?;
        let [only] = warnings.as_slice() else { panic!("kube-proxy's file and rights are enough: {warnings:#?}") };
        assert!(only.contains("a BPF file system is mounted at /sys/fs/bpf, as there was none"), "{only}");
    }
    scene.check()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_to_none_and_back_fails_no_request_but_those_without_an_endpoint() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.wait_for_answers(&pods(&scene.cluster.endpoints("web")?)).await?;
    let start = Instant::now();
    let requests = Timeline::start(scene.routes()?, PAUSE);
    sleep(Duration::from_secs(1)).await;

    let to_none = Instant::now();
    scene.scale(0)?;
    scene.cluster.wait_for_endpoints("web", <[_]>::is_empty)?;
    let none = Instant::now();
    sleep(FOLLOWED_WITHIN + Duration::from_secs(1)).await;
    let to_five = Instant::now();
    scene.scale(5)?;
    scene.cluster.wait_for_endpoints("web", |found| !found.is_empty())?;
    let some = Instant::now();
    let five = scene.cluster.wait_for_endpoints("web", |found| all_ready(found, 5))?;
    scene.wait_for_answers(&pods(&five)).await?;
    scene.scale(3)?;
    let three = scene.cluster.wait_for_endpoints("web", |found| all_ready(found, 3))?;
    sleep(GRACE).await;
    scene.wait_for_answers(&pods(&three)).await?;
    let end = Instant::now();
    let records = requests.stop().await;
    scene.check()?;

    let served = [start..to_none + GRACE, some + FOLLOWED_WITHIN..end];
    for span in served {
        let failed = failures(&records, span.clone());
        assert!(failed.is_empty(), "there were endpoints, and yet:\n{}", describe(failed, start));
    }
    let bare = none + FOLLOWED_WITHIN..to_five;
    let answered = records.iter().filter(|record| record.outcome.is_ok() && bare.contains(&record.sent));
    assert_eq!(describe(answered, start), "", "nobody was there to answer");
    // While the servers end, what they have received and not answered is lost with them: a datagram without
    // a sign, a connection with a reset.
    let ending = to_none + GRACE..bare.start;
    let bad = records.iter().filter(|record| {
        record.outcome.as_ref().is_err_and(|failure| {
            let at_once = failure.after <= Duration::from_secs(1);
            let as_refused = failure.kind == FailureKind::Refused && at_once;
            let with_server = ending.contains(&record.sent) && (at_once || record.protocol == Protocol::Udp);
            !as_refused && !with_server
        })
    });
    assert_eq!(describe(bad, start), "", "without an endpoint, requests are refused at once");
    let refused = failures(&records, bare).len();
    eprintln!("{} requests, {refused} of them while there was no endpoint", records.len());
    assert!(refused > 0, "requests were made while there was no endpoint");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_for_a_minute_is_not_missed() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.wait_for_answers(&pods(&scene.cluster.endpoints("web")?)).await?;
    let start = Instant::now();
    let requests = Timeline::start(scene.routes()?, PAUSE);
    scene.cluster.plane().stop_api_server();
    sleep(Duration::from_mins(1)).await;
    scene.cluster.plane().start_api_server()?;
    let back = Instant::now();
    // No controller has a part in it: they take up to a minute to come back themselves.
    scene.cluster.plane().apply_yaml(&by_hand(&scene.cluster.endpoints("web")?))?;
    let (address, inside) = (SocketAddr::new(BY_HAND.parse()?, 80), Client::new(scene.client.netns(), DEADLINE));
    while let Err(failure) = inside.http(address).await {
        ensure!(back.elapsed() < CAUGHT_UP_WITHIN, "a Service made after the outage does not work: {failure}");
        sleep(Duration::from_millis(100)).await;
    }
    eprintln!("a Service made after the outage worked {:?} after its end", back.elapsed());
    let records = requests.stop().await;
    let failed = records.iter().filter(|record| record.outcome.is_err());
    assert_eq!(describe(failed, start), "", "no request may fail");
    scene.check()
}

/// A Service without a selector, and a slice that leads to the given endpoints.
fn by_hand(endpoints: &[EndpointState]) -> String {
    let addresses: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| endpoint.address.is_ipv4())
        .map(|endpoint| format!("{{addresses: [{}]}}", endpoint.address))
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: by-hand}}\n\
         spec: {{clusterIP: {BY_HAND}, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: by-hand-1, labels: {{kubernetes.io/service-name: by-hand}}}}\n\
         addressType: IPv4\nports: [{{name: '', port: 80}}]\nendpoints: [{}]\n",
        addresses.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_get_an_event_when_agents_start_and_objects_when_they_cannot_be_used() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.cluster.plane().apply_yaml(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: nobodys},\
          addressType: IPv4, endpoints: []}",
    )?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let listed = scene.events()?;
        let starts = |event: &&Event| {
            event.reason.as_deref() == Some("Starting") && event.reporting_controller.as_deref() == Some("svclb")
        };
        let all_start = NODES.iter().all(|node| {
            let node = format!("node{node}");
            listed.iter().filter(starts).any(|event| is_about(event, &node))
        });
        let unused = listed.iter().find(|event| is_about(event, "nobodys"));
        if let Some(event) = unused.filter(|_| all_start) {
            assert_eq!(event.type_.as_deref(), Some("Warning"));
            assert_eq!(event.reason.as_deref(), Some("NoService"));
            let note = event.note.as_deref().unwrap_or_default();
            assert!(note.contains("service-name"), "{note}");
            break;
        }
        ensure!(Instant::now() < deadline, "no Events about the slice and both nodes; there are {listed:?}");
        sleep(Duration::from_millis(100)).await;
    }
    scene.wait_for_answers(&pods(&scene.cluster.endpoints("web")?)).await?;
    scene.check()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_tell_of_ports_that_others_have_and_of_external_ips_that_are_not_admitted() -> Result<()> {
    let mut taken = Vec::new();
    let agent = |cluster: &LabCluster, logs: &Path| {
        for address in ["0.0.0.0:10256", "127.0.0.1:10249"] {
            taken.push(cluster.lab().node(1).netns().run(|| TcpListener::bind(address))?);
        }
        as_deployed(&["--external-ip-cidrs=none"])(cluster, logs)
    };
    let mut scene = Scene::with(agent).await?;
    scene.cluster.plane().apply_yaml(
        "{apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {externalIPs: [203.0.113.9], ports: [{port: 80}]}}",
    )?;
    let wanted = [
        ("node1", "FailedToStartProxierHealthcheck", "10256"),
        ("node1", "FailedToStartMetricServer", "10249"),
        ("outside", "ExternalIPNotAdmitted", "203.0.113.9"),
    ];
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let listed = scene.events()?;
        let missing = wanted.iter().find(|(about, reason, word)| {
            !listed.iter().any(|event| {
                is_about(event, about)
                    && event.reason.as_deref() == Some(reason)
                    && event.type_.as_deref() == Some("Warning")
                    && event.note.as_deref().is_some_and(|note| note.contains(word))
            })
        });
        let Some(missing) = missing else { break };
        ensure!(Instant::now() < deadline, "no Event {missing:?}; there are {listed:?}");
        sleep(Duration::from_millis(100)).await;
    }
    let of_node2 = |event: &Event| is_about(event, "node2") && event.type_.as_deref() == Some("Warning");
    assert!(!scene.events()?.iter().any(of_node2), "there both ports are free");
    scene.check()
}

/// Makes the Node of node 1 anew with these podCIDRs, which a Node cannot change.
fn renumber(cluster: &LabCluster, prefixes: [&str; 2]) -> Result<()> {
    cluster.plane().kubectl(["delete", "node", "node1"])?;
    let [v4, v6] = prefixes;
    cluster.plane().apply_yaml(&format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: node1}}, spec: {{podCIDR: '{v4}', podCIDRs: ['{v4}', '{v6}']}}}}"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_sources_follow_the_pod_cidrs_of_the_node() -> Result<()> {
    let mut scene = Scene::with(as_deployed(&["--detect-local-mode=NodeCIDR"])).await?;
    let (own, elsewhere) = (scene.cluster.lab().node(1).pod_prefixes(), ["10.250.1.0/24", "fd00:10:250:1::/64"]);
    let own = [own[0].as_str(), own[1].as_str()];
    for (step, (prefixes, hidden)) in [(own, false), (elsewhere, true), (own, false)].into_iter().enumerate() {
        if step > 0 {
            renumber(&scene.cluster, prefixes)?;
        }
        for route in scene.routes()?.iter().filter(|route| route.name.starts_with("pod to")) {
            let pod = scene.client.address().of_family(route.to.ip());
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                let outcome = match route.protocol {
                    Protocol::Udp => route.client.udp(route.to).await,
                    _ => route.client.http(route.to).await,
                };
                // Pods of a Node that goes end, and others take their place.
                if outcome.as_ref().is_ok_and(|reply| (reply.answer.client.ip() != pod) == hidden) {
                    break;
                }
                let found = outcome.map(|reply| reply.answer.client);
                ensure!(Instant::now() < deadline, "{}, podCIDRs {prefixes:?}: {found:?}", route.name);
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    scene.check()
}

/// The cluster IP of a Service that is made by one of two API servers, and its manifest.
fn by_hand_at(address: &str, endpoints: &[EndpointState]) -> String {
    by_hand(endpoints).replace(BY_HAND, address).replace("by-hand", &format!("by-hand-{}", address.replace('.', "-")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_turn_to_the_other_api_server_when_theirs_dies_and_back_again() -> Result<()> {
    let mut second = None;
    let agent = |cluster: &LabCluster, logs: &Path| {
        let first = cluster.plane().servers().first().context("the API server has an address")?.clone();
        let other = second.insert(cluster.plane().start_second_api_server()?);
        as_deployed(&[&format!("--api-server={first},{}", other.url())])(cluster, logs)
    };
    let mut scene = Scene::with(agent).await?;
    let endpoints = scene.cluster.endpoints("web")?;
    scene.wait_for_answers(&pods(&endpoints)).await?;
    let start = Instant::now();
    let requests = Timeline::start(scene.routes()?, PAUSE);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("service.yaml");
    let inside = Client::new(scene.client.netns(), DEADLINE);
    let plane = scene.cluster.plane();
    for (round, address) in ["10.96.99.1", "10.96.99.2"].into_iter().enumerate() {
        // First the one that the agents follow dies, then the one that they have turned to.
        let alive = if round == 0 {
            plane.stop_api_server();
            second.as_ref().context("it runs")?.url().to_owned()
        } else {
            plane.start_api_server()?;
            second = None;
            plane.servers().first().context("the API server has an address")?.clone()
        };
        let dead = Instant::now();
        fs::write(&file, by_hand_at(address, &endpoints))?;
        plane.kubectl([
            OsStr::new("--server"),
            OsStr::new(&alive),
            "apply".as_ref(),
            "-f".as_ref(),
            file.as_os_str(),
        ])?;
        let to = SocketAddr::new(address.parse()?, 80);
        while let Err(failure) = inside.http(to).await {
            ensure!(dead.elapsed() < CAUGHT_UP_WITHIN, "a Service of the other API server does not work: {failure}");
            sleep(Duration::from_millis(100)).await;
        }
        eprintln!("a Service of the other API server worked {:?} after one had died", dead.elapsed());
    }
    let records = requests.stop().await;
    let failed = records.iter().filter(|record| record.outcome.is_err());
    assert_eq!(describe(failed, start), "", "no request may fail");
    scene.check()
}
