use super::*;
use crate::host::{address::Address, decode::Change, topology::DefaultRoute};

/// A namespace under construction; the index of a device is its place in the list, from 1.
#[derive(Default)]
struct Net {
    topology: Topology,
    count: u32,
    options: Options,
}

impl Net {
    fn link(&mut self, name: &str, kind: Kind, header: Header) -> u32 {
        self.count += 1;
        let mac = (header == Header::Ethernet).then_some([2, 0, 0, 0, 0, self.count as u8]);
        let index = self.count;
        let link = Link { index, name: name.into(), kind, header, up: true, master: None, mac, peer_elsewhere: false };
        self.topology.apply(Change::Link(link));
        self.count
    }

    fn ethernet(&mut self, name: &str, kind: Kind) -> u32 {
        self.link(name, kind, Header::Ethernet)
    }

    fn change(&mut self, index: u32, change: impl FnOnce(&mut Link)) {
        let mut link = self.topology.link(index).expect("a device of this test").clone();
        change(&mut link);
        self.topology.apply(Change::Link(link));
    }

    fn enslave(&mut self, index: u32, master: u32) {
        self.change(index, |link| link.master = Some(master));
    }

    fn address(&mut self, index: u32, address: &str) {
        let (ip, prefix) = address.split_once('/').expect("address/prefix");
        let address = Address {
            ip: ip.parse().expect("an address"),
            prefix_length: prefix.parse().expect("a number"),
            global: !ip.starts_with("fe80"),
            primary: true,
        };
        self.topology.apply(Change::Address(index, address));
    }

    fn default_route(&mut self, device: u32) {
        for v6 in [false, true] {
            self.topology.apply(Change::Route(DefaultRoute { v6, priority: 0, device }));
        }
    }

    fn addresses(&self) -> NodeAddresses {
        self.topology.node_addresses(|link| leads_out(link, &self.topology))
    }

    fn classify(&self, index: u32) -> Attachment {
        let link = self.topology.link(index).expect("a device of this test");
        classify(link, &self.topology, &self.addresses(), &self.options)
    }

    #[track_caller]
    fn hooks(&self, index: u32) -> Hooks {
        match self.classify(index) {
            Attachment::Hooked(hooks) => hooks,
            Attachment::Left(reason) => panic!("device {index} is left alone: {reason}"),
        }
    }

    #[track_caller]
    fn left(&self, index: u32) -> Reason {
        match self.classify(index) {
            Attachment::Left(reason) => reason,
            Attachment::Hooked(hooks) => panic!("device {index} gets {hooks:?}"),
        }
    }
}

/// A node with a wire of its own, `eth0` with the default route.
fn node() -> (Net, u32) {
    let mut net = Net::default();
    let eth0 = net.ethernet("eth0", Kind::Physical);
    net.address(eth0, "192.0.2.11/24");
    net.address(eth0, "2001:db8:1::11/64");
    net.default_route(eth0);
    (net, eth0)
}

fn v4(address: &str) -> Option<Ipv4Addr> {
    address.parse().ok()
}

fn v6(address: &str) -> Option<Ipv6Addr> {
    address.parse().ok()
}

#[test]
fn every_kind_gets_its_role_and_programs() {
    use Header::{Ethernet as E, None as N};
    let cases = [
        ("physical", Kind::Physical, E, Role::Node, Ingress::Ethernet, Egress::Ethernet),
        ("ppp", Kind::Physical, N, Role::Node, Ingress::BareIp, Egress::BareIp),
        ("bond", Kind::Bond, E, Role::Node, Ingress::Stacked, Egress::Ethernet),
        ("vlan", Kind::Stacked, E, Role::Node, Ingress::Stacked, Egress::Ethernet),
        ("bridge", Kind::Bridge, E, Role::Pod, Ingress::Stacked, Egress::Ethernet),
        ("veth", Kind::Veth, E, Role::Pod, Ingress::Ethernet, Egress::Ethernet),
        ("tap", Kind::Tap, E, Role::Pod, Ingress::Ethernet, Egress::Ethernet),
        ("tun", Kind::Tun, N, Role::Tunnel, Ingress::BareIp, Egress::BareIp),
        ("wireguard", Kind::WireGuard, N, Role::Tunnel, Ingress::BareIp, Egress::BareIp),
        ("vxlan", Kind::Tunnel, E, Role::Tunnel, Ingress::Stacked, Egress::Ethernet),
        ("ipip", Kind::Tunnel, N, Role::Tunnel, Ingress::StackedBareIp, Egress::BareIp),
    ];
    for (name, kind, header, role, ingress, egress) in cases {
        let (mut net, _) = node();
        let index = net.link(name, kind, header);
        let hooks = net.hooks(index);
        assert_eq!((hooks.role, hooks.ingress, hooks.egress), (role, ingress, egress), "{name}");
        assert_eq!(hooks.masquerade4, v4("192.0.2.11"), "{name} has no address of its own");
    }
}

#[test]
fn devices_without_packets_of_others_get_nothing() {
    let (mut net, _) = node();
    let lo = net.ethernet("lo", Kind::Loopback);
    let dummy = net.ethernet("kube-ipvs0", Kind::Dummy);
    net.address(dummy, "10.96.0.1/32");
    let vrf = net.ethernet("red", Kind::Other("vrf".into()));
    let odd = net.ethernet("odd0", Kind::Other("novelty".into()));
    let infiniband = net.link("ib0", Kind::Physical, Header::Unknown(32));
    assert_eq!(net.left(lo), Reason::Loopback);
    assert_eq!(net.left(dummy), Reason::NoPackets);
    assert_eq!(net.left(vrf), Reason::NoPackets);
    assert_eq!(net.left(odd), Reason::UnknownKind("novelty".into()));
    assert_eq!(net.left(infiniband), Reason::UnknownHeader(32));
}

#[test]
fn a_device_that_is_down_without_address_is_left_until_it_is_up() {
    let (mut net, _) = node();
    for (name, kind, header) in [("tunl0", Kind::Tunnel, Header::None), ("eth1", Kind::Physical, Header::Ethernet)] {
        let index = net.link(name, kind, header);
        net.change(index, |link| link.up = false);
        assert_eq!(net.left(index), Reason::Unused, "{name}");
        net.change(index, |link| link.up = true);
        net.hooks(index);
    }
}

#[test]
fn a_pods_veth_is_hooked_before_it_is_up() {
    let (mut net, _) = node();
    let veth = net.ethernet("pod7", Kind::Veth);
    net.change(veth, |link| link.up = false);
    assert_eq!(net.hooks(veth).role, Role::Pod);
}

#[test]
fn a_veth_with_a_gateway_address_of_its_own_is_a_pods() {
    let (mut net, _) = node();
    let veth = net.ethernet("veth12ab", Kind::Veth);
    net.address(veth, "10.244.1.1/32");
    net.address(veth, "fe80::1/64");
    let hooks = net.hooks(veth);
    assert_eq!(hooks.role, Role::Pod);
    assert_eq!((hooks.masquerade4, hooks.masquerade6), (v4("10.244.1.1"), v6("2001:db8:1::11")));
}

#[test]
fn a_node_in_a_container_has_veths_as_wires() {
    let mut net = Net::default();
    let eth0 = net.ethernet("eth0", Kind::Veth);
    net.address(eth0, "10.1.2.3/32");
    assert_eq!(net.hooks(eth0).role, Role::Pod, "nothing tells it from a pod's");
    net.default_route(eth0);
    let eth1 = net.ethernet("eth1", Kind::Veth);
    net.address(eth1, "172.19.0.3/16");
    assert_eq!(net.hooks(eth0).role, Role::Node);
    assert_eq!(net.hooks(eth1).role, Role::Node);
    assert_eq!(net.hooks(eth1).masquerade4, v4("172.19.0.3"));
}

#[test]
fn a_pods_bridge_and_its_ports_are_hooked_and_use_its_address() {
    let (mut net, _) = node();
    let bridge = net.ethernet("cni0", Kind::Bridge);
    net.address(bridge, "10.244.1.1/24");
    let port = net.ethernet("pod7", Kind::Veth);
    net.enslave(port, bridge);
    let own = net.topology.link(bridge).expect("the bridge").mac;
    assert_eq!((net.hooks(bridge).role, net.hooks(bridge).mac, net.hooks(bridge).input), (Role::Pod, own, bridge));
    let hooks = net.hooks(port);
    assert_eq!((hooks.role, hooks.ingress), (Role::Pod, Ingress::BridgePort));
    assert_eq!((hooks.mac, hooks.input), (own, bridge), "what the stack sees is the bridge");
    assert_eq!((hooks.masquerade4, hooks.masquerade6), (v4("10.244.1.1"), v6("2001:db8:1::11")));
}

#[test]
fn a_bridge_with_a_wire_is_a_node_device() {
    let mut net = Net::default();
    let bridge = net.ethernet("br0", Kind::Bridge);
    let wire = net.ethernet("eth0", Kind::Physical);
    let guest = net.ethernet("vnet0", Kind::Tap);
    net.enslave(wire, bridge);
    net.enslave(guest, bridge);
    net.address(bridge, "192.0.2.11/24");
    assert_eq!(net.hooks(bridge).role, Role::Node);
    let roles = [wire, guest].map(|port| (net.hooks(port).role, net.hooks(port).ingress));
    assert_eq!(roles, [(Role::Node, Ingress::BridgePort), (Role::Pod, Ingress::BridgePort)]);
    assert_eq!(net.addresses().primary4, v4("192.0.2.11"));
}

#[test]
fn members_of_a_bond_are_hooked_at_the_bond() {
    let mut net = Net::default();
    let bond = net.ethernet("bond0", Kind::Bond);
    let member = net.ethernet("eth0", Kind::Physical);
    net.enslave(member, bond);
    net.address(bond, "192.0.2.11/24");
    assert_eq!(net.left(member), Reason::MemberOf("bond0".into()));
    assert_eq!(net.hooks(bond).masquerade4, v4("192.0.2.11"));
}

#[test]
fn members_of_a_vrf_are_hooked_themselves() {
    let (mut net, eth0) = node();
    let vrf = net.ethernet("red", Kind::Other("vrf".into()));
    net.enslave(eth0, vrf);
    assert_eq!(net.hooks(eth0).role, Role::Node);
}

#[test]
fn a_tunnel_uses_its_own_address() {
    let (mut net, _) = node();
    let tunnel = net.ethernet("flannel.1", Kind::Tunnel);
    net.address(tunnel, "10.244.1.0/32");
    assert_eq!(net.hooks(tunnel).masquerade4, v4("10.244.1.0"));
}

#[test]
fn a_second_address_of_a_device_is_not_used() {
    let (mut net, eth0) = node();
    net.address(eth0, "192.0.2.100/32");
    assert_eq!(net.hooks(eth0).masquerade4, v4("192.0.2.11"));
    assert_eq!(net.addresses().all.len(), 3);
}

#[test]
fn the_nodes_address_is_that_of_the_preferred_default_route() {
    let (mut net, _) = node();
    let eth1 = net.ethernet("eth1", Kind::Physical);
    net.address(eth1, "198.51.100.11/24");
    assert_eq!(net.addresses().primary4, v4("192.0.2.11"));
    net.change(1, |link| link.up = false);
    net.default_route(eth1);
    assert_eq!(net.addresses().primary4, v4("198.51.100.11"), "the route by a device that is down is gone");
}

#[test]
fn the_user_can_name_node_devices_and_exclude_others() {
    let (mut net, eth0) = node();
    let storage = net.ethernet("eth1", Kind::Physical);
    net.address(storage, "203.0.113.11/24");
    let lone = net.ethernet("lan0", Kind::Veth);
    let pod = net.ethernet("pod7", Kind::Veth);
    let guest = net.ethernet("docker0", Kind::Bridge);
    net.options.node_devices = Some(Regex::new("^(eth0|lan.*)$").expect("an expression"));
    net.options.excluded = Some(Regex::new("^docker").expect("an expression"));
    assert_eq!(net.hooks(eth0).role, Role::Node);
    assert_eq!(net.left(storage), Reason::NotSelected);
    assert_eq!(net.hooks(lone).role, Role::Node);
    assert_eq!(net.hooks(pod).role, Role::Pod);
    assert_eq!(net.left(guest), Reason::Excluded);
}

#[test]
fn what_comes_by_pods_is_local_unless_the_devices_are_named() {
    let (mut net, wire) = node();
    let pod = net.ethernet("veth1", Kind::Veth);
    let bridge = net.ethernet("cni0", Kind::Bridge);
    let port = net.ethernet("port1", Kind::Veth);
    net.enslave(port, bridge);
    let mut cases = |local: LocalDevices, wanted: &[u32]| {
        net.options.local = local.clone();
        for index in [wire, pod, bridge, port] {
            assert_eq!(net.hooks(index).local, wanted.contains(&index), "{local:?}, device {index}");
        }
    };
    cases(LocalDevices::Pods, &[pod, bridge, port]);
    cases(LocalDevices::Bridge("cni0".into()), &[bridge, port]);
    cases(LocalDevices::Bridge("cni1".into()), &[]);
    cases(LocalDevices::NamePrefix("veth".into()), &[pod]);
    cases(LocalDevices::NamePrefix("cni".into()), &[bridge, port]);
    cases(LocalDevices::NamePrefix("eth".into()), &[wire]);
}
