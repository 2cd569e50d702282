//! Services for packet tests, written into the tables of a [`World`].

use super::host::Of;
use super::{Machine, World};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use svclb_common::addr::{Addr4, Addr6, Address, Be16, Endpoint};
use svclb_common::config::Config;
use svclb_common::interest;
use svclb_common::schema::{Backend, BackendRef, Bucket, Details, Service, ServiceKey, ServiceRef};
use svclb_common::service::{backend_flag, backend_state, flag, scope};
use svclb_userspace::plan::Bitmap;
use svclb_userspace::tables::Tables;

/// An endpoint of a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendSpec {
    /// Where it is.
    pub endpoint: SocketAddr,
    /// On this node.
    pub local: bool,
}

/// A Service port of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSpec {
    /// IP protocol number.
    pub protocol: u8,
    /// Addresses and their roles ([`scope`]).
    pub frontends: Vec<(SocketAddr, u8)>,
    /// Endpoints.
    pub backends: Vec<BackendSpec>,
    /// Flags but [`flag::HAS_ENDPOINTS`], which follows from the endpoints.
    pub flags: u32,
    /// Session affinity in seconds; 0 without.
    pub affinity: u32,
    /// Source ranges.
    pub ranges: Vec<(u8, IpAddr)>,
}

/// What was written so far: hands out numbers.
#[derive(Clone, Default, Debug)]
pub struct Scene {
    services: u32,
    backends: u32,
    slots: u32,
    version: u32,
    v4: Written<Addr4>,
    v6: Written<Addr6>,
}

/// What was written for one family.
#[derive(Clone, Default, Debug)]
pub struct Written<A> {
    /// Words of the bitmaps of frontends and of backends.
    interest: [BTreeMap<u32, u64>; 2],
    backends: BTreeMap<u32, Backend<A>>,
}

impl Scene {
    /// Writes a Service port; its number. All frontends and endpoints are of one family.
    pub fn add(&mut self, world: &mut World, spec: &ServiceSpec) -> u32 {
        let number = self.services;
        self.services += 1;
        let first = self.backends;
        self.backends += spec.backends.len() as u32;
        self.write(world, spec, number, first, 0);
        number
    }

    /// Writes a Service port under numbers that the caller hands out, over what was there.
    pub fn write_at(&mut self, world: &mut World, spec: &ServiceSpec, number: u32, first: u32, generation: u16) {
        // A fixed range of slots for each number, so that a long test does not use them up.
        self.slots = number * 16;
        self.write(world, spec, number, first, generation);
    }

    /// Writes a Service port again, its endpoints under the numbers from `first` on and of this generation.
    pub fn write(&mut self, world: &mut World, spec: &ServiceSpec, number: u32, first: u32, generation: u16) {
        let is_v6 = spec.frontends.iter().map(|(frontend, _)| frontend).any(SocketAddr::is_ipv6);
        let config = *world.config();
        self.version += 1;
        let lists = [
            (self.slots, spec.backends.len() as u32),
            (
                self.slots + spec.backends.len() as u32,
                spec.backends.iter().filter(|backend| backend.local).count() as u32,
            ),
        ];
        self.slots += lists[0].1 + lists[1].1;
        let place = Place { number, first, generation, lists, version: self.version, config };
        match (&mut world.machine, is_v6) {
            (Machine::Host(env), false) => place.write(&mut env.v4.borrow_mut().agent, &mut self.v4, spec),
            (Machine::Host(env), true) => place.write(&mut env.v6.borrow_mut().agent, &mut self.v6, spec),
            (Machine::Kernel(env), false) => place.write(&mut env.v4, &mut self.v4, spec),
            (Machine::Kernel(env), true) => place.write(&mut env.v6, &mut self.v6, spec),
        }
    }

    /// Makes endpoints gone: `count` numbers from `first` on.
    pub fn drop_backends(&self, world: &mut World, is_v6: bool, first: u32, count: u32) {
        match (&mut world.machine, is_v6) {
            (Machine::Host(env), false) => gone(&mut env.v4.borrow_mut().agent, &self.v4, first, count),
            (Machine::Host(env), true) => gone(&mut env.v6.borrow_mut().agent, &self.v6, first, count),
            (Machine::Kernel(env), false) => gone(&mut env.v4, &self.v4, first, count),
            (Machine::Kernel(env), true) => gone(&mut env.v6, &self.v6, first, count),
        }
    }
}

fn gone<A: Of>(tables: &mut impl Tables<A>, written: &Written<A>, first: u32, count: u32) {
    for (number, backend) in written.backends.range(first..first + count) {
        let backend = Backend { state: backend_state::GONE, flags: 0, ..*backend };
        tables.write_backends(&[*number], &[backend]).expect("BACKENDS can be written");
    }
}

/// Where a Service port goes.
struct Place {
    number: u32,
    first: u32,
    generation: u16,
    lists: [(u32, u32); 2],
    version: u32,
    config: Config,
}

fn address<A: Of>(ip: IpAddr) -> A {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    A::read_from_bytes(&bytes).expect("an address of this family")
}

impl Place {
    fn write<A: Of>(&self, tables: &mut impl Tables<A>, written: &mut Written<A>, spec: &ServiceSpec) {
        let config = &self.config;
        let Written { interest: words, backends: remembered } = written;
        let mut set = |tables: &mut dyn Tables<A>, bitmap: Bitmap, bit: u32| {
            let (word, mask) = interest::word(bit);
            let value = words[usize::from(bitmap == Bitmap::Backends)].entry(word).or_default();
            *value |= mask;
            tables.write_interest(bitmap, &[word], &[*value]).expect("INTEREST can be written");
        };
        let mut cluster = Vec::new();
        let mut local = Vec::new();
        for (at, backend) in spec.backends.iter().enumerate() {
            let number = self.first + at as u32;
            let (ip, port) = (address::<A>(backend.endpoint.ip()), Be16::new(backend.endpoint.port()));
            let hash = interest::endpoint_hash(config, Endpoint::new(ip, port), spec.protocol);
            set(tables, Bitmap::Backends, interest::backend::<A>(config, false, hash));
            let reference = BackendRef::new(number, self.generation);
            cluster.push(reference);
            let mut flags = backend_flag::IN_CLUSTER;
            if backend.local {
                local.push(reference);
                flags |= backend_flag::IN_LOCAL;
            }
            let value = Backend {
                generation: self.generation,
                port,
                state: backend_state::SERVING,
                flags,
                zero: 0,
                service: self.number,
                address: ip,
            };
            tables.write_backends(&[number], &[value]).expect("BACKENDS can be written");
            remembered.insert(number, value);
        }
        for ((first, _), list) in self.lists.iter().zip([&cluster, &local]) {
            if !list.is_empty() {
                let slots: Vec<u32> = (*first..).take(list.len()).collect();
                tables.write_slots(&slots, list).expect("SLOTS can be written");
            }
        }
        for (length, network) in &spec.ranges {
            tables.add_source_range(self.number, (*length, address(*network))).expect("SOURCE_RANGES can be written");
        }
        let service = Service {
            before: self.version,
            flags: spec.flags | if spec.backends.is_empty() { 0 } else { flag::HAS_ENDPOINTS },
            affinity_seconds: spec.affinity,
            cluster_first: self.lists[0].0,
            cluster_count: self.lists[0].1,
            local_first: self.lists[1].0,
            local_count: self.lists[1].1,
            after: self.version,
        };
        tables.write_services(&[self.number], &[service]).expect("SERVICE can be written");
        for (frontend, role) in &spec.frontends {
            let (ip, port) = (address::<A>(frontend.ip()), Be16::new(frontend.port()));
            let bit = if *role == scope::NODE_PORT {
                interest::node_port(config, false, ip, port, spec.protocol)
            } else {
                interest::frontend_address(config, false, ip)
            };
            set(tables, Bitmap::Frontends, bit);
            let value = ServiceRef { number: self.number, scope: *role, zero: [0; 3] };
            tables
                .put_frontends(&[ServiceKey::new(ip, port, spec.protocol)], &[value])
                .expect("SERVICES can be written");
            let mark = match *role {
                scope::CLUSTER => Some(scope::CLUSTER_ADDRESS),
                scope::LOAD_BALANCER | scope::EXTERNAL => Some(scope::OTHER_ADDRESS),
                _ => None,
            };
            if let Some(scope) = mark {
                let mark = ServiceRef { number: 0, scope, zero: [0; 3] };
                tables.put_frontends(&[ServiceKey::whole(ip)], &[mark]).expect("SERVICES can be written");
            }
        }
    }
}

/// Flows as text.
pub(super) fn flow_lines<A: Address>(
    buckets: impl Iterator<Item = Bucket<A>>,
    details: impl Iterator<Item = Details<A>>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (at, (bucket, details)) in buckets.zip(details).enumerate() {
        if bucket.body.overflow > 0 {
            lines.push(format!("bucket {at}: overflow {}", bucket.body.overflow));
        }
        for (way, detail) in bucket.body.ways.iter().zip(&details.ways) {
            if way.meta().is_used() {
                lines.push(format!("bucket {at}: {way:?} {detail:?}"));
            }
        }
    }
    lines
}
