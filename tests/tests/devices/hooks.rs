//! Hooks: attached, adopted, replaced, removed, and how fast.

use std::{
    sync::{Arc, PoisonError, mpsc},
    time::{Duration, Instant},
};

use regex::Regex;
use svclb_common::service::role;
use svclb_tests::net::{Bpffs, Netns};
use svclb_userspace::{
    bpf::{
        attach::{Mode, clean_up},
        load::LoadError,
        pin::PinFolder,
    },
    host::{
        self, Device, Role,
        devices::{Ingress, Options, Reason},
    },
};

use super::{
    hooker::{
        ALL, Changed, Hooker, NEW, OLD, Records, Stage, Times, due, filters, has_clsact, note, tc, tcx_ids,
        tcx_programs, until_linked,
    },
    told::{DEADLINE, MACHINE, NOTHING, Told, all_right, node, wait},
};

#[test]
fn links_outlive_the_agent_and_are_adopted() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    for mode in [Mode::Auto, Mode::Tcx] {
        let stage = Stage::new();
        stage.run(|folder| {
            let records = Records::default();
            let mut first = Hooker::start(mode, folder, &OLD, &records);
            first.until_hooked(&ALL);
            until_linked(&stage.netns);
            let index = |name: &str| first.told.devices[name].index;
            assert_eq!(records.lock()[&index("pod2")].role, role::POD);
            assert_eq!(records.lock()[&index("pod2")].input, index("cni0"));
            assert_eq!(records.lock()[&index("eth0")].role, role::NODE);
            let before: Vec<Vec<u32>> = ALL.iter().map(|device| tcx_ids(device)).collect();
            drop(first);
            let kept: Vec<Vec<u32>> = ALL.iter().map(|device| tcx_ids(device)).collect();
            assert_eq!(kept, before, "{mode}: the hooks stay when the agent goes");

            // A device goes and its pins stay, as nobody is there to see it.
            stage.netns.ip("link delete pod1\n").expect("delete a pod");
            let pins = PinFolder::existing(folder);
            assert_eq!(pins.devices_with_links().expect("a list").len(), 4);

            let mut second = Hooker::start(mode, folder, &NEW, &records);
            second.until_hooked(&["eth0", "cni0", "pod2"]);
            for (device, before) in ALL.iter().zip(&before).filter(|(device, _)| **device != "pod1") {
                wait(&format!("{device} is adopted"), || {
                    (tcx_programs(device) == due(device) && tcx_ids(device) != *before).then_some(())
                });
            }
            wait("pins and records of pod1 are gone", || {
                (pins.devices_with_links().expect("a list").len() == 3 && records.lock().len() == 3).then_some(())
            });
            drop(second);
            let removed = clean_up(folder).expect("clean up");
            assert_eq!((removed.links.len(), removed.filters.len()), (3, 0));
            for device in ["eth0", "cni0", "pod2"] {
                wait(&format!("{device} without hooks"), || tcx_programs(device).is_empty().then_some(()));
            }
        });
    }
}

#[test]
fn a_device_in_use_gets_links_at_once_and_a_new_one_filters() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        let mut agent = Hooker::start(Mode::Auto, folder, &OLD, &Records::default());
        agent.until_hooked(&ALL);
        for device in ALL {
            assert_eq!(tcx_programs(device), due(device));
            assert!(!has_clsact(&stage.netns, device), "{device} would have lost packets");
        }
        let add = format!("link add pod3 type veth peer name eth3 netns {}\n", stage.elsewhere.path());
        stage.netns.ip(&add).expect("make a pod");
        agent.until_hooked(&["pod3"]);
        assert_eq!(filters(&stage.netns, "pod3"), ["svclb:ingress", "svclb:egress"]);
        wait("TCX links of pod3", || (tcx_programs("pod3") == due("pod3")).then_some(()));
        drop(agent);
        clean_up(folder).expect("clean up");
    });
}

#[test]
fn a_program_that_is_being_loaded_holds_up_no_other_device() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        let (go_on, wait_here) = mpsc::channel();
        let slow = Changed::new(&OLD, "ingress_l3", move || {
            wait_here.recv_timeout(DEADLINE).expect("told to go on");
            None
        });
        let mut agent = Hooker::start(Mode::Auto, folder, slow, &Records::default());
        agent.until_hooked(&ALL);
        stage.netns.ip("tuntap add tun0 mode tun\nlink set tun0 up\n").expect("make a device of another kind");
        let add = format!("link add pod3 type veth peer name eth3 netns {}\n", stage.elsewhere.path());
        stage.netns.ip(&add).expect("make a pod");
        agent.until_hooked(&["pod3"]);
        assert_eq!(filters(&stage.netns, "tun0"), NOTHING);
        go_on.send(()).expect("the loader waits");
        agent.told.hooks("tun0", |hooks| hooks.ingress == Ingress::BareIp);
        assert_eq!(filters(&stage.netns, "tun0"), ["svclb:ingress_l3", "svclb:egress_l3"]);
        assert_eq!(agent.told.failures, NOTHING);
        drop(agent);
        clean_up(folder).expect("clean up");
    });
}

#[test]
fn a_program_that_the_kernel_refuses_is_missed_by_its_devices_only() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        let refused = || Some(LoadError::Absent { name: String::from("ingress_l3") });
        let build = Changed::new(&OLD, "ingress_l3", refused);
        let mut agent = Hooker::start(Mode::Auto, folder, build, &Records::default());
        agent.until_hooked(&ALL);
        stage.netns.ip("tuntap add tun0 mode tun\nlink set tun0 up\n").expect("make a device of another kind");
        let failure = wait("a failure", || {
            agent.told.read();
            agent.told.failures.pop()
        });
        for part in ["tun0", "load its program ingress_l3", "of another version"] {
            assert_eq!(failure.matches(part).count(), 1, "{failure}");
        }
        let add = format!("link add pod3 type veth peer name eth3 netns {}\n", stage.elsewhere.path());
        stage.netns.ip(&add).expect("make a pod");
        agent.told.hooks("pod3", |hooks| hooks.role == Role::Pod);
        drop(agent);
        clean_up(folder).expect("clean up");
    });
}

#[test]
fn clsact_filters_outlive_the_agent_and_are_replaced() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        let names = |device| due(device).map(|program| format!("svclb:{program}"));
        let records = Records::default();
        let mut first = Hooker::start(Mode::Clsact, folder, &OLD, &records);
        first.until_hooked(&ALL);
        drop(first);
        for device in ALL {
            assert_eq!(filters(&stage.netns, device), names(device));
        }
        // A filter and a qdisc of others.
        let program = folder.join("programs/egress");
        let add = format!(
            "filter add dev eth0 ingress prio 7 handle 9 bpf direct-action object-pinned {}",
            program.display()
        );
        tc(&stage.netns, &add);
        tc(&stage.netns, "qdisc add dev pod1 root pfifo");

        let mut second = Hooker::start(Mode::Clsact, folder, &NEW, &records);
        second.until_hooked(&ALL);
        drop(second);
        for device in ALL {
            assert_eq!(filters(&stage.netns, device), names(device), "replaced, not added");
            assert_eq!(tcx_programs(device), NOTHING);
        }

        let removed = clean_up(folder).expect("clean up");
        assert_eq!(removed.filters.len(), 4);
        for device in ALL {
            assert_eq!(filters(&stage.netns, device), NOTHING);
            assert_eq!(has_clsact(&stage.netns, device), device == "eth0", "{device}: only where others use it");
        }
        assert!(tc(&stage.netns, "filter show dev eth0 ingress").contains("pref 7 bpf"));
        assert!(tc(&stage.netns, "qdisc show dev pod1").contains("pfifo"));
    });
}

#[test]
fn a_change_of_mode_leaves_nothing_of_the_other() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        let records = Records::default();
        let mut agent = Hooker::start(Mode::Tcx, folder, &OLD, &records);
        agent.until_hooked(&ALL);
        drop(agent);
        let mut agent = Hooker::start(Mode::Clsact, folder, &NEW, &records);
        agent.until_hooked(&ALL);
        drop(agent);
        for device in ALL {
            assert_eq!(filters(&stage.netns, device).len(), 2);
            wait(&format!("{device} without TCX"), || tcx_programs(device).is_empty().then_some(()));
        }
        let mut agent = Hooker::start(Mode::Auto, folder, &OLD, &records);
        agent.until_hooked(&ALL);
        until_linked(&stage.netns);
        for device in ALL {
            assert!(has_clsact(&stage.netns, device), "{device} would lose packets if clsact were taken away");
        }
        drop(agent);
        clean_up(folder).expect("clean up");
        for device in ALL {
            assert!(!has_clsact(&stage.netns, device), "{device} is as it was found");
        }
    });
}

#[test]
fn a_device_that_is_excluded_loses_its_hooks() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let pod1 = Regex::new("^pod1$").expect("an expression");
    for mode in [Mode::Auto, Mode::Clsact] {
        let stage = Stage::new();
        stage.run(|folder| {
            let records = Records::default();
            let mut first = Hooker::start(mode, folder, &OLD, &records);
            first.until_hooked(&ALL);
            if mode == Mode::Auto {
                until_linked(&stage.netns);
            }
            drop(first);
            let options = Options { excluded: Some(pod1.clone()), ..Options::default() };
            let mut second = Hooker::start_with(options, mode, folder, &NEW, &records);
            second.until_hooked(&["eth0", "cni0", "pod2"]);
            second.told.left("pod1", &Reason::Excluded);
            wait("pod1 without hooks", || tcx_programs("pod1").is_empty().then_some(()));
            assert_eq!(filters(&stage.netns, "pod1"), NOTHING);
            assert!(!has_clsact(&stage.netns, "pod1"));
            assert_eq!(records.lock().len(), 3);
            assert_eq!(second.told.failures, NOTHING);
            drop(second);
            clean_up(folder).expect("clean up");
        });
    }
}

#[test]
fn filters_that_somebody_removes_are_hung_in_again() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        let mut agent = Hooker::start(Mode::Clsact, folder, &OLD, &Records::default());
        agent.until_hooked(&ALL);
        for removal in ["qdisc del dev pod1 clsact", "filter del dev pod1 egress"] {
            tc(&stage.netns, removal);
            wait(removal, || (filters(&stage.netns, "pod1") == ["svclb:ingress", "svclb:egress"]).then_some(()));
        }
        assert_eq!(agent.told.failures, NOTHING);
        drop(agent);
        assert_eq!(clean_up(folder).expect("clean up").filters.len(), 4);
    });
}

#[test]
fn a_veth_that_joins_a_bridge_gets_the_port_program() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    for mode in [Mode::Auto, Mode::Clsact] {
        let stage = Stage::new();
        stage.run(|folder| {
            let mut agent = Hooker::start(mode, folder, &OLD, &Records::default());
            agent.until_hooked(&ALL);
            if mode == Mode::Auto {
                until_linked(&stage.netns);
            }
            stage.netns.ip("link set pod1 master cni0\n").expect("join the bridge");
            wait(&format!("{mode}: the program of a port"), || match mode {
                Mode::Clsact => (filters(&stage.netns, "pod1") == ["svclb:ingress_port", "svclb:egress"]).then_some(()),
                Mode::Auto | Mode::Tcx => (tcx_programs("pod1") == ["ingress_port", "egress"]).then_some(()),
            });
            drop(agent);
            clean_up(folder).expect("clean up");
        });
    }
}

#[test]
fn an_ingress_qdisc_in_the_way_of_clsact_is_left_in_peace() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    stage.run(|folder| {
        tc(&stage.netns, "qdisc add dev pod1 ingress");
        let mut agent = Hooker::start(Mode::Auto, folder, &OLD, &Records::default());
        agent.until_hooked(&ALL);
        assert_eq!(tcx_programs("pod1"), due("pod1"), "TCX at once");
        assert!(tc(&stage.netns, "qdisc show dev pod1").contains("ingress ffff:"));
        drop(agent);

        let mut agent = Hooker::start(Mode::Clsact, folder, &NEW, &Records::default());
        let failure = wait("a failure", || {
            agent.told.read();
            agent.told.failures.first().cloned()
        });
        for part in ["pod1", "clsact", "qdisc delete dev pod1 ingress"] {
            assert!(failure.contains(part), "{failure}");
        }
        drop(agent);
        clean_up(folder).expect("clean up");
    });
}

/// Pods that start at the same time.
const PODS: usize = 200;

#[test]
fn two_hundred_pods_at_once_are_hooked_in_time() {
    let _turn = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let (netns, elsewhere) = (Netns::new("node").expect("a namespace"), Netns::new("elsewhere").expect("a namespace"));
    node(&netns, &elsewhere);
    let bpffs = Bpffs::new().expect("a BPF file system");
    let folder = bpffs.folder("node");
    netns.run(|| {
        bpffs.run(|| {
            let mut agent = Hooker::start(Mode::Auto, &folder, &OLD, &Records::default());
            agent.until_hooked(&["eth0"]);
            // Another watcher, which does nothing, knows when the kernel told of a device.
            let told = Times::default();
            let times = Arc::clone(&told);
            let observer = host::watch(Options::default(), move |events| {
                note(&times, events);
                all_right(events)
            });
            let observer = Told::new(observer.expect("watch the namespace"));
            let pod = |pod| format!("link add pod{pod} type veth peer name eth{pod} netns {}\n", elsewhere.path());
            let lines = (0..PODS).map(pod).collect::<Vec<String>>().concat();
            let start = Instant::now();
            netns.ip(&lines).expect("make pods");
            let made = start.elapsed();
            let took = wait("all are hooked", || {
                agent.told.read();
                let hooked = agent.hooked.lock().unwrap_or_else(PoisonError::into_inner);
                let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                let took = |device: &Device| Some(hooked.get(&device.index)?.duration_since(*told.get(&device.index)?));
                let pods = agent.told.devices.values().filter(|device| device.name.starts_with("pod"));
                let mut took: Vec<Duration> = pods.filter_map(took).collect();
                took.sort_unstable();
                (took.len() == PODS).then_some(took)
            });
            let at = |percent: usize| took[(took.len() - 1) * percent / 100];
            eprintln!(
                "{PODS} pods made in {made:?}; from RTM_NEWLINK to hooked: p50 {:?}, p99 {:?}, longest {:?}",
                at(50),
                at(99),
                at(100)
            );
            assert_eq!(agent.told.failures, NOTHING);
            // Milliseconds on a quiet machine (`cargo xtask bench devices`). With TCX links alone it would be seconds.
            assert!(at(99) < Duration::from_millis(500), "p99 {:?}", at(99));
            drop((agent, observer));
            clean_up(&folder).expect("clean up");
        });
    });
}
