//! The pods of one node: from what the API server says to namespaces, and back as status.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::{WatchStreamExt, watcher},
};

use super::{NodeWanted, PodWanted, status, workbench::Workbench};

/// How long to wait before an answer that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long a pod's namespace outlives what served in it. The real kubelet takes about as long to clear a
/// sandbox away; meanwhile everybody learns that the pod has ended.
const CLEARING: Duration = Duration::from_secs(1);

/// What the kubelet knows of a pod, by uid.
struct Known {
    /// When it was started.
    started: Timestamp,
    /// The readiness that was last reported.
    reported: bool,
    /// Whether it has been deleted and serves through its grace period.
    leaving: bool,
}

/// Follows the pods bound to the node until the task is aborted.
pub(super) async fn follow(client: Client, node: Arc<NodeWanted>, bench: Workbench) {
    let all: Api<Pod> = Api::all(client.clone());
    let bound = watcher::Config::default().fields(&format!("spec.nodeName={}", node.name));
    let mut events = watcher(all, bound).default_backoff().boxed();
    let mut pods = Pods { client, node, bench, known: HashMap::new() };
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.uid());
                pods.update(pod).await;
            }
            Ok(watcher::Event::InitDone) => pods.keep_only(&listed).await,
            Ok(watcher::Event::Apply(pod)) => pods.update(pod).await,
            Ok(watcher::Event::Delete(pod)) => pods.gone(pod.uid()).await,
            Err(error) => tracing::info!(node = pods.node.name, "the watch of pods broke: {error}"),
        }
    }
}

struct Pods {
    client: Client,
    node: Arc<NodeWanted>,
    bench: Workbench,
    known: HashMap<String, Known>,
}

impl Pods {
    /// Brings one pod to what its object says.
    async fn update(&mut self, pod: Pod) {
        let Some(wanted) = status::wanted(&pod) else {
            return;
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return self.leave(pod, wanted);
        }
        if ended(&pod) {
            return;
        }
        let ready = status::shall_be_ready(&pod);
        let known = self.known.get(&wanted.uid);
        if known.is_some_and(|known| known.reported == ready) {
            return;
        }
        let started = known.map_or_else(Timestamp::now, |known| known.started);
        match self.bench.make(wanted.clone()).await {
            Ok(addresses) => {
                let patch = status::running(&pod, &self.node.addresses, &addresses, started);
                self.known.insert(wanted.uid.clone(), Known { started, reported: ready, leaving: false });
                tokio::spawn(report(self.client.clone(), wanted, patch));
            }
            Err(error) => tracing::error!(node = self.node.name, "{error:#}"),
        }
    }

    /// Lets a deleted pod serve through its grace period, then ends it and removes the object.
    fn leave(&mut self, pod: Pod, wanted: PodWanted) {
        let known = self.known.entry(wanted.uid.clone()).or_insert(Known {
            started: Timestamp::now(),
            reported: false,
            leaving: false,
        });
        if std::mem::replace(&mut known.leaving, true) {
            return;
        }
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let (client, bench, started) = (self.client.clone(), self.bench.clone(), known.started);
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            if bench.stop_serving(wanted.uid.clone()).await.is_err() {
                return;
            }
            report(client.clone(), wanted.clone(), status::ended(&pod, started)).await;
            tokio::time::sleep(CLEARING).await;
            if bench.remove(wanted.uid.clone()).await.is_ok() {
                remove(client, wanted).await;
            }
        });
    }

    /// Ends a pod whose object is gone.
    async fn gone(&mut self, uid: Option<String>) {
        if let Some(uid) = uid
            && self.known.remove(&uid).is_some()
            && let Err(error) = self.bench.remove(uid).await
        {
            tracing::info!(node = self.node.name, "a pod was not removed: {error:#}");
        }
    }

    /// Ends the pods that went while the watch was broken.
    async fn keep_only(&mut self, listed: &HashSet<String>) {
        let gone: Vec<_> = self.known.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.gone(Some(uid)).await;
        }
    }
}

/// Whether all containers have ended for good.
fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Writes a pod's status, again and again until the API server takes it or the pod is gone.
async fn report(client: Client, pod: PodWanted, patch: serde_json::Value) {
    let pods: Api<Pod> = Api::namespaced(client, &pod.namespace);
    let patch = Patch::Strategic(patch);
    loop {
        let outcome = pods.patch_status(&pod.name, &PatchParams::default(), &patch).await;
        if settled(&pod, "write the status", outcome.map(drop)) {
            return;
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Removes a pod's object at once, if it is still that of this pod.
async fn remove(client: Client, pod: PodWanted) {
    let pods: Api<Pod> = Api::namespaced(client, &pod.namespace);
    let this_one = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
    let now = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default().grace_period(0) };
    loop {
        let outcome = pods.delete(&pod.name, &now).await;
        if settled(&pod, "remove the object", outcome.map(drop)) {
            return;
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Whether there is nothing left to try: it worked, or the object is gone, or is another pod's by now.
fn settled(pod: &PodWanted, what: &str, outcome: kube::Result<()>) -> bool {
    match outcome {
        Ok(()) => true,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => true,
        Err(error) => {
            tracing::info!(pod = pod.name, "could not {what}, trying again: {error}");
            false
        }
    }
}
