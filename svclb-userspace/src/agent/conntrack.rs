//! The sysctls of the kernel's own connection tracking, as kube-proxy leaves them.
//!
//! svclb does not use `nf_conntrack`, but rules of others on its node do: network policies, host ports, a host's
//! firewall. They are used to the timeouts and the room that kube-proxy gives. Each value is written once by an agent,
//! as soon as its file is there: whoever changes it later has the last word. No module is loaded for it.

use std::fs;
use std::io;
use std::thread;

use anyhow::{Context as _, Result};
use tracing::{debug, info, warn};

use crate::bpf::sysctl_notes::{Note, Notes};
use crate::host::sysctl::{Folder, Wanted};

/// What is to be written, and where it is remembered what was there.
#[derive(Debug)]
pub struct Conntrack {
    sysctls: Folder,
    notes: Notes,
    left: Vec<Wanted>,
}

impl Conntrack {
    /// Nothing is written yet.
    pub const fn new(sysctls: Folder, notes: Notes, wanted: Vec<Wanted>) -> Self {
        Self { sysctls, notes, left: wanted }
    }

    /// Whether something waits for its file.
    pub const fn waits(&self) -> bool {
        !self.left.is_empty()
    }

    /// Writes what can be written. What cannot for another reason than that its file is not there yet, is named in a
    /// warning and left. Cost: one look at a file for each value that waits.
    pub fn write(&mut self) {
        let waiting = self.left.len();
        let wanted = std::mem::take(&mut self.left);
        self.left = wanted.into_iter().filter(|wanted| !self.is_done_with(*wanted)).collect();
        if self.left.len() < waiting && self.waits() {
            debug!(left = ?self.left, "sysctls that are not there yet");
        }
    }

    fn is_done_with(&self, wanted: Wanted) -> bool {
        let path = self.sysctls.path(wanted.name);
        let path = path.display();
        let present = match self.sysctls.read(wanted.name) {
            Ok(None) => return false,
            Ok(Some(present)) => present,
            Err(error) => {
                warn!(%error, "cannot read {path}: {wanted} may not hold");
                return true;
            }
        };
        let Some(value) = wanted.instead_of(present) else { return true };
        match self.write_one(wanted.name, present, value) {
            Ok(()) => info!("{path}: {value} instead of {present}"),
            Err(error) => warn!(%error, "cannot write {path}: it stays at {present}, {wanted} is wanted"),
        }
        true
    }

    /// The note comes first: what is written and not noted could not be put back.
    fn write_one(&self, name: &str, present: u64, value: u64) -> io::Result<()> {
        let earlier = self.notes.get(name)?;
        // What somebody else wrote since is what was there before.
        let before = earlier.filter(|note| note.written == present).map_or(present, |note| note.before);
        self.notes.put(name, Note { before, written: value })?;
        self.sysctls.write(name, value).inspect_err(|_| {
            let restored = earlier.map_or_else(|| self.notes.remove(name), |note| self.notes.put(name, note));
            if let Err(error) = restored {
                warn!(%error, sysctl = name, "a note on a sysctl is wrong; cleanup leaves what was not written");
            }
        })
    }
}

/// Puts back what was there before the first agent, where there still is what the last one wrote. Returns how many
/// sysctls that were.
pub fn restore(sysctls: &Folder, notes: &Notes) -> Result<usize> {
    let mut restored = 0;
    for name in notes.names().context("list the sysctls that were written")? {
        let path = sysctls.path(&name);
        let note = notes.get(&name).with_context(|| format!("read what was noted of {}", path.display()))?;
        let present = sysctls.read(&name).with_context(|| format!("read {}", path.display()))?;
        if let Some(note) = note.filter(|note| present == Some(note.written)) {
            let put_back = sysctls.write(&name, note.before);
            put_back.with_context(|| format!("write {} to {}, as it was", note.before, path.display()))?;
            restored += 1;
        }
        notes.remove(&name).with_context(|| format!("remove what was noted of {}", path.display()))?;
    }
    notes.remove_folder().context("remove the folder of notes on sysctls")?;
    Ok(restored)
}

/// CPUs of this machine that run, also those that this process may not use.
pub(super) fn online_cpus() -> u32 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
    let own = || thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
    online.and_then(|ranges| count(&ranges)).unwrap_or_else(own)
}

/// `0-3,5` are five.
fn count(ranges: &str) -> Option<u32> {
    ranges.trim().split(',').try_fold(0, |sum: u32, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests;
