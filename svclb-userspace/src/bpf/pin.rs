//! The agent's folder in the BPF file system: pinned links and programs.
//!
//! | path | holds |
//! | --- | --- |
//! | `links/<index>-ingress`, `links/<index>-egress` | the TCX links of a device, by interface index |
//! | `links/<index>-xdp` | its XDP link |
//! | `sockets/<cgroup>-<name>` | the links of the programs for sockets, by the number of their cgroup |
//! | `programs/<name>` | the programs that the running agent has loaded |
//! | `sysctls/<name>` | no pins, but what was in a sysctl before: [`super::sysctl_notes`] |
//!
//! A pinned link keeps its program attached when the agent is gone. The next agent finds it by its name and
//! puts its own program into it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramError, SchedClassifier};
use tracing::debug;

use super::sys;

/// Which packets of a device a hook sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Those that enter the node.
    Ingress,
    /// Those that leave it.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct PinFolder {
    root: PathBuf,
}

impl PinFolder {
    /// Makes the folder and its parts unless they are there. `root` must be in a BPF file system.
    pub fn make(root: &Path) -> io::Result<Self> {
        let folder = Self { root: root.to_owned() };
        for part in [folder.links(), folder.sockets(), folder.programs()] {
            fs::create_dir_all(part)?;
        }
        Ok(folder)
    }

    /// The folder of an agent that may have run here.
    pub fn existing(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    fn sockets(&self) -> PathBuf {
        self.root.join("sockets")
    }

    fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// Where the link of a hook is pinned.
    pub fn link(&self, index: u32, direction: Direction) -> PathBuf {
        self.links().join(format!("{index}-{direction}"))
    }

    /// Whether both hooks of a device have pinned links.
    pub fn has_links(&self, index: u32) -> bool {
        Direction::BOTH.iter().all(|&direction| self.link(index, direction).exists())
    }

    /// The devices of which links of any kind are pinned, in order.
    pub fn devices_with_links(&self) -> io::Result<Vec<u32>> {
        let mut found: Vec<u32> = names(&self.links())?.iter().filter_map(|name| index_of(name)).collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Removes the TCX links of a device, which detaches their programs; `false` if there were none.
    pub fn remove_links(&self, index: u32) -> io::Result<bool> {
        let mut found = false;
        for direction in Direction::BOTH {
            found |= remove(&self.link(index, direction))?;
        }
        Ok(found)
    }

    /// Where the XDP link of a device is pinned.
    pub fn xdp_link(&self, index: u32) -> PathBuf {
        self.links().join(format!("{index}-xdp"))
    }

    /// Removes the XDP link of a device, which detaches its program; `false` if there was none.
    pub fn remove_xdp_link(&self, index: u32) -> io::Result<bool> {
        let pin = self.xdp_link(index);
        if let Err(error) = sys::detach_pinned_link(&pin) {
            // It is not there, or its device is gone and the program with it.
            debug!(%error, pin = %pin.display(), "nothing to detach");
        }
        remove(&pin)
    }

    /// Removes the XDP links of all devices.
    pub fn remove_xdp_links(&self) -> io::Result<()> {
        self.devices_with_links()?.into_iter().try_for_each(|index| self.remove_xdp_link(index).map(drop))
    }

    /// Where the link of a program for sockets is pinned; a cgroup's number is that of its folder's inode.
    pub fn socket_link(&self, cgroup: u64, name: &str) -> PathBuf {
        self.sockets().join(format!("{cgroup}-{name}"))
    }

    /// Removes the links of programs for sockets but those of one cgroup, which detaches them; how many they were.
    pub fn remove_socket_links(&self, kept: Option<u64>) -> io::Result<usize> {
        let kept = kept.map(|cgroup| format!("{cgroup}-"));
        let mut removed = 0;
        for name in names(&self.sockets())? {
            if !kept.as_ref().is_some_and(|kept| name.starts_with(kept)) {
                removed += usize::from(remove(&self.sockets().join(name))?);
            }
        }
        Ok(removed)
    }

    /// Removes the pins of programs; where they are attached they stay.
    pub fn remove_programs(&self) -> io::Result<()> {
        for name in names(&self.programs())? {
            remove(&self.programs().join(name))?;
        }
        Ok(())
    }

    /// Removes everything that [`Self::make`] made and what was pinned in it. Other files stay.
    pub fn remove_all(&self) -> io::Result<()> {
        for index in self.devices_with_links()? {
            self.remove_links(index)?;
        }
        self.remove_xdp_links()?;
        self.remove_socket_links(None)?;
        self.remove_programs()?;
        for part in [self.links(), self.sockets(), self.programs()] {
            match fs::remove_dir(part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Pins a loaded program in place of one of the same name, and opens it once more, so that the caller
    /// has a program of its own to attach.
    pub fn second_handle(&self, name: &str, program: &mut SchedClassifier) -> Result<SchedClassifier, ProgramError> {
        let path = self.programs().join(name);
        remove(&path).map_err(ProgramError::IOError)?;
        program.pin(&path).map_err(|error| ProgramError::IOError(io::Error::other(error)))?;
        SchedClassifier::from_pin(path)
    }
}

fn index_of(name: &str) -> Option<u32> {
    name.split_once('-')?.0.parse().ok()
}

/// Names in a folder; none if it is not there.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Removes a file; `false` if it is not there.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_again_by_device() {
        let root = tempfile::tempdir().expect("a folder");
        let pins = PinFolder::make(root.path()).expect("its parts");
        for (index, direction) in [(12, Direction::Ingress), (12, Direction::Egress), (3, Direction::Egress)] {
            fs::write(pins.link(index, direction), "").expect("a file");
        }
        for index in [12, 5] {
            fs::write(pins.xdp_link(index), "").expect("a file");
        }
        assert_eq!(pins.devices_with_links().expect("a list"), [3, 5, 12]);
        assert!(pins.remove_xdp_link(12).expect("removal"));
        assert!(!pins.remove_xdp_link(12).expect("nothing to remove"));
        assert!(!pins.has_links(5), "they are of another kind");
        assert!(pins.has_links(12));
        assert!(!pins.has_links(3), "one of two is not enough");
        assert!(pins.remove_links(3).expect("removal"));
        assert!(!pins.remove_links(3).expect("nothing to remove"));
        pins.remove_all().expect("removal");
        assert!(names(root.path()).expect("a list").is_empty());
    }

    #[test]
    fn a_folder_that_never_was_is_empty() {
        let pins = PinFolder::existing(Path::new("/nonexistent/svclb"));
        assert!(pins.devices_with_links().expect("an empty list").is_empty());
        pins.remove_all().expect("nothing to do");
    }
}
