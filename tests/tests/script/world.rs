//! A node without packets: the agent's engine on some tables, fed from files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Config;
use svclb_userspace::agent::engine::{Engine, NodeSettings, SyncReport};
use svclb_userspace::desired::node_ports::Entry;
use svclb_userspace::k8s::manifests::{Documents, Snapshot, parse};
use svclb_userspace::model::{Event, Family, Kind};
use svclb_userspace::tables::Tables;

use super::Files;

/// Settings of a node.
#[derive(Clone)]
pub(crate) struct Settings {
    node: NodeSettings,
    addresses: Vec<IpAddr>,
}

impl Settings {
    /// Reads the head of a script.
    pub(crate) fn parse(head: &str) -> Self {
        let mut settings = Self {
            node: NodeSettings {
                name: "n1".into(),
                node_ports: vec![Entry::Primary],
                external_ip_cidrs: vec![],
                loopback_node_ports: false,
            },
            addresses: vec![],
        };
        for line in head.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').expect("a setting has a value");
            let values = value.split(',');
            match name {
                "node" => settings.node.name = value.into(),
                "addresses" => settings.addresses = values.map(|ip| ip.parse().expect("an address")).collect(),
                "nodeport-addresses" => {
                    settings.node.node_ports = values.map(|entry| entry.parse().expect("an entry")).collect();
                }
                "external-ip-cidrs" => {
                    let cidrs = values.map(|cidr| cidr.parse::<IpNet>().expect("a prefix"));
                    settings.node.external_ip_cidrs = cidrs.collect();
                }
                _ => panic!("no setting {name}"),
            }
        }
        settings
    }
}

/// The engine and what it was told.
pub(crate) struct Stage<T4, T6> {
    engine: Engine<T4, T6>,
    node_name: String,
    told: Snapshot,
    now: Duration,
}

impl<T4: Tables<Addr4>, T6: Tables<Addr6>> Stage<T4, T6> {
    /// An engine that starts on these tables and knows of nothing yet.
    pub(crate) fn new(settings: &Settings, config: &Config, v4: T4, v6: T6) -> Self {
        let mut engine = Engine::new(settings.node.clone(), config, v4, v6).expect("the tables can be read");
        engine.set_host_addresses(settings.addresses.clone());
        let node_name = settings.node.name.to_string();
        Self { engine, node_name, told: Snapshot::default(), now: Duration::ZERO }
    }

    /// Tells what differs in the files from before. The first call completes the lists.
    pub(crate) fn tell(&mut self, files: &Files) {
        let mut documents = Documents::new();
        for (name, text) in files {
            let (found, faults) = parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(faults.is_empty(), "{name}: {faults:?}");
            documents.extend(found);
        }
        let documents: BTreeMap<_, _> = documents.iter().collect();
        let now = Snapshot::of(documents, &self.node_name);
        for event in now.differences(&self.told) {
            self.engine.apply(event);
        }
        self.told = now;
        if !self.engine.model().complete() {
            for kind in Kind::REQUIRED {
                self.engine.apply(Event::Listed(kind));
            }
        }
    }

    /// Writes the tables, ten seconds later.
    pub(crate) fn sync(&mut self) -> SyncReport {
        self.now += Duration::from_secs(10);
        self.engine.sync(self.now)
    }

    /// Whether everything wanted is in the tables.
    pub(crate) fn is_settled(&self) -> bool {
        self.engine.is_settled()
    }

    /// Families whose tables hold something else than the engine believes.
    pub(crate) fn drift(&mut self) -> Vec<Family> {
        self.engine.check_drift().expect("the tables can be read")
    }

    /// The tables.
    pub(crate) fn tables(&mut self) -> (&mut T4, &mut T6) {
        self.engine.tables_mut()
    }

    /// The tables, without the engine.
    pub(crate) fn into_tables(self) -> (T4, T6) {
        self.engine.into_tables()
    }
}
