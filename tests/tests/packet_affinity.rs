//! Session affinity, packet by packet, on the host and in the kernel with one clock that stands still between packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use svclb_common::service::{flag, scope};
use svclb_common::verdict::Counter;
use svclb_tests::packet;
use svclb_tests::world::{BackendSpec, Net, Opening, Port, SECOND, SIZES, Scene, ServiceSpec, World};

/// The timeout, in seconds.
const TIMEOUT: u32 = 100;

/// A Service port with session affinity and eight endpoints, of which the first alone is on this node.
fn sticky(net: &Net, protocol: u8) -> ServiceSpec {
    let local = BackendSpec { endpoint: net.local, local: true };
    let others = (1..8).map(|port| BackendSpec { endpoint: SocketAddr::new(net.remote.ip(), port), local: false });
    ServiceSpec { affinity: TIMEOUT, backends: std::iter::once(local).chain(others).collect(), ..net.service(protocol) }
}

/// A client that opens one connection after the other, each from a port of its own.
struct Client {
    address: SocketAddr,
    frame: Opening,
    device: Port,
}

impl Client {
    fn of_pod(net: &Net, frame: Opening) -> Self {
        Self { address: net.client, frame, device: Port::Pod }
    }

    fn outside(net: &Net, frame: Opening) -> Self {
        Self { address: net.outside, frame, device: Port::Uplink }
    }

    /// Opens the next connection: where it goes, and whether affinity decided that.
    fn open(&mut self, world: &mut World, to: SocketAddr) -> (SocketAddr, bool) {
        self.address.set_port(self.address.port() + 1);
        self.send(world, to)
    }

    /// The same from the port of the last one.
    fn send(&self, world: &mut World, to: SocketAddr) -> (SocketAddr, bool) {
        let outcome = world.ingress(self.device, &(self.frame)(self.address, to).bytes());
        (packet::read(&outcome.bytes).destination, outcome.moved.contains_key(Counter::AffinityUsed.label()))
    }
}

/// The random number with which the endpoint of this place is picked, of so many.
fn pick(world: &mut World, place: u64, of: u64) {
    world.draw(u32::try_from(((place << 32) + (1 << 31)) / of).expect("it is below 2^32"));
}

#[test]
fn affinity_holds_to_the_last_tick_of_its_timeout_and_ends_with_the_next() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &sticky(net, protocol));
        let mut client = Client::of_pod(net, frame);
        pick(world, 3, 8);
        let (first, used) = client.open(world, net.cluster);
        assert_eq!((first.port(), used), (3, false), "there is nothing to remember yet");
        for _ in 0..5 {
            world.wait_ticks(TIMEOUT * SECOND);
            pick(world, 5, 8);
            assert_eq!(client.open(world, net.cluster), (first, true), "each connection renews it");
        }
        world.wait_ticks(TIMEOUT * SECOND + 1);
        pick(world, 5, 8);
        let (next, used) = client.open(world, net.cluster);
        assert_eq!((next.port(), used), (5, false), "it is over");
        assert_eq!(client.open(world, net.cluster), (next, true), "and begins again");
    });
}

#[test]
fn a_timeout_that_is_no_whole_number_of_ticks_is_not_cut() {
    Net::everywhere(|world, net, frame, protocol| {
        // 250 jiffies are 15.6 ticks, so 100 seconds are 1562.5.
        world.configure(|config| config.jiffies_per_second = 250);
        Scene::default().add(world, &sticky(net, protocol));
        let mut client = Client::of_pod(net, frame);
        client.open(world, net.cluster);
        world.wait_ticks(1563);
        assert!(client.open(world, net.cluster).1);
        world.wait_ticks(1564);
        assert!(!client.open(world, net.cluster).1);
    });
}

#[test]
fn packets_of_a_connection_that_is_known_do_not_renew_affinity() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &sticky(net, protocol));
        let mut client = Client::of_pod(net, frame);
        let (first, _) = client.open(world, net.cluster);
        // As often as the shortest timeout of a flow asks for: INIT of SCTP.
        for _ in 0..=TIMEOUT / 2 {
            world.wait(2);
            assert_eq!(client.send(world, net.cluster), (first, false), "this flow knows its endpoint");
        }
        assert!(!client.open(world, net.cluster).1, "the last new connection is too long ago");
    });
}

#[test]
fn all_frontends_of_a_port_share_a_clients_endpoint() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &sticky(net, protocol));
        let mut client = Client::of_pod(net, frame);
        let (first, _) = client.open(world, net.cluster);
        for frontend in [net.node_port, net.load_balancer, net.cluster] {
            assert_eq!(client.open(world, frontend), (first, true), "{frontend}");
        }
    });
}

#[test]
fn a_connection_whose_two_ends_are_taken_strays_alone() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &sticky(net, protocol));
        let mut client = Client::of_pod(net, frame);
        pick(world, 3, 8);
        let (first, _) = client.open(world, net.cluster);
        pick(world, 5, 8);
        let (other, used) = client.send(world, net.load_balancer);
        assert_eq!((other.port(), used), (5, false), "the first has a flow from this port, which is to the cluster IP");
        assert_eq!(client.open(world, net.load_balancer), (first, true), "the next goes to its own again");
    });
}

#[test]
fn each_port_of_a_service_and_each_client_has_an_endpoint_of_its_own() {
    Net::everywhere(|world, net, frame, protocol| {
        let mut scene = Scene::default();
        let second = SocketAddr::new(net.cluster.ip(), 443);
        scene.add(world, &sticky(net, protocol));
        scene.add(world, &ServiceSpec { frontends: vec![(second, scope::CLUSTER)], ..sticky(net, protocol) });
        let (mut pod, mut other) = (Client::of_pod(net, frame), Client::outside(net, frame));
        let mut firsts = Vec::new();
        for (place, (client, to)) in [(&mut pod, net.cluster), (&mut other, net.cluster)].into_iter().enumerate() {
            pick(world, place as u64 + 1, 8);
            firsts.push(client.open(world, to));
        }
        for (place, client) in [&mut pod, &mut other].into_iter().enumerate() {
            pick(world, place as u64 + 3, 8);
            firsts.push(client.open(world, second));
        }
        assert_eq!(
            firsts.iter().map(|(to, used)| (to.port(), *used)).collect::<Vec<_>>(),
            [(1, false), (2, false), (3, false), (4, false)]
        );
        let again = [
            pod.open(world, net.cluster),
            other.open(world, net.cluster),
            pod.open(world, second),
            other.open(world, second),
        ];
        assert_eq!(again.map(|(to, used)| (to.port(), used)), [(1, true), (2, true), (3, true), (4, true)]);
    });
}

#[test]
fn an_endpoint_that_the_policy_local_keeps_out_is_not_used_however_the_client_got_it() {
    Net::everywhere(|world, net, frame, protocol| {
        let spec = ServiceSpec { flags: flag::INTERNAL_LOCAL | flag::EXTERNAL_LOCAL, ..sticky(net, protocol) };
        Scene::default().add(world, &spec);
        let mut pod = Client::of_pod(net, frame);
        pick(world, 3, 8);
        let (remote, _) = pod.open(world, net.load_balancer);
        assert_eq!(remote.port(), 3, "a pod reaches all endpoints by the load balancer's address");
        assert_eq!(pod.open(world, net.load_balancer), (remote, true));
        assert_eq!(pod.open(world, net.cluster), (net.local, false), "by the cluster IP only those of its node");
        assert_eq!(pod.open(world, net.load_balancer), (net.local, true), "which may serve it there, too");

        let mut outside = Client::outside(net, frame);
        assert_eq!(outside.open(world, net.node_port), (net.local, false), "from outside only those of the node");
        assert_eq!(outside.open(world, net.load_balancer), (net.local, true));
        // The same address by a pod's device, and the endpoint of that is not this node's.
        let mut inside = Client { device: Port::Pod, ..Client::outside(net, frame) };
        inside.address.set_port(60_000);
        world.wait(TIMEOUT + 1);
        pick(world, 6, 8);
        assert_eq!(inside.open(world, net.load_balancer).0.port(), 6);
        assert_eq!(outside.open(world, net.load_balancer), (net.local, false));
    });
}

#[test]
fn an_endpoint_that_serves_no_more_is_left_and_the_next_one_is_kept() {
    Net::everywhere(|world, net, frame, protocol| {
        let spec = sticky(net, protocol);
        let mut scene = Scene::default();
        let number = scene.add(world, &spec);
        let mut client = Client::of_pod(net, frame);
        pick(world, 7, 8);
        assert_eq!(client.open(world, net.cluster).0.port(), 7);
        scene.drop_backends(world, net.cluster.is_ipv6(), 7, 1);
        let fewer = ServiceSpec { backends: spec.backends.iter().copied().take(7).collect(), ..spec };
        scene.write(world, &fewer, number, 0, 0);
        pick(world, 2, 7);
        let (next, used) = client.open(world, net.cluster);
        assert_eq!((next.port(), used), (2, false), "its endpoint serves no more");
        assert_eq!(client.open(world, net.cluster), (next, true));
    });
}

#[test]
fn a_change_of_the_timeout_counts_for_clients_that_are_known() {
    Net::everywhere(|world, net, frame, protocol| {
        let spec = sticky(net, protocol);
        let mut scene = Scene::default();
        let number = scene.add(world, &spec);
        let mut client = Client::of_pod(net, frame);
        let (first, _) = client.open(world, net.cluster);
        let mut change = |world: &mut World, affinity| {
            scene.write(world, &ServiceSpec { affinity, ..spec.clone() }, number, 0, 0);
        };
        world.wait(TIMEOUT / 2);
        change(world, TIMEOUT / 4);
        assert!(!client.open(world, net.cluster).1, "a shorter one is over");
        let (first_again, _) = client.open(world, net.cluster);
        world.wait(2 * TIMEOUT);
        change(world, 2 * TIMEOUT);
        assert_eq!(client.open(world, net.cluster), (first_again, true), "a longer one is not");
        change(world, 0);
        for place in 0..8 {
            pick(world, place, 8);
            let (to, used) = client.open(world, net.cluster);
            let wanted = spec.backends.get(place as usize).map(|backend| backend.endpoint);
            assert_eq!((Some(to), used), (wanted, false), "without affinity chance decides");
        }
        assert!(spec.backends.iter().any(|backend| backend.endpoint == first));
    });
}

#[test]
fn a_client_for_whom_there_is_no_room_is_served_without_affinity_and_counted() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &sticky(net, protocol));
        let mut turned_away = 0;
        for host in 0..=SIZES.affinity {
            let ip = match net.outside.ip() {
                IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() + host).into(),
                IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() + u128::from(host)).into(),
            };
            let address = SocketAddr::new(ip, net.outside.port());
            let outcome = world.ingress(Port::Uplink, &frame(address, net.cluster).bytes());
            turned_away += outcome.moved.get(Counter::AffinityFull.label()).copied().unwrap_or_default();
            assert!(outcome.moved.contains_key(Counter::RequestTranslated.label()), "{outcome:?}");
        }
        assert_eq!(turned_away, 1, "the table has room for {}", SIZES.affinity);
    });
}
