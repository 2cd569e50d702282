//! The source for machines without Kubernetes: a folder of YAML files, followed live.
//!
//! Every file may hold several objects: Services, `EndpointSlices`, Pods (for Services with a selector),
//! `ServiceCIDRs` and Nodes (of which the own one counts). What changes in the folder is in the tables within some
//! milliseconds. A file that cannot be read, or an object in it that cannot be understood, is reported
//! and keeps its last good state; the others are not affected.

mod document;
mod folder;
mod snapshot;

pub use document::{Document, Documents, Fault, Id, parse};
pub use snapshot::Snapshot;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, warn};

use crate::model::{Event, Kind};
use folder::Folder;

/// How long the folder must be quiet before it is read: editors and copies write in several steps.
const QUIET: Duration = Duration::from_millis(20);

/// How often the folder is read although nobody told of a change, as file systems may not tell.
const POLL: Duration = Duration::from_secs(5);

/// The folder cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// It cannot be read.
    #[error("cannot read the manifests folder {}: {source}; --manifests wants a folder that exists", folder.display())]
    Read {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not tell of changes.
    #[error("cannot follow changes in the manifests folder {}: {source}", folder.display())]
    Watch {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: notify::Error,
    },
    /// No thread.
    #[error("cannot start the thread that reads manifests: {0}")]
    Thread(io::Error),
}

/// Reads a folder and follows it on a thread of its own, until nobody takes the events any more.
/// `node_name` says which Node is the own one.
pub fn follow(folder: &Path, node_name: &str, events: UnboundedSender<Event>) -> Result<(), ManifestsError> {
    let failed = |source| ManifestsError::Watch { folder: folder.to_owned(), source };
    let (sender, changes) = channel();
    // Followed before it is read, so that no change is missed.
    let tell = move |_| {
        if sender.send(()).is_err() {
            debug!("the thread that reads manifests has ended");
        }
    };
    let mut watcher = notify::recommended_watcher(tell).map_err(failed)?;
    watcher.watch(folder, RecursiveMode::NonRecursive).map_err(failed)?;
    let mut folder = Folder::new(folder.to_owned());
    folder.scan().map_err(|source| ManifestsError::Read { folder: folder.path().to_owned(), source })?;
    let mut source = Source { folder, node_name: node_name.into(), told: Snapshot::default(), events };
    thread::Builder::new()
        .name("manifests".into())
        .spawn(move || {
            source.run(&changes);
            drop(watcher);
        })
        .map_err(ManifestsError::Thread)?;
    Ok(())
}

struct Source {
    folder: Folder,
    node_name: Box<str>,
    told: Snapshot,
    events: UnboundedSender<Event>,
}

impl Source {
    fn run(&mut self, changes: &Receiver<()>) {
        self.tell();
        let listed = Kind::REQUIRED.into_iter().chain([Kind::ServiceCidr]);
        if listed.into_iter().any(|kind| self.events.send(Event::Listed(kind)).is_err()) {
            return;
        }
        loop {
            match changes.recv_timeout(POLL) {
                Ok(()) => while changes.recv_timeout(QUIET).is_ok() {},
                Err(RecvTimeoutError::Timeout) if self.events.is_closed() => return,
                Err(RecvTimeoutError::Timeout) => {}
                // The watcher lives as long as this thread.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            }
            match self.folder.scan() {
                Ok(true) => {
                    if !self.tell() {
                        return;
                    }
                }
                Ok(false) => debug!("nothing new in the manifests folder"),
                Err(error) => {
                    let folder = self.folder.path().display();
                    warn!(%folder, %error, "cannot read the manifests folder; its last state stays");
                }
            }
        }
    }

    /// Sends what differs from what was sent before; `false` if nobody listens.
    fn tell(&mut self) -> bool {
        let problems = self.folder.take_problems().into_iter().map(Event::Bad);
        let now = Snapshot::of(self.folder.documents(), &self.node_name);
        let differences = now.differences(&self.told);
        self.told = now;
        problems.chain(differences).all(|event| self.events.send(event).is_ok())
    }
}

#[cfg(test)]
mod tests;
