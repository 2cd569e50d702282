//! The manifests, followed while they are edited.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// An editor writes a file in several steps; only the last one counts.
const QUIET: Duration = Duration::from_millis(100);

/// Tells when one of some files has changed.
pub(super) struct Watch {
    files: BTreeSet<PathBuf>,
    events: UnboundedReceiver<notify::Result<Event>>,
    changed: bool,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Follows the folders of the files: many editors replace a file by a new one.
    pub(super) fn start(files: &[PathBuf]) -> Result<Self> {
        let (sender, events) = unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event| {
            // Nobody listens any more at the very end of a run.
            drop(sender.send(event));
        })?;
        let mut full = BTreeSet::new();
        for file in files {
            let path = file.canonicalize().with_context(|| format!("find {}", file.display()))?;
            let folder = path.parent().unwrap_or(Path::new("/"));
            watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .with_context(|| format!("watch {}", folder.display()))?;
            full.insert(path);
        }
        Ok(Self { files: full, events, changed: false, _watcher: watcher })
    }

    /// Waits for the next change, and until the file rests. Nothing is lost when the wait is given up:
    /// the next one ends at once.
    pub(super) async fn changed(&mut self) {
        while !self.changed {
            let Some(event) = self.events.recv().await else { std::future::pending().await };
            self.changed = self.concerns_us(&event);
        }
        while tokio::time::timeout(QUIET, self.events.recv()).await.is_ok_and(|event| event.is_some()) {}
        self.changed = false;
    }

    fn concerns_us(&self, event: &notify::Result<Event>) -> bool {
        match event {
            Ok(event) if event.kind.is_access() => false,
            Ok(event) => event.paths.iter().any(|path| self.files.contains(path)),
            // Events may have been lost: look again.
            Err(_lost) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_replaced_is_noticed_and_another_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("web.yaml");
        std::fs::write(&file, "old").expect("written");
        let mut watch = Watch::start(std::slice::from_ref(&file)).expect("it can be watched");
        std::fs::write(folder.path().join("other.yaml"), "other").expect("written");
        let nothing = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(nothing.is_err(), "another file changed");
        std::fs::write(folder.path().join("new"), "new").expect("written");
        std::fs::rename(folder.path().join("new"), &file).expect("renamed");
        let given_up = tokio::time::timeout(QUIET / 2, watch.changed()).await;
        assert!(given_up.is_err(), "the file has not rested yet");
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("it is noticed");
    }
}
