//! Devices of real namespaces: what they are taken for, and which hooks they get, keep and lose.

#![cfg(feature = "kernel")]

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use regex::Regex;
use svclb_common::{config::Sizes, schema, service::role};
use svclb_tests::net::{Bpffs, Netns};
use svclb_userspace::{
    bpf::{
        attach::{Attacher, DeviceTable, Mode, clean_up},
        load::{self, Object},
        pin::PinFolder,
    },
    host::{
        self, Attachment, Device, DeviceEvent, Hooks, HostEvent, NodeAddresses, Role, Watch,
        devices::{Egress, Ingress, Options, Reason},
    },
};
use tokio::sync::mpsc::UnboundedReceiver;

/// Long enough for a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(30);

/// To make a TCX link holds the lock of the network configuration of the whole machine for milliseconds, so
/// the test that measures time runs while no other of this file does.
static MACHINE: RwLock<()> = RwLock::new(());

/// An empty list of names or messages.
const NOTHING: [&str; 0] = [];

/// Waits until `done` gives something.
#[track_caller]
fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The map DEVICES of a test: shared, so that it outlives the attacher.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<BTreeMap<u32, schema::Device>>>);

impl Records {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, schema::Device>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceTable for Records {
    fn put(&mut self, index: u32, device: &schema::Device) -> io::Result<()> {
        self.lock().insert(index, *device);
        Ok(())
    }

    fn remove(&mut self, index: u32) -> io::Result<()> {
        self.lock().remove(&index);
        Ok(())
    }

    fn indices(&self) -> io::Result<Vec<u32>> {
        Ok(self.lock().keys().copied().collect())
    }
}

/// What a watcher has told so far.
struct Told {
    events: UnboundedReceiver<HostEvent>,
    devices: BTreeMap<String, Device>,
    addresses: NodeAddresses,
    failures: Vec<String>,
    _watch: Watch,
}

impl Told {
    fn new((events, watch): (UnboundedReceiver<HostEvent>, Watch)) -> Self {
        Self {
            events,
            devices: BTreeMap::new(),
            addresses: NodeAddresses::default(),
            failures: Vec::new(),
            _watch: watch,
        }
    }

    fn read(&mut self) {
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
    fn until(&mut self, name: &str, right: impl Fn(&Device) -> bool) -> Device {
        wait(name, || {
            self.read();
            self.devices.get(name).filter(|device| right(device)).cloned()
        })
    }

    #[track_caller]
    fn hooks(&mut self, name: &str, right: impl Fn(&Hooks) -> bool) -> Hooks {
        let device = self.until(name, |device| matches!(&device.attachment, Attachment::Hooked(hooks) if right(hooks)));
        match device.attachment {
            Attachment::Hooked(hooks) => hooks,
            Attachment::Left(reason) => panic!("{name} is left alone: {reason}"),
        }
    }

    #[track_caller]
    fn left(&mut self, name: &str, reason: &Reason) {
        self.until(name, |device| device.attachment == Attachment::Left(reason.clone()));
    }
}

/// A hook function that does nothing.
fn all_right(events: &[DeviceEvent]) -> Vec<Result<(), String>> {
    vec![Ok(()); events.len()]
}

fn watch_only(options: Options) -> Told {
    Told::new(host::watch(options, all_right).expect("watch the namespace"))
}

/// A node with a wire (a veth pair of which the other end is elsewhere) and the default route.
fn node(netns: &Netns, elsewhere: &Netns) {
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

/// Makes a device of a kind that not every kernel has; says so where it is not tested.
fn exists(netns: &Netns, line: &str) -> bool {
    match netns.ip(&format!("{line}\n")) {
        Ok(()) => true,
        Err(error) if error.to_string().contains("Unknown device type") => {
            eprintln!("not tested, this kernel does not know it: {line}");
            false
        }
        Err(error) => panic!("{error:#}"),
    }
}

#[test]
fn devices_of_all_kinds_are_taken_for_what_they_are() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let (netns, elsewhere) = (Netns::new("node").expect("a namespace"), Netns::new("elsewhere").expect("a namespace"));
    node(&netns, &elsewhere);
    netns.run(|| {
        let mut told = watch_only(Options::default());
        // Half of it was there before the watcher, half comes afterwards.
        netns
            .ip(&format!(
                "link add cni0 address 02:00:00:00:00:99 type bridge\n\
                 link set cni0 up\n\
                 address add 10.244.1.1/24 dev cni0\n\
                 link add pod1 type veth peer name eth0 netns {elsewhere}\n\
                 link add pod2 type veth peer name eth2 netns {elsewhere}\n\
                 link set pod2 master cni0\n\
                 link add link eth0 name shim0 type macvlan mode bridge\n\
                 link set shim0 up\n\
                 link add vxlan0 type vxlan id 1 local 192.0.2.11 remote 192.0.2.12 dstport 4789\n\
                 link set vxlan0 up\n\
                 address add 10.244.1.2/32 dev vxlan0\n\
                 tuntap add tap0 mode tap\n\
                 tuntap add tun0 mode tun\n\
                 link set tun0 up\n",
                elsewhere = elsewhere.path()
            ))
            .expect("make devices");
        let own4 = Some("192.0.2.11".parse().expect("an address"));
        let own6 = Some("2001:db8:1::11".parse().expect("an address"));
        let bridge4 = Some("10.244.1.1".parse().expect("an address"));
        let tunnel4 = Some("10.244.1.2".parse().expect("an address"));
        let plain = Hooks {
            role: Role::Pod,
            ingress: Ingress::Ethernet,
            egress: Egress::Ethernet,
            lift: None,
            masquerade4: own4,
            masquerade6: own6,
        };
        let bare = Hooks { egress: Egress::BareIp, ..plain };
        let cases = [
            ("eth0", Hooks { role: Role::Node, ..plain }),
            ("pod1", plain),
            ("cni0", Hooks { ingress: Ingress::Stacked, masquerade4: bridge4, ..plain }),
            (
                "pod2",
                Hooks {
                    ingress: Ingress::BridgePort,
                    lift: Some([2, 0, 0, 0, 0, 0x99]),
                    masquerade4: bridge4,
                    ..plain
                },
            ),
            ("shim0", Hooks { role: Role::Node, ingress: Ingress::Stacked, ..plain }),
            ("vxlan0", Hooks { role: Role::Tunnel, ingress: Ingress::Stacked, masquerade4: tunnel4, ..plain }),
            ("tap0", plain),
            ("tun0", Hooks { role: Role::Tunnel, ingress: Ingress::BareIp, ..bare }),
        ];
        for (name, expected) in cases {
            told.hooks(name, |hooks| *hooks == expected);
        }
        told.left("lo", &Reason::Loopback);
        if exists(&netns, "link add dummy0 type dummy") {
            netns.ip("link set dummy0 up\naddress add 203.0.113.1/32 dev dummy0\n").expect("give it an address");
            told.left("dummy0", &Reason::NoPackets);
        }
        if exists(&netns, "link add vlan7 link eth0 type vlan id 7") {
            netns.ip("link set vlan7 up\n").expect("switch the VLAN on");
            told.hooks("vlan7", |hooks| *hooks == Hooks { role: Role::Node, ingress: Ingress::Stacked, ..plain });
        }
        if exists(&netns, "link add ipip7 type ipip local 192.0.2.11 remote 192.0.2.12") {
            told.left("ipip7", &Reason::Unused);
            netns.ip("link set ipip7 up\n").expect("switch the tunnel on");
            told.hooks("ipip7", |hooks| {
                *hooks == Hooks { role: Role::Tunnel, ingress: Ingress::StackedBareIp, ..bare }
            });
        }

        let all = ["192.0.2.11", "2001:db8:1::11", "10.244.1.1", "10.244.1.2"];
        wait("the node's addresses", || {
            told.read();
            let found = |ip: &&str| told.addresses.all.iter().any(|address| address.ip.to_string() == **ip);
            (told.addresses.primary4 == own4 && told.addresses.primary6 == own6 && all.iter().all(found)).then_some(())
        });
    });
}

#[test]
fn a_change_of_one_device_reaches_those_that_depend_on_it() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let (netns, elsewhere) = (Netns::new("node").expect("a namespace"), Netns::new("elsewhere").expect("a namespace"));
    node(&netns, &elsewhere);
    netns
        .ip(&format!(
            "link add cni0 type bridge\n\
             link add pod1 type veth peer name eth0 netns {0}\n\
             link add pod2 type veth peer name eth2 netns {0}\n",
            elsewhere.path()
        ))
        .expect("make devices");
    netns.run(|| {
        let mut told = watch_only(Options::default());
        told.hooks("pod1", |hooks| hooks.ingress == Ingress::Ethernet);
        let ip = |lines: &str| netns.ip(lines).expect("change devices");

        ip("link set pod1 master cni0\n");
        told.hooks("pod1", |hooks| hooks.ingress == Ingress::BridgePort);
        ip("link set cni0 address 02:00:00:00:00:42\n");
        told.hooks("pod1", |hooks| hooks.lift == Some([2, 0, 0, 0, 0, 0x42]));
        ip("address add 10.244.1.1/24 dev cni0\n");
        told.hooks("pod1", |hooks| hooks.masquerade4 == "10.244.1.1".parse().ok());
        ip("link set pod1 nomaster\n");
        told.hooks("pod1", |hooks| hooks.ingress == Ingress::Ethernet && hooks.lift.is_none());

        ip("address add 192.0.2.99/24 dev eth0\naddress delete 192.0.2.11/24 dev eth0\n");
        told.hooks("pod2", |hooks| hooks.masquerade4.is_none_or(|ip| ip.octets()[3] != 11));
        ip("link delete pod2\n");
        wait("pod2 is gone", || {
            told.read();
            (!told.devices.contains_key("pod2")).then_some(())
        });
    });
}

/// Messages that the kernel could not deliver to sockets of this namespace.
fn lost_messages() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").expect("the list of netlink sockets");
    let lost = |line: &str| line.split_whitespace().nth(8)?.parse::<u64>().ok();
    table.lines().skip(1).filter_map(lost).sum()
}

#[test]
fn what_was_missed_while_too_much_happened_is_read_anew() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let (netns, elsewhere) = (Netns::new("node").expect("a namespace"), Netns::new("elsewhere").expect("a namespace"));
    node(&netns, &elsewhere);
    netns.run(|| {
        let (go_on, wait_here) = std::sync::mpsc::channel();
        let mut asleep = false;
        let hook = move |events: &[DeviceEvent]| {
            // From the first device that comes up on, until it is told to go on.
            if !asleep && events.iter().any(|event| matches!(event, DeviceEvent::Present(pod) if pod.name == "pod0")) {
                asleep = true;
                wait_here.recv_timeout(DEADLINE).expect("told to go on");
            }
            all_right(events)
        };
        let mut told = Told::new(host::watch(Options::default(), hook).expect("watch the namespace"));
        told.hooks("eth0", |hooks| hooks.role == Role::Node);
        let add = |name: &str| format!("link add {name} type veth peer name {name} netns {}\n", elsewhere.path());
        netns.ip(&add("pod0")).expect("make a pod");
        netns.ip(&add("pod1")).expect("make a pod");
        netns.ip("link set pod1 up\n").expect("switch it on: only then its changes are told");
        let renamed: Vec<String> = (0..500).map(|turn| format!("link set pod1 alias {turn}\n")).collect();
        wait("messages are lost", || {
            netns.ip(&renamed.concat()).expect("make much ado");
            (lost_messages() > 0).then_some(())
        });
        netns.ip("link delete pod1\n").expect("delete a pod");
        netns.ip(&add("pod2")).expect("make a pod");
        go_on.send(()).expect("the watcher waits");
        told.hooks("pod2", |hooks| hooks.role == Role::Pod);
        wait("pod1 is forgotten", || {
            told.read();
            (!told.devices.contains_key("pod1")).then_some(())
        });
    });
}

/// A loaded kernel object, of which there are two, as an old agent and a new one have. All tests share them:
/// loading takes seconds.
struct Build(OnceLock<Mutex<Object>>);

static OLD: Build = Build(OnceLock::new());
static NEW: Build = Build(OnceLock::new());

impl Build {
    fn object(&self) -> MutexGuard<'_, Object> {
        let load = || {
            let options =
                load::Options { bpffs: None, sizes: Sizes::for_memory(0), test_mode: false, programs: load::PROGRAMS };
            Mutex::new(Object::load(&options).expect("load the kernel object"))
        };
        self.0.get_or_init(load).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An agent without its brain: watcher and attacher.
struct Hooker {
    told: Told,
    /// When each device was hooked first, by index.
    hooked: Times,
}

type Times = Arc<Mutex<BTreeMap<u32, Instant>>>;

/// Notes when a device was told of first.
fn note(times: &Times, events: &[DeviceEvent]) {
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    for event in events {
        if let DeviceEvent::Present(device) = event {
            times.entry(device.index).or_insert_with(Instant::now);
        }
    }
}

impl Hooker {
    fn start(mode: Mode, folder: &Path, build: &Build, records: &Records) -> Self {
        Self::start_with(Options::default(), mode, folder, build, records)
    }

    fn start_with(options: Options, mode: Mode, folder: &Path, build: &Build, records: &Records) -> Self {
        let mut attacher = Attacher::new(mode, folder, &mut *build.object(), records.clone()).expect("an attacher");
        let hooked = Arc::<Mutex<BTreeMap<u32, Instant>>>::default();
        let times = Arc::clone(&hooked);
        let hook = move |events: &[DeviceEvent]| {
            let done = attacher.apply(events);
            note(&times, events);
            done
        };
        Self { told: Told::new(host::watch(options, hook).expect("watch the namespace")), hooked }
    }

    #[track_caller]
    fn until_hooked(&mut self, names: &[&str]) {
        for name in names {
            self.told.hooks(name, |_| true);
        }
        assert_eq!(self.told.failures, NOTHING);
    }
}

/// Names of the TCX programs of a device, ingress then egress.
fn tcx_programs(name: &str) -> Vec<String> {
    [TcAttachType::Ingress, TcAttachType::Egress]
        .into_iter()
        .flat_map(|direction| SchedClassifier::query_tcx(name, direction).expect("ask for TCX programs").1)
        .map(|program| program.name_as_str().expect("a name").to_owned())
        .collect()
}

/// Identities of the TCX programs of a device.
fn tcx_ids(name: &str) -> Vec<u32> {
    [TcAttachType::Ingress, TcAttachType::Egress]
        .into_iter()
        .flat_map(|direction| SchedClassifier::query_tcx(name, direction).expect("ask for TCX programs").1)
        .map(|program| program.id())
        .collect()
}

/// What `tc` says of a device.
fn tc(netns: &Netns, arguments: &str) -> String {
    let output = netns.command("tc").args(arguments.split(' ')).output().expect("run tc (Debian: iproute2)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of our clsact filters of a device, ingress then egress.
fn filters(netns: &Netns, device: &str) -> Vec<String> {
    ["ingress", "egress"]
        .into_iter()
        .flat_map(|direction| {
            let shown = tc(netns, &format!("filter show dev {device} {direction}"));
            let names: Vec<String> =
                shown.split_whitespace().filter(|word| word.starts_with("svclb:")).map(str::to_owned).collect();
            names
        })
        .collect()
}

fn has_clsact(netns: &Netns, device: &str) -> bool {
    tc(netns, &format!("qdisc show dev {device}")).contains("clsact")
}

/// A node with two pods, one of them on a bridge.
struct Stage {
    netns: Netns,
    elsewhere: Netns,
    bpffs: Bpffs,
}

impl Stage {
    fn new() -> Self {
        let stage = Self {
            netns: Netns::new("node").expect("a namespace"),
            elsewhere: Netns::new("elsewhere").expect("a namespace"),
            bpffs: Bpffs::new().expect("a BPF file system"),
        };
        node(&stage.netns, &stage.elsewhere);
        stage
            .netns
            .ip(&format!(
                "link add cni0 type bridge\n\
                 link add pod1 type veth peer name eth0 netns {0}\n\
                 link add pod2 type veth peer name eth2 netns {0}\n\
                 link set pod2 master cni0\n",
                stage.elsewhere.path()
            ))
            .expect("make pods");
        stage
    }

    /// Runs inside the node's namespace, with the folder for pins.
    fn run(&self, work: impl FnOnce(&Path) + Send) {
        let folder = self.bpffs.folder("node");
        self.netns.run(|| self.bpffs.run(|| work(&folder)));
    }
}

const ALL: [&str; 4] = ["eth0", "cni0", "pod1", "pod2"];

fn due(device: &str) -> [&'static str; 2] {
    match device {
        "cni0" => ["ingress_stacked", "egress"],
        "pod2" => ["ingress_port", "egress"],
        _ => ["ingress", "egress"],
    }
}

/// Waits until devices have their TCX links and nothing of clsact any more.
#[track_caller]
fn until_linked(netns: &Netns) {
    for device in ALL {
        wait(&format!("TCX links of {device}"), || (tcx_programs(device) == due(device)).then_some(()));
        wait(&format!("{device} without clsact"), || (!has_clsact(netns, device)).then_some(()));
    }
}

#[test]
fn links_outlive_the_agent_and_are_adopted() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    for mode in [Mode::Auto, Mode::Tcx] {
        let stage = Stage::new();
        stage.run(|folder| {
            let records = Records::default();
            let mut first = Hooker::start(mode, folder, &OLD, &records);
            first.until_hooked(&ALL);
            until_linked(&stage.netns);
            let index = |name: &str| first.told.devices[name].index;
            assert_eq!(records.lock()[&index("pod2")].role, role::POD);
            assert_ne!(records.lock()[&index("pod2")].lift, [0; 6]);
            assert_eq!(records.lock()[&index("eth0")].role, role::NODE);
            let before: Vec<Vec<u32>> = ALL.iter().map(|device| tcx_ids(device)).collect();
            drop(first);
            let kept: Vec<Vec<u32>> = ALL.iter().map(|device| tcx_ids(device)).collect();
            assert_eq!(kept, before, "{mode}: the hooks stay when the agent goes");

            // A device goes and its pins stay, as nobody is there to see it.
            stage.netns.ip("link delete pod1\n").expect("delete a pod");
            let pins = PinFolder::existing(folder);
            assert_eq!(pins.devices_with_links().expect("a list").len(), 4);

            let mut second = Hooker::start(mode, folder, &NEW, &records);
            second.until_hooked(&["eth0", "cni0", "pod2"]);
            for (device, before) in ALL.iter().zip(&before).filter(|(device, _)| **device != "pod1") {
                wait(&format!("{device} is adopted"), || {
                    (tcx_programs(device) == due(device) && tcx_ids(device) != *before).then_some(())
                });
            }
            wait("pins and records of pod1 are gone", || {
                (pins.devices_with_links().expect("a list").len() == 3 && records.lock().len() == 3).then_some(())
            });
            drop(second);
            let removed = clean_up(folder).expect("clean up");
            assert_eq!((removed.links.len(), removed.filters.len()), (3, 0));
            for device in ["eth0", "cni0", "pod2"] {
                wait(&format!("{device} without hooks"), || tcx_programs(device).is_empty().then_some(()));
            }
        });
    }
}

#[test]
fn clsact_filters_outlive_the_agent_and_are_replaced() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        let names = |device| due(device).map(|program| format!("svclb:{program}"));
        let records = Records::default();
        let mut first = Hooker::start(Mode::Clsact, folder, &OLD, &records);
        first.until_hooked(&ALL);
        drop(first);
        for device in ALL {
            assert_eq!(filters(&stage.netns, device), names(device));
        }
        // A filter and a qdisc of others.
        let program = folder.join("programs/egress");
        let add = format!(
            "filter add dev eth0 ingress prio 7 handle 9 bpf direct-action object-pinned {}",
            program.display()
        );
        tc(&stage.netns, &add);
        tc(&stage.netns, "qdisc add dev pod1 root pfifo");

        let mut second = Hooker::start(Mode::Clsact, folder, &NEW, &records);
        second.until_hooked(&ALL);
        drop(second);
        for device in ALL {
            assert_eq!(filters(&stage.netns, device), names(device), "replaced, not added");
            assert_eq!(tcx_programs(device), NOTHING);
        }

        let removed = clean_up(folder).expect("clean up");
        assert_eq!(removed.filters.len(), 4);
        for device in ALL {
            assert_eq!(filters(&stage.netns, device), NOTHING);
            assert_eq!(has_clsact(&stage.netns, device), device == "eth0", "{device}: only where others use it");
        }
        assert!(tc(&stage.netns, "filter show dev eth0 ingress").contains("pref 7 bpf"));
        assert!(tc(&stage.netns, "qdisc show dev pod1").contains("pfifo"));
    });
}

#[test]
fn a_change_of_mode_leaves_nothing_of_the_other() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        let records = Records::default();
        let mut agent = Hooker::start(Mode::Tcx, folder, &OLD, &records);
        agent.until_hooked(&ALL);
        drop(agent);
        let mut agent = Hooker::start(Mode::Clsact, folder, &NEW, &records);
        agent.until_hooked(&ALL);
        drop(agent);
        for device in ALL {
            assert_eq!(filters(&stage.netns, device).len(), 2);
            wait(&format!("{device} without TCX"), || tcx_programs(device).is_empty().then_some(()));
        }
        let mut agent = Hooker::start(Mode::Auto, folder, &OLD, &records);
        agent.until_hooked(&ALL);
        until_linked(&stage.netns);
        drop(agent);
        clean_up(folder).expect("clean up");
    });
}

#[test]
fn a_device_that_is_excluded_loses_its_hooks() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let pod1 = Regex::new("^pod1$").expect("an expression");
    for mode in [Mode::Auto, Mode::Clsact] {
        let stage = Stage::new();
        stage.run(|folder| {
            let records = Records::default();
            let mut first = Hooker::start(mode, folder, &OLD, &records);
            first.until_hooked(&ALL);
            if mode == Mode::Auto {
                until_linked(&stage.netns);
            }
            drop(first);
            let options = Options { excluded: Some(pod1.clone()), ..Options::default() };
            let mut second = Hooker::start_with(options, mode, folder, &NEW, &records);
            second.until_hooked(&["eth0", "cni0", "pod2"]);
            second.told.left("pod1", &Reason::Excluded);
            wait("pod1 without hooks", || tcx_programs("pod1").is_empty().then_some(()));
            assert_eq!(filters(&stage.netns, "pod1"), NOTHING);
            assert!(!has_clsact(&stage.netns, "pod1"));
            assert_eq!(records.lock().len(), 3);
            assert_eq!(second.told.failures, NOTHING);
            drop(second);
            clean_up(folder).expect("clean up");
        });
    }
}

#[test]
fn filters_that_somebody_removes_are_hung_in_again() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        let mut agent = Hooker::start(Mode::Clsact, folder, &OLD, &Records::default());
        agent.until_hooked(&ALL);
        for removal in ["qdisc del dev pod1 clsact", "filter del dev pod1 egress"] {
            tc(&stage.netns, removal);
            wait(removal, || (filters(&stage.netns, "pod1") == ["svclb:ingress", "svclb:egress"]).then_some(()));
        }
        assert_eq!(agent.told.failures, NOTHING);
        drop(agent);
        assert_eq!(clean_up(folder).expect("clean up").filters.len(), 4);
    });
}

#[test]
fn a_veth_that_joins_a_bridge_gets_the_port_program() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    for mode in [Mode::Auto, Mode::Clsact] {
        let stage = Stage::new();
        stage.run(|folder| {
            let mut agent = Hooker::start(mode, folder, &OLD, &Records::default());
            agent.until_hooked(&ALL);
            if mode == Mode::Auto {
                until_linked(&stage.netns);
            }
            stage.netns.ip("link set pod1 master cni0\n").expect("join the bridge");
            wait(&format!("{mode}: the program of a port"), || match mode {
                Mode::Clsact => (filters(&stage.netns, "pod1") == ["svclb:ingress_port", "svclb:egress"]).then_some(()),
                Mode::Auto | Mode::Tcx => (tcx_programs("pod1") == ["ingress_port", "egress"]).then_some(()),
            });
            drop(agent);
            clean_up(folder).expect("clean up");
        });
    }
}

#[test]
fn an_ingress_qdisc_in_the_way_of_clsact_is_left_in_peace() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        tc(&stage.netns, "qdisc add dev pod1 ingress");
        let mut agent = Hooker::start(Mode::Auto, folder, &OLD, &Records::default());
        agent.until_hooked(&ALL);
        assert_eq!(tcx_programs("pod1"), due("pod1"), "TCX at once");
        assert!(tc(&stage.netns, "qdisc show dev pod1").contains("ingress ffff:"));
        drop(agent);

        let mut agent = Hooker::start(Mode::Clsact, folder, &NEW, &Records::default());
        let failure = wait("a failure", || {
            agent.told.read();
            agent.told.failures.first().cloned()
        });
        for part in ["pod1", "clsact", "qdisc delete dev pod1 ingress"] {
            assert!(failure.contains(part), "{failure}");
        }
        drop(agent);
        clean_up(folder).expect("clean up");
    });
}

/// Pods that start at the same time.
const PODS: usize = 200;

#[test]
fn two_hundred_pods_at_once_are_hooked_in_time() {
    let _turn = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let (netns, elsewhere) = (Netns::new("node").expect("a namespace"), Netns::new("elsewhere").expect("a namespace"));
    node(&netns, &elsewhere);
    let bpffs = Bpffs::new().expect("a BPF file system");
    let folder = bpffs.folder("node");
    netns.run(|| {
        bpffs.run(|| {
            let mut agent = Hooker::start(Mode::Auto, &folder, &OLD, &Records::default());
            agent.until_hooked(&["eth0"]);
            // Another watcher, which does nothing, knows when the kernel told of a device.
            let told = Times::default();
            let times = Arc::clone(&told);
            let observer = host::watch(Options::default(), move |events| {
                note(&times, events);
                all_right(events)
            });
            let observer = Told::new(observer.expect("watch the namespace"));
            let pod = |pod| format!("link add pod{pod} type veth peer name eth{pod} netns {}\n", elsewhere.path());
            let lines = (0..PODS).map(pod).collect::<Vec<String>>().concat();
            let start = Instant::now();
            netns.ip(&lines).expect("make pods");
            let made = start.elapsed();
            let took = wait("all are hooked", || {
                agent.told.read();
                let hooked = agent.hooked.lock().unwrap_or_else(PoisonError::into_inner);
                let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                let took = |device: &Device| Some(hooked.get(&device.index)?.duration_since(*told.get(&device.index)?));
                let pods = agent.told.devices.values().filter(|device| device.name.starts_with("pod"));
                let mut took: Vec<Duration> = pods.filter_map(took).collect();
                took.sort_unstable();
                (took.len() == PODS).then_some(took)
            });
            let at = |percent: usize| took[(took.len() - 1) * percent / 100];
            eprintln!(
                "{PODS} pods made in {made:?}; from RTM_NEWLINK to hooked: p50 {:?}, p99 {:?}, longest {:?}",
                at(50),
                at(99),
                at(100)
            );
            assert_eq!(agent.told.failures, NOTHING);
            // Milliseconds on a quiet machine. With TCX links alone it would be seconds.
            assert!(at(99) < Duration::from_millis(500), "p99 {:?}", at(99));
            drop((agent, observer));
            clean_up(&folder).expect("clean up");
        });
    });
}
