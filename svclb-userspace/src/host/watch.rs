//! Follows the devices and addresses of the network namespace.
//!
//! A thread of its own reads the kernel's messages, so that a busy agent does not delay it, and calls the
//! hook function with each device right there: a new pod's device must be hooked within milliseconds.
//! Everybody else hears of it afterwards through a channel that never blocks the thread.
//!
//! A device that a message names is decided about at once. When no more messages wait, everything is decided
//! anew from all that is known, by pure functions, and compared with what was decided before. So the order
//! of messages does not matter in the end, and a change at one device (a bridge's address, say) reaches all
//! that depend on it (its ports).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::ready,
    io,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{debug, error, info, warn};

use super::{
    address::NodeAddresses,
    decode::Change,
    devices::{Attachment, Options, classify, leads_out},
    link::Kind,
    netlink::{self, Batch, Changes},
    topology::Topology,
};

/// How often everything is read anew, in case a message was lost without notice.
const RESYNC: Duration = Duration::from_mins(5);

/// How soon a failed dump or hook is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How soon a device that waits is hooked when that has become possible.
const SOON: Duration = Duration::from_millis(5);

/// Without real time, this much before ordinary work.
const PRIORITY: i32 = -15;

/// Not everything was decided anew for so long, as messages came all the time: then it is time for it.
const UNSETTLED: Duration = Duration::from_millis(50);

/// A device that is there, or not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// It is there, or another attachment is due.
    Present(Device),
    /// It is gone, and its hooks with it.
    Gone {
        /// Interface index that it had.
        index: u32,
        /// Name that it had.
        name: String,
    },
    /// Somebody took a filter from its clsact, or clsact itself: its hooks may be lost.
    Disturbed(Device),
    /// All devices that existed at the start have been told.
    AllTold,
}

/// What the hook function has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hooking {
    /// What was due.
    Done,
    /// Nothing yet: something is on its way without which the device can not be hooked.
    Waits,
}

/// A device and what was decided about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What is due.
    pub attachment: Attachment,
}

/// What the watcher tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// The node's addresses, once at the start and after each change.
    Addresses(NodeAddresses),
    /// The hook function was called.
    Device {
        /// With what.
        event: DeviceEvent,
        /// From the moment when the kernel's message was read to the end of the hook function.
        took: Duration,
        /// What the hook function said when it failed. It is called again until it succeeds.
        failure: Option<String>,
    },
}

/// The watcher could not be started.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No socket.
    #[error("open an rtnetlink socket: {0}")]
    Socket(#[source] io::Error),
    /// No first dump.
    #[error("read the devices and addresses of the network namespace through rtnetlink: {0}")]
    Dump(#[source] io::Error),
    /// No thread.
    #[error("start the thread that follows devices: {0}")]
    Thread(#[source] io::Error),
}

/// Keeps the watcher running; dropping it ends the thread and waits for it.
#[derive(Debug)]
pub struct Watch {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that follows devices had panicked");
        }
    }
}

/// Starts to follow the network namespace of the calling thread.
///
/// `hook` is called on the watcher's thread with every device, first with all that exist; those of which the
/// kernel told in the meantime come together. It gives an outcome for each. It should take about a
/// millisecond at most. A device for which it fails is given to it again, once a second, and one that waits
/// every few milliseconds.
pub fn watch<H, E>(options: Options, hook: H) -> Result<(mpsc::UnboundedReceiver<HostEvent>, Watch), WatchError>
where
    H: FnMut(&[DeviceEvent]) -> Vec<Result<Hooking, E>> + Send + 'static,
    E: fmt::Display,
{
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(WatchError::Thread)?;
    // Subscribed before the dump: what changes in between is told again, and nothing is missed.
    let changes = {
        let _inside = runtime.enter();
        Changes::subscribe().map_err(WatchError::Socket)?
    };
    let topology = first_dump()?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel();
    let watcher = Watcher {
        options,
        hook,
        sender,
        topology,
        node: None,
        told: BTreeMap::new(),
        failed: BTreeSet::new(),
        waiting: BTreeMap::new(),
        unsettled_since: None,
    };
    let thread = thread::Builder::new()
        .name("devices".into())
        .spawn(move || {
            go_first();
            runtime.block_on(run(watcher, changes, stopped));
        })
        .map_err(WatchError::Thread)?;
    Ok((receiver, Watch { stop: Some(stop), thread: Some(thread) }))
}

/// Lets the calling thread, and those that it starts, go before all others: on a node on which many pods start CPUs are
/// what is short, and to be woken for each message costs an ordinary thread up to 3 ms there, the time slice of whoever
/// runs. It works for some 0.1 ms at a time. Takes `CAP_SYS_NICE`; without it nothing is lost but time.
fn go_first() {
    let real_time = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, real_time) {
        debug!(?error, "the thread that follows devices gets no real time");
        // On Linux this is a matter of the thread and not of the process.
        if let Err(error) = rustix::process::nice(PRIORITY) {
            info!(%error, "without CAP_SYS_NICE a new device may wait for its hooks until others have had the CPU");
        }
    }
}

/// The first dump. While very many devices come up, a dump is disturbed again and again; what is read in
/// the end may lack some, but the changes that disturbed it are waiting in the other socket.
fn first_dump() -> Result<Topology, WatchError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match netlink::dump() {
            Ok(topology) => return Ok(topology),
            Err(error) if error.kind() == io::ErrorKind::Interrupted && Instant::now() < deadline => {}
            Err(error) => return Err(WatchError::Dump(error)),
        }
    }
}

async fn run<H, E>(mut watcher: Watcher<H>, mut changes: Changes, mut stopped: oneshot::Receiver<()>)
where
    H: FnMut(&[DeviceEvent]) -> Vec<Result<Hooking, E>>,
    E: fmt::Display,
{
    watcher.settle();
    watcher.call(vec![DeviceEvent::AllTold], Instant::now());
    let mut resync = interval(RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    resync.reset();
    let mut dump_due = false;
    loop {
        let retry = dump_due || !watcher.failed.is_empty();
        // In this order: what comes new goes before what can wait.
        tokio::select! {
            biased;
            _ = &mut stopped => return,
            batch = changes.next() => match batch {
                Ok(Batch::Changes(found)) => watcher.take(found),
                Ok(Batch::Overrun) => {
                    warn!("the kernel told of more changes than could be read: reading all devices anew");
                    dump_due = !watcher.resync();
                }
                Err(error) => {
                    error!(%error, "reading changes of devices failed: new devices are not hooked any more");
                    return;
                }
            },
            () = ready(()), if watcher.unsettled_since.is_some() => watcher.settle(),
            () = sleep(SOON), if !watcher.waiting.is_empty() => watcher.try_waiting(),
            _ = resync.tick() => dump_due = !watcher.resync(),
            () = sleep(RETRY), if retry => {
                if dump_due {
                    dump_due = !watcher.resync();
                } else {
                    watcher.settle();
                }
            }
        }
    }
}

struct Watcher<H> {
    options: Options,
    hook: H,
    sender: mpsc::UnboundedSender<HostEvent>,
    topology: Topology,
    node: Option<NodeAddresses>,
    told: BTreeMap<u32, Device>,
    failed: BTreeSet<u32>,
    /// Devices that could not be hooked yet, and since when.
    waiting: BTreeMap<u32, Instant>,
    /// When the first change was read since everything was decided.
    unsettled_since: Option<Instant>,
}

impl<H, E> Watcher<H>
where
    H: FnMut(&[DeviceEvent]) -> Vec<Result<Hooking, E>>,
    E: fmt::Display,
{
    /// Takes changes in and decides at once about the devices that they name.
    fn take(&mut self, changes: Vec<Change>) {
        let seen = Instant::now();
        let (mut named, mut disturbed, mut events) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for change in changes {
            match &change {
                Change::Link(link) => {
                    named.insert(link.index);
                }
                // There may be another device under this index afterwards, without the hooks of this one.
                Change::LinkGone(index) => events.extend(self.forget(*index)),
                Change::FilterGone(index) => {
                    disturbed.insert(*index);
                }
                Change::Address(..) | Change::AddressGone(..) | Change::Route(_) | Change::RouteGone(_) => {}
            }
            self.topology.apply(change);
        }
        let before = disturbed.iter().filter_map(|index| self.told.get(index).cloned().map(DeviceEvent::Disturbed));
        events.extend(before.collect::<Vec<_>>());
        events.extend(named.into_iter().filter_map(|index| self.due(index)));
        self.call(events, seen);
        let since = *self.unsettled_since.get_or_insert(seen);
        if since.elapsed() > UNSETTLED {
            self.settle();
        }
    }

    /// Reads everything anew; `false` if that must be tried again.
    fn resync(&mut self) -> bool {
        match netlink::dump() {
            Ok(topology) => {
                self.topology = topology;
                self.settle();
                true
            }
            Err(error) => {
                warn!(%error, "reading all devices failed; trying again");
                false
            }
        }
    }

    /// Decides everything anew and tells the differences.
    fn settle(&mut self) {
        let seen = self.unsettled_since.take().unwrap_or_else(Instant::now);
        let node = self.topology.node_addresses(|link| leads_out(link, &self.topology));
        if self.node.as_ref() != Some(&node) {
            self.node = Some(node.clone());
            self.tell(HostEvent::Addresses(node));
        }
        let known: Vec<u32> = self.told.keys().copied().collect();
        let lost = known.into_iter().filter(|&index| self.topology.link(index).is_none()).collect::<Vec<u32>>();
        let mut events: Vec<DeviceEvent> = lost.into_iter().filter_map(|index| self.forget(index)).collect();
        let there: Vec<u32> = self.topology.links().map(|link| link.index).collect();
        events.extend(there.into_iter().filter_map(|index| self.due(index)));
        self.call(events, seen);
    }

    /// What is due for a device, if it differs from what was told or failed.
    fn due(&mut self, index: u32) -> Option<DeviceEvent> {
        let link = self.topology.link(index)?;
        let attachment = classify(link, &self.topology, self.node.as_ref()?, &self.options);
        let told = self
            .told
            .get(&index)
            .is_some_and(|told| told.attachment == attachment && told.name == link.name && told.kind == link.kind);
        if told && !self.failed.contains(&index) && !self.waiting.contains_key(&index) {
            return None;
        }
        let device = Device { index, name: link.name.clone(), kind: link.kind.clone(), attachment };
        self.told.insert(index, device.clone());
        Some(DeviceEvent::Present(device))
    }

    /// Tells devices that wait once more.
    fn try_waiting(&mut self) {
        let waiting: Vec<u32> = self.waiting.keys().copied().collect();
        let events = waiting.into_iter().filter_map(|index| self.due(index)).collect();
        self.call(events, Instant::now());
    }

    fn forget(&mut self, index: u32) -> Option<DeviceEvent> {
        self.told.remove(&index).map(|device| DeviceEvent::Gone { index, name: device.name })
    }

    fn call(&mut self, events: Vec<DeviceEvent>, seen: Instant) {
        if events.is_empty() {
            return;
        }
        let outcomes = (self.hook)(&events);
        for (event, outcome) in events.into_iter().zip(outcomes) {
            let index = match &event {
                DeviceEvent::Present(Device { index, .. })
                | DeviceEvent::Disturbed(Device { index, .. })
                | DeviceEvent::Gone { index, .. } => Some(*index),
                DeviceEvent::AllTold => None,
            };
            let since = index.and_then(|index| self.waiting.remove(&index)).unwrap_or(seen);
            let failure = match outcome {
                Ok(Hooking::Waits) => {
                    debug!(?event, "device waits");
                    self.waiting.extend(index.map(|index| (index, since)));
                    continue;
                }
                outcome => outcome.err().map(|error| error.to_string()),
            };
            match index {
                Some(index) if failure.is_some() && !matches!(event, DeviceEvent::Gone { .. }) => {
                    self.failed.insert(index);
                }
                Some(index) => {
                    self.failed.remove(&index);
                }
                None => {}
            }
            log(&event, failure.as_deref());
            // Mostly it was the attacher itself, and nothing is to be done.
            if failure.is_some() || !matches!(event, DeviceEvent::Disturbed(_)) {
                self.tell(HostEvent::Device { event, took: since.elapsed(), failure });
            }
        }
    }

    fn tell(&self, event: HostEvent) {
        // Nobody listens any more while the agent ends.
        drop(self.sender.send(event));
    }
}

fn log(event: &DeviceEvent, failure: Option<&str>) {
    match (event, failure) {
        (DeviceEvent::Present(device) | DeviceEvent::Disturbed(device), Some(failure)) => {
            warn!(device = device.name, failure, "device not hooked");
        }
        (DeviceEvent::AllTold, Some(failure)) => warn!(failure, "hooks of before not cleared up"),
        (DeviceEvent::Disturbed(_) | DeviceEvent::AllTold, None) => {}
        (DeviceEvent::Gone { name, .. }, Some(failure)) => warn!(device = name, failure, "device not forgotten"),
        (DeviceEvent::Gone { name, .. }, None) => info!(device = name, "device is gone"),
        (DeviceEvent::Present(device), None) => match &device.attachment {
            Attachment::Hooked(hooks) => {
                info!(device = device.name, kind = %device.kind, role = %hooks.role, "device hooked");
            }
            Attachment::Left(reason) => info!(device = device.name, kind = %device.kind, %reason, "device left alone"),
        },
    }
}
