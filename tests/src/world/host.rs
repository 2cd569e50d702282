//! The datapath on the host: tables in memory, a packet in a buffer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use svclb_common::addr::{Addr4, Addr6, Endpoint};
use svclb_common::checksum;
use svclb_common::config::{Config, Sizes};
use svclb_common::datapath::socket::{self, Decision, Socket};
use svclb_common::datapath::{self, Attachment, Scratch};
use svclb_common::env::{Env, Peek, Place, ServiceEvent, Tables, Tick};
use svclb_common::flow_table::{Change, Sought};
use svclb_common::hash::next_test_random;
use svclb_common::packet::{Frame, Packet};
use svclb_common::route::{Route, Trip};
use svclb_common::schema::{
    Affinity, AffinityKey, Backend, BackendRef, Bucket, Details, Device, Fragment, FragmentKey, Masquerade,
    MasqueradeKey, Service, ServiceCounters, ServiceKey, ServiceRef, SocketKey, SocketPeer, SourceRangeKey, WAYS, Way,
};
use svclb_common::verdict::{Action, COUNTER_SLOTS, Counter};
use svclb_userspace::model::FamilyAddress;
use svclb_userspace::tables::fake::FakeTables;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::frame::HostFrame;
use super::{Hook, limits};

/// What the device did or will do about the transport checksum (`ip_summed` of an `sk_buff`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Summed {
    /// It is whole and in the packet.
    Whole,
    /// The field holds the sum of the pseudo header; the device adds the rest on the way out.
    Partial,
    /// It is in the packet, and the device gave this sum of all bytes from the network header on.
    Complete(u32),
}

/// A packet in a buffer.
#[derive(Clone, Debug)]
pub struct HostPacket {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// State of the checksum.
    pub summed: Summed,
    /// Bytes of payload of each segment, if it stands for several; else 0.
    pub segment: u32,
    /// Index of the device.
    pub device: u32,
    /// `tc_index`.
    pub mark: u16,
    /// Copies of it that were sent into the node.
    pub copies: Vec<Vec<u8>>,
}

impl Frame for HostPacket {
    const PLAIN_CHECKSUMS: bool = false;

    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        T::read_from_prefix(self.bytes.get(offset..)?).ok().map(|(value, _)| value)
    }

    fn write<T: IntoBytes + Immutable + Copy>(&mut self, offset: usize, value: &T) -> Option<()> {
        value.write_to_prefix(self.bytes.get_mut(offset..)?).ok()
    }

    fn add_l4_checksum(&mut self, offset: usize, difference: u32, pseudo: bool) -> Option<()> {
        let field: u16 = self.read(offset)?;
        if let Summed::Complete(sum) = self.summed
            && pseudo
        {
            // The field is the complement of what it covers.
            self.summed = Summed::Complete(checksum::difference(difference, sum));
        }
        let value = match self.summed {
            Summed::Whole | Summed::Complete(_) => checksum::update(field, difference),
            Summed::Partial if pseudo => checksum::update_partial(field, difference),
            Summed::Partial => field,
        };
        self.write(offset, &value)
    }

    fn add_packet_sum(&mut self, difference: u32) {
        if let Summed::Complete(sum) = self.summed {
            self.summed = Summed::Complete(checksum::add(sum, difference));
        }
    }

    fn device(&self) -> u32 {
        self.device
    }
}

impl Packet for HostPacket {
    fn sum(&self, offset: usize, length: usize) -> Option<u32> {
        Some(checksum::sum(self.bytes.get(offset..offset + length)?))
    }

    fn resize(&mut self, length: u32) -> Option<()> {
        if let (Summed::Complete(sum), Some(tail)) = (self.summed, self.bytes.get(length as usize..)) {
            self.summed = Summed::Complete(checksum::difference(checksum::sum(tail), sum));
        }
        self.bytes.resize(length as usize, 0);
        self.segment = 0;
        Some(())
    }

    fn insert(&mut self, l3: usize, bytes: u32) -> Option<()> {
        self.bytes.splice(l3..l3, std::iter::repeat_n(0, bytes as usize));
        Some(())
    }

    fn copy_into_node(&mut self) -> Option<()> {
        self.copies.push(self.bytes.clone());
        Some(())
    }

    fn segment(&self) -> u32 {
        self.segment
    }

    fn is_tagged(&self) -> bool {
        false
    }

    fn mark(&self) -> u16 {
        self.mark
    }

    fn set_mark(&mut self, mark: u16) {
        self.mark = mark;
    }
}

/// The tables of one family.
#[derive(Clone, Debug)]
pub struct HostTables<A: FamilyAddress> {
    /// What the agent writes.
    pub agent: FakeTables<A>,
    affinity: HashMap<(u32, A), Affinity>,
    masquerade: HashMap<MasqueradeName<A>, Masquerade<A>>,
    sockets: HashMap<SocketName<A>, SocketPeer<A>>,
    fragments: HashMap<FragmentName<A>, Fragment<A>>,
    flows: Vec<Bucket<A>>,
    flow_details: Vec<Details<A>>,
    spill: Vec<Bucket<A>>,
    spill_details: Vec<Details<A>>,
    counters: HashMap<u32, ServiceCounters>,
    room: (usize, usize),
}

/// A MASQUERADE key in a form that a Rust map takes.
type MasqueradeName<A> = (A, A, u16, u16, u8);

/// A SOCKETS key in such a form.
type SocketName<A> = ([u32; 2], A, u16, u8);

/// A FRAGMENTS key in such a form.
type FragmentName<A> = (A, A, u32, u8, u8);

fn datagram<A: FamilyAddress>(key: &FragmentKey<A>) -> FragmentName<A> {
    (key.source, key.destination, key.id, key.protocol, key.hook)
}

fn name<A: FamilyAddress>(key: &MasqueradeKey<A>) -> MasqueradeName<A> {
    (key.ours, key.remote, key.our_port.0, key.remote_port.0, key.protocol)
}

impl<A: FamilyAddress> HostTables<A> {
    fn new(sizes: &Sizes) -> Self {
        Self {
            agent: FakeTables::new(limits(sizes)),
            affinity: HashMap::new(),
            masquerade: HashMap::new(),
            sockets: HashMap::new(),
            fragments: HashMap::new(),
            flows: vec![Bucket::default(); sizes.flow_buckets as usize],
            flow_details: vec![Details::default(); sizes.flow_buckets as usize],
            spill: vec![Bucket::default(); sizes.spill_buckets as usize],
            spill_details: vec![Details::default(); sizes.spill_buckets as usize],
            counters: HashMap::new(),
            room: (sizes.affinity as usize, sizes.masquerade as usize),
        }
    }

    /// Buckets of FLOWS, then those of SPILL.
    pub fn buckets(&self) -> impl Iterator<Item = &Bucket<A>> {
        self.flows.iter().chain(&self.spill)
    }

    /// Details in the order of the buckets.
    pub fn details(&self) -> impl Iterator<Item = &Details<A>> {
        self.flow_details.iter().chain(&self.spill_details)
    }

    /// Number of entries in MASQUERADE and AFFINITY.
    pub fn entries(&self) -> (usize, usize) {
        (self.masquerade.len(), self.affinity.len())
    }
}

/// Everything around the datapath, in memory.
#[derive(Clone, Debug)]
pub struct HostEnv {
    /// CONFIG.
    pub config: Config,
    /// The clock.
    pub now: Cell<u32>,
    /// State of the random numbers.
    pub random: Cell<u32>,
    /// DEVICES.
    pub devices: HashMap<u32, Device>,
    /// Ways by destination, as [`Tables::route`] is asked for them.
    pub routes: HashMap<IpAddr, Route>,
    /// Where the last packet went that passed the stack by.
    pub onward: Cell<Route>,
    /// IPv4.
    pub v4: RefCell<HostTables<Addr4>>,
    /// IPv6.
    pub v6: RefCell<HostTables<Addr6>>,
    counters: RefCell<[u64; COUNTER_SLOTS as usize]>,
    refusals: Cell<(u32, u32)>,
}

impl HostEnv {
    /// Empty tables.
    pub fn new(config: Config, sizes: &Sizes) -> Self {
        Self {
            config,
            now: Cell::new(0),
            random: Cell::new(0),
            devices: HashMap::new(),
            routes: HashMap::new(),
            onward: Cell::new(Route::default()),
            v4: RefCell::new(HostTables::new(sizes)),
            v6: RefCell::new(HostTables::new(sizes)),
            counters: RefCell::new([0; COUNTER_SLOTS as usize]),
            refusals: Cell::new((0, 0)),
        }
    }

    /// Counters by number.
    pub fn counters(&self) -> [u64; COUNTER_SLOTS as usize] {
        *self.counters.borrow()
    }

    /// Runs a hook. For the fuzzer it is compiled with its caller, which has the counters that guide it.
    #[cfg_attr(feature = "fuzz", inline)]
    pub fn run(&self, hook: Hook, packet: &mut HostPacket, attachment: Attachment) -> Action {
        let mut scratch = Scratch::default();
        let action = match hook {
            Hook::Ingress => datapath::ingress(packet, self, attachment, &mut scratch),
            Hook::Egress => datapath::egress(packet, self, attachment, &mut scratch),
            Hook::Xdp => datapath::xdp(&mut HostFrame(packet), self, attachment, &mut scratch),
        };
        self.onward.set(if action == Action::Forward { *scratch.onward() } else { Route::default() });
        action
    }
}

impl HostEnv {
    /// A process connects a socket.
    pub fn connect<A: Of>(&self, socket: &Socket, to: Endpoint<A>) -> Decision<A> {
        socket::connect(self, socket, to)
    }

    /// A process sends a datagram from a socket that is not connected.
    pub fn send<A: Of>(&self, socket: &Socket, to: Endpoint<A>) -> Decision<A> {
        socket::send(self, socket, to)
    }

    /// A process is shown a peer.
    pub fn peer<A: Of>(&self, socket: &Socket, peer: Endpoint<A>) -> Option<Endpoint<A>> {
        socket::peer(self, socket, peer)
    }
}

impl Env for HostEnv {
    fn config(&self) -> &Config {
        &self.config
    }

    fn now(&self) -> Tick {
        Tick(self.now.get())
    }

    fn random(&self) -> u32 {
        self.random.set(next_test_random(self.random.get()));
        self.random.get()
    }

    fn device(&self, index: u32) -> Option<Device> {
        self.devices.get(&index).copied()
    }

    fn may_refuse(&self, second: u32) -> bool {
        let (current, used) = self.refusals.get();
        let used = if current == second { used } else { 0 };
        if used >= self.config.refusals {
            self.refusals.set((second, used));
            return false;
        }
        self.refusals.set((second, used + 1));
        true
    }

    fn count(&self, counter: Counter) {
        self.counters.borrow_mut()[counter as usize] += 1;
    }
}

/// A family's tables in [`HostEnv`].
pub trait Of: FamilyAddress + Hash {
    /// Its tables.
    fn tables(env: &HostEnv) -> &RefCell<HostTables<Self>>;
    /// Its masquerade address.
    fn masquerade(device: &Device) -> Self;
}

impl Of for Addr4 {
    fn tables(env: &HostEnv) -> &RefCell<HostTables<Self>> {
        &env.v4
    }

    fn masquerade(device: &Device) -> Self {
        device.masquerade4
    }
}

impl Of for Addr6 {
    fn tables(env: &HostEnv) -> &RefCell<HostTables<Self>> {
        &env.v6
    }

    fn masquerade(device: &Device) -> Self {
        device.masquerade6
    }
}

fn bit(words: &[u64], bit: u32) -> bool {
    words.get((bit >> 6) as usize).is_some_and(|word| word >> (bit & 63) & 1 != 0)
}

impl<A: Of> Tables<A> for HostEnv {
    fn interest_frontend(&self, index: u32) -> bool {
        bit(&A::tables(self).borrow().agent.content.interest_frontends, index)
    }

    fn interest_backend(&self, index: u32) -> bool {
        bit(&A::tables(self).borrow().agent.content.interest_backends, index)
    }

    fn peek_frontend(&self, _bucket: u32, key: &ServiceKey<A>, found: &mut ServiceRef) -> Peek {
        match A::tables(self).borrow().agent.content.frontends.get(key) {
            Some(value) => {
                *found = *value;
                Peek(0)
            }
            None => Peek::MISS,
        }
    }

    fn service(&self, number: u32) -> Option<Service> {
        let tables = A::tables(self).borrow();
        (number < tables.agent.limits.services).then(|| tables.agent.content.service(number))
    }

    fn slot(&self, index: u32) -> Option<BackendRef> {
        let tables = A::tables(self).borrow();
        (index < tables.agent.limits.slots)
            .then(|| tables.agent.content.slots.get(index as usize).copied().unwrap_or_default())
    }

    fn backend(&self, number: u32) -> Option<Backend<A>> {
        let tables = A::tables(self).borrow();
        (number < tables.agent.limits.backends).then(|| tables.agent.content.backend(number))
    }

    fn affinity(&self, key: &AffinityKey<A>) -> Option<Affinity> {
        A::tables(self).borrow().affinity.get(&(key.service, key.client)).copied()
    }

    fn set_affinity(&self, key: &AffinityKey<A>, value: &Affinity) -> bool {
        let mut tables = A::tables(self).borrow_mut();
        let (room, name) = (tables.room.0, (key.service, key.client));
        if tables.affinity.len() >= room && !tables.affinity.contains_key(&name) {
            return false;
        }
        tables.affinity.insert(name, *value);
        true
    }

    fn in_source_range(&self, key: &SourceRangeKey<A>) -> bool {
        let tables = A::tables(self).borrow();
        tables.agent.content.source_ranges.get(&key.range.service).is_some_and(|ranges| {
            ranges.iter().any(|(length, network)| {
                let mask = mask::<A>(u32::from(*length));
                key.range.address.within(*network, mask)
            })
        })
    }

    fn socket(&self, key: &SocketKey<A>) -> Option<SocketPeer<A>> {
        A::tables(self).borrow().sockets.get(&(key.cookie, key.address, key.port.0, key.side)).copied()
    }

    fn set_socket(&self, key: &SocketKey<A>, value: &SocketPeer<A>) {
        let name = (key.cookie, key.address, key.port.0, key.side);
        A::tables(self).borrow_mut().sockets.insert(name, *value);
    }

    fn fragment(&self, key: &FragmentKey<A>) -> Option<Fragment<A>> {
        A::tables(self).borrow().fragments.get(&datagram(key)).copied()
    }

    fn set_fragment(&self, key: &FragmentKey<A>, value: &Fragment<A>) {
        A::tables(self).borrow_mut().fragments.insert(datagram(key), *value);
    }

    fn remove_fragment(&self, key: &FragmentKey<A>) {
        A::tables(self).borrow_mut().fragments.remove(&datagram(key));
    }

    fn masquerade(&self, key: &MasqueradeKey<A>) -> Option<Masquerade<A>> {
        A::tables(self).borrow().masquerade.get(&name(key)).copied()
    }

    fn insert_masquerade(&self, key: &MasqueradeKey<A>, value: &Masquerade<A>) -> bool {
        let mut tables = A::tables(self).borrow_mut();
        if tables.masquerade.len() >= tables.room.1 || tables.masquerade.contains_key(&name(key)) {
            return false;
        }
        tables.masquerade.insert(name(key), *value);
        true
    }

    fn take_masquerade(&self, key: &MasqueradeKey<A>, expected: u32, value: &Masquerade<A>) -> bool {
        let mut tables = A::tables(self).borrow_mut();
        match tables.masquerade.get_mut(&name(key)) {
            Some(entry) if entry.seen == expected => {
                *entry = *value;
                true
            }
            _ => false,
        }
    }

    fn renew_masquerade(&self, key: &MasqueradeKey<A>, state: u8, now: Tick) {
        if let Some(entry) = A::tables(self).borrow_mut().masquerade.get_mut(&name(key)) {
            entry.state = state;
            entry.seen = now.0;
        }
    }

    fn remove_masquerade(&self, key: &MasqueradeKey<A>) {
        A::tables(self).borrow_mut().masquerade.remove(&name(key));
    }

    fn has_socket(&self, _key: &MasqueradeKey<A>) -> bool {
        false
    }

    fn masquerade_address(&self, device: &Device) -> A {
        A::masquerade(device)
    }

    fn route(&self, trip: &mut Trip<A>) {
        trip.route = self.routes.get(&trip.to.address.into()).copied().unwrap_or_default();
    }

    fn peek(&self, place: Place, sought: Sought<A>, way: &mut Way<A>) -> Peek {
        let tables = A::tables(self).borrow();
        let buckets = if place.spill { &tables.spill } else { &tables.flows };
        let Some(bucket) = buckets.get(place.bucket as usize) else { return Peek::MISS };
        match bucket.body.ways.iter().position(|entry| sought.is(&self.config, entry)) {
            Some(at) => {
                *way = bucket.body.ways[at];
                Peek(at as u32)
            }
            None if bucket.body.overflow > 0 => Peek::MISS_OVERFLOW,
            None => Peek::MISS,
        }
    }

    fn prefetch(&self, _place: Place, _way: usize) {}

    fn locked(&self, place: Place, change: impl Change<A>) -> Option<u32> {
        let mut tables = A::tables(self).borrow_mut();
        let HostTables { flows, flow_details, spill, spill_details, .. } = &mut *tables;
        let (buckets, details) = if place.spill { (spill, spill_details) } else { (flows, flow_details) };
        let bucket = buckets.get_mut(place.bucket as usize)?;
        Some(change.apply(&mut bucket.body, details.get_mut(place.bucket as usize)?))
    }

    fn touch(&self, place: Place, way: u32, now: Tick) {
        let mut tables = A::tables(self).borrow_mut();
        let tables = &mut *tables;
        let buckets = if place.spill { &mut tables.spill } else { &mut tables.flows };
        if (way as usize) < WAYS
            && let Some(bucket) = buckets.get_mut(place.bucket as usize)
        {
            bucket.body.ways[way as usize].seen = now.0;
        }
    }

    fn count_service(&self, number: u32, event: ServiceEvent) {
        let mut tables = A::tables(self).borrow_mut();
        let counters = tables.counters.entry(number).or_default();
        match event {
            ServiceEvent::Flow => counters.flows += 1,
            ServiceEvent::Refused => counters.refused += 1,
            ServiceEvent::Dropped => counters.dropped += 1,
        }
    }
}

/// A prefix length as a mask.
fn mask<A: FamilyAddress>(length: u32) -> A {
    let mut bytes = [0u8; 16];
    for bit in 0..length {
        bytes[(bit / 8) as usize] |= 0x80 >> (bit % 8);
    }
    A::read_from_bytes(&bytes[..(A::BITS / 8) as usize]).expect("as many bytes as an address has")
}
