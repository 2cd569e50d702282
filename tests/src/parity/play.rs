//! One case while it is played: makes objects, knows the places from which to ask, and takes everything away at the
//! end.

use std::{
    collections::BTreeSet,
    fmt,
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    ask::Asking,
    objects::{Made, MadePod, NewPod, slice},
    scenario::{Case, Family},
    stage::{NAMESPACE, NODES, Stage, WEB, pods_within},
    subject::Subject,
};
use crate::{
    cluster::EndpointState,
    net::{Client, Failure, FailureKind, Netns, Protocol},
};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Asker<'a> {
    /// The pod of this node that only asks.
    Pod(u8),
    /// A process of this node.
    Node(u8),
    /// The client outside the cluster.
    Outside,
    /// A pod that serves, by its name in the cluster.
    In(&'a str),
}

impl fmt::Display for Asker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(node) => write!(f, "a pod of node{node}"),
            Self::Node(node) => write!(f, "a process of node{node}"),
            Self::Outside => f.write_str("outside"),
            Self::In(pod) => write!(f, "the pod {pod}"),
        }
    }
}

/// What a case has made, to be taken away at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trace {
    Service(String),
    Slice(String),
    Pod(String),
    /// A kind that only kubectl is told of, and a name.
    Other(String, String),
}

/// One case while it is played.
pub struct Play<'a> {
    stage: &'a Stage,
    subject: Subject,
    case: Case,
    id: String,
    in_vain: bool,
    traces: Mutex<Vec<Trace>>,
}

impl<'a> Play<'a> {
    /// `id` is part of the names of everything that the case makes, so that cases do not meet. `in_vain` says that the
    /// subject is known to do otherwise in this case.
    pub(super) fn new(stage: &'a Stage, subject: Subject, case: Case, id: String, in_vain: bool) -> Self {
        Self { stage, subject, case, id, in_vain, traces: Mutex::default() }
    }

    /// The cluster.
    pub fn stage(&self) -> &'a Stage {
        self.stage
    }

    /// Who serves.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// The family of this case.
    pub fn family(&self) -> Family {
        self.case.family
    }

    /// The protocol of this case.
    pub fn protocol(&self) -> Protocol {
        self.case.protocol
    }

    /// The name that a thing of this case has in the cluster.
    pub fn name_of(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    /// A source port that no other case uses.
    pub fn source_port(&self) -> u16 {
        let digits: String = self.id.chars().filter(char::is_ascii_digit).collect();
        20_000 + digits.parse::<u16>().unwrap_or_default()
    }

    /// The selector of the pods that this case makes.
    pub fn own_pods(&self) -> Value {
        json!({"case": self.id})
    }

    // ---- Services ----------------------------------------------------------------------------------------------

    /// Makes a Service with this spec. Where the spec does not say, it has the family of this case alone, and its
    /// ports have the protocol of this case and a name after their number.
    pub async fn service(&self, name: &str, spec: Value) -> Result<Made> {
        self.service_with(name, json!({}), spec).await
    }

    /// The same with labels.
    pub async fn service_with(&self, name: &str, labels: Value, spec: Value) -> Result<Made> {
        self.service_of(name, json!({"labels": labels}), spec).await
    }

    /// The same with annotations.
    pub async fn annotated_service(&self, name: &str, annotations: Value, spec: Value) -> Result<Made> {
        self.service_of(name, json!({"annotations": annotations}), spec).await
    }

    async fn service_of(&self, name: &str, mut metadata: Value, spec: Value) -> Result<Made> {
        let name = self.name_of(name);
        metadata["name"] = json!(name);
        metadata["namespace"] = json!(NAMESPACE);
        let object: Service = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": self.completed(spec),
        }))
        .context("write a Service")?;
        self.leave(Trace::Service(name.clone()));
        let made = self
            .on_plane(|client| async move { services(client).create(&PostParams::default(), &object).await })
            .await
            .with_context(|| format!("make the Service {name}"))?;
        Made::of(made)
    }

    /// Changes a Service's spec as a merge patch does; a list of ports takes the place of the old one.
    pub async fn edit(&self, service: &Made, spec: Value) -> Result<Made> {
        self.patch(service, json!({"spec": self.with_protocols(spec)})).await
    }

    /// Changes a Service as a merge patch does.
    pub async fn patch(&self, service: &Made, patch: Value) -> Result<Made> {
        let name = service.name.clone();
        let changed = self
            .on_plane(|client| async move {
                services(client).patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await
            })
            .await
            .with_context(|| format!("change the Service {}", service.name))?;
        Made::of(changed)
    }

    /// Gives a Service these addresses of a load balancer, as a cloud does, and leads them to a node.
    pub async fn load_balancer(&self, service: &Made, ingress: Value) -> Result<Made> {
        let addresses = ingress.as_array().into_iter().flatten().filter_map(|one| one.get("ip")?.as_str());
        for address in addresses {
            self.stage.lab().route_load_balancer(address.parse().context("an address of a load balancer")?)?;
        }
        let (name, patch) = (service.name.clone(), json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        let changed = self
            .on_plane(|client| async move {
                services(client).patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await
            })
            .await
            .with_context(|| format!("write the status of the Service {}", service.name))?;
        Made::of(changed)
    }

    /// Deletes a Service.
    pub async fn delete_service(&self, service: &Made) -> Result<()> {
        self.delete::<Service>(service.name.clone(), DeleteParams::default()).await
    }

    fn completed(&self, spec: Value) -> Value {
        let mut spec = self.with_protocols(spec);
        if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
            return spec;
        }
        if spec.get("ipFamilies").is_none() && spec.get("ipFamilyPolicy").is_none() {
            spec["ipFamilyPolicy"] = json!("SingleStack");
            spec["ipFamilies"] = json!([self.case.family.name()]);
        }
        spec
    }

    fn with_protocols(&self, mut spec: Value) -> Value {
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port.get("protocol").is_none() {
                port["protocol"] = json!(self.case.protocol.to_string());
            }
            if port.get("name").is_none() {
                port["name"] = json!(format!("p{}", port["port"]));
            }
        }
        spec
    }

    // ---- pods and slices ---------------------------------------------------------------------------------------

    /// Makes a pod and waits until it runs. It has the labels `case`, see [`Self::own_pods`], and `pod`, its name
    /// within the case.
    pub async fn pod(&self, new: NewPod) -> Result<MadePod> {
        let name = self.name_of(new.name());
        let object = new.object(&name, &self.id)?;
        self.leave(Trace::Pod(name.clone()));
        self.on_plane(|client| async move { pods(client).create(&PostParams::default(), &object).await })
            .await
            .with_context(|| format!("make the pod {name}"))?;
        let deadline = Instant::now() + pods_within();
        loop {
            let asked = name.clone();
            let pod = self.on_plane(|client| async move { pods(client).get(&asked).await }).await?;
            let place = self.stage.cluster().pods().find(NAMESPACE, &name);
            if let (Some(place), true) = (place, is_running(&pod, new.is_ready())) {
                return Ok(MadePod { name, place });
            }
            ensure!(Instant::now() < deadline, "the pod {name} does not run: {:?}", pod.status);
            sleep(POLL).await;
        }
    }

    /// Makes a pod ready, or not.
    pub async fn set_ready(&self, pod: &MadePod, ready: bool) -> Result<()> {
        let name = pod.name.clone();
        let patch = json!({"metadata": {"annotations": {"svclb.test/ready": ready.to_string()}}});
        self.on_plane(|client| async move {
            pods(client).patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await
        })
        .await
        .with_context(|| format!("make the pod {} ready: {ready}", pod.name))?;
        Ok(())
    }

    /// Deletes a pod; it serves through its grace period.
    pub async fn delete_pod(&self, pod: &MadePod) -> Result<()> {
        self.delete::<Pod>(pod.name.clone(), DeleteParams::default()).await
    }

    /// Writes into a pod's status as a merge patch does.
    pub async fn patch_pod_status(&self, pod: &MadePod, status: Value) -> Result<()> {
        let (name, patch) = (pod.name.clone(), json!({"status": status}));
        self.on_plane(|client| async move {
            pods(client).patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await
        })
        .await
        .with_context(|| format!("write the status of the pod {}", pod.name))?;
        Ok(())
    }

    /// Makes an EndpointSlice for a Service without a selector. `endpoints` and `ports` are as in its object.
    pub async fn slice(&self, service: &Made, name: &str, endpoints: Value, ports: Value) -> Result<()> {
        let name = self.name_of(name);
        let object = slice(&name, &service.name, self.case.family, &endpoints, &self.slice_ports(ports))?;
        self.leave(Trace::Slice(name.clone()));
        self.on_plane(|client| async move { slices(client).create(&PostParams::default(), &object).await })
            .await
            .with_context(|| format!("make the EndpointSlice {name}"))?;
        Ok(())
    }

    /// Changes an EndpointSlice as a merge patch does.
    pub async fn edit_slice(&self, name: &str, patch: Value) -> Result<()> {
        let name = self.name_of(name);
        let asked = name.clone();
        self.on_plane(|client| async move {
            slices(client).patch(&asked, &PatchParams::default(), &Patch::Merge(patch)).await
        })
        .await
        .with_context(|| format!("change the EndpointSlice {name}"))?;
        Ok(())
    }

    /// The ports of a slice with the protocol of this case.
    fn slice_ports(&self, mut ports: Value) -> Value {
        for port in ports.as_array_mut().into_iter().flatten() {
            if port.get("protocol").is_none() {
                port["protocol"] = json!(self.case.protocol.to_string());
            }
        }
        ports
    }

    /// Waits until the endpoints of a Service, of all families, are as wanted.
    pub async fn endpoints(&self, service: &Made, wanted: impl Fn(&[EndpointState]) -> bool) -> Result<()> {
        let deadline = Instant::now() + pods_within();
        loop {
            let own = ListParams::default().labels(&format!("kubernetes.io/service-name={}", service.name));
            let listed = self.on_plane(|client| async move { slices(client).list(&own).await }).await?;
            let found = EndpointState::of_slices(&listed.items);
            if wanted(&found) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "after {:?} the endpoints of {} are still not as wanted: {found:?}",
                pods_within(),
                service.name
            );
            sleep(POLL).await;
        }
    }

    /// `kubectl apply` of objects of any kind in YAML. Those named as kind and name are deleted at the end.
    pub fn apply(&self, objects: &str, made: &[(&str, &str)]) -> Result<()> {
        for (kind, name) in made {
            self.leave(Trace::Other((*kind).to_owned(), (*name).to_owned()));
        }
        self.stage.cluster().plane().apply_yaml(objects)
    }

    /// The name of a port of pods, for the protocol of this case.
    pub fn port_name(&self, name: &str) -> String {
        match self.case.protocol {
            Protocol::Tcp => name.to_owned(),
            Protocol::Udp => format!("{name}-udp"),
            Protocol::Sctp => format!("{name}-sctp"),
        }
    }

    // ---- asking ------------------------------------------------------------------------------------------------

    /// A request from somewhere to somewhere, with the protocol of this case.
    pub fn ask(&self, asker: Asker<'_>, to: SocketAddr) -> Result<Asking> {
        self.ask_by(asker, to, self.case.protocol)
    }

    /// The same with another protocol.
    pub fn ask_by(&self, asker: Asker<'_>, to: SocketAddr, protocol: Protocol) -> Result<Asking> {
        let asking = Asking::new(&self.netns(asker)?, asker.to_string(), self.address(asker)?, to, protocol);
        Ok(if self.in_vain { asking.in_vain() } else { asking })
    }

    /// What a server that is no pod answers to a request for a path: its status and its body.
    pub async fn get(&self, asker: Asker<'_>, to: SocketAddr, path: &str) -> Result<Result<(u16, String), Failure>> {
        Ok(Client::new(&self.netns(asker)?, Duration::from_secs(2)).get(to, path).await)
    }

    /// Waits until load balancers get this status from a node's port for them; nothing: nobody listens there.
    pub async fn load_balancers_hear(&self, node: u8, port: u16, status: Option<u16>) -> Result<()> {
        let to = SocketAddr::new(self.node_address(node)?, port);
        eventually(TOLD_WITHIN, async || match (self.get(Asker::Outside, to, "/healthz").await?, status) {
            (Ok((found, _body)), Some(status)) if found == status => Ok(()),
            (Err(failure), None) if failure.kind == FailureKind::Refused => Ok(()),
            (found, wanted) => bail!("node{node} port {port}: wanted {wanted:?}, found {found:?}"),
        })
        .await
    }

    /// The namespace of an asker.
    pub fn netns(&self, asker: Asker<'_>) -> Result<Netns> {
        Ok(match asker {
            Asker::Pod(node) => self.stage.client(node)?.netns().clone(),
            Asker::Node(node) => self.stage.lab().node(node).netns().clone(),
            Asker::Outside => self.stage.lab().client().netns.clone(),
            Asker::In(pod) => self.place(pod)?.netns,
        })
    }

    /// The address of an asker, of the family of this case.
    pub fn address(&self, asker: Asker<'_>) -> Result<IpAddr> {
        let pair = match asker {
            Asker::Pod(node) => self.stage.client(node)?.address(),
            Asker::Node(node) => self.stage.lab().node(node).address(),
            Asker::Outside => self.stage.lab().client().address,
            Asker::In(pod) => self.place(pod)?.address,
        };
        let [v4, v6] = pair.both();
        Ok(if self.case.family == Family::IPv6 { v6 } else { v4 })
    }

    fn place(&self, pod: &str) -> Result<crate::cluster::PodPlace> {
        self.stage.cluster().pods().find(NAMESPACE, pod).with_context(|| format!("the pod {pod} runs no more"))
    }

    /// The address of a pod that runs, of the family of this case.
    pub fn pod_address(&self, pod: &str) -> Result<IpAddr> {
        self.address(Asker::In(pod))
    }

    /// The address of a node, of the family of this case.
    pub fn node_address(&self, node: u8) -> Result<IpAddr> {
        self.address(Asker::Node(node))
    }

    /// A port of a Service's cluster address.
    pub fn cluster_ip(&self, service: &Made, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(service.cluster_ip(self.case.family)?, port))
    }

    /// The node port that belongs to a port of a Service, on a node.
    pub fn node_port(&self, service: &Made, port: u16, node: u8) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.node_address(node)?, service.node_port(port, self.case.protocol)?))
    }

    /// An address that no other case has, and that is no node's, of this case's family. `which` tells apart those of
    /// one case.
    pub fn free_address(&self, which: u8) -> IpAddr {
        let own = self.source_port() - 20_000;
        match self.case.family {
            Family::IPv4 => Ipv4Addr::new(203, 0, (own >> 6) as u8 + 128, ((own << 2) as u8) | (which & 3)).into(),
            Family::IPv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, which.into(), 0xcb00, own).into(),
        }
    }

    /// The client outside, and from every node a pod and a process.
    pub fn everybody(&self) -> impl Iterator<Item = Asker<'static>> {
        NODES.into_iter().flat_map(|node| [Asker::Pod(node), Asker::Node(node)]).chain([Asker::Outside])
    }

    // ---- the API server ----------------------------------------------------------------------------------------

    /// Runs a request to the API server on the threads of its namespace.
    async fn on_plane<T, F>(&self, work: impl FnOnce(kube::Client) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = kube::Result<T>> + Send + 'static,
    {
        let plane = self.stage.cluster().plane();
        let work = work(plane.client());
        Ok(plane.runtime().spawn(work).await.context("a request to the API server panicked")??)
    }

    async fn delete<K>(&self, name: String, how: DeleteParams) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    {
        let what = format!("delete the {} {name}", K::kind(&()));
        let deleted = self
            .on_plane(|client| async move {
                match Api::<K>::namespaced(client, NAMESPACE).delete(&name, &how).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    outcome => outcome.map(drop),
                }
            })
            .await;
        deleted.context(what)
    }

    fn leave(&self, trace: Trace) {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner).push(trace);
    }

    /// Takes away what the case has made. Nothing waits for the end of it: names are not used again.
    pub(super) async fn clean_up(&self) -> Result<()> {
        let traces = std::mem::take(&mut *self.traces.lock().unwrap_or_else(PoisonError::into_inner));
        for trace in traces.into_iter().rev() {
            let now = DeleteParams::default().grace_period(0);
            match trace {
                Trace::Service(name) => self.delete::<Service>(name, DeleteParams::default()).await?,
                Trace::Slice(name) => self.delete::<EndpointSlice>(name, DeleteParams::default()).await?,
                Trace::Pod(name) => self.delete::<Pod>(name, now).await?,
                Trace::Other(kind, name) => {
                    let arguments = ["delete", "--ignore-not-found", "--wait=false", &kind, &name];
                    self.stage.cluster().plane().kubectl(arguments)?;
                }
            }
        }
        Ok(())
    }
}

/// How long a node may take to tell load balancers of a change.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(30);

/// The names of the standing pods on one node, or on all.
pub fn web(node: Option<u8>) -> BTreeSet<String> {
    WEB.into_iter().filter(|(_, own)| node.is_none_or(|node| node == *own)).map(|(name, _)| name.to_owned()).collect()
}

/// A set of pods.
pub fn only(pods: &[&MadePod]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod.name.clone()).collect()
}

fn is_running(pod: &Pod, ready: bool) -> bool {
    let Some(status) = &pod.status else { return false };
    let conditions = status.conditions.iter().flatten();
    status.phase.as_deref() == Some("Running")
        && conditions.into_iter().any(|one| one.type_ == "Ready" && (one.status == "True") == ready)
}

fn services(client: kube::Client) -> Api<Service> {
    Api::namespaced(client, NAMESPACE)
}

fn pods(client: kube::Client) -> Api<Pod> {
    Api::namespaced(client, NAMESPACE)
}

fn slices(client: kube::Client) -> Api<EndpointSlice> {
    Api::namespaced(client, NAMESPACE)
}

/// Waits until something holds; an error of it is what is said at the deadline.
async fn eventually<F>(within: Duration, mut holds: F) -> Result<()>
where
    F: AsyncFnMut() -> Result<()>,
{
    let deadline = Instant::now() + within;
    while let Err(complaint) = holds().await {
        if Instant::now() >= deadline {
            return Err(complaint.context(format!("not within {within:?}")));
        }
        sleep(POLL).await;
    }
    Ok(())
}
