//! What a watcher tells, as far as a test has read it.

use std::{
    collections::BTreeMap,
    sync::RwLock,
    thread,
    time::{Duration, Instant},
};

use svclb_tests::net::Netns;
use svclb_userspace::host::{
    Attachment, Device, DeviceEvent, Hooking, Hooks, HostEvent, NodeAddresses, Watch, devices::Reason,
};
use tokio::sync::mpsc::UnboundedReceiver;

/// Long enough for a machine that is busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// To make a TCX link holds the lock of the network configuration of the whole machine for milliseconds, so
/// the test that measures time runs while no other of this file does.
pub(crate) static MACHINE: RwLock<()> = RwLock::new(());

/// An empty list of names or messages.
pub(crate) const NOTHING: [&str; 0] = [];

/// Waits until `done` gives something.
#[track_caller]
pub(crate) fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a watcher has told so far.
pub(crate) struct Told {
    events: UnboundedReceiver<HostEvent>,
    pub(crate) devices: BTreeMap<String, Device>,
    pub(crate) addresses: NodeAddresses,
    pub(crate) failures: Vec<String>,
    _watch: Watch,
}

impl Told {
    pub(crate) fn new((events, watch): (UnboundedReceiver<HostEvent>, Watch)) -> Self {
        Self {
            events,
            devices: BTreeMap::new(),
            addresses: NodeAddresses::default(),
            failures: Vec::new(),
            _watch: watch,
        }
    }

    pub(crate) fn read(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                HostEvent::Addresses(addresses) => self.addresses = addresses,
                HostEvent::Device { event, failure, .. } => {
                    self.failures.extend(failure);
                    match event {
                        DeviceEvent::Present(device) | DeviceEvent::Disturbed(device) => {
                            self.devices.insert(device.name.clone(), device);
                        }
                        DeviceEvent::Gone { name, .. } => drop(self.devices.remove(&name)),
                        DeviceEvent::AllTold => {}
                    }
                }
            }
        }
    }

    /// Waits until a device is there and `right`.
    #[track_caller]
    pub(crate) fn until(&mut self, name: &str, right: impl Fn(&Device) -> bool) -> Device {
        wait(name, || {
            self.read();
            self.devices.get(name).filter(|device| right(device)).cloned()
        })
    }

    #[track_caller]
    pub(crate) fn hooks(&mut self, name: &str, right: impl Fn(&Hooks) -> bool) -> Hooks {
        let device = self.until(name, |device| matches!(&device.attachment, Attachment::Hooked(hooks) if right(hooks)));
        match device.attachment {
            Attachment::Hooked(hooks) => hooks,
            Attachment::Left(reason) => panic!("{name} is left alone: {reason}"),
        }
    }

    #[track_caller]
    pub(crate) fn left(&mut self, name: &str, reason: &Reason) {
        self.until(name, |device| device.attachment == Attachment::Left(reason.clone()));
    }
}

/// A hook function that does nothing.
pub(crate) fn all_right(events: &[DeviceEvent]) -> Vec<Result<Hooking, String>> {
    vec![Ok(Hooking::Done); events.len()]
}

/// A node with a wire (a veth pair of which the other end is elsewhere) and the default route.
pub(crate) fn node(netns: &Netns, elsewhere: &Netns) {
    netns
        .ip(&format!(
            "link add eth0 type veth peer name uplink netns {}\n\
             link set eth0 up\n\
             address add 192.0.2.11/24 dev eth0\n\
             address add 2001:db8:1::11/64 dev eth0 nodad\n\
             route add default via 192.0.2.1\n\
             route add default via 2001:db8:1::1\n",
            elsewhere.path()
        ))
        .expect("make a node");
}
