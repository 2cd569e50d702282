//! Objects on a real API server: its controllers make the pods, kubelets of ours run them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, api::ListParams};
use svclb_tests::{
    cluster::{
        ControlPlane, Controllers, KubeProxyConfig, Kubelet, LabPods, PodRegister, PodRuntime, PodWanted, RunningPod,
        running::{RunningCluster, StateFile},
    },
    net::{AgentCommand, AgentSource, ClusterState, Lab, Manifests, PodNetwork, PodState, PolicyEngine, ports_of},
};
use tokio::runtime::Handle;

use crate::repository;

use super::source::Source;

/// How long the controllers may take to make the pods that are wanted.
const PODS_WITHIN: Duration = Duration::from_mins(1);

/// The account and the role of the agents.
const RBAC: &str = "deploy/rbac.yaml";

/// A control plane with kubelets on the lab's nodes.
pub(super) struct Cluster {
    // Dropped from top to bottom: the kubelets end their pods first.
    _kubelets: Vec<Kubelet>,
    _published: StateFile,
    plane: ControlPlane,
    pods: PodRegister,
    applied: BTreeSet<ObjectName>,
    config: Option<KubeProxyConfig>,
}

/// Namespace, kind and name, as `kubectl delete` takes them.
type ObjectName = (String, String, String);

/// Pods of the lab, which the policy lets in before anybody learns of them.
struct Admitted {
    pods: LabPods,
    register: PodRegister,
    policy: Option<Arc<PolicyEngine>>,
}

impl PodRuntime for Admitted {
    fn start(&self, wanted: &PodWanted) -> Result<RunningPod> {
        let running = self.pods.start(wanted)?;
        // A pod on its node's own network has no device of its own.
        let place = self.register.find(&wanted.namespace, &wanted.name).filter(|place| place.network.is_some());
        if let (Some(policy), Some(place)) = (&self.policy, place) {
            policy.admit_backend(place.address, wanted.ports.iter().copied())?;
        }
        Ok(running)
    }
}

impl Cluster {
    /// Starts the control plane on the lab's host for it, and a kubelet on each node. With kube-proxy's configuration
    /// the agents take its place.
    pub(super) fn start(
        lab: &Arc<Lab>,
        network: PodNetwork,
        policy: Option<&Arc<PolicyEngine>>,
        config: Option<KubeProxyConfig>,
    ) -> Result<Self> {
        let host = lab.control_plane().context("the lab has a host for the control plane")?;
        eprintln!("starting etcd, API server, controller manager and scheduler ...");
        let addresses = lab.options().families.of(host.address.both());
        let plane = ControlPlane::start(&host.netns, &addresses, Controllers::OfServices)?;
        plane.apply([repository::root().join(RBAC)])?;
        let pods = PodRegister::default();
        let kubelets = lab
            .nodes()
            .iter()
            .map(|node| {
                let own = LabPods::new(lab, node.number(), network, &Handle::current(), &pods);
                let wanted = own.node();
                let admitted = Admitted { pods: own, register: pods.clone(), policy: policy.map(Arc::clone) };
                Kubelet::start(plane.runtime(), &plane.client(), wanted, admitted)
            })
            .collect::<Result<_>>()?;
        let published = RunningCluster::of(&plane).publish(&RunningCluster::default_path()?)?;
        Ok(Self { _kubelets: kubelets, _published: published, plane, pods, applied: BTreeSet::new(), config })
    }

    /// Lists objects of a kind in all namespaces.
    fn list<K>(&self) -> Result<Vec<K>>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    {
        let api: Api<K> = Api::all(self.plane.client());
        let listed = self.plane.runtime().run(async move { api.list(&ListParams::default()).await });
        Ok(listed.with_context(|| format!("list all {} of the cluster", K::kind(&())))?.items)
    }

    /// Waits until every Deployment of the manifests has the pods that it wants, and no more.
    fn wait_for_pods(&self, manifests: &Manifests) -> Result<()> {
        let start = Instant::now();
        loop {
            let behind: Vec<String> = self
                .list::<Deployment>()?
                .iter()
                .filter(|found| manifests.deployments.iter().any(|own| same_name(own, found)))
                .filter(|found| !is_complete(found))
                .filter_map(|found| found.metadata.name.clone())
                .collect();
            if behind.is_empty() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < PODS_WITHIN,
                "the Deployments {behind:?} lack pods after {PODS_WITHIN:?}; look with `cargo xtask kubectl get pods`"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Source for Cluster {
    fn agent(&self, binary: &Path, folder: &Path) -> Result<AgentCommand> {
        if let Some(config) = &self.config {
            return config.agent(&self.plane, folder);
        }
        Ok(AgentCommand {
            binary: binary.to_owned(),
            source: AgentSource::Kubeconfig(self.plane.agent_kubeconfig()),
            more: Vec::new(),
            logs: folder.to_owned(),
        })
    }

    fn apply(&mut self, manifests: &Manifests) -> Result<Vec<String>> {
        let objects = serde_saphyr::to_string_multiple(&manifests.objects).context("write the manifests as YAML")?;
        self.plane.apply_yaml(&objects)?;
        let now: BTreeSet<ObjectName> = manifests.objects.iter().filter_map(object_name).collect();
        for (namespace, kind, name) in self.applied.difference(&now) {
            self.plane.kubectl(["delete", "--ignore-not-found", "--wait=false", "-n", namespace, kind, name])?;
        }
        self.applied = now;
        self.wait_for_pods(manifests)?;
        Ok(Vec::new())
    }

    fn state(&mut self) -> Result<ClusterState> {
        self.plane.check()?;
        let services = self.list::<Service>()?;
        let endpoints = endpoints(&self.list::<EndpointSlice>()?);
        let mut pods = Vec::new();
        for pod in self.list::<Pod>()? {
            let (Some(name), Some(spec)) = (pod.metadata.name, pod.spec) else { continue };
            let namespace = pod.metadata.namespace.unwrap_or_default();
            let (Some(place), Some(conditions)) = (self.pods.find(&namespace, &name), endpoints.get(&name)) else {
                continue;
            };
            let Some(network) = place.network else { continue };
            pods.push(PodState {
                name,
                namespace,
                labels: pod.metadata.labels.unwrap_or_default(),
                node: place.node,
                network,
                address: place.address,
                netns: place.netns,
                ports: ports_of(&spec.containers),
                ready: conditions.ready,
                terminating: conditions.terminating,
            });
        }
        Ok(ClusterState { services, pods })
    }
}

/// What slices say of an endpoint.
#[derive(Clone, Copy)]
struct Conditions {
    ready: bool,
    terminating: bool,
}

/// The endpoints by pod: what agents know of pods, they know from here.
fn endpoints(slices: &[EndpointSlice]) -> BTreeMap<String, Conditions> {
    let all = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    all.filter_map(|endpoint| {
        let pod = endpoint.target_ref.as_ref()?.name.clone()?;
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|own| own.ready).unwrap_or(true);
        let serving = conditions.and_then(|own| own.serving).unwrap_or(ready);
        let terminating = serving && conditions.and_then(|own| own.terminating).unwrap_or(false);
        Some((pod, Conditions { ready, terminating }))
    })
    .collect()
}

fn same_name(one: &Deployment, other: &Deployment) -> bool {
    one.metadata.name == other.metadata.name && one.metadata.namespace == other.metadata.namespace
}

/// Whether the controllers have followed the last edit and all pods are ready.
fn is_complete(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation == deployment.metadata.generation
            && status.ready_replicas.unwrap_or(0) == wanted
            && status.updated_replicas.unwrap_or(0) == wanted
            && status.replicas.unwrap_or(0) == wanted
    })
}

fn object_name(object: &serde_json::Value) -> Option<ObjectName> {
    let text = |pointer: &str| object.pointer(pointer).and_then(serde_json::Value::as_str).map(str::to_owned);
    Some((text("/metadata/namespace").unwrap_or_default(), text("/kind")?, text("/metadata/name")?))
}
