//! Two CPUs hammer a few buckets of the flow table while the endpoints of every Service come and go.
//!
//! Every client has a Service of its own, so an answer with a foreign backend shows at once. `SVCLB_TWO_CPUS_PACKETS`
//! sets the packets of each CPU (default 100,000).
#![cfg(feature = "kernel")]

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use svclb_common::addr::Be16;
use svclb_common::schema::Backend;
use svclb_common::service::{backend_flag, backend_state, scope};
use svclb_tests::packet::{self, udp};
use svclb_tests::world::kernel::run;
use svclb_tests::world::{BackendSpec, DROPPED, Machine, NEXT, Port, Scene, ServiceSpec, World};
use svclb_userspace::tables::Tables;

/// Clients, each with its Service. Twice as many as the buckets in use have ways, so that they fill and spill.
const CLIENTS: u16 = 48;
/// The flow table is cut down to this many buckets, and SPILL to one.
const BUCKETS: u32 = 2;

fn client(n: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 244, 1, 5).into(), 20_000 + n)
}

fn frontend(n: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 96, 1, n as u8 + 1).into(), 80)
}

/// The two endpoints of a client's Service, of which one at least serves at any time.
fn endpoints(n: u16) -> [SocketAddr; 2] {
    [1, 2].map(|host| SocketAddr::new(Ipv4Addr::new(10, 244, host, 7).into(), 30_000 + n))
}

fn on_cpu(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("this machine has two CPUs");
}

/// What one CPU saw.
#[derive(Default)]
struct Seen {
    translated: u64,
    dropped: u64,
    foreign: Vec<String>,
}

#[test]
fn no_packet_gets_the_backend_of_another_flow_on_two_cpus() {
    let packets: u32 = std::env::var("SVCLB_TWO_CPUS_PACKETS").map_or(100_000, |text| text.parse().expect("a number"));
    let mut world = World::kernel();
    world.configure(|config| config.buckets = [[BUCKETS - 1, 0]; 2]);
    let mut scene = Scene::default();
    for n in 0..CLIENTS {
        let backends = endpoints(n).map(|endpoint| BackendSpec { endpoint, local: false }).to_vec();
        let frontends = vec![(frontend(n), scope::CLUSTER)];
        let spec = ServiceSpec { protocol: 17, frontends, backends, flags: 0, affinity: 0, ranges: Vec::new() };
        scene.add(&mut world, &spec);
    }
    // Sets device and clock.
    world.ingress(Port::Pod, &udp(client(0), frontend(0)).bytes());

    let done = AtomicBool::new(false);
    let Machine::Kernel(env) = &mut world.machine else { panic!("a world in the kernel") };
    let (program, tables) = env.split("ingress");
    let seen = thread::scope(|threads| {
        let hammers = [0usize, 1].map(|cpu| {
            threads.spawn(move || {
                on_cpu(cpu);
                let mut seen = Seen::default();
                for at in 0..packets {
                    let n = (at.wrapping_mul(2_654_435_761) >> 7) as u16 % CLIENTS;
                    let ran = run(program, &udp(client(n), frontend(n)).bytes());
                    match ran.action {
                        NEXT => {
                            let to = packet::read(&ran.bytes).destination;
                            seen.translated += 1;
                            if !endpoints(n).contains(&to) {
                                seen.foreign.push(format!("client {n} was sent to {to}"));
                            }
                        }
                        DROPPED => seen.dropped += 1,
                        other => seen.foreign.push(format!("client {n} got action {other}")),
                    }
                }
                seen
            })
        });
        let agent = threads.spawn(|| {
            let mut turn = 0;
            while !done.load(Ordering::Relaxed) {
                turn += 1;
                for n in 0..CLIENTS {
                    let (comes, goes) = if turn % 2 == 0 { (0, 1) } else { (1, 0) };
                    for (which, state) in [(comes, backend_state::SERVING), (goes, backend_state::GONE)] {
                        let endpoint = endpoints(n)[which];
                        let SocketAddr::V4(v4) = endpoint else { panic!("IPv4") };
                        let value = Backend {
                            port: Be16::new(v4.port()),
                            state,
                            flags: backend_flag::IN_CLUSTER,
                            service: u32::from(n),
                            address: (*v4.ip()).into(),
                            ..Backend::default()
                        };
                        tables
                            .write_backends(&[u32::from(n) * 2 + which as u32], &[value])
                            .expect("BACKENDS can be written");
                    }
                }
            }
            turn
        });
        let seen: Vec<Seen> = hammers.into_iter().map(|hammer| hammer.join().expect("no panic")).collect();
        done.store(true, Ordering::Relaxed);
        assert!(agent.join().expect("no panic") > 2, "the endpoints came and went");
        seen
    });
    for cpu in &seen {
        assert!(cpu.foreign.is_empty(), "{:?}", &cpu.foreign[..cpu.foreign.len().min(5)]);
        assert!(cpu.translated > 0 && cpu.dropped > 0, "{} translated, {} dropped", cpu.translated, cpu.dropped);
    }

    // What is in the table belongs together, and no flow stands twice in one bucket.
    let mut places = BTreeMap::<_, u32>::new();
    for (at, bucket) in env.buckets4().iter().enumerate() {
        let mut in_bucket = HashSet::new();
        for way in bucket.body.ways.iter().filter(|way| way.meta().is_used()) {
            let n = way.client_port.get() - 20_000;
            let backend = SocketAddr::new(Ipv4Addr::from(way.backend).into(), way.backend_port.get());
            assert!(endpoints(n).contains(&backend), "client {n} has the entry of {backend}");
            assert!(in_bucket.insert(n), "client {n} stands twice in bucket {at}");
            *places.entry(n).or_default() += 1;
        }
        assert_eq!(bucket.version % 2, 0, "somebody is still inside bucket {at}");
    }
    assert!(places.len() >= 16, "the buckets are full: {places:?}");
    world.end();
}
