//! Attaches the programs to devices.
//!
//! | mode | at once | later | survives the agent as |
//! | --- | --- | --- | --- |
//! | `auto` | clsact (0.2 ms a device) | TCX links, when no new devices come | pinned links |
//! | `tcx` | TCX links (16 to 32 ms a device) | | pinned links |
//! | `clsact` | clsact | | filters |
//!
//! `auto` is `clsact` where the kernel has no TCX. While both ways are in place, for some milliseconds, a
//! packet meets the program twice; the second time it is translated already and passes.
//!
//! A device's record in DEVICES is written before its programs are attached and removed after they are
//! gone, so that no program runs on a device that it knows nothing of.

mod cleanup;
mod error;
mod mode;
mod programs;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, OwnedFd},
    panic,
    path::Path,
    thread,
};

use nix::errno::Errno;
use svclb_common::{schema, service::role};
use tracing::{debug, warn};

pub(super) use self::programs::Programs;
pub use self::{
    cleanup::{Removed, clean_up},
    error::{AttachError, AttacherError},
    mode::Mode,
    programs::{PROGRAMS, ProgramSource},
};
use self::{
    error::{clsact_failed, failed},
    programs::pair,
};
use super::{
    clsact::{Clsact, ClsactError, Filter},
    pin::PinFolder,
    probe,
    tcx::{Linker, Pair, Want},
};
use crate::host::{Attachment, Device, DeviceEvent, Hooks, Role};

/// Devices that are hooked by clsact at the same time.
const HANDS: usize = 4;

/// Where the records of devices are kept: the map DEVICES, or something in its place.
pub trait DeviceTable: Send {
    /// Writes the record of a device.
    fn put(&mut self, index: u32, device: &schema::Device) -> io::Result<()>;
    /// Removes it; nothing happens if there is none.
    fn remove(&mut self, index: u32) -> io::Result<()>;
    /// All devices with a record.
    fn indices(&self) -> io::Result<Vec<u32>>;
}

/// Attaches programs to the devices of one network namespace.
pub struct Attacher<T> {
    descriptors: BTreeMap<&'static str, OwnedFd>,
    /// Sockets to hook several devices at once.
    hands: Vec<Clsact>,
    /// None without TCX.
    linker: Option<Linker>,
    clsact_first: bool,
    pins: PinFolder,
    devices: T,
    hooked: BTreeMap<u32, Hooked>,
    seen: BTreeSet<u32>,
    all_told: bool,
}

/// A device to be hooked by clsact.
#[derive(Debug, Clone, Copy)]
struct Task<'a> {
    device: &'a Device,
    programs: Pair,
    /// It may still have hooks of an agent before.
    first: bool,
    /// It has come up just now and has nothing yet.
    new: bool,
}

/// What a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hooked {
    record: schema::Device,
    /// None while attaching them failed.
    programs: Option<Pair>,
}

impl<T: DeviceTable> Attacher<T> {
    /// For the network namespace of the calling thread. `folder` is the agent's folder in a BPF file system.
    pub fn new(mode: Mode, folder: &Path, object: &mut impl ProgramSource, devices: T) -> Result<Self, AttacherError> {
        let pins =
            PinFolder::make(folder).map_err(|error| AttacherError::Folder(folder.display().to_string(), error))?;
        let tcx = mode != Mode::Clsact && probe::has_tcx();
        if mode == Mode::Tcx && !tcx {
            return Err(AttacherError::NoTcx);
        }
        let mut programs = Programs::take(object, &pins)?;
        let descriptors = std::mem::take(&mut programs.descriptors);
        let hands: io::Result<Vec<Clsact>> = (0..HANDS).map(|_| Clsact::new()).collect();
        let linker = tcx.then(|| Linker::start(programs.into_links(pins.clone()))).transpose();
        Ok(Self {
            descriptors,
            hands: hands.map_err(AttacherError::Prepare)?,
            linker: linker.map_err(AttacherError::Prepare)?,
            clsact_first: mode != Mode::Tcx,
            pins,
            devices,
            hooked: BTreeMap::new(),
            seen: BTreeSet::new(),
            all_told: false,
        })
    }

    /// Does what events of [`host::watch()`] ask for, with an outcome for each. Takes 0.2 ms for a new device,
    /// but in mode `tcx`.
    pub fn apply(&mut self, events: &[DeviceEvent]) -> Vec<Result<(), AttachError>> {
        let mut outcomes = Vec::with_capacity(events.len());
        let mut quick = Vec::new();
        for (at, event) in events.iter().enumerate() {
            if let DeviceEvent::Disturbed(device) = event {
                self.distrust(device);
            }
            outcomes.push(match event {
                DeviceEvent::Present(device) | DeviceEvent::Disturbed(device) => match &device.attachment {
                    Attachment::Hooked(hooks) => self.hook(device, hooks).map(|task| {
                        quick.extend(task.map(|task| (at, task)));
                    }),
                    Attachment::Left(_) => self.unhook(device.index, &device.name),
                },
                DeviceEvent::Gone { index, name } => self.forget(*index, name),
                DeviceEvent::AllTold => {
                    self.all_told = true;
                    self.remove_stale();
                    Ok(())
                }
            });
        }
        for (at, outcome) in self.put_all(quick) {
            outcomes[at] = outcome;
        }
        outcomes
    }

    /// Somebody was at the filters of a device: what hangs in clsact must be hung in again. Links are out of
    /// reach, and when they have been made, it was us.
    fn distrust(&mut self, device: &Device) {
        if self.linker.as_ref().is_some_and(|linker| linker.is_linked(device.index)) {
            return;
        }
        if let Some(hooked) = self.hooked.get_mut(&device.index)
            && hooked.programs.take().is_some()
        {
            warn!(device = device.name, "somebody removed filters from clsact; hanging ours in again");
        }
    }

    /// Writes the record of a device and attaches its programs, unless clsact must do that: then it gives
    /// the task.
    fn hook<'a>(&mut self, device: &'a Device, hooks: &Hooks) -> Result<Option<Task<'a>>, AttachError> {
        let (record, programs) = (record(hooks), pair(hooks));
        let first = self.seen.insert(device.index);
        let before = self.hooked.get(&device.index).copied();
        if before.map(|hooked| hooked.record) != Some(record) {
            self.devices
                .put(device.index, &record)
                .map_err(|source| failed(device, "write its record to DEVICES", source))?;
            self.hooked.insert(device.index, Hooked { record, programs: before.and_then(|hooked| hooked.programs) });
        }
        if before.and_then(|hooked| hooked.programs) == Some(programs) {
            return Ok(None);
        }
        if let Some(linker) = &self.linker {
            let has_links = linker.is_linked(device.index) || first && self.pins.has_links(device.index);
            if has_links || !self.clsact_first {
                let done = linker.link_now(want(device, programs));
                return self.hooked_by(device, programs, done).map(|()| None);
            }
        }
        // What comes after the start is new; what was there may have filters of an agent before.
        Ok(Some(Task { device, programs, first, new: first && self.all_told }))
    }

    /// Notes what became of the programs of a device.
    fn hooked_by(&mut self, device: &Device, programs: Pair, done: Result<(), AttachError>) -> Result<(), AttachError> {
        if let Some(hooked) = self.hooked.get_mut(&device.index) {
            hooked.programs = done.is_ok().then_some(programs);
        }
        match done {
            // The message that says so is on its way.
            Err(error) if error.device_is_gone() => Ok(()),
            done => done,
        }
    }

    /// Hooks devices by clsact. Several hands do it: each request waits for the lock of the network
    /// configuration, and the more of us stand in the queue, the more of its turns are ours.
    fn put_all<'a>(&mut self, tasks: Vec<(usize, Task<'a>)>) -> Vec<(usize, Result<(), AttachError>)> {
        let share = tasks.len().div_ceil(self.hands.len()).max(1);
        let descriptors = &self.descriptors;
        let put = |hand: &Clsact, task: &Task<'a>| put_clsact(hand, descriptors, task);
        let done: Vec<Result<(), ClsactError>> = match tasks.as_slice() {
            [(_, only)] => vec![put(&self.hands[0], only)],
            several => thread::scope(|scope| {
                let shares = several.chunks(share).zip(&mut self.hands);
                let at_work: Vec<_> = shares
                    .map(|(share, hand)| {
                        scope.spawn(move || share.iter().map(|(_, task)| put(hand, task)).collect::<Vec<_>>())
                    })
                    .collect();
                at_work
                    .into_iter()
                    .flat_map(|hand| hand.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
                    .collect()
            }),
        };
        let finished = tasks.into_iter().zip(done);
        finished.map(|((at, task), done)| (at, self.finish(&task, done))).collect()
    }

    /// After clsact: links later, or at once where clsact was not possible.
    fn finish(&mut self, task: &Task<'_>, done: Result<(), ClsactError>) -> Result<(), AttachError> {
        let Task { device, programs, first, .. } = *task;
        let done = match (done, &self.linker) {
            (Ok(()), Some(linker)) => {
                linker.link_later(want(device, programs));
                Ok(())
            }
            (Ok(()), None) if first => match self.pins.remove_links(device.index) {
                Ok(_) => Ok(()),
                Err(source) => Err(failed(device, "remove TCX links of an agent before", source)),
            },
            (Ok(()), None) => Ok(()),
            (Err(ClsactError::Kernel(source)), Some(_)) if source.raw_os_error() == Some(Errno::ENODEV as i32) => {
                Err(failed(device, "attach by clsact", source))
            }
            (Err(error), Some(linker)) => {
                debug!(device = device.name, %error, "no clsact; attaching by TCX at once");
                linker.link_now(want(device, programs))
            }
            (Err(error), None) => Err(clsact_failed(device, programs, error)),
        };
        self.hooked_by(device, programs, done)
    }

    /// Removes the hooks of a device that should have none.
    fn unhook(&mut self, index: u32, name: &str) -> Result<(), AttachError> {
        if !self.seen.contains(&index) && !self.pins.has_links(index) && !self.has_record(index) {
            return Ok(());
        }
        if let Some(linker) = &self.linker {
            linker.unlink(index);
        }
        let hand = &self.hands[0];
        hand.remove(index).and_then(|_| hand.remove_qdisc_if_empty(index)).map_err(|source| AttachError {
            device: name.to_owned(),
            index,
            doing: "remove its clsact filters".into(),
            source,
        })?;
        self.forget(index, name)
    }

    fn has_record(&self, index: u32) -> bool {
        self.devices.indices().is_ok_and(|indices| indices.contains(&index))
    }

    /// The device is gone, and its hooks with it.
    fn forget(&mut self, index: u32, name: &str) -> Result<(), AttachError> {
        self.hooked.remove(&index);
        self.seen.remove(&index);
        let fail =
            |doing: &str, source| AttachError { device: name.to_owned(), index, doing: doing.to_owned(), source };
        match &self.linker {
            Some(linker) => linker.forget(index),
            None => {
                self.pins.remove_links(index).map_err(|error| fail("remove its pinned links", error))?;
            }
        }
        self.devices.remove(index).map_err(|error| fail("remove its record from DEVICES", error))
    }

    /// All devices that exist were told: what else is pinned or recorded belongs to devices that are gone.
    fn remove_stale(&mut self) {
        let links = self.pins.devices_with_links().unwrap_or_else(|error| {
            warn!(%error, "cannot list the pinned links");
            Vec::new()
        });
        let records = self.devices.indices().unwrap_or_else(|error| {
            warn!(%error, "cannot list the records of devices");
            Vec::new()
        });
        let stale: BTreeSet<u32> =
            links.into_iter().chain(records).filter(|index| !self.seen.contains(index)).collect();
        for index in stale {
            debug!(index, "removing what was kept for a device that is gone");
            if let Err(error) = self.forget(index, "(gone)") {
                warn!(%error, "cannot remove what was kept for a device that is gone");
            }
        }
    }

    /// Removes all hooks from all devices.
    pub fn detach_all(&mut self) -> Result<(), AttachError> {
        let all: Vec<u32> = self.seen.iter().copied().collect();
        all.into_iter().try_for_each(|index| self.unhook(index, "(being detached)"))
    }
}

fn want(device: &Device, programs: Pair) -> Want {
    Want { index: device.index, name: device.name.clone(), programs }
}

fn put_clsact(
    hand: &Clsact,
    descriptors: &BTreeMap<&'static str, OwnedFd>,
    task: &Task<'_>,
) -> Result<(), ClsactError> {
    let filter = |name: &'static str| {
        let program = descriptors.get(name).ok_or_else(|| io::Error::other("it is not loaded"))?;
        Ok::<_, io::Error>(Filter { name, program: program.as_fd() })
    };
    let (ingress, egress) = (filter(task.programs.ingress)?, filter(task.programs.egress)?);
    if task.new {
        hand.put_new(task.device.index, ingress, egress)
    } else {
        hand.put(task.device.index, ingress, egress)
    }
}

fn record(hooks: &Hooks) -> schema::Device {
    schema::Device {
        role: match hooks.role {
            Role::Node => role::NODE,
            Role::Pod => role::POD,
            Role::Tunnel => role::TUNNEL,
        },
        lift: hooks.lift.unwrap_or_default(),
        masquerade4: hooks.masquerade4.map(Into::into).unwrap_or_default(),
        masquerade6: hooks.masquerade6.map(Into::into).unwrap_or_default(),
        ..Default::default()
    }
}
