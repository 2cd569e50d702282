//! The worlds in which packet tests run: the datapath on the host and the same datapath in the kernel.
//!
//! [`World`] has one interface for both, so that a test is written once and runs in each
//! ([`World::each`]); [`Scene`] fills the tables.

mod capture;
mod frame;
pub mod host;
pub mod kernel;
pub mod net;
mod recorder;
pub mod scene;

pub use self::frame::{SENT_ACROSS, SENT_OUT};
use self::host::{HostEnv, HostPacket, Summed};
use self::kernel::{DEVICE, KernelEnv};
pub use self::net::{Net, Opening};
pub use self::recorder::Recorder;
pub use self::scene::{BackendSpec, Scene, ServiceSpec};
use crate::packet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Config, Extent, Sizes};
use svclb_common::conntrack::State;
use svclb_common::datapath::Attachment;
use svclb_common::env::TICK_SHIFT;
use svclb_common::route::Route;
use svclb_common::schema::{Device, LAYOUT};
use svclb_common::service::{device_flag, role};
use svclb_common::verdict::{Action, COUNTER_SLOTS, Counter};
use svclb_userspace::plan::Limits;

/// What a device is to a packet test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// Leads out of the node.
    Uplink,
    /// Leads to a pod.
    Pod,
    /// A port of a bridge with a pod behind it.
    BridgePort,
    /// The bridge itself.
    Bridge,
    /// Leads out of the node, but neither it nor the node has an address.
    Unnumbered,
}

/// The node's addresses in packet tests.
pub const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// The same for IPv6.
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x11);
/// MAC address of the bridge.
pub const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
/// The agent's mark.
pub const MARK: u16 = 0x5bc1;
/// Ticks in a second.
pub const SECOND: u32 = 15;

impl Port {
    /// The device's record; `node` holds the node's addresses.
    fn record(self, node: (Ipv4Addr, Ipv6Addr)) -> Device {
        if self == Self::Unnumbered {
            return Device { role: role::NODE, ..Device::default() };
        }
        Device {
            role: if self == Self::Uplink { role::NODE } else { role::POD },
            local: u8::from(self != Self::Uplink),
            mac: if self == Self::BridgePort { BRIDGE_MAC } else { packet::MAC_B },
            input: DEVICE,
            flags: device_flag::ETHERNET,
            masquerade4: node.0.into(),
            masquerade6: node.1.into(),
        }
    }

    /// The attachment and the name of the program at ingress.
    pub const fn ingress(self) -> (Attachment, &'static str) {
        match self {
            Self::Uplink | Self::Pod | Self::Unnumbered => (Attachment::ETHERNET, "ingress"),
            Self::BridgePort => (Attachment::BRIDGE_PORT, "ingress_port"),
            Self::Bridge => (Attachment::STACKED, "ingress_stacked"),
        }
    }
}

/// Sizes small enough that tables fill up in a test.
pub const SIZES: Sizes = Sizes {
    interest_frontends: 256,
    interest_backends: 256,
    frontend_buckets: 64,
    services: 64,
    slot_pairs: 256,
    backends: 256,
    flow_buckets: 64,
    spill_buckets: 8,
    masquerade: 192,
    affinity: 64,
    source_ranges: 64,
    sockets: 64,
    // The kernel's table never forgets in a test what the host's does not.
    fragments: 32_768,
};

/// Sizes of the maps that the agent writes.
pub const fn limits(sizes: &Sizes) -> Limits {
    Limits {
        services: sizes.services,
        slots: sizes.slot_pairs * 2,
        backends: sizes.backends,
        interest_frontends: sizes.interest_frontends,
        interest_backends: sizes.interest_backends,
    }
}

/// The CONFIG of packet tests.
pub fn config() -> Config {
    let mut config: Config = zerocopy::FromZeros::new_zeroed();
    config.layout = LAYOUT;
    config.seed = 0x005e_ed0f_7e57;
    config.mark = MARK;
    config.refusals = 1_000_000;
    config.jiffies_per_second = SECOND << TICK_SHIFT;
    config.frontends = SIZES.frontend_buckets - 1;
    config.buckets = [[SIZES.flow_buckets - 1, SIZES.spill_buckets - 1]; 2];
    config.interest = [[false, true]
        .map(|half| [SIZES.interest_frontends, SIZES.interest_backends].map(|words| Extent::whole(words, half)));
        2];
    for (state, _, seconds) in State::ALL {
        config.timeouts[state.0 as usize] = seconds * SECOND;
    }
    // Prefixes that match nothing: a network with a bit that the mask does not have.
    for prefix in &mut config.cluster_cidrs4 {
        prefix.network.0 = 1;
    }
    for prefix in &mut config.cluster_cidrs6 {
        prefix.network.0[0] = 1;
    }
    config
}

/// What a hook did with a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What the kernel is told: -1 next, 2 drop, 7 redirect.
    pub action: i32,
    /// The packet afterwards.
    pub bytes: Vec<u8>,
    /// Copies that were sent into the node before.
    pub copies: Vec<Vec<u8>>,
    /// Where it goes, if it passes the stack by.
    pub onward: Option<Route>,
    /// Counters that moved, by name.
    pub moved: BTreeMap<&'static str, u64>,
    before: Vec<u8>,
}

/// The packet goes on.
pub const NEXT: i32 = -1;
/// The packet is dropped.
pub const DROPPED: i32 = 2;
/// The packet is sent back.
pub const SENT_BACK: i32 = 7;
/// The packet is sent on, past the stack: to the kernel the same as [`SENT_BACK`].
pub const FORWARDED: i32 = 7;

impl Outcome {
    /// The packet goes on and is as it was; exactly this counter moved.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn passed(&self, counter: Counter) {
        self.expect(NEXT, &[counter]);
        assert_eq!(self.bytes, self.before, "the packet was changed\n{self:#?}");
    }

    /// The packet was dropped; exactly this counter moved.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn dropped(&self, counter: Counter) {
        self.expect(DROPPED, &[counter]);
    }

    /// The packet was rewritten and goes on; exactly these counters moved. Returns what it is now.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn translated(&self, counters: &[Counter]) -> packet::Seen {
        packet::read(&self.rewritten(counters))
    }

    /// As [`Self::translated`], of a packet that cannot be read alone: a fragment. Returns its bytes.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn rewritten(&self, counters: &[Counter]) -> Vec<u8> {
        self.expect(NEXT, counters);
        self.bytes.clone()
    }

    /// Both ends were rewritten and the packet passes the stack by; exactly these counters moved. Returns what it is now,
    /// and where it goes.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn forwarded(&self, counters: &[Counter]) -> (packet::Seen, Route) {
        let (bytes, onward) = self.sent_on(counters);
        (packet::read(&bytes), onward)
    }

    /// As [`Self::forwarded`], of a packet that cannot be read alone: a fragment. Returns its bytes.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn sent_on(&self, counters: &[Counter]) -> (Vec<u8>, Route) {
        self.expect(FORWARDED, counters);
        (self.bytes.clone(), self.onward.expect("where it goes"))
    }

    /// The packet became its own refusal; exactly this counter moved. Returns the answer.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn refused(&self, counter: Counter) -> packet::Seen {
        self.expect(SENT_BACK, &[counter]);
        packet::read(&self.bytes)
    }

    /// The packet cut its connection; exactly this counter moved. Returns the reset that went into the node as a copy, and
    /// the one that the packet became, which takes this `action`.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn cut(&self, action: i32) -> [Vec<u8>; 2] {
        self.expect_with_copies(action, &[Counter::RefusedGoneBackend], 1);
        [self.copies[0].clone(), self.bytes.clone()]
    }

    /// The packet became the answer that it asked for; exactly this counter moved.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn answered(&self, counter: Counter) {
        self.expect(SENT_BACK, &[counter]);
    }

    #[track_caller]
    fn expect(&self, action: i32, counters: &[Counter]) {
        self.expect_with_copies(action, counters, 0);
    }

    #[track_caller]
    fn expect_with_copies(&self, action: i32, counters: &[Counter], copies: usize) {
        let expected: BTreeMap<_, _> = counters.iter().map(|counter| (counter.label(), 1)).collect();
        assert!(
            self.action == action && self.moved == expected && self.copies.len() == copies,
            "expected action {action}, counters {expected:?} and {copies} copies, got {}, {:?} and {}\n\
             before: {}\nafter:  {}",
            self.action,
            self.moved,
            self.copies.len(),
            packet::describe(&self.before),
            packet::describe(&self.bytes),
        );
    }
}

/// Where packets are processed.
pub enum Machine {
    /// On the host.
    Host(Box<HostEnv>),
    /// In the kernel.
    Kernel(Box<KernelEnv>),
}

/// A node with tables, a clock and packets.
pub struct World {
    /// What processes the packets.
    pub machine: Machine,
    config: Config,
    now: u32,
    random: u32,
    node: (Ipv4Addr, Ipv6Addr),
}

impl World {
    /// Runs a test on the host, and in the kernel if the feature `kernel` is on.
    ///
    /// # Panics
    /// If the kernel does not take the programs.
    pub fn each(mut test: impl FnMut(&mut Self)) {
        let mut host = Self::host();
        test(&mut host);
        if cfg!(feature = "kernel") {
            let mut kernel = Self::kernel();
            test(&mut kernel);
            kernel.end();
        }
    }

    /// Ends a world; an object in the kernel serves the next test.
    pub fn end(self) {
        if let Machine::Kernel(env) = self.machine {
            KernelEnv::give_back(*env);
        }
    }

    /// The datapath on the host.
    pub fn host() -> Self {
        let config = config();
        Self::around(Machine::Host(Box::new(HostEnv::new(config, &SIZES))), &config)
    }

    /// The datapath in the kernel.
    ///
    /// # Panics
    /// If the kernel does not take the programs.
    pub fn kernel() -> Self {
        let config = config();
        let env = KernelEnv::take(&config, SIZES).unwrap_or_else(|error| panic!("{error:#}"));
        Self::around(Machine::Kernel(Box::new(env)), &config)
    }

    /// Another node on the host, to which all of this has happened, too.
    ///
    /// # Panics
    /// If this one is in the kernel.
    #[must_use]
    pub fn twin(&self) -> Self {
        let Machine::Host(env) = &self.machine else { panic!("a node in the kernel has no twin") };
        Self { machine: Machine::Host(env.clone()), ..*self }
    }

    const fn around(machine: Machine, config: &Config) -> Self {
        Self { machine, config: *config, now: 1000, random: 1, node: (NODE4, NODE6) }
    }

    /// CONFIG as it is.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Changes CONFIG.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        match &mut self.machine {
            Machine::Host(env) => env.config = self.config,
            Machine::Kernel(env) => env.set_config(&self.config),
        }
    }

    /// Says what a device is that packets may leave by, past the stack.
    pub fn add_device(&mut self, index: u32, device: &Device) {
        match &mut self.machine {
            Machine::Host(env) => drop(env.devices.insert(index, *device)),
            Machine::Kernel(env) => env.set_device(index, device),
        }
    }

    /// Says which way leads to an address.
    pub fn route(&mut self, to: IpAddr, route: &Route) {
        match &mut self.machine {
            Machine::Host(env) => drop(env.routes.insert(to, *route)),
            Machine::Kernel(env) => env.set_route(to, route),
        }
    }

    /// Lets time pass.
    pub const fn wait(&mut self, seconds: u32) {
        self.now = self.now.wrapping_add(seconds * SECOND);
    }

    /// Lets so many ticks pass.
    pub const fn wait_ticks(&mut self, ticks: u32) {
        self.now = self.now.wrapping_add(ticks);
    }

    /// Sets the state of the random numbers.
    pub const fn seed(&mut self, random: u32) {
        self.random = random;
    }

    /// Makes the next random number this one.
    pub const fn draw(&mut self, number: u32) {
        self.random = test_random_before(number);
    }

    /// The time, and the state of the random numbers.
    pub const fn chance(&self) -> (u32, u32) {
        (self.now, self.random)
    }

    /// Gives the node other addresses than [`NODE4`] and [`NODE6`] to masquerade with.
    pub const fn number_node(&mut self, v4: Ipv4Addr, v6: Ipv6Addr) {
        self.node = (v4, v6);
    }

    /// Writes into the tables what an engine has written since the last time.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn take_over(&mut self, v4: &mut Recorder<Addr4>, v6: &mut Recorder<Addr6>) {
        let done = match &mut self.machine {
            Machine::Host(env) => {
                v4.replay(&mut env.v4.borrow_mut().agent).and_then(|()| v6.replay(&mut env.v6.borrow_mut().agent))
            }
            Machine::Kernel(env) => v4.replay(&mut env.v4).and_then(|()| v6.replay(&mut env.v6)),
        };
        done.expect("the tables can be written");
    }

    /// A packet enters by a device.
    #[cfg_attr(feature = "fuzz", inline)]
    pub fn ingress(&mut self, port: Port, packet: &[u8]) -> Outcome {
        let (attachment, program) = port.ingress();
        self.run(Hook::Ingress, port, attachment, program, packet)
    }

    /// A packet leaves by a device.
    #[cfg_attr(feature = "fuzz", inline)]
    pub fn egress(&mut self, port: Port, packet: &[u8]) -> Outcome {
        self.run(Hook::Egress, port, Attachment::ETHERNET, "egress", packet)
    }

    #[cfg_attr(feature = "fuzz", inline)]
    fn run(&mut self, hook: Hook, port: Port, attachment: Attachment, program: &str, packet: &[u8]) -> Outcome {
        let counters = self.counters();
        let device = port.record(self.node);
        let (action, bytes, copies, onward, after) = match &mut self.machine {
            Machine::Host(env) => {
                env.now.set(self.now);
                env.random.set(self.random);
                env.devices.insert(DEVICE, device);
                let mut packet = HostPacket {
                    bytes: packet.to_vec(),
                    summed: Summed::Whole,
                    segment: 0,
                    device: DEVICE,
                    mark: 0,
                    copies: Vec::new(),
                };
                let action = env.run(hook, &mut packet, attachment);
                self.random = env.random.get();
                let told = hook.number(action, env.onward.get().device);
                (told, packet.bytes, packet.copies, env.onward.get(), env.counters())
            }
            Machine::Kernel(env) => {
                env.set_time(self.now, self.random);
                env.set_device(DEVICE, &device);
                env.forget_onward();
                let ran = env.run(program, packet);
                self.random = env.random();
                // The counter of the only packets that are copied.
                let cut = Counter::RefusedGoneBackend as usize;
                let after = env.counters();
                let copies = env.copies(after[cut] - counters[cut]);
                (ran.action, ran.bytes, copies, env.onward(), after)
            }
        };
        let moved = after
            .iter()
            .zip(&counters)
            .enumerate()
            .filter(|(_, (after, before))| after != before)
            .map(|(number, (after, before))| (label(number), after - before))
            .collect();
        let onward = (onward != Route::default()).then_some(onward);
        Outcome { action, bytes, copies, onward, moved, before: packet.to_vec() }
    }

    /// Counters by number.
    pub fn counters(&self) -> [u64; COUNTER_SLOTS as usize] {
        match &self.machine {
            Machine::Host(env) => env.counters(),
            Machine::Kernel(env) => env.counters(),
        }
    }

    /// The flow tables as text, one line a flow: the same text in both worlds if they hold the same.
    pub fn flows(&self) -> Vec<String> {
        match &self.machine {
            Machine::Host(env) => {
                let (v4, v6) = (env.v4.borrow(), env.v6.borrow());
                let mut lines = scene::flow_lines(v4.buckets().copied(), v4.details().copied());
                lines.extend(scene::flow_lines(v6.buckets().copied(), v6.details().copied()));
                lines
            }
            Machine::Kernel(env) => {
                let mut lines = scene::flow_lines(env.buckets4().into_iter(), env.details4().into_iter());
                lines.extend(scene::flow_lines(env.buckets6().into_iter(), env.details6().into_iter()));
                lines
            }
        }
    }
}

/// Where a packet meets the datapath.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// `tc` ingress.
    Ingress,
    /// `tc` egress.
    Egress,
    /// XDP.
    Xdp,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ingress, Self::Egress, Self::Xdp];

    /// What svclb-ebpf returns to the kernel for an action.
    const fn number(self, action: Action, onward: u32) -> i32 {
        match self {
            Self::Ingress | Self::Egress => number(action),
            Self::Xdp => frame::number(action, onward),
        }
    }
}

/// The same at `tc`.
const fn number(action: Action) -> i32 {
    match action {
        Action::Next => NEXT,
        Action::Back => SENT_BACK,
        Action::Forward => FORWARDED,
        Action::Drop => DROPPED,
    }
}

/// The state after which [`svclb_common::hash::next_test_random`] gives this number.
const fn test_random_before(number: u32) -> u32 {
    // 1 / 1,664,525 modulo 2^32
    number.wrapping_sub(1_013_904_223).wrapping_mul(4_276_115_653)
}

fn label(number: usize) -> &'static str {
    Counter::ALL.iter().find(|counter| **counter as usize == number).map_or("unknown", |counter| counter.label())
}
