//! An agent without its brain, a stage for it, and what the kernel says of hooks.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use aya::programs::{SchedClassifier, TcAttachType};
use svclb_common::{config::Sizes, schema};
use svclb_tests::net::{Bpffs, Netns};
use svclb_userspace::{
    bpf::{
        attach::{Attacher, DeviceTable, Mode, ProgramSource},
        load::{self, LoadError, Object},
    },
    host::{self, DeviceEvent, devices::Options},
};

use super::told::{NOTHING, Told, node, wait};

/// The map DEVICES of a test: shared, so that it outlives the attacher.
#[derive(Clone, Default)]
pub(crate) struct Records(Arc<Mutex<BTreeMap<u32, schema::Device>>>);

impl Records {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, schema::Device>> {
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

/// A loaded kernel object, of which there are two, as an old agent and a new one have. All tests share them:
/// loading takes seconds.
pub(crate) struct Build(OnceLock<Mutex<Object>>);

pub(crate) static OLD: Build = Build(OnceLock::new());
pub(crate) static NEW: Build = Build(OnceLock::new());

impl Build {
    fn object(&self) -> MutexGuard<'_, Object> {
        let load = || {
            let options = load::Options { bpffs: None, sizes: Sizes::for_memory(0), test_mode: false, programs: &[] };
            Mutex::new(Object::load(&options).expect("load the kernel object"))
        };
        self.0.get_or_init(load).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProgramSource for &'static Build {
    fn load(
        &mut self,
        names: &[&'static str],
        done: &mut dyn FnMut(&'static str, Result<&mut SchedClassifier, LoadError>),
    ) {
        self.object().load_programs(names, done);
    }
}

/// A build of which one program takes its time, or is refused.
pub(crate) struct Changed<F> {
    build: &'static Build,
    program: &'static str,
    refused: F,
}

impl<F: FnMut() -> Option<LoadError> + Send + 'static> Changed<F> {
    pub(crate) fn new(build: &'static Build, program: &'static str, refused: F) -> Self {
        Self { build, program, refused }
    }
}

impl<F: FnMut() -> Option<LoadError> + Send + 'static> ProgramSource for Changed<F> {
    fn load(
        &mut self,
        names: &[&'static str],
        done: &mut dyn FnMut(&'static str, Result<&mut SchedClassifier, LoadError>),
    ) {
        let refused = if names.contains(&self.program) { (self.refused)() } else { None };
        let Some(error) = refused else { return (&mut self.build).load(names, done) };
        let others: Vec<&str> = names.iter().copied().filter(|name| *name != self.program).collect();
        done(self.program, Err(error));
        (&mut self.build).load(&others, done);
    }
}

/// An agent without its brain: watcher and attacher.
pub(crate) struct Hooker {
    pub(crate) told: Told,
    /// When each device was hooked first, by index.
    pub(crate) hooked: Times,
}

pub(crate) type Times = Arc<Mutex<BTreeMap<u32, Instant>>>;

/// Notes when a device was told of first.
pub(crate) fn note(times: &Times, events: &[DeviceEvent]) {
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    for event in events {
        if let DeviceEvent::Present(device) = event {
            times.entry(device.index).or_insert_with(Instant::now);
        }
    }
}

impl Hooker {
    pub(crate) fn start(mode: Mode, folder: &Path, build: impl ProgramSource, records: &Records) -> Self {
        Self::start_with(Options::default(), mode, folder, build, records)
    }

    pub(crate) fn start_with(
        options: Options,
        mode: Mode,
        folder: &Path,
        build: impl ProgramSource,
        records: &Records,
    ) -> Self {
        let mut attacher = Attacher::new(mode, folder, build, records.clone(), None).expect("an attacher");
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
    pub(crate) fn until_hooked(&mut self, names: &[&str]) {
        for name in names {
            self.told.hooks(name, |_| true);
        }
        assert_eq!(self.told.failures, NOTHING);
    }
}

/// Names of the TCX programs of a device, ingress then egress.
pub(crate) fn tcx_programs(name: &str) -> Vec<String> {
    [TcAttachType::Ingress, TcAttachType::Egress]
        .into_iter()
        .flat_map(|direction| SchedClassifier::query_tcx(name, direction).expect("ask for TCX programs").1)
        .map(|program| program.name_as_str().expect("a name").to_owned())
        .collect()
}

/// Identities of the TCX programs of a device.
pub(crate) fn tcx_ids(name: &str) -> Vec<u32> {
    [TcAttachType::Ingress, TcAttachType::Egress]
        .into_iter()
        .flat_map(|direction| SchedClassifier::query_tcx(name, direction).expect("ask for TCX programs").1)
        .map(|program| program.id())
        .collect()
}

/// What `tc` says of a device.
pub(crate) fn tc(netns: &Netns, arguments: &str) -> String {
    let output = netns.command("tc").args(arguments.split(' ')).output().expect("run tc (Debian: iproute2)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of our clsact filters of a device, ingress then egress.
pub(crate) fn filters(netns: &Netns, device: &str) -> Vec<String> {
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

pub(crate) fn has_clsact(netns: &Netns, device: &str) -> bool {
    tc(netns, &format!("qdisc show dev {device}")).contains("clsact")
}

/// A node with two pods, one of them on a bridge.
pub(crate) struct Stage {
    pub(crate) netns: Netns,
    pub(crate) elsewhere: Netns,
    pub(crate) bpffs: Bpffs,
}

impl Stage {
    pub(crate) fn new() -> Self {
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
    pub(crate) fn run(&self, work: impl FnOnce(&Path) + Send) {
        let folder = self.bpffs.folder("node");
        self.netns.run(|| self.bpffs.run(|| work(&folder)));
    }
}

pub(crate) const ALL: [&str; 4] = ["eth0", "cni0", "pod1", "pod2"];

pub(crate) fn due(device: &str) -> [&'static str; 2] {
    match device {
        "cni0" => ["ingress_stacked", "egress"],
        "pod2" => ["ingress_port", "egress"],
        _ => ["ingress", "egress"],
    }
}

/// Waits until devices have their TCX links and no filters in clsact any more.
#[track_caller]
pub(crate) fn until_linked(netns: &Netns) {
    for device in ALL {
        wait(&format!("TCX links of {device}"), || (tcx_programs(device) == due(device)).then_some(()));
        wait(&format!("{device} without filters"), || filters(netns, device).is_empty().then_some(()));
    }
}
