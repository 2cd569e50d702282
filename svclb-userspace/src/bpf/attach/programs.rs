//! The programs of the kernel object: which of them a device gets, and loading those that are needed.
//!
//! To load one takes the verifier a part of a second, so a thread of its own does it, and nobody waits for it but an
//! agent that starts. A program that the kernel refuses is asked for again after a while: it may have been
//! memory that was lacking.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::programs::{ProgramError, SchedClassifier};
use tracing::{error, info};

use super::super::{
    load::{LoadError, Object},
    pin::PinFolder,
    tcx::{Pair, cause},
};
use crate::host::{
    Hooks,
    devices::{Egress, Ingress},
};

/// The programs that nearly every node needs.
pub(super) const COMMONEST: [&str; 2] = ["ingress", "egress"];

/// The program of bridge ports. Where there is a bridge, ports will come.
pub(super) const OF_PORTS: &str = "ingress_port";

/// When a program that was refused is tried again.
const RETRY: Duration = Duration::from_secs(30);

pub(super) const fn pair(hooks: &Hooks) -> Pair {
    Pair {
        ingress: match hooks.ingress {
            Ingress::Ethernet => "ingress",
            Ingress::BareIp => "ingress_l3",
            Ingress::Stacked => "ingress_stacked",
            Ingress::StackedBareIp => "ingress_stacked_l3",
            Ingress::BridgePort => OF_PORTS,
        },
        egress: match hooks.egress {
            Egress::Ethernet => "egress",
            Egress::BareIp => "egress_l3",
        },
    }
}

/// A kernel object that loads its programs when they are asked for.
pub trait ProgramSource: Send + 'static {
    /// Loads programs, unless they are loaded already, and gives each to `done`.
    fn load(
        &mut self,
        names: &[&'static str],
        done: &mut dyn FnMut(&'static str, Result<&mut SchedClassifier, LoadError>),
    );
}

impl ProgramSource for Object {
    fn load(
        &mut self,
        names: &[&'static str],
        done: &mut dyn FnMut(&'static str, Result<&mut SchedClassifier, LoadError>),
    ) {
        self.load_programs(names, done);
    }
}

/// A loaded program: a descriptor to hang into clsact, and a handle to make links of.
pub(in crate::bpf) struct Loaded {
    pub(super) descriptor: OwnedFd,
    pub(in crate::bpf) classifier: Mutex<SchedClassifier>,
}

/// How far a program is.
pub(super) enum Readiness {
    Ready,
    /// It is being loaded.
    Loading,
    /// It was tried; why it failed.
    Refused(String),
}

#[derive(Default)]
struct State {
    asked: BTreeSet<&'static str>,
    loading: BTreeSet<&'static str>,
    loaded: BTreeMap<&'static str, Arc<Loaded>>,
    refused: BTreeMap<&'static str, (String, Instant)>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Programs for devices, loaded on a thread of their own.
pub(in crate::bpf) struct Programs {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Programs {
    /// From an object of which no program need be loaded yet. What an agent before has pinned goes.
    pub(super) fn start(mut object: impl ProgramSource, pins: PinFolder) -> io::Result<Self> {
        pins.remove_programs()?;
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("programs".into()).spawn(move || {
            while let Some(names) = next(&own) {
                let began = Instant::now();
                object.load(&names, &mut |name, loaded| take(&own, &pins, name, loaded));
                info!(programs = ?names, took = ?began.elapsed(), "programs loaded");
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Wants a program; it is loaded in the background.
    pub(super) fn ask(&self, name: &'static str) -> Readiness {
        let mut state = self.shared.lock();
        if state.loaded.contains_key(name) {
            return Readiness::Ready;
        }
        if let Some((why, since)) = state.refused.get(name)
            && since.elapsed() < RETRY
        {
            return Readiness::Refused(why.clone());
        }
        if !state.loading.contains(name) && state.asked.insert(name) {
            self.shared.changed.notify_all();
        }
        Readiness::Loading
    }

    /// Wants programs and waits until each of them is loaded or refused.
    pub(super) fn wait(&self, names: &[&'static str]) {
        for name in names {
            self.ask(name);
        }
        let under_way = |state: &mut State| {
            names.iter().any(|name| state.asked.contains(name) || state.loading.contains(name)) && !state.ended
        };
        drop(self.shared.changed.wait_while(self.shared.lock(), under_way).unwrap_or_else(PoisonError::into_inner));
    }

    /// A program that is [ready](Readiness::Ready).
    pub(in crate::bpf) fn loaded(&self, name: &str) -> io::Result<Arc<Loaded>> {
        self.shared.lock().loaded.get(name).cloned().ok_or_else(|| io::Error::other("it is not loaded"))
    }
}

impl Drop for Programs {
    /// Ends the thread, and waits for what the kernel is verifying.
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread that loads programs had panicked");
        }
    }
}

/// Waits for the programs that are to be loaded next; none at the end.
fn next(shared: &Shared) -> Option<Vec<&'static str>> {
    let idle = |state: &mut State| state.asked.is_empty() && !state.ended;
    let mut state = shared.changed.wait_while(shared.lock(), idle).unwrap_or_else(PoisonError::into_inner);
    if state.ended {
        return None;
    }
    state.loading = std::mem::take(&mut state.asked);
    Some(state.loading.iter().copied().collect())
}

/// Takes in what became of a program.
fn take(shared: &Shared, pins: &PinFolder, name: &'static str, loaded: Result<&mut SchedClassifier, LoadError>) {
    let loaded = loaded.map_err(|error| error.to_string()).and_then(|program| {
        second_handle(name, program, pins).map_err(|error| format!("pin program {name}: {}", cause(error)))
    });
    let mut state = shared.lock();
    state.loading.remove(name);
    match loaded {
        Ok(loaded) => {
            state.refused.remove(name);
            state.loaded.insert(name, Arc::new(loaded));
        }
        Err(why) => {
            state.refused.insert(name, (why, Instant::now()));
        }
    }
    drop(state);
    shared.changed.notify_all();
}

fn second_handle(name: &str, program: &mut SchedClassifier, pins: &PinFolder) -> Result<Loaded, ProgramError> {
    let classifier = pins.second_handle(name, program)?;
    let descriptor = classifier.fd()?.as_fd().try_clone_to_owned().map_err(ProgramError::IOError)?;
    Ok(Loaded { descriptor, classifier: Mutex::new(classifier) })
}
