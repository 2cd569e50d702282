//! What the datapath would do with packets, asked before, between and after the writes of a plan.
//!
//! Every frontend is asked for by three clients: a pod of this node, and two from outside of which source ranges
//! tell one from the other. The answer is what the datapath's own functions say: whether the packet concerns a
//! Service at all, its verdict, the endpoints among which one is picked, and whether the client is masqueraded.
//!
//! - A packet to a frontend that no changed Service has or had is answered the same after every write, from the same
//!   numbers.
//! - A packet that is answered the same before and after, by the same Service port in the same role, is so in between,
//!   whatever changed.
//! - A packet that has an endpoint before and after, from the same Service port in the same role, has one in between.
//! - An endpoint that a Service port has before and after keeps its reference, so its flows go on.
//! - Nothing that is not whole is ever seen: a list that names an endpoint that is gone, an endpoint without its
//!   bit of interest.

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::net::IpAddr;

use svclb_common::addr::{Addr4, Addr6, Be16, Endpoint};
use svclb_common::datapath::Work;
use svclb_common::env::Tables;
use svclb_common::interest;
use svclb_common::parse::Network;
use svclb_common::schema::{BackendRef, ServiceKey};
use svclb_common::service;
use svclb_common::verdict::Verdict;
use svclb_userspace::desired::{PortTables, Target};
use svclb_userspace::model::{FamilyAddress, PortKey};
use svclb_userspace::plan::Planner;

use crate::world::host::{HostEnv, Of};

/// Index of a device that leads to pods.
pub(super) const POD_DEVICE: u32 = 1;
/// Index of a device that leads out of the node.
pub(super) const NODE_DEVICE: u32 = 2;

/// A client: its number in a network, for each family, and its device.
const CLIENTS: [(&str, &str, u32); 3] = [
    ("10.244.0.100", "fd00:244::100", POD_DEVICE),
    ("10.9.1.1", "fd00:9:1::1", NODE_DEVICE),
    ("10.9.2.1", "fd00:9:2::1", NODE_DEVICE),
];

/// What a family of addresses needs here.
pub(super) trait Family: Of + FamilyAddress + Network {
    /// The clients' addresses.
    fn clients() -> [Self; 3];
}

fn addresses<A: FamilyAddress>(text: impl Fn(&(&'static str, &'static str, u32)) -> &'static str) -> [A; 3] {
    CLIENTS.each_ref().map(|client| {
        let ip: IpAddr = text(client).parse().expect("an address");
        A::of(ip).expect("of this family")
    })
}

impl Family for Addr4 {
    fn clients() -> [Self; 3] {
        addresses(|client| client.0)
    }
}

impl Family for Addr6 {
    fn clients() -> [Self; 3] {
        addresses(|client| client.1)
    }
}

/// Frontends that changed Services have or had.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) v4: HashSet<ServiceKey<Addr4>>,
    pub(super) v6: HashSet<ServiceKey<Addr6>>,
}

/// What was asked, in both families.
#[derive(Default)]
pub(super) struct Asked {
    v4: Part<Addr4>,
    v6: Part<Addr6>,
    writes: u64,
}

/// What was asked in one family.
pub(super) struct Part<A: Family> {
    packets: Vec<Packet<A>>,
    endpoints: Vec<Kept<A>>,
    clients: [A; 3],
    work: Box<Work<A>>,
    /// The first thing that must never be seen.
    broken: Option<String>,
}

impl<A: Family> Default for Part<A> {
    fn default() -> Self {
        Self { packets: Vec::new(), endpoints: Vec::new(), clients: A::clients(), work: Box::default(), broken: None }
    }
}

/// A packet that opens a flow.
struct Packet<A> {
    key: ServiceKey<A>,
    client: usize,
    before: Answer,
    /// The first write after which the answer was another: which, and the answer.
    other_meaning: Option<(String, Answer)>,
    other_numbers: Option<(String, Answer)>,
    nobody: Option<(String, Answer)>,
}

/// An endpoint that has flows.
struct Kept<A> {
    port: PortKey,
    target: Target<A>,
    service: u32,
    reference: BackendRef,
    broken: Option<String>,
}

/// What becomes of a packet that opens a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Answer {
    /// What becomes of it if nobody serves it.
    verdict: Verdict,
    /// What clients notice of it, mixed into a number: verdict, endpoints, masquerade, affinity.
    meaning: u64,
    /// The numbers by which it is found, mixed into a number.
    numbers: u64,
    /// The Service number.
    service: u32,
    /// The frontend's role, if it is one.
    role: Option<u8>,
    /// How many endpoints it may get.
    endpoints: u32,
}

impl Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, meaning, numbers, service, endpoints, role: _ } = self;
        write!(f, "{verdict:?}, {endpoints} endpoints of service {service} (meaning {meaning:x}, numbers {numbers:x})")
    }
}

fn mix(one: u64, other: u64) -> u64 {
    let mixed = (one ^ other.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// Asks for a frontend. An error is something that must never be seen.
fn ask<A: Family>(
    env: &HostEnv,
    work: &mut Work<A>,
    key: &ServiceKey<A>,
    client: A,
    device: u32,
) -> Result<Answer, String> {
    let role = A::tables(env).borrow().agent.content.frontends.get(key).map(|found| found.scope);
    let verdict = |verdict: Verdict, service| Answer {
        role,
        verdict,
        meaning: mix(1, u64::from(verdict.to_bits())),
        numbers: 0,
        service,
        endpoints: 0,
    };
    let to = Endpoint::new(key.address, if key.port == Be16::ZERO { UNKNOWN_PORT } else { key.port });
    let protocol = if key.port == Be16::ZERO { 6 } else { key.protocol };
    let for_nobody = key.address.is_loopback();
    if !for_nobody && !interest::is_frontend(env, to, protocol) {
        return Ok(verdict(Verdict::Pass, 0));
    }
    work.headers.source = client;
    work.headers.source_port = Be16::new(40_000);
    work.headers.destination = to.address;
    work.headers.destination_port = to.port;
    work.headers.protocol = protocol;
    work.device = device;
    Tables::<A>::locate(env, work);
    let choice = work.choice;
    if choice.list.count == 0 {
        return Ok(verdict(Verdict::from_bits(work.verdict), choice.service));
    }
    let mut meaning = 0u64;
    let mut numbers = mix(u64::from(choice.service), u64::from(choice.list.list));
    for slot in choice.list.first..choice.list.first + choice.list.count {
        let reference = Tables::<A>::slot(env, slot).ok_or_else(|| format!("slot {slot} is beyond the end"))?;
        let Some(backend) = service::serving::<A, _>(env, reference) else {
            return Err(format!("slot {slot} names {reference:?}, which does not serve"));
        };
        if backend.service != choice.service {
            return Err(format!("slot {slot} names {reference:?} of service {}", backend.service));
        }
        let hash = interest::endpoint_hash(&env.config, Endpoint::new(backend.address, backend.port), protocol);
        if !interest::is_backend::<A, _>(env, hash) {
            return Err(format!("the endpoint {backend:?} has no bit of interest"));
        }
        let (low, high) = backend.address.words();
        meaning = meaning.wrapping_add(mix(mix(low, high), u64::from(backend.port.get())));
        numbers = numbers.wrapping_add(mix(u64::from(reference.0), u64::from(backend.flags)));
    }
    let policy = u64::from(choice.affinity) << 1 | u64::from(choice.list.masquerade);
    Ok(Answer {
        role,
        verdict: Verdict::Translate,
        meaning: mix(meaning, policy),
        numbers,
        service: choice.service,
        endpoints: choice.list.count,
    })
}

/// A port that no Service has.
const UNKNOWN_PORT: Be16 = Be16::new(9);

impl<A: Family> Part<A> {
    /// Asks for everything that is there.
    fn begin(&mut self, env: &HostEnv, planner: &Planner<A>) {
        self.packets.clear();
        self.endpoints.clear();
        let tables = A::tables(env).borrow();
        let content = &tables.agent.content;
        let mut keys: Vec<_> = content.frontends.keys().copied().collect();
        keys.sort_unstable_by_key(|key| (key.address, key.port, key.protocol));
        for (port, wanted) in planner.wanted() {
            let Some(number) = planner.number(port) else { continue };
            // Nobody has flows of a Service port that cannot be reached.
            if !wanted.frontends.keys().any(|key| content.frontends.get(key).is_some_and(|own| own.number == number)) {
                continue;
            }
            for target in wanted.backends.keys() {
                if let Some(reference) = planner.reference(port, target) {
                    let (port, target) = (port.clone(), *target);
                    self.endpoints.push(Kept { port, target, service: number, reference, broken: None });
                }
            }
        }
        drop(tables);
        for key in keys {
            for (client, (name, _, device)) in CLIENTS.iter().enumerate() {
                let before = match ask(env, &mut self.work, &key, self.clients[client], *device) {
                    Ok(answer) => answer,
                    Err(what) => {
                        self.broken.get_or_insert_with(|| format!("{key:?} for {name}: {what}"));
                        continue;
                    }
                };
                self.packets.push(Packet {
                    key,
                    client,
                    before,
                    other_meaning: None,
                    other_numbers: None,
                    nobody: None,
                });
            }
        }
    }

    fn written(&mut self, env: &HostEnv, write: &dyn Fn() -> String) {
        for packet in &mut self.packets {
            let client = self.clients[packet.client];
            match ask(env, &mut self.work, &packet.key, client, CLIENTS[packet.client].2) {
                Ok(now) if now == packet.before => {}
                Ok(now) => {
                    if now.meaning != packet.before.meaning {
                        packet.other_meaning.get_or_insert_with(|| (write(), now));
                    }
                    if now.meaning != packet.before.meaning || now.numbers != packet.before.numbers {
                        packet.other_numbers.get_or_insert_with(|| (write(), now));
                    }
                    if now.endpoints == 0 {
                        packet.nobody.get_or_insert_with(|| (write(), now));
                    }
                }
                Err(what) => {
                    let Packet { key, client, .. } = packet;
                    let text = || format!("{}: {key:?} for {}: {what}", write(), CLIENTS[*client].0);
                    self.broken.get_or_insert_with(text);
                }
            }
        }
        for kept in self.endpoints.iter_mut().filter(|kept| kept.broken.is_none()) {
            let backend = service::serving::<A, _>(env, kept.reference);
            if !backend.is_some_and(|own| own.address == kept.target.address && own.port == kept.target.port) {
                kept.broken = Some(write());
            }
        }
    }

    /// Judges all answers, now that the plan has ended. `touched` has the frontends that may be answered
    /// otherwise, or is nothing where all may be. An agent that has `restarted` knows a Service port by the
    /// frontends that it still has.
    fn judge(
        &mut self,
        env: &HostEnv,
        planner: &Planner<A>,
        touched: Option<&HashSet<ServiceKey<A>>>,
        restarted: bool,
    ) -> Result<(), String> {
        if let Some(broken) = self.broken.take() {
            return Err(format!("what must never be seen: {broken}"));
        }
        for packet in &self.packets {
            let client = CLIENTS[packet.client];
            let after = ask(env, &mut self.work, &packet.key, self.clients[packet.client], client.2)?;
            let told = |rule: &str, (write, answer): &(String, Answer)| {
                let Packet { key, before, .. } = packet;
                Err(format!(
                    "{rule}: {key:?} for {}\n  before: {before:?}\n  {write}\n  then: {answer:?}\n  after: {after:?}",
                    client.0
                ))
            };
            if touched.is_some_and(|touched| !touched.contains(&packet.key)) {
                if let Some(other) = &packet.other_numbers {
                    return told("a packet of an untouched Service", other);
                }
                continue;
            }
            let same_port = (after.service, after.role) == (packet.before.service, packet.before.role);
            if after.meaning == packet.before.meaning
                && same_port
                && let Some(other) = &packet.other_meaning
            {
                return told("a packet that is answered the same before and after", other);
            }
            if after.endpoints > 0
                && packet.before.endpoints > 0
                && same_port
                && let Some(other) = &packet.nobody
            {
                return told("a packet that has an endpoint before and after", other);
            }
        }
        for kept in &self.endpoints {
            let number = planner.number(&kept.port);
            let stays = |port: &PortTables<A>| {
                let tables = A::tables(env).borrow();
                let owns =
                    |key: &ServiceKey<A>| tables.agent.content.frontends.get(key).map(|own| own.number) == number;
                let known = |packet: &Packet<A>| packet.before.service == kept.service && owns(&packet.key);
                port.backends.contains_key(&kept.target) && (!restarted || self.packets.iter().any(known))
            };
            if let Some(write) = &kept.broken
                && planner.wanted().get(&kept.port).is_some_and(stays)
            {
                let Kept { port, target, reference, .. } = kept;
                return Err(format!(
                    "the flows of an endpoint that stays are cut: {port} {target:?} {reference:?}\n  {write}"
                ));
            }
        }
        Ok(())
    }
}

impl Asked {
    /// Asks for everything that is there, before anything is written.
    pub(super) fn begin(&mut self, env: &HostEnv, planners: (&Planner<Addr4>, &Planner<Addr6>)) {
        self.v4.begin(env, planners.0);
        self.v6.begin(env, planners.1);
        self.writes = 0;
    }

    /// Asks again after a write to the tables of a family.
    pub(super) fn written<A: Of>(&mut self, env: &HostEnv, what: &dyn Debug) {
        self.writes += 1;
        let writes = self.writes;
        let write = || format!("write {writes}: {what:?}");
        if A::IS_V6 {
            self.v6.written(env, &write);
        } else {
            self.v4.written(env, &write);
        }
    }

    /// Judges all answers, see [`Part::judge`].
    pub(super) fn judge(
        &mut self,
        env: &HostEnv,
        planners: (&Planner<Addr4>, &Planner<Addr6>),
        touched: Option<&Touched>,
        restarted: bool,
    ) -> Result<(), String> {
        self.v4.judge(env, planners.0, touched.map(|touched| &touched.v4), restarted)?;
        self.v6.judge(env, planners.1, touched.map(|touched| &touched.v6), restarted)
    }

    /// How many writes there were since [`Self::begin`].
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }
}
