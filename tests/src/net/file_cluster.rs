//! A cluster without an API server: manifests in, and out of them a folder of complete objects that agents
//! watch with `--manifests`.
//!
//! Here a few lines play the parts of others: the Deployment controller and the scheduler (so many pods,
//! spread over the nodes), the kubelet (a pod is a namespace with an answerer, and ends after its grace
//! period) and the API server's allocators ([`Allocator`]). Services, endpoints and everything about
//! packets are the agents' work.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::core::v1::{PodSpec, PodTemplateSpec, Service},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
    jiff::Timestamp,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    address::Families,
    allocate::{Added, Allocator},
    answerer::Answerer,
    lab::Lab,
    manifests::Manifests,
    node::Node,
    pod::{Pod, PodNetwork},
    policy::PolicyEngine,
    state::{ClusterState, NamedPort, PodState, ports_of, selects},
};

/// What happens to pods that are to go. Each answers for the given time more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is written down as ending, as the API server shows a pod in its grace period: it still serves.
    Announced(Duration),
    /// Its object is gone at once: nothing may be sent to it any more, and what is sent is seen.
    Forgotten(Duration),
}

impl Ending {
    fn time(self) -> Duration {
        match self {
            Self::Announced(time) | Self::Forgotten(time) => time,
        }
    }
}

/// The cluster of a folder.
#[derive(Debug)]
pub struct FileCluster {
    folder: PathBuf,
    families: Families,
    network: PodNetwork,
    policy: Option<Arc<PolicyEngine>>,
    ending_as: Ending,
    allocator: Allocator,
    workloads: BTreeMap<String, Workload>,
    ending: Vec<(Instant, Running)>,
    services: Vec<Service>,
    slices: Vec<Value>,
}

/// The pods of one Deployment, or one pod on its own.
#[derive(Debug, Default)]
struct Workload {
    template: Option<Template>,
    made: u32,
    pods: Vec<Running>,
}

/// What all pods of a workload have in common; a change replaces them.
#[derive(Debug, Clone, PartialEq)]
struct Template {
    namespace: String,
    labels: BTreeMap<String, String>,
    spec: PodSpec,
    ports: Vec<NamedPort>,
}

/// A pod with what runs in it.
#[derive(Debug)]
struct Running {
    state: PodState,
    spec: PodSpec,
    ends: Option<Timestamp>,
    /// Closed before the pod's device goes.
    answerer: Answerer,
    _pod: Pod,
}

/// A workload as it is wanted.
struct Wanted {
    name: String,
    replicas: usize,
    /// Whether the pod has exactly this name; else a number is added.
    alone: bool,
    template: Template,
    /// The ports on which its pods answer.
    answered: BTreeSet<u16>,
}

impl FileCluster {
    /// An empty cluster that writes to `folder`.
    pub fn new(lab: &Lab, folder: &Path, network: PodNetwork, ending_as: Ending) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        let cluster = Self {
            folder: folder.to_owned(),
            families: lab.options().families,
            network,
            policy: None,
            ending_as,
            allocator: Allocator::new(lab.options().families),
            workloads: BTreeMap::new(),
            ending: Vec::new(),
            services: Vec::new(),
            slices: Vec::new(),
        };
        let nodes: Vec<Value> = lab.nodes().iter().map(Node::object).collect();
        cluster.write("nodes.yaml", &nodes)?;
        cluster.publish()?;
        Ok(cluster)
    }

    /// From now on a network policy lets new pods in before they are written down.
    pub fn set_policy(&mut self, policy: &Arc<PolicyEngine>) {
        self.policy = Some(Arc::clone(policy));
    }

    /// The folder for `--manifests`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Brings the cluster to what the manifests say: new pods run before they are written down, and those
    /// that are to go are first written down as ending. Says what was allocated.
    pub fn apply(&mut self, lab: &Lab, manifests: &Manifests) -> Result<Added> {
        let mut services = manifests.services.clone();
        let added = self.allocator.complete(&mut services)?;
        self.services = services;
        self.slices.clone_from(&manifests.slices);
        let mut wanted = wanted(manifests, &self.services)?;
        let names: Vec<String> = self.workloads.keys().cloned().collect();
        for name in names {
            let keep = wanted.remove(&name);
            self.scale(lab, &name, keep.as_ref())?;
        }
        for (name, want) in wanted {
            self.scale(lab, &name, Some(&want))?;
        }
        self.publish()?;
        Ok(added)
    }

    /// Ends the pods whose grace period is over. Whether there was one.
    pub fn reap(&mut self) -> Result<bool> {
        let now = Instant::now();
        let over = |(ends, _): &mut (Instant, Running)| *ends <= now;
        let gone: Vec<_> = self.ending.extract_if(.., over).collect();
        if gone.is_empty() {
            return Ok(false);
        }
        self.publish()?;
        drop(gone);
        Ok(true)
    }

    /// What exists now.
    pub fn state(&self) -> ClusterState {
        let pods = self.known_pods().map(|running| running.state.clone()).collect();
        ClusterState { services: self.services.clone(), pods }
    }

    /// The answerer of a pod, to see what it was asked.
    pub fn answerer(&self, pod: &str) -> Option<&Answerer> {
        let running = self.workloads.values().flat_map(|workload| &workload.pods);
        let ending = self.ending.iter().map(|(_, running)| running);
        running.chain(ending).find(|running| running.state.name == pod).map(|running| &running.answerer)
    }

    /// Brings one workload to what is wanted; `None` ends all its pods.
    fn scale(&mut self, lab: &Lab, name: &str, wanted: Option<&Wanted>) -> Result<()> {
        let workload = self.workloads.entry(name.to_owned()).or_default();
        let template = wanted.map(|want| want.template.clone());
        let replicas = wanted.map_or(0, |want| want.replicas);
        let keep = if workload.template == template { replicas } else { 0 };
        let leaving = workload.pods.split_off(keep.min(workload.pods.len()));
        workload.template = template;
        if let Some(want) = wanted {
            while workload.pods.len() < want.replicas {
                workload.made += 1;
                let pod = if want.alone { want.name.clone() } else { format!("{}-{}", want.name, workload.made) };
                let node = emptiest_node(lab, &workload.pods);
                workload.pods.push(Running::start(lab, node, &pod, self.network, &want.template)?);
            }
            for running in &mut workload.pods {
                if let Some(policy) = &self.policy {
                    policy.admit_backend(running.state.address, want.answered.iter().copied())?;
                }
                want.answered.iter().try_for_each(|port| running.answerer.listen(*port))?;
            }
        } else {
            self.workloads.remove(name);
        }
        let grace = k8s_openapi::jiff::SignedDuration::try_from(self.ending_as.time())?;
        for mut running in leaving {
            running.ends = Some(Timestamp::now().checked_add(grace)?);
            running.state.ready = false;
            running.state.terminating = true;
            self.ending.push((Instant::now() + self.ending_as.time(), running));
        }
        Ok(())
    }

    /// The pods that there are as far as the API tells.
    fn known_pods(&self) -> impl Iterator<Item = &Running> {
        let running = self.workloads.values().flat_map(|workload| &workload.pods);
        let ending = self.ending.iter().map(|(_, running)| running);
        running.chain(ending.filter(|_| matches!(self.ending_as, Ending::Announced(_))))
    }

    /// Writes down what exists.
    fn publish(&self) -> Result<()> {
        let pods = self.known_pods().map(|pod| pod.object(self.families)).collect::<Result<Vec<_>>>()?;
        let mut services = Vec::new();
        for service in &self.services {
            services.push(serde_json::to_value(service)?);
        }
        services.extend(self.slices.iter().cloned());
        self.write("pods.yaml", &pods)?;
        self.write("services.yaml", &services)
    }

    /// Writes a file in one step: a reader sees the old or the new one. An unchanged file is left alone.
    fn write(&self, name: &str, objects: &[Value]) -> Result<()> {
        let path = self.folder.join(name);
        let text = serde_saphyr::to_string_multiple(objects)
            .map_err(|e| anyhow::anyhow!("write {} as YAML: {e}", path.display()))?;
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let fresh = self.folder.join(format!(".{name}.new"));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("write {}", path.display()))
    }
}

impl Running {
    fn start(lab: &Lab, node: u8, name: &str, network: PodNetwork, template: &Template) -> Result<Self> {
        let pod = lab.node(node).pod(name, network)?;
        let answerer = pod.answer(&[])?;
        let state = PodState::new(&pod, &template.namespace, template.labels.clone(), template.ports.clone());
        Ok(Self { state, spec: template.spec.clone(), ends: None, answerer, _pod: pod })
    }

    /// The pod as the API server would show it.
    fn object(&self, families: Families) -> Result<Value> {
        let state = &self.state;
        let mut spec = self.spec.clone();
        spec.node_name = Some(format!("node{}", state.node));
        let addresses = families.of(state.address.both().map(|ip| json!({ "ip": ip })));
        let mut metadata = json!({ "name": state.name, "namespace": state.namespace, "labels": state.labels });
        if let Some(ends) = self.ends {
            metadata["deletionTimestamp"] = json!(ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": serde_json::to_value(&spec)?,
            "status": {
                "phase": "Running",
                "podIP": addresses.first().map(|first| &first["ip"]),
                "podIPs": addresses,
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        }))
    }
}

/// The workloads of the manifests by `KIND NAMESPACE/NAME`.
fn wanted(manifests: &Manifests, services: &[Service]) -> Result<BTreeMap<String, Wanted>> {
    let mut all = BTreeMap::new();
    for deployment in &manifests.deployments {
        let (namespace, name) = names(&deployment.metadata);
        let spec = &deployment.spec;
        let replicas = usize::try_from(spec.replicas.unwrap_or(1))
            .with_context(|| format!("Deployment {name} asks for fewer than no pods"))?;
        let template = template(&namespace, &spec.template);
        let answered = answered(&template, services);
        let key = format!("Deployment {namespace}/{name}");
        all.insert(key, Wanted { name, replicas, alone: false, template, answered });
    }
    for pod in &manifests.pods {
        let (namespace, name) = names(&pod.metadata);
        let as_template = PodTemplateSpec { metadata: Some(pod.metadata.clone()), spec: pod.spec.clone() };
        let template = template(&namespace, &as_template);
        let answered = answered(&template, services);
        let key = format!("Pod {namespace}/{name}");
        all.insert(key, Wanted { name, replicas: 1, alone: true, template, answered });
    }
    Ok(all)
}

fn names(metadata: &ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn template(namespace: &str, from: &PodTemplateSpec) -> Template {
    let spec = from.spec.clone().unwrap_or_default();
    let labels = from.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let ports = ports_of(&spec.containers);
    Template { namespace: namespace.to_owned(), labels, spec, ports }
}

/// The pods answer on the ports of their containers, and on those that Services name by number: a
/// container need not declare what it listens on.
fn answered(template: &Template, services: &[Service]) -> BTreeSet<u16> {
    let mut answered: BTreeSet<u16> = template.ports.iter().map(|port| port.port).collect();
    for service in services.iter().filter(|service| selects(service, &template.namespace, &template.labels)) {
        for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
            let number = match &port.target_port {
                Some(IntOrString::Int(number)) => *number,
                Some(IntOrString::String(_)) => continue,
                None => port.port,
            };
            answered.extend(u16::try_from(number));
        }
    }
    answered
}

/// The node with the fewest of these pods.
fn emptiest_node(lab: &Lab, pods: &[Running]) -> u8 {
    let load = |node: u8| pods.iter().filter(|running| running.state.node == node).count();
    lab.nodes().iter().map(Node::number).min_by_key(|node| load(*node)).unwrap_or(1)
}
