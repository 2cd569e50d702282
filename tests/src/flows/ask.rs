//! Rows are asked of a world: packets through the hooks, and what becomes of sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use svclb_common::addr::{Addr4, Addr6, Be16, Endpoint};
use svclb_common::config::{Config, flag};
use svclb_common::datapath::socket::{Decision, Socket};
use svclb_common::verdict::Counter;
use svclb_common::wire::protocol::{SCTP, TCP};
use svclb_userspace::desired::datapath_config::{with_cluster_cidrs, with_service_cidrs};
use svclb_userspace::model::Family;

use super::{From, Outcome, Row};
use crate::packet::{self, sctp, tcp, udp};
use crate::script::Step;
use crate::script::world::{Settings, Stage};
use crate::world::host::Of;
use crate::world::{DROPPED, Machine, NEXT, Outcome as Hooked, Port, Recorder, SENT_BACK, SIZES, World, limits};

/// Flows that are made for a row, with random numbers spread evenly: a list of 1, 2, 3, 4 or 6 endpoints gives each as
/// many of them.
const FLOWS: u32 = 12;

/// The network namespace whose processes are served.
const NAMESPACE: u64 = 4711;

/// Seconds after which no flow and no affinity of an earlier row is left.
const LONG: u32 = 100_000;

/// A node in a world: the agent's engine, and the world that has the tables which it writes.
pub struct Node<'a> {
    world: &'a mut World,
    stage: Stage<Recorder<Addr4>, Recorder<Addr6>>,
    settings: Settings,
}

impl<'a> Node<'a> {
    /// A node in a world with empty tables.
    ///
    /// # Panics
    /// If the agent's engine does not start.
    pub fn new(world: &'a mut World, settings: &Settings) -> Self {
        let primary = |family| settings.primary(family);
        let v4 = match primary(Family::V4) {
            Some(IpAddr::V4(ip)) => ip,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let v6 = match primary(Family::V6) {
            Some(IpAddr::V6(ip)) => ip,
            _ => Ipv6Addr::UNSPECIFIED,
        };
        world.number_node(v4, v6);
        world.configure(|config| {
            *config = Config {
                namespace: NAMESPACE,
                node4: v4.into(),
                node6: v6.into(),
                ..with_cluster_cidrs(config, &settings.cluster_cidrs)
            };
            if settings.masquerade_all {
                config.flags |= flag::MASQUERADE_ALL;
            }
        });
        let (v4, v6) = (Recorder::new(limits(&SIZES)), Recorder::new(limits(&SIZES)));
        let stage = Stage::new(settings, world.config(), v4, v6);
        Self { world, stage, settings: settings.clone() }
    }

    /// Brings objects and tables to those of a step.
    ///
    /// # Panics
    /// If the agent finds something wrong with the objects, or a write fails.
    pub fn follow(&mut self, step: &Step) {
        self.stage.tell(&step.files);
        let report = self.stage.sync();
        assert!(report.failures.is_empty() && self.stage.is_settled(), "{report:?}");
        let (v4, v6) = self.stage.tables();
        self.world.take_over(v4, v6);
        let cidrs = self.stage.service_cidrs();
        self.world.configure(|config| *config = with_service_cidrs(config, &cidrs).0);
    }

    /// Asks a row in every way in which its packets may come; none for a process of the node in the kernel, where
    /// nothing runs the programs at sockets but a process that calls.
    pub fn ask(&mut self, row: &Row) -> Vec<(&'static str, Outcome)> {
        match row.from {
            From::Node => match self.world.machine {
                Machine::Host(_) => vec![("at a socket", self.call(row))],
                Machine::Kernel(_) => vec![],
            },
            From::Outside => vec![("from outside", self.send(row, Port::Uplink))],
            From::Pod => vec![("from a pod of this node", self.send(row, Port::Pod))],
        }
    }

    fn send(&mut self, row: &Row, port: Port) -> Outcome {
        self.spread(row, |node, number| {
            let source = SocketAddr::new(row.source, 40_000 + number as u16);
            let packet = match row.protocol {
                TCP => tcp(source, row.destination).syn().bytes(),
                SCTP => sctp(source, row.destination).syn().bytes(),
                _ => udp(source, row.destination).bytes(),
            };
            let request = node.world.ingress(port, &packet);
            node.follow_packet(row, source, &packet, &request)
        })
    }

    /// What became of one packet.
    fn follow_packet(&mut self, row: &Row, source: SocketAddr, packet: &[u8], request: &Hooked) -> Found {
        match request.action {
            DROPPED => Found::Dropped,
            SENT_BACK => {
                let answer = packet::read(&request.bytes);
                assert_eq!(answer.destination.ip(), source.ip(), "{row}: the answer goes to the client");
                Found::Refused
            }
            // It may be dropped where it would leave.
            NEXT if request.bytes == packet => match self.world.egress(Port::Uplink, packet).action {
                DROPPED => Found::Dropped,
                _ => Found::Untouched,
            },
            NEXT => {
                let seen = packet::read(&request.bytes);
                assert_eq!(seen.source, source, "{row}: ingress changes no source");
                let to_itself = seen.destination.ip() == source.ip();
                let egress = self.world.egress(if to_itself { Port::Pod } else { Port::Uplink }, &request.bytes);
                assert_eq!(egress.action, NEXT, "{row}: {:?}", egress.moved);
                let left = packet::read(&egress.bytes);
                assert_eq!(left.destination, seen.destination, "{row}: egress changes no destination");
                let masqueraded = egress.moved.contains_key(Counter::RequestMasqueraded.label());
                let node = self.settings.primary(Family::of(source.ip()));
                let wanted = if masqueraded { node.expect("the node has an address") } else { source.ip() };
                assert_eq!(left.source.ip(), wanted, "{row}: the source that leaves");
                Found::To(left.destination, masqueraded)
            }
            other => panic!("{row}: the hook says {other}"),
        }
    }

    fn call(&mut self, row: &Row) -> Outcome {
        self.spread(row, |node, number| {
            let socket = Socket { namespace: NAMESPACE, cookie: u64::from(number) + 1, protocol: row.protocol };
            match row.destination.ip() {
                IpAddr::V4(ip) => node.connect::<Addr4>(&socket, ip.into(), row.destination.port()),
                IpAddr::V6(ip) => node.connect::<Addr6>(&socket, ip.into(), row.destination.port()),
            }
        })
    }

    fn connect<A: Of>(&self, socket: &Socket, address: A, port: u16) -> Found {
        let Machine::Host(env) = &self.world.machine else { panic!("a world on the host") };
        let (now, random) = self.world.chance();
        env.now.set(now);
        env.random.set(random);
        match env.connect(socket, Endpoint::new(address, Be16::new(port))) {
            Decision::Pass => Found::Untouched,
            Decision::Refuse => Found::Refused,
            Decision::Drop(_) => Found::Dropped,
            Decision::Translate(backend) => {
                Found::To(SocketAddr::new(backend.address.into(), backend.port.get()), false)
            }
        }
    }

    /// Makes all flows of a row, and sums them up.
    fn spread(&mut self, row: &Row, mut one: impl FnMut(&mut Self, u32) -> Found) -> Outcome {
        let mut endpoints: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        let mut others: BTreeSet<Found> = BTreeSet::new();
        let mut sources: BTreeSet<bool> = BTreeSet::new();
        for number in 0..FLOWS {
            // The middle of each twelfth of the numbers.
            self.world.draw(((u64::from(number * 2 + 1) << 32) / u64::from(FLOWS * 2)) as u32);
            match one(self, number) {
                Found::To(endpoint, masqueraded) => {
                    *endpoints.entry(endpoint).or_default() += 1;
                    sources.insert(masqueraded);
                }
                other => drop(others.insert(other)),
            }
        }
        self.world.wait(LONG);
        match (endpoints.is_empty(), sources.len(), others.pop_first()) {
            (false, 1, None) => {
                let share = FLOWS / endpoints.len() as u32;
                assert!(endpoints.values().all(|count| *count == share), "{row}: unequal shares: {endpoints:?}");
                let masqueraded = sources.contains(&true);
                Outcome::To { endpoints: endpoints.into_keys().collect(), masqueraded }
            }
            (true, 0, Some(other)) if others.is_empty() => match other {
                Found::Refused => Outcome::Refused,
                Found::Dropped => Outcome::Dropped,
                Found::Untouched | Found::To(..) => Outcome::Untouched,
            },
            (_, _, other) => panic!("{row}: not all flows alike: {endpoints:?}, masqueraded {sources:?}, {other:?}"),
        }
    }
}

/// What became of one packet, or of one call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Found {
    To(SocketAddr, bool),
    Refused,
    Dropped,
    Untouched,
}
