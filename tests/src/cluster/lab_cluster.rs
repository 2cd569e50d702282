//! A lab and a control plane as one cluster: nodes with kubelets, ready for Deployments.

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::{Api, api::ListParams};
use tokio::runtime::Handle;

use super::{ControlPlane, Controllers, Kubelet, LabPods, PodRegister};
use crate::net::{Lab, LabOptions, PodNetwork};

/// How long the controllers may take for anything. They need a second or two on an idle machine.
pub const CONTROLLERS_WITHIN: Duration = Duration::from_mins(1);

/// A cluster whose nodes are those of a lab. Dropping it takes everything away.
pub struct LabCluster {
    // Dropped from top to bottom: the kubelets end their pods before the lab goes.
    kubelets: Vec<Kubelet>,
    plane: ControlPlane,
    pods: PodRegister,
    lab: Arc<Lab>,
}

impl LabCluster {
    /// Builds a lab, starts a control plane on its host for that, and a kubelet on each node. Must be called
    /// within a tokio runtime with several threads, which then runs the pods' answerers.
    pub fn start(options: LabOptions, network: PodNetwork) -> Result<Self> {
        let lab = Arc::new(Lab::new(LabOptions { control_plane: true, ..options })?);
        let host = lab.control_plane().context("the lab has a host for the control plane")?;
        let plane =
            ControlPlane::start(&host.netns, &options.families.of(host.address.both()), Controllers::OfServices)?;
        let pods = PodRegister::default();
        let kubelets = LabPods::kubelets(&plane, &lab, network, &Handle::current(), &pods)?;
        Ok(Self { kubelets, plane, pods, lab })
    }

    /// The control plane.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The lab.
    pub fn lab(&self) -> &Arc<Lab> {
        &self.lab
    }

    /// The pods that run.
    pub fn pods(&self) -> &PodRegister {
        &self.pods
    }

    /// The kubelets, by node.
    pub fn kubelets(&self) -> &[Kubelet] {
        &self.kubelets
    }

    /// The endpoints of a Service of the namespace `default`, as its slices have them now.
    pub fn endpoints(&self, service: &str) -> Result<Vec<EndpointState>> {
        let slices: Api<EndpointSlice> = Api::default_namespaced(self.plane.client());
        let own = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = self
            .plane
            .runtime()
            .run(async move { slices.list(&own).await })
            .with_context(|| format!("list the EndpointSlices of {service}"))?;
        Ok(EndpointState::of_slices(&slices.items))
    }

    /// Waits until the endpoints of a Service are as wanted, and gives them. It blocks for
    /// [`CONTROLLERS_WITHIN`] at most.
    pub fn wait_for_endpoints(
        &self,
        service: &str,
        wanted: impl Fn(&[EndpointState]) -> bool,
    ) -> Result<Vec<EndpointState>> {
        self.wait_until(&format!("the endpoints of {service}"), || self.endpoints(service), |found| wanted(found))
    }

    /// Waits until kubectl, as administrator, prints something `good`, and gives that. It blocks for
    /// [`CONTROLLERS_WITHIN`] at most.
    pub fn wait_for_kubectl(&self, args: &[&str], good: impl Fn(&str) -> bool) -> Result<String> {
        self.wait_until(&format!("kubectl {args:?}"), || self.plane.kubectl(args), |answer| good(answer))
    }

    fn wait_until<T: fmt::Debug>(
        &self,
        what: &str,
        ask: impl Fn() -> Result<T>,
        good: impl Fn(&T) -> bool,
    ) -> Result<T> {
        let deadline = Instant::now() + CONTROLLERS_WITHIN;
        loop {
            let answer = ask()?;
            if good(&answer) {
                return Ok(answer);
            }
            self.plane.check()?;
            ensure!(
                Instant::now() < deadline,
                "after {CONTROLLERS_WITHIN:?} {what} is still not as wanted: {answer:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An endpoint in a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// Its address.
    pub address: IpAddr,
    /// Its pod.
    pub pod: Option<String>,
    /// Whether it is ready and not about to go.
    pub ready: bool,
    /// Whether it answers.
    pub serving: bool,
    /// Whether its pod has been deleted.
    pub terminating: bool,
}

impl EndpointState {
    /// All endpoints of some slices.
    pub fn of_slices(slices: &[EndpointSlice]) -> Vec<Self> {
        slices.iter().flat_map(|slice| slice.endpoints.iter().flatten().flat_map(Self::all)).collect()
    }

    /// All addresses of an endpoint. What a slice leaves open has the meaning that the API gives it.
    fn all(endpoint: &Endpoint) -> impl Iterator<Item = Self> {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
        endpoint.addresses.iter().filter_map(move |address| {
            Some(Self {
                address: address.parse().ok()?,
                pod: pod.clone(),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
            })
        })
    }
}
