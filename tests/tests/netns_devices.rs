//! Devices of real namespaces: what they are taken for (here), and which hooks they get, keep and lose
//! (`devices/hooks.rs`).

#![cfg(feature = "kernel")]

mod devices;

use std::sync::PoisonError;

use devices::told::{DEADLINE, MACHINE, Told, all_right, node, wait};
use svclb_tests::net::Netns;
use svclb_userspace::host::{
    self, DeviceEvent, Hooks, Role,
    devices::{Egress, Ingress, Options, Reason},
};

fn watch_only(options: Options) -> Told {
    Told::new(host::watch(options, all_right).expect("watch the namespace"))
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
        let pod = Hooks {
            role: Role::Pod,
            local: true,
            ingress: Ingress::Ethernet,
            egress: Egress::Ethernet,
            mac: None,
            input: 0,
            peer: true,
            masquerade4: own4,
            masquerade6: own6,
        };
        let plain = Hooks { peer: false, ..pod };
        let bare = Hooks { egress: Egress::BareIp, ..plain };
        // These are the device's own, or its bridge's.
        let besides = |hooks: &Hooks| Hooks { mac: None, input: 0, ..*hooks };
        let cases = [
            ("eth0", Hooks { role: Role::Node, local: false, ..plain }),
            ("pod1", pod),
            ("cni0", Hooks { ingress: Ingress::Stacked, masquerade4: bridge4, ..plain }),
            ("pod2", Hooks { ingress: Ingress::BridgePort, masquerade4: bridge4, ..pod }),
            ("shim0", Hooks { role: Role::Node, local: false, ingress: Ingress::Stacked, ..plain }),
            (
                "vxlan0",
                Hooks { role: Role::Tunnel, local: false, ingress: Ingress::Stacked, masquerade4: tunnel4, ..plain },
            ),
            ("tap0", plain),
            ("tun0", Hooks { role: Role::Tunnel, local: false, ingress: Ingress::BareIp, ..bare }),
        ];
        for (name, expected) in cases {
            told.hooks(name, |hooks| besides(hooks) == expected);
        }
        let bridge = told.devices["cni0"].index;
        for name in ["cni0", "pod2"] {
            told.hooks(name, |hooks| (hooks.mac, hooks.input) == (Some([2, 0, 0, 0, 0, 0x99]), bridge));
        }
        let own = told.devices["pod1"].index;
        told.hooks("pod1", |hooks| hooks.mac.is_some() && hooks.input == own);
        told.left("lo", &Reason::Loopback);
        if exists(&netns, "link add dummy0 type dummy") {
            netns.ip("link set dummy0 up\naddress add 203.0.113.1/32 dev dummy0\n").expect("give it an address");
            told.left("dummy0", &Reason::NoPackets);
        }
        if exists(&netns, "link add vlan7 link eth0 type vlan id 7") {
            netns.ip("link set vlan7 up\n").expect("switch the VLAN on");
            told.hooks("vlan7", |hooks| {
                besides(hooks) == Hooks { role: Role::Node, local: false, ingress: Ingress::Stacked, ..plain }
            });
        }
        if exists(&netns, "link add ipip7 type ipip local 192.0.2.11 remote 192.0.2.12") {
            told.left("ipip7", &Reason::Unused);
            netns.ip("link set ipip7 up\n").expect("switch the tunnel on");
            told.hooks("ipip7", |hooks| {
                besides(hooks) == Hooks { role: Role::Tunnel, local: false, ingress: Ingress::StackedBareIp, ..bare }
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
        told.hooks("pod1", |hooks| hooks.mac == Some([2, 0, 0, 0, 0, 0x42]));
        ip("address add 10.244.1.1/24 dev cni0\n");
        told.hooks("pod1", |hooks| hooks.masquerade4 == "10.244.1.1".parse().ok());
        ip("link set pod1 nomaster\n");
        told.hooks("pod1", |hooks| hooks.ingress == Ingress::Ethernet && hooks.mac != Some([2, 0, 0, 0, 0, 0x42]));

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
