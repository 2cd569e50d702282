//! What tests may leave behind on a machine: named network namespaces, devices, pins, processes.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::repository;

/// How long what tests made may take to vanish after their end: the kernel tears namespaces down later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything of the kinds above that is there at one moment, each described for a reader.
pub(crate) struct Residue(BTreeSet<String>);

impl Residue {
    pub(crate) fn now() -> Self {
        let mut found = BTreeSet::new();
        for name in names("/run/netns") {
            found.insert(format!("network namespace {name} (ip netns del {name})"));
        }
        for name in names("/sys/class/net") {
            found.insert(format!("device {name} (ip link del {name})"));
        }
        pins(Path::new("/sys/fs/bpf"), &mut found);
        processes(&mut found);
        Self(found)
    }

    /// What is there now and was not there then, after waiting a while for it to vanish.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left: Vec<_> = Self::now().0.difference(&self.0).cloned().collect();
            let left = without_content(left);
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Leaves out what lies in a folder that is named itself.
fn without_content(mut left: Vec<String>) -> Vec<String> {
    let folders: Vec<String> =
        left.iter().filter_map(|pin| Some(format!("pin {}/", pin.strip_prefix("pin ")?.split_once(" (")?.0))).collect();
    left.retain(|thing| !folders.iter().any(|folder| thing.starts_with(folder)));
    left
}

fn names(folder: &str) -> Vec<String> {
    fs::read_dir(folder)
        .map(|entries| {
            entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect()
        })
        .unwrap_or_default()
}

fn pins(folder: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        // The kernel's own iterators are there from the start, and links to folders are not ours.
        if path.is_dir() && !path.is_symlink() {
            pins(&path, found);
        }
        found.insert(format!("pin {0} (rm -r {0})", path.display()));
    }
}

/// Processes whose program was built in this repository's target folder, but for this one.
fn processes(found: &mut BTreeSet<String>) {
    let target = repository::target();
    for name in names("/proc") {
        let Ok(id) = name.parse::<u32>() else {
            continue;
        };
        let process = Path::new("/proc").join(&name);
        let Ok(program) = fs::read_link(process.join("exe")) else {
            continue;
        };
        if id != std::process::id() && program.starts_with(&target) {
            found.insert(format!("process {id} of {} (kill {id})", program.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_pins_is_named_once() {
        let left = ["pin /sys/fs/bpf/a (rm -r x)", "pin /sys/fs/bpf/a/MAP (rm -r x)", "pin /sys/fs/bpf/ab (rm -r x)"];
        let shown = without_content(left.map(str::to_owned).to_vec());
        assert_eq!(shown, ["pin /sys/fs/bpf/a (rm -r x)", "pin /sys/fs/bpf/ab (rm -r x)"]);
    }
}
