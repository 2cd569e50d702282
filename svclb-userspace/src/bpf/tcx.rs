//! Hooks by TCX (kernel 6.6 and later): links, pinned so that they outlive the agent.
//!
//! To attach a link costs 8 to 16 ms: the kernel waits until every CPU has left the old list of programs,
//! and holds the lock of all network configuration meanwhile. To put another program into a link that
//! exists costs 0.02 ms. So the links of a new device are made in the background, when clsact has hooked it and
//! nothing else is going on, and are kept as long as the device lives.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, LinkError, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions, TcError},
};
use nix::{
    errno::Errno,
    net::if_::{if_indextoname, if_nametoindex},
};
use tracing::{debug, error};

use super::{
    attach::{AttachError, Programs},
    clsact::Clsact,
    pin::{Direction, PinFolder},
};

/// No new device for so long: then links are made.
const QUIET: Duration = Duration::from_secs(2);

/// Between two devices. While links are made, a new device waits for its hooks up to 16 ms longer, and clsact does as
/// well as they: so the lock is held a twentieth of the time at most.
const PAUSE: Duration = Duration::from_millis(500);

/// The links of the devices of one network namespace.
pub(super) struct Links {
    pins: PinFolder,
    programs: Arc<Programs>,
}

impl Links {
    pub(super) fn new(pins: PinFolder, programs: Arc<Programs>) -> Self {
        Self { pins, programs }
    }

    /// Attaches both programs, or puts them into the links of before.
    fn put(&self, want: &Want) -> Result<(), AttachError> {
        for (direction, program) in
            [(Direction::Ingress, want.programs.ingress), (Direction::Egress, want.programs.egress)]
        {
            self.put_one(want.index, direction, program).map_err(|source| AttachError {
                device: want.name.clone(),
                index: want.index,
                doing: format!("attach program {program} at {direction} by TCX"),
                source,
            })?;
        }
        Ok(())
    }

    fn put_one(&self, index: u32, direction: Direction, program: &'static str) -> io::Result<()> {
        let path = self.pins.link(index, direction);
        let program = self.programs.loaded(program)?;
        let program = &mut *program.classifier.lock().unwrap_or_else(PoisonError::into_inner);
        match PinnedLink::from_pin(&path) {
            Ok(pinned) => match replace(program, pinned.into()) {
                Ok(()) => return Ok(()),
                // Its device is gone, or it is no link of ours: it serves nobody.
                Err(error) => debug!(%error, path = %path.display(), "pinned link is of no use"),
            },
            Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => debug!(%error, path = %path.display(), "pinned link cannot be opened"),
        }
        let link = create(program, index, direction)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        link.pin(&path).map_err(io::Error::other)?;
        Ok(())
    }
}

/// Puts the program into a link. Packets meet the old program or the new one, never none.
fn replace(program: &mut SchedClassifier, link: FdLink) -> io::Result<()> {
    let link = SchedClassifierLink::try_from(link).map_err(io::Error::other)?;
    let id = program.attach_to_link(link).map_err(cause)?;
    // The link lives on through its pin.
    drop(program.take_link(id).map_err(cause)?);
    Ok(())
}

fn create(program: &mut SchedClassifier, index: u32, direction: Direction) -> io::Result<FdLink> {
    let (kind, order) = match direction {
        Direction::Ingress => (TcAttachType::Ingress, LinkOrder::first()),
        Direction::Egress => (TcAttachType::Egress, LinkOrder::last()),
    };
    let name = if_indextoname(index)?;
    let name = name.to_string_lossy();
    let id = program.attach_with_options(&name, kind, TcAttachOptions::TcxOrder(order)).map_err(cause)?;
    let link = FdLink::try_from(program.take_link(id).map_err(cause)?).map_err(io::Error::other)?;
    // Attached by name: if that was given to another device meanwhile, the link is dropped and so detached.
    if if_nametoindex(name.as_ref()) == Ok(index) { Ok(link) } else { Err(Errno::ENODEV.into()) }
}

/// What the kernel said.
pub(super) fn cause(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        ProgramError::IOError(error) | ProgramError::TcError(TcError::IoError(error)) => error,
        other => io::Error::other(other),
    }
}

/// The programs that a device should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) ingress: &'static str,
    pub(super) egress: &'static str,
}

/// Links that a device should have.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) programs: Pair,
}

enum Job {
    Now(Want, mpsc::SyncSender<Result<(), AttachError>>),
    Later(Want),
    Forget(u32, Option<mpsc::SyncSender<()>>),
}

/// Makes links on a thread of its own.
pub(super) struct Linker {
    jobs: Option<mpsc::Sender<Job>>,
    linked: Arc<Mutex<BTreeSet<u32>>>,
    thread: Option<JoinHandle<()>>,
}

impl Linker {
    /// For the network namespace of the calling thread.
    pub(super) fn start(links: Links) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let linked = Arc::<Mutex<BTreeSet<u32>>>::default();
        let worker = Worker { links, clsact: Clsact::new()?, linked: Arc::clone(&linked), pending: BTreeMap::new() };
        let thread = thread::Builder::new().name("links".into()).spawn(move || worker.run(&queue))?;
        Ok(Self { jobs: Some(jobs), linked, thread: Some(thread) })
    }

    /// Whether the device has its links.
    pub(super) fn is_linked(&self, index: u32) -> bool {
        self.linked.lock().unwrap_or_else(PoisonError::into_inner).contains(&index)
    }

    /// Makes or updates the links and waits for it.
    pub(super) fn link_now(&self, want: Want) -> Result<(), AttachError> {
        let (answer, answered) = mpsc::sync_channel(1);
        let gone = AttachError {
            device: want.name.clone(),
            index: want.index,
            doing: "attach by TCX".into(),
            source: io::Error::other("the thread that makes links has ended"),
        };
        self.send(Job::Now(want, answer));
        answered.recv().unwrap_or(Err(gone))
    }

    /// Makes the links when nothing else is going on, and takes the clsact filters away then.
    pub(super) fn link_later(&self, want: Want) {
        self.send(Job::Later(want));
    }

    /// Removes the links of a device that is gone.
    pub(super) fn forget(&self, index: u32) {
        self.send(Job::Forget(index, None));
    }

    /// Removes the links of a device that is there, and waits until no program is reached by them.
    pub(super) fn unlink(&self, index: u32) {
        let (done, awaited) = mpsc::sync_channel(1);
        self.send(Job::Forget(index, Some(done)));
        if awaited.recv().is_err() {
            error!(index, "the thread that makes links has ended: restart the agent");
        }
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs
            && jobs.send(job).is_err()
        {
            error!("the thread that makes links has ended: restart the agent");
        }
    }
}

impl Drop for Linker {
    /// Ends the thread; devices that still wait for their links keep clsact.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread that makes links had panicked");
        }
    }
}

struct Worker {
    links: Links,
    clsact: Clsact,
    linked: Arc<Mutex<BTreeSet<u32>>>,
    pending: BTreeMap<u32, Want>,
}

impl Worker {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let mut quiet_since = Instant::now();
        loop {
            let job = if self.pending.is_empty() {
                queue.recv().map_err(mpsc::RecvTimeoutError::from)
            } else {
                queue.recv_timeout(QUIET.saturating_sub(quiet_since.elapsed()).max(PAUSE))
            };
            match job {
                Ok(Job::Now(want, answer)) => {
                    self.pending.remove(&want.index);
                    let done = self.link(&want);
                    if answer.send(done).is_err() {
                        debug!(device = want.name, "nobody waited for the link");
                    }
                }
                Ok(Job::Later(want)) => {
                    quiet_since = Instant::now();
                    self.pending.insert(want.index, want);
                }
                Ok(Job::Forget(index, awaited)) => {
                    self.forget(index);
                    if awaited.is_some_and(|awaited| awaited.send(()).is_err()) {
                        debug!(index, "nobody waited for the removal");
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if let Some((_, want)) = self.pending.pop_first() {
                        self.link_in_background(&want);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn link_in_background(&mut self, want: &Want) {
        match self.link(want) {
            Ok(()) => debug!(device = want.name, "TCX links took over from clsact"),
            Err(error) if error.device_is_gone() => {}
            Err(error) => error!(%error, device = want.name, "no TCX links; the device keeps its clsact hooks"),
        }
    }

    /// Makes or updates the links; then the clsact filters have had their time. Clsact itself stays: the
    /// device would lose packets.
    fn link(&mut self, want: &Want) -> Result<(), AttachError> {
        self.links.put(want)?;
        self.linked.lock().unwrap_or_else(PoisonError::into_inner).insert(want.index);
        self.clsact.remove(want.index).map_err(|source| AttachError {
            device: want.name.clone(),
            index: want.index,
            doing: "remove the clsact filters that TCX links have replaced".into(),
            source,
        })?;
        Ok(())
    }

    fn forget(&mut self, index: u32) {
        self.pending.remove(&index);
        self.linked.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
        if let Err(error) = self.links.pins.remove_links(index) {
            error!(%error, index, "cannot remove the pinned links of a device");
        }
    }
}
