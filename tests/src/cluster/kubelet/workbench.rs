//! The thread that makes and ends pods.
//!
//! The kubelet's own threads live in the control plane's network namespace, where devices for pods do not
//! belong. This thread is started by the caller of the kubelet and keeps the caller's namespace. It also
//! brings the work in order: a pod is never ended before it has been made.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};

use super::{PodRuntime, PodWanted, RunningPod};

/// What is to be done. Each order says who waits for it.
enum Order {
    /// Make a pod, unless it runs already.
    Start(PodWanted, oneshot::Sender<Result<Vec<IpAddr>>>),
    /// End what serves in the pod of this uid; its namespace and addresses stay.
    StopServing(String, oneshot::Sender<()>),
    /// Take the pod of this uid away.
    Remove(String, oneshot::Sender<()>),
    /// Take all pods away and end.
    Quit,
}

/// A way to give orders. Clones give them to the same thread.
#[derive(Debug, Clone)]
pub(super) struct Workbench {
    orders: mpsc::UnboundedSender<Order>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Workbench {
    /// Starts the thread.
    pub(super) fn start(node: &str, runtime: impl PodRuntime) -> Result<Self> {
        let (orders, mut inbox) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name(format!("pods of {node}"))
            .spawn(move || {
                let mut running = HashMap::new();
                while let Some(order) = inbox.blocking_recv() {
                    // Who does not wait for the answer any more needs none.
                    match order {
                        Order::Start(pod, answer) => {
                            drop(answer.send(start(&runtime, &mut running, &pod)));
                        }
                        Order::StopServing(uid, answer) => {
                            if let Some(pod) = running.get_mut(&uid) {
                                pod.server = None;
                            }
                            answer.send(()).unwrap_or_default();
                        }
                        Order::Remove(uid, answer) => {
                            drop(running.remove(&uid));
                            answer.send(()).unwrap_or_default();
                        }
                        Order::Quit => break,
                    }
                }
            })
            .with_context(|| format!("start the thread of the pods of {node}"))?;
        Ok(Self { orders, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Makes a pod, unless it runs already, and gives its addresses.
    pub(super) async fn make(&self, pod: PodWanted) -> Result<Vec<IpAddr>> {
        self.ask(|answer| Order::Start(pod, answer)).await?
    }

    /// Ends what serves in a pod. Its sockets close, its addresses stay.
    pub(super) async fn stop_serving(&self, uid: String) -> Result<()> {
        self.ask(|answer| Order::StopServing(uid, answer)).await
    }

    /// Takes a pod away, if it is there.
    pub(super) async fn remove(&self, uid: String) -> Result<()> {
        self.ask(|answer| Order::Remove(uid, answer)).await
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T> {
        let (answer, outcome) = oneshot::channel();
        self.orders.send(order(answer)).ok().context("the kubelet has ended")?;
        outcome.await.context("the kubelet has ended")
    }

    /// Takes all pods away, and returns when they are gone.
    pub(super) fn close(&self) {
        // The thread may have ended by a panic, which it has printed itself.
        drop(self.orders.send(Order::Quit));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(thread.map(JoinHandle::join));
    }
}

fn start(runtime: &impl PodRuntime, running: &mut HashMap<String, RunningPod>, pod: &PodWanted) -> Result<Vec<IpAddr>> {
    if let Some(there) = running.get(&pod.uid) {
        return Ok(there.addresses.clone());
    }
    let started = runtime.start(pod).with_context(|| format!("start pod {}/{}", pod.namespace, pod.name))?;
    let addresses = started.addresses.clone();
    running.insert(pod.uid.clone(), started);
    Ok(addresses)
}
