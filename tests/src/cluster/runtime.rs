//! A tokio runtime whose threads live inside a network namespace, so that clients that open sockets when
//! they like (kube does) open them there.

use std::{
    fs::File,
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, mpsc},
};

use anyhow::{Context, Result};
use futures::FutureExt;
use nix::sched::{CloneFlags, setns};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};

use crate::net::Netns;

/// Runs futures inside a namespace. Clones share the threads.
#[derive(Debug, Clone)]
pub struct NamespaceRuntime {
    handle: Handle,
    _threads: Arc<Threads>,
}

/// The runtime itself. It ends without waiting, because tests drop it inside runtimes of their own, where
/// waiting is forbidden.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl NamespaceRuntime {
    /// Starts the threads.
    ///
    /// # Panics
    /// A thread that cannot enter the namespace panics: it would work in the wrong one.
    pub fn new(netns: &Netns) -> Result<Self> {
        let label = netns.label().to_owned();
        let place = File::open(netns.path())
            .with_context(|| format!("open the network namespace of {label} at {}", netns.path()))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .thread_name(format!("in {label}"))
            .on_thread_start(move || {
                setns(&place, CloneFlags::CLONE_NEWNET)
                    .unwrap_or_else(|e| panic!("enter the network namespace of {label}: {e}"));
            })
            .build()
            .with_context(|| format!("start threads in the network namespace of {}", netns.label()))?;
        let handle = runtime.handle().clone();
        Ok(Self { handle, _threads: Arc::new(Threads(Some(runtime))) })
    }

    /// Runs `work` inside the namespace and blocks until it is done. It may be called from a thread of
    /// another runtime, whose other threads go on meanwhile.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (answer, outcome) = mpsc::channel();
        self.handle.spawn(async move {
            // The receiver waits below.
            drop(answer.send(AssertUnwindSafe(work).catch_unwind().await));
        });
        match outcome.recv().expect("the threads live as long as this handle") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts `work` inside the namespace; it goes on until it ends or the handle is aborted.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn(work)
    }
}
