//! The cluster in which all stands are nodes side by side.
//!
//! Each stand is a node of one lab with a client pod and a server pod, so that a round goes from one to the other without
//! changing anything. One more node, on which nobody serves, has the pod to which floods are forwarded. svclb's agents
//! have their Services from files, kube-proxy from a real API server; both know the same ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType},
};
use serde_json::{Value, json};
use svclb_userspace::model::Family;
use tempfile::TempDir;

use super::{
    Options, Told,
    exchange::Exchange,
    flood::{DISCARD, Flood, Way},
    spot::{Sample, Spot, Target, Workload},
    stand::{Services, Stand, Subject},
};
use crate::{
    bench::population::{
        NAMESPACE, Population,
        fill::{create_all, write_all, yaml},
    },
    cluster::{
        LabCluster,
        kube_proxy::{KubeProxy, Mode},
    },
    net::{Agent, AgentCommand, AgentSource, Lab, LabOptions, Pod, PodNetwork, Policy},
};

/// The number of the node to which floods are forwarded; stands have the numbers behind it.
const REMOTE: u8 = 1;
/// Port of the Services that are asked, and of the pods behind them, TCP and UDP.
const PORT: u16 = 80;
const POD_PORT: u16 = 8080;
/// Port of the pods that is no Service's: where a client asks both, what it asks a pod could have the ports of what it has
/// asked a Service, and svclb took the answer for one of the Service's.
const OWN_PORT: u16 = 8081;
/// Endpoints of each other Service.
const ENDPOINTS: u32 = 3;
/// A client that a broken stand does not answer gives up soon.
const IMPATIENT: &[(&str, &str)] = &[("ipv4/tcp_syn_retries", "2")];

/// A stand's node.
struct Place {
    number: u8,
    client: Pod,
    server: Pod,
    /// Where a flood enters it.
    way: Option<Way>,
}

impl Place {
    /// Its cluster IP, which leads to its server.
    fn service(&self) -> SocketAddr {
        SocketAddrV4::new(Ipv4Addr::new(10, 97, 0, self.number), PORT).into()
    }

    /// Its node port, which leads to the pod of the node REMOTE.
    fn node_port(&self) -> u16 {
        30_000 + u16::from(self.number)
    }

    /// Hangs programs that do nothing where svclb would have its own, for as long as what is given back lives.
    fn hang_idle_programs(&self, lab: &Lab, reference: &[u8]) -> Result<Ebpf> {
        let mut ebpf = EbpfLoader::new().load(reference).context("load the reference object")?;
        let program = ebpf.program_mut("empty").context("the reference object has no program empty")?;
        let program: &mut SchedClassifier = program.try_into()?;
        program.load().context("load the program that does nothing")?;
        lab.node(self.number).netns().enter(|| {
            for device in ["eth0", self.client.device(), self.server.device()] {
                for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                    program.attach(device, hook).with_context(|| format!("hang a program into {device}"))?;
                }
            }
            anyhow::Ok(())
        })?;
        Ok(ebpf)
    }

    /// Lets floods in, and hangs a sink behind it.
    fn prepare_flood(&mut self, lab: &Lab, flood: &mut Flood) -> Result<()> {
        let node = lab.node(self.number);
        let to = SocketAddrV4::new(node.address().v4, self.node_port());
        // The router's device has the name of the node that it leads to.
        let way = Way::new(lab.router(), node.name(), node.netns(), lab.client().address.v4, to)?;
        flood.hang_sink(&way)?;
        self.way = Some(way);
        Ok(())
    }

    /// Its Services and their slices.
    fn objects(&self, remote: &Pod) -> Vec<Value> {
        let service = |name: &str, address: Ipv4Addr, kind: &str, ports: Value| {
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": name, "namespace": NAMESPACE },
                "spec": {
                    "type": kind, "clusterIP": address, "clusterIPs": [address],
                    "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": ports,
                },
            })
        };
        let slice = |name: &str, pod: &Pod, ports: Value| {
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": name, "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": name },
                },
                "addressType": "IPv4",
                "ports": ports,
                "endpoints": [{
                    "addresses": [pod.address().v4],
                    "conditions": { "ready": true, "serving": true, "terminating": false },
                    "nodeName": format!("node{}", pod.node()),
                }],
            })
        };
        let number = self.number;
        let (inside, outside) = (format!("stand-{number}"), format!("stand-{number}-outside"));
        let asked = |protocol: &str, target: u16| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "targetPort": target});
        let served =
            |protocol: &str, port: u16| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port});
        let mut node_port = asked("UDP", DISCARD);
        node_port["nodePort"] = self.node_port().into();
        vec![
            service(
                &inside,
                Ipv4Addr::new(10, 97, 0, number),
                "ClusterIP",
                json!([asked("TCP", POD_PORT), asked("UDP", POD_PORT)]),
            ),
            slice(&inside, &self.server, json!([served("TCP", POD_PORT), served("UDP", POD_PORT)])),
            service(&outside, Ipv4Addr::new(10, 97, 1, number), "NodePort", json!([node_port])),
            slice(&outside, remote, json!([served("UDP", DISCARD)])),
        ]
    }
}

/// The cluster. Dropping it takes everything away.
pub(super) struct Stage {
    // Dropped from top to bottom: who serves goes before the nodes.
    _agents: Vec<Agent>,
    _proxies: Vec<KubeProxy>,
    flood: Option<Flood>,
    _idle: Vec<Ebpf>,
    places: BTreeMap<Stand, Place>,
    _remote: Pod,
    _cluster: Option<LabCluster>,
    _lab: Arc<Lab>,
    _folder: TempDir,
    /// Stands that there cannot be, and why.
    pub(super) missing: BTreeMap<Stand, String>,
    cpus: [usize; 2],
    time: Duration,
}

impl Stage {
    /// Builds it for all stands of some spots. Must be called within a tokio runtime with several threads.
    pub(super) async fn set_up(spots: &BTreeSet<Spot>, options: &Options, told: &Told<'_>) -> Result<Self> {
        let stands: BTreeSet<Stand> = spots.iter().map(|spot| spot.stand).collect();
        let folder = TempDir::new().context("make a folder for manifests and logs")?;
        let kube_proxies = stands.iter().any(|stand| mode(stand.subject).is_some());
        let nodes = u8::try_from(stands.len() + 1).context("there are too many stands")?;
        let lab_options = LabOptions { nodes, ..LabOptions::default() };
        let cluster = if kube_proxies {
            (told.line)("starting the control plane");
            Some(LabCluster::start(lab_options, PodNetwork::Routed)?)
        } else {
            None
        };
        let lab = match &cluster {
            Some(cluster) => Arc::clone(cluster.lab()),
            None => Arc::new(Lab::new(lab_options)?),
        };
        let remote = lab.node(REMOTE).pod("remote", PodNetwork::Routed)?;
        let mut places = BTreeMap::new();
        for (number, &stand) in (REMOTE + 1..).zip(&stands) {
            places.insert(stand, place(&lab, number, stand)?);
        }
        let objects: Vec<Value> = places.values().flat_map(|place| place.objects(&remote)).collect();
        let (agents, missing) = start_agents(&lab, &places, &objects, options, folder.path(), told).await?;
        let proxies = match &cluster {
            Some(cluster) => start_kube_proxies(cluster, &places, &objects, options, folder.path(), told).await?,
            None => Vec::new(),
        };
        let idle = places.iter().filter(|(stand, _)| stand.subject == Subject::Idle);
        let idle = idle.map(|(_, place)| place.hang_idle_programs(&lab, &options.reference)).collect::<Result<_>>()?;
        let flooded: BTreeSet<Stand> =
            spots.iter().filter(|spot| spot.is_forwarding()).map(|spot| spot.stand).collect();
        let mut flood = None;
        for (stand, place) in &mut places {
            if flooded.contains(stand) && !missing.contains_key(stand) {
                let flood = match &mut flood {
                    Some(flood) => flood,
                    none => none.insert(Flood::load(&options.reference)?),
                };
                place.prepare_flood(&lab, flood)?;
            }
        }
        Ok(Self {
            _agents: agents,
            _proxies: proxies,
            flood,
            _idle: idle,
            places,
            _remote: remote,
            _cluster: cluster,
            _lab: lab,
            _folder: folder,
            missing,
            cpus: options.cpus,
            time: options.sample,
        })
    }

    /// Measures a spot once.
    pub(super) fn measure(&mut self, spot: &Spot) -> Result<Sample> {
        let [first, second] = self.cpus;
        let cpus = if spot.cpus == 1 { [first; 2] } else { [first, second] };
        let place = self.places.get(&spot.stand).with_context(|| format!("there is no {}", spot.stand))?;
        if let Workload::Forward { flows } = spot.workload {
            let (Some(flood), Some(way)) = (&mut self.flood, &place.way) else { bail!("no flood is prepared") };
            return flood.run(way, flows, first, self.time);
        }
        let at = |port| SocketAddr::new(place.server.address().v4.into(), port);
        let (server, to) = match spot.target {
            Target::Service => (at(POD_PORT), place.service()),
            Target::Pod => (at(OWN_PORT), at(OWN_PORT)),
        };
        let exchange = Exchange {
            client: (place.client.netns(), IpAddr::V4(place.client.address().v4)),
            server: (place.server.netns(), server),
            to,
            cpus,
            time: self.time,
        };
        exchange.run(spot.workload)
    }
}

/// Starts svclb where it serves. Also gives the stands that there cannot be, and why.
async fn start_agents(
    lab: &Lab,
    places: &BTreeMap<Stand, Place>,
    objects: &[Value],
    options: &Options,
    folder: &Path,
    told: &Told<'_>,
) -> Result<(Vec<Agent>, BTreeMap<Stand, String>)> {
    let (mut agents, mut missing) = (Vec::new(), BTreeMap::new());
    let mut folders = BTreeMap::<u32, PathBuf>::new();
    for (&stand, place) in places {
        let Some(arguments) = stand.subject.agent_arguments() else { continue };
        let services = how_many(stand, options);
        let manifests = folder.join(services.to_string());
        if folders.insert(services, manifests.clone()).is_none() {
            (told.line)(&format!("writing {services} Services"));
            write_manifests(&population(services), lab, objects, &manifests)?;
        }
        (told.line)(&format!("starting {stand}"));
        let sizes = sizes(services).map(|sizes| ["--map-sizes".to_owned(), sizes]);
        // The hooks at sockets would hang in the cgroup of all processes and cost every stand the same.
        let more = ["--socket-lb", "off", "--nodeport-addresses", "primary"].iter().chain(arguments);
        let how = AgentCommand {
            binary: options.binary.clone(),
            source: AgentSource::Manifests(manifests),
            more: more.map(Into::into).chain(sizes.into_iter().flatten().map(Into::into)).collect(),
            logs: folder.to_owned(),
        };
        match Agent::start(lab, place.number, &how).await {
            Ok(agent) => agents.push(agent),
            // The exit code of wrong usage: this version has no such flag.
            Err(error) if error.to_string().contains("exit status: 2") => {
                missing.insert(stand, "svclb does not take its arguments".to_owned());
            }
            Err(error) => return Err(error.context(format!("start {stand}"))),
        }
    }
    Ok((agents, missing))
}

/// Fills the API server and starts kube-proxy where it serves.
async fn start_kube_proxies(
    cluster: &LabCluster,
    places: &BTreeMap<Stand, Place>,
    objects: &[Value],
    options: &Options,
    folder: &Path,
    told: &Told<'_>,
) -> Result<Vec<KubeProxy>> {
    create_all(cluster.plane(), &population(options.services), &|line: &str| (told.line)(line))?;
    cluster.plane().apply_yaml(&documents(objects)?)?;
    let mut proxies = Vec::new();
    for (&stand, place) in places {
        let Some(mode) = mode(stand.subject) else { continue };
        (told.line)(&format!("starting {stand}"));
        let flags = ["--nodeport-addresses=primary".to_owned()];
        let proxy = KubeProxy::start(cluster, place.number, mode, &flags, folder).await;
        proxies.push(proxy.with_context(|| format!("start {stand}"))?);
    }
    Ok(proxies)
}

/// kube-proxy's mode, where it is one that serves.
fn mode(subject: Subject) -> Option<Mode> {
    match subject {
        Subject::Nftables => Some(Mode::Nftables),
        Subject::Iptables => Some(Mode::Iptables),
        Subject::Nobody | Subject::Idle | Subject::Stack | Subject::Direct | Subject::Xdp => None,
    }
}

/// A node with its pods.
fn place(lab: &Lab, number: u8, stand: Stand) -> Result<Place> {
    let node = lab.node(number);
    let client = node.pod("client", PodNetwork::Routed)?;
    let server = node.pod("server", PodNetwork::Routed)?;
    client.netns().sysctls(IMPATIENT)?;
    if stand.policy {
        node.enforce(&Policy {
            clients: client.address().both().into(),
            backends: server.address().both().into(),
            ports: BTreeSet::from([POD_PORT, OWN_PORT]),
        })?;
    }
    Ok(Place { number, client, server, way: None })
}

fn population(services: u32) -> Population {
    Population { services, endpoints: ENDPOINTS, families: vec![Family::V4] }
}

fn how_many(stand: Stand, options: &Options) -> u32 {
    match stand.services {
        Services::Usual => options.services,
        Services::Number(services) => services,
    }
}

/// Sizes of svclb's maps where there are more Services than those of any node have room for.
fn sizes(services: u32) -> Option<String> {
    /// For 65,536 Services.
    const LARGE: &str = "services=65536,frontend_buckets=65536,slot_pairs=524288,backends=262144,\
                         interest_frontends=16384,interest_backends=131072";
    (services > 16_384).then(|| LARGE.to_owned())
}

/// All that an agent is told, as files.
fn write_manifests(population: &Population, lab: &Lab, objects: &[Value], folder: &Path) -> Result<()> {
    write_all(population, folder)?;
    let nodes: Vec<Value> = lab.nodes().iter().map(crate::net::Node::object).collect();
    for (name, objects) in [("nodes.yaml", &*nodes), ("stands.yaml", objects)] {
        let file = folder.join(name);
        fs::write(&file, documents(objects)?).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Objects as one text.
fn documents(objects: &[Value]) -> Result<String> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&yaml(object)?);
    }
    Ok(text)
}
