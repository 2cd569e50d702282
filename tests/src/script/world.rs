//! A node without packets: the agent's engine on some tables, fed from files.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Config;
use svclb_common::schema::BackendRef;
use svclb_userspace::agent::engine::{Engine, NodeSettings, SyncReport};
use svclb_userspace::desired::health_checks::HealthCheck;
use svclb_userspace::desired::node_ports::Entry;
use svclb_userspace::k8s::manifests::{Documents, Snapshot, parse};
use svclb_userspace::model::{Event, Family, FamilyAddress, Kind, PortKey, ServiceName};
use svclb_userspace::plan::Planner;
use svclb_userspace::tables::Tables;

use super::Files;

/// Settings of a node, a name and its values a line:
///
/// - `node`: its name;
/// - `addresses`: those of its devices, the first of a family being its main one;
/// - `nodeport-addresses`, `external-ip-cidrs`, `cluster-cidr`: as the flags of the agent, `none` for an empty list;
/// - `masquerade-all`, `ping-services`: `yes` or `no`;
/// - `socket-lb`: `yes` if the node's own processes are served;
/// - `rows`: how many different rows of flows the script has; `twin`: `yes` if they hold in IPv6 as well;
/// - `complaints`: words of what the agent must find wrong with the objects, as a script has more than svclb takes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the engine takes.
    pub node: NodeSettings,
    /// Addresses of the devices.
    pub addresses: Vec<IpAddr>,
    /// `--cluster-cidr`.
    pub cluster_cidrs: Vec<IpNet>,
    /// `--masquerade-all`.
    pub masquerade_all: bool,
    /// How many different rows of flows the script has.
    pub rows: usize,
    /// Whether they hold in IPv6 as well.
    pub twin: bool,
    /// One for each thing that is wrong with an object.
    pub complaints: Vec<String>,
}

impl Settings {
    /// Reads the head of a script.
    ///
    /// # Panics
    /// If it is none.
    pub fn parse(head: &str) -> Self {
        let plain = Self {
            node: NodeSettings {
                name: "n1".into(),
                node_ports: vec![Entry::Primary],
                external_ip_cidrs: None,
                ping_services: false,
                loopback_node_ports: false,
            },
            addresses: vec![],
            cluster_cidrs: vec![],
            masquerade_all: false,
            rows: 0,
            twin: false,
            complaints: vec![],
        };
        plain.with(head)
    }

    /// The same with some settings changed.
    pub(super) fn with(mut self, lines: &str) -> Self {
        for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').expect("a setting has a value");
            let values = || value.split(',').filter(|value| *value != "none");
            let cidrs = || values().map(|cidr| cidr.parse::<IpNet>().expect("a prefix")).collect();
            match name {
                "node" => self.node.name = value.into(),
                "addresses" => self.addresses = values().map(|ip| ip.parse().expect("an address")).collect(),
                "nodeport-addresses" => {
                    self.node.node_ports = values().map(|entry| entry.parse().expect("an entry")).collect();
                }
                "external-ip-cidrs" => self.node.external_ip_cidrs = Some(cidrs()),
                "ping-services" => self.node.ping_services = value == "yes",
                "cluster-cidr" => self.cluster_cidrs = cidrs(),
                "masquerade-all" => self.masquerade_all = value == "yes",
                "socket-lb" => self.node.loopback_node_ports = value == "yes",
                "rows" => self.rows = value.parse().expect("a number"),
                "twin" => self.twin = value == "yes",
                "complaints" => self.complaints = values().map(str::to_owned).collect(),
                _ => panic!("no setting {name}"),
            }
        }
        self
    }

    /// The main address of a family.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| Family::of(*ip) == family)
    }
}

/// The engine and what it was told.
pub struct Stage<T4, T6> {
    engine: Engine<T4, T6>,
    node_name: String,
    complaints: Vec<String>,
    told: Snapshot,
    now: Duration,
}

impl<T4: Tables<Addr4>, T6: Tables<Addr6>> Stage<T4, T6> {
    /// An engine that starts on these tables and knows of nothing yet.
    ///
    /// # Panics
    /// If the tables cannot be read.
    pub fn new(settings: &Settings, config: &Config, v4: T4, v6: T6) -> Self {
        let mut engine = Engine::new(settings.node.clone(), config, v4, v6).expect("the tables can be read");
        engine.set_host_addresses(settings.addresses.clone());
        let node_name = settings.node.name.to_string();
        let complaints = settings.complaints.clone();
        Self { engine, node_name, complaints, told: Snapshot::default(), now: Duration::ZERO }
    }

    /// Tells what differs in the files from before. The first call completes the lists.
    ///
    /// # Panics
    /// If something else is wrong with the files than the settings say.
    pub fn tell(&mut self, files: &Files) {
        let mut documents = Documents::new();
        let mut complaints = Vec::new();
        for (name, text) in files {
            let (found, faults) = parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            complaints.extend(faults.into_iter().map(|fault| fault.message));
            documents.extend(found);
        }
        let expected = |complaint: &String| self.complaints.iter().any(|word| complaint.contains(word));
        let named = |word: &String| complaints.iter().any(|complaint| complaint.contains(word));
        assert!(complaints.iter().all(expected), "{complaints:?}");
        assert!(self.complaints.iter().all(named), "not all of {:?} in {complaints:?}", self.complaints);
        let documents: BTreeMap<_, _> = documents.iter().collect();
        let now = Snapshot::of(documents, &self.node_name);
        for event in now.differences(&self.told) {
            self.engine.apply(event);
        }
        self.told = now;
        if !self.engine.model().complete() {
            for kind in Kind::REQUIRED.into_iter().chain([Kind::ServiceCidr]) {
                self.engine.apply(Event::Listed(kind));
            }
        }
    }

    /// Writes the tables, ten seconds later.
    ///
    /// # Panics
    /// If flows are cut: what a Service port has before and after keeps the reference by which they know it.
    pub fn sync(&mut self) -> SyncReport {
        self.now += Duration::from_secs(10);
        let before = self.references();
        let report = self.engine.sync(self.now);
        let after = self.references();
        for (endpoint, reference) in &before {
            let now = after.get(endpoint);
            assert!(now.is_none_or(|now| now == reference), "{endpoint:?} was {reference:?} and is {now:?}");
        }
        report
    }

    fn references(&self) -> BTreeMap<(PortKey, SocketAddr), BackendRef> {
        let (v4, v6) = self.engine.families();
        references(v4.planner()).chain(references(v6.planner())).collect()
    }

    /// What load balancers are told.
    pub fn health_checks(&self) -> &BTreeMap<ServiceName, HealthCheck> {
        self.engine.health_checks()
    }

    /// The prefixes of cluster IPs.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        self.engine.model().service_cidrs().unwrap_or_default()
    }

    /// Whether everything wanted is in the tables.
    pub fn is_settled(&self) -> bool {
        self.engine.is_settled()
    }

    /// Families whose tables hold something else than the engine believes.
    ///
    /// # Panics
    /// If the tables cannot be read.
    pub fn drift(&mut self) -> Vec<Family> {
        self.engine.check_drift().expect("the tables can be read")
    }

    /// The tables.
    pub fn tables(&mut self) -> (&mut T4, &mut T6) {
        self.engine.tables_mut()
    }

    /// The tables, without the engine.
    pub fn into_tables(self) -> (T4, T6) {
        self.engine.into_tables()
    }
}

fn references<A: FamilyAddress>(planner: &Planner<A>) -> impl Iterator<Item = ((PortKey, SocketAddr), BackendRef)> {
    planner.wanted().iter().flat_map(move |(port, tables)| {
        tables.backends.keys().filter_map(move |target| {
            let address = SocketAddr::new(target.address.into(), target.port.get());
            Some(((port.clone(), address), planner.reference(port, target)?))
        })
    })
}
