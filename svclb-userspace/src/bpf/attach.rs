//! Attaches the programs to devices.
//!
//! | mode | device is there when the agent starts | a new device | later | survives the agent as |
//! | --- | --- | --- | --- | --- |
//! | `auto` | TCX links (16 to 32 ms a device) | clsact (0.2 ms) | TCX links, when no new devices come | pinned links |
//! | `tcx` | TCX links | TCX links | | pinned links |
//! | `clsact` | clsact | clsact | | filters |
//!
//! A device that is in use loses packets when it gets its first clsact; a new one has nothing to send yet, and must
//! not wait.
//!
//! `auto` is `clsact` where the kernel has no TCX. While both ways are in place, for some milliseconds, a
//! packet meets the program twice; the second time it is translated already and passes.
//!
//! A device's record in DEVICES is written before its programs are attached and removed after they are
//! gone, so that no program runs on a device that it knows nothing of.
//!
//! A program is loaded when the first device needs it. At the start that is waited for; later the device
//! [waits](Hooking::Waits), and others go before it.

mod cleanup;
mod error;
mod mode;
mod programs;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd,
    panic,
    path::Path,
    sync::Arc,
    thread,
};

use nix::errno::Errno;
use svclb_common::{
    schema,
    service::{device_flag, role},
};
use tracing::{debug, warn};

pub(super) use self::programs::Programs;
pub use self::{
    cleanup::{Removed, clean_up},
    error::{AttachError, AttacherError},
    mode::Mode,
    programs::ProgramSource,
};
use self::{
    error::{clsact_failed, failed},
    programs::{COMMONEST, OF_PORTS, Readiness, pair},
};
use super::{
    clsact::{Clsact, ClsactError, Filter},
    pin::PinFolder,
    probe,
    tcx::{Linker, Links, Pair, Want},
    xdp::XdpHooks,
};
use crate::host::{Attachment, Device, DeviceEvent, Hooking, Hooks, Role, devices::Egress, link::Kind};

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
    programs: Arc<Programs>,
    /// Sockets to hook several devices at once.
    hands: Vec<Clsact>,
    /// None without TCX.
    linker: Option<Linker>,
    clsact_first: bool,
    pins: PinFolder,
    devices: T,
    /// None if there is no program for frames.
    xdp: Option<XdpHooks>,
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

/// What is left to do for a device.
enum Next<'a> {
    Nothing,
    /// Its programs are being loaded.
    Wait,
    Clsact(Task<'a>),
}

/// What a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hooked {
    record: schema::Device,
    /// None while attaching them failed.
    programs: Option<Pair>,
    /// Whether it was tried to attach programs: else those of an agent before may be there.
    tried: bool,
}

impl<T: DeviceTable> Attacher<T> {
    /// For the network namespace of the calling thread. `folder` is the agent's folder in a BPF file system.
    /// Loads the commonest programs, and fails if the kernel refuses one of them. Without `xdp` what an agent before has
    /// attached there goes.
    pub fn new(
        mode: Mode,
        folder: &Path,
        object: impl ProgramSource,
        devices: T,
        xdp: Option<XdpHooks>,
    ) -> Result<Self, AttacherError> {
        let pins =
            PinFolder::make(folder).map_err(|error| AttacherError::Folder(folder.display().to_string(), error))?;
        if xdp.is_none() {
            pins.remove_xdp_links().map_err(AttacherError::Prepare)?;
        }
        let tcx = mode != Mode::Clsact && probe::has_tcx();
        if mode == Mode::Tcx && !tcx {
            return Err(AttacherError::NoTcx);
        }
        let programs = Arc::new(Programs::start(object, pins.clone()).map_err(AttacherError::Prepare)?);
        programs.wait(&COMMONEST);
        for name in COMMONEST {
            if let Readiness::Refused(why) = programs.ask(name) {
                return Err(AttacherError::Program(why));
            }
        }
        let hands: io::Result<Vec<Clsact>> = (0..HANDS).map(|_| Clsact::new()).collect();
        let linker = tcx.then(|| Linker::start(Links::new(pins.clone(), Arc::clone(&programs)))).transpose();
        Ok(Self {
            programs,
            hands: hands.map_err(AttacherError::Prepare)?,
            linker: linker.map_err(AttacherError::Prepare)?,
            clsact_first: mode != Mode::Tcx,
            pins,
            devices,
            xdp,
            hooked: BTreeMap::new(),
            seen: BTreeSet::new(),
            all_told: false,
        })
    }

    /// Does what events of [`host::watch()`] ask for, with an outcome for each. Takes 0.2 ms for a new device,
    /// but in mode `tcx`.
    pub fn apply(&mut self, events: &[DeviceEvent]) -> Vec<Result<Hooking, AttachError>> {
        self.ask_for_programs(events);
        let mut outcomes = Vec::with_capacity(events.len());
        let mut quick = Vec::new();
        for (at, event) in events.iter().enumerate() {
            if let DeviceEvent::Disturbed(device) = event {
                self.distrust(device);
            }
            outcomes.push(match event {
                DeviceEvent::Present(device) | DeviceEvent::Disturbed(device) => match &device.attachment {
                    Attachment::Hooked(hooks) => self.hook(device, hooks).map(|next| match next {
                        Next::Nothing => Hooking::Done,
                        Next::Wait => Hooking::Waits,
                        Next::Clsact(task) => {
                            quick.push((at, task));
                            Hooking::Done
                        }
                    }),
                    Attachment::Left(_) => self.unhook(device.index, &device.name).map(|()| Hooking::Done),
                },
                DeviceEvent::Gone { index, name } => self.forget(*index, name).map(|()| Hooking::Done),
                DeviceEvent::AllTold => {
                    self.all_told = true;
                    self.remove_stale();
                    Ok(Hooking::Done)
                }
            });
        }
        for (at, outcome) in self.put_all(quick) {
            outcomes[at] = outcome.map(|()| Hooking::Done);
        }
        for (event, outcome) in events.iter().zip(&outcomes) {
            if let (DeviceEvent::Present(device), Ok(Hooking::Done)) = (event, outcome)
                && let (Attachment::Hooked(hooks), Some(xdp)) = (&device.attachment, &mut self.xdp)
            {
                xdp.put(device, hooks);
            }
        }
        outcomes
    }

    /// Has the programs loaded that devices need, all at the same time. What is there at the start waits for them.
    fn ask_for_programs(&self, events: &[DeviceEvent]) {
        let mut needed = BTreeSet::new();
        for event in events {
            if let DeviceEvent::Present(device) = event
                && let Attachment::Hooked(hooks) = &device.attachment
            {
                let Pair { ingress, egress } = pair(hooks);
                needed.extend([ingress, egress]);
                needed.extend((device.kind == Kind::Bridge).then_some(OF_PORTS));
            }
        }
        let needed: Vec<&'static str> = needed.into_iter().collect();
        if self.all_told {
            for name in needed {
                self.programs.ask(name);
            }
        } else {
            self.programs.wait(&needed);
        }
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

    /// Writes the record of a device and attaches its programs, unless clsact must do that or they are not loaded
    /// yet.
    fn hook<'a>(&mut self, device: &'a Device, hooks: &Hooks) -> Result<Next<'a>, AttachError> {
        let (mut record, programs) = (record(hooks), pair(hooks));
        if self.xdp.as_ref().is_some_and(|xdp| xdp.may_send(device.index, hooks)) {
            record.flags |= device_flag::XDP;
        }
        self.seen.insert(device.index);
        let before = self.hooked.get(&device.index).copied();
        let first = !before.is_some_and(|before| before.tried);
        if before.map(|hooked| hooked.record) != Some(record) {
            self.devices
                .put(device.index, &record)
                .map_err(|source| failed(device, "write its record to DEVICES", source))?;
            let hooked = Hooked { record, programs: before.and_then(|hooked| hooked.programs), tried: !first };
            self.hooked.insert(device.index, hooked);
        }
        if before.and_then(|hooked| hooked.programs) == Some(programs) {
            return Ok(Next::Nothing);
        }
        for program in [programs.ingress, programs.egress] {
            match self.programs.ask(program) {
                Readiness::Ready => {}
                Readiness::Loading => return Ok(Next::Wait),
                Readiness::Refused(why) => {
                    return Err(failed(device, &format!("load its program {program}"), io::Error::other(why)));
                }
            }
        }
        if let Some(hooked) = self.hooked.get_mut(&device.index) {
            hooked.tried = true;
        }
        if let Some(linker) = &self.linker {
            let has_links = linker.is_linked(device.index) || first && self.pins.has_links(device.index);
            if has_links || !self.clsact_first || !self.all_told {
                match linker.link_now(want(device, programs)) {
                    Err(error) if self.clsact_first && !error.device_is_gone() => {
                        warn!(%error, "no TCX links; attaching by clsact");
                    }
                    done => return self.hooked_by(device, programs, done).map(|()| Next::Nothing),
                }
            }
        }
        // What comes after the start is new; what was there may have filters of an agent before.
        Ok(Next::Clsact(Task { device, programs, first, new: first && self.all_told }))
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
        let programs = &self.programs;
        let put = |hand: &Clsact, task: &Task<'a>| put_clsact(hand, programs, task);
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
        if let Some(xdp) = &mut self.xdp {
            xdp.forget(index);
        }
        let fail =
            |doing: &str, source| AttachError { device: name.to_owned(), index, doing: doing.to_owned(), source };
        self.pins.remove_xdp_link(index).map_err(|error| fail("remove its pinned XDP link", error))?;
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

fn put_clsact(hand: &Clsact, programs: &Programs, task: &Task<'_>) -> Result<(), ClsactError> {
    let (ingress, egress) = (programs.loaded(task.programs.ingress)?, programs.loaded(task.programs.egress)?);
    let ingress = Filter { name: task.programs.ingress, program: ingress.descriptor.as_fd() };
    let egress = Filter { name: task.programs.egress, program: egress.descriptor.as_fd() };
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
        local: u8::from(hooks.local),
        mac: hooks.mac.unwrap_or_default(),
        input: hooks.input,
        flags: if hooks.egress == Egress::Ethernet { device_flag::ETHERNET } else { 0 }
            | if hooks.peer { device_flag::PEER } else { 0 },
        masquerade4: hooks.masquerade4.map(Into::into).unwrap_or_default(),
        masquerade6: hooks.masquerade6.map(Into::into).unwrap_or_default(),
    }
}
