//! The engine: events in, writes out. Everything of the agent that has no input or output of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Config;
use svclb_common::schema::Service;
use svclb_common::service::flag;

use crate::desired::frontends::not_admitted;
use crate::desired::health_checks::{HealthCheck, health_check};
use crate::desired::{Place, node_ports, services};
use crate::hashing::HashMap;
use crate::model::store::Changes;
use crate::model::{Event, Family, FamilyAddress, Kind, Model, PortKey, ServiceName};
use crate::plan::{Content, Planner};
use crate::tables::{self, Failure, TableError, Tables};

/// What an operator says about this node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NodeSettings {
    /// Name, lower case.
    pub name: Arc<str>,
    /// `--nodeport-addresses`.
    pub node_ports: Vec<node_ports::Entry>,
    /// `--external-ip-cidrs`.
    pub external_ip_cidrs: Option<Vec<IpNet>>,
    /// `--ping-services`.
    pub ping_services: bool,
    /// Whether node ports are served on loopback addresses, for the node's own processes.
    pub loopback_node_ports: bool,
}

/// From events to tables.
pub struct Engine<T4, T6> {
    model: Model,
    settings: NodeSettings,
    host_addresses: Vec<IpAddr>,
    place: Place,
    v4: FamilyEngine<Addr4, T4>,
    v6: FamilyEngine<Addr6, T6>,
    health_checks: BTreeMap<ServiceName, HealthCheck>,
    /// External IPs that the operator does not admit.
    not_admitted: HashMap<ServiceName, Vec<IpAddr>>,
    all_changed: bool,
    adopted: bool,
}

/// What one synchronization did.
#[derive(Default, Debug)]
pub struct SyncReport {
    /// Services that were computed anew.
    pub services: usize,
    /// Writes that succeeded.
    pub writes: usize,
    /// Backends that serve no more since then.
    pub retired: usize,
    /// What failed, by family. It is tried again with the next synchronization.
    pub failures: Vec<(Family, Option<PortKey>, Failure)>,
    /// When the changes happened that are now written, see [`crate::model::store::Changes::times`].
    pub change_times: Vec<(Family, SystemTime)>,
    /// Ports that want a frontend of another Service, and that Service's port.
    pub rivals: Vec<(PortKey, PortKey)>,
    /// External IPs that the operator does not admit, of Services that did not have just these before.
    pub not_admitted: Vec<(ServiceName, Vec<IpAddr>)>,
}

impl<T4: Tables<Addr4>, T6: Tables<Addr6>> Engine<T4, T6> {
    /// An engine on tables that may hold what an earlier agent wrote.
    pub fn new(settings: NodeSettings, config: &Config, v4: T4, v6: T6) -> Result<Self, TableError> {
        let place = Place {
            node_name: settings.name.clone(),
            external_ip_cidrs: settings.external_ip_cidrs.clone(),
            ping_services: settings.ping_services,
            ..Place::default()
        };
        Ok(Self {
            model: Model::default(),
            settings,
            host_addresses: Vec::new(),
            place,
            v4: FamilyEngine::new(v4, config)?,
            v6: FamilyEngine::new(v6, config)?,
            health_checks: BTreeMap::new(),
            not_admitted: HashMap::default(),
            all_changed: false,
            adopted: false,
        })
    }

    /// Takes in an event. A list that was read again is a reason to compute everything anew.
    pub fn apply(&mut self, event: Event) {
        self.all_changed |= matches!(event, Event::Listed(Kind::Service | Kind::Slice));
        self.model.apply(event);
    }

    /// Takes in the global addresses of this node's devices.
    pub fn set_host_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.host_addresses = addresses;
    }

    /// What is known.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the tables hold.
    pub fn contents(&self) -> (&Content<Addr4>, &Content<Addr6>) {
        (self.v4.planner.content(), self.v6.planner.content())
    }

    /// Whether some Service port in the tables asks for connections to be cut when their backend goes.
    pub fn cuts(&self) -> bool {
        let asks = |record: &Service| record.flags & flag::CUT != 0;
        let (v4, v6) = self.contents();
        v4.services.iter().any(asks) || v6.services.iter().any(asks)
    }

    /// Computes what changed and writes it. Nothing is done before all required lists are complete.
    pub fn sync(&mut self, now: Duration) -> SyncReport {
        let mut report = SyncReport::default();
        if !self.model.complete() {
            return report;
        }
        let place = self.place();
        self.all_changed |= place != self.place;
        self.place = place;
        let Changes { services: mut names, node: _, times } = self.model.take_changes();
        report.change_times = times;
        if std::mem::take(&mut self.all_changed) {
            names.extend(self.model.service_names().cloned());
        }
        for name in &names {
            report.rivals.extend(self.v4.update(name, &self.model, &self.place));
            report.rivals.extend(self.v6.update(name, &self.model, &self.place));
            self.update_health_check(name);
            report.not_admitted.extend(self.update_not_admitted(name));
        }
        if !self.adopted {
            self.v4.planner.adopt(now);
            self.v6.planner.adopt(now);
            self.adopted = true;
        }
        report.services = names.len();
        self.v4.run(now, &mut report);
        self.v6.run(now, &mut report);
        report
    }

    /// Remembers which external IPs of a Service are not admitted, and returns them if they are others now.
    fn update_not_admitted(&mut self, name: &ServiceName) -> Option<(ServiceName, Vec<IpAddr>)> {
        let service = self.model.service(name);
        let now = service.map(|service| not_admitted(service, &self.place)).unwrap_or_default();
        if now.is_empty() {
            self.not_admitted.remove(name);
            return None;
        }
        let before = self.not_admitted.insert(name.clone(), now.clone());
        (before.as_ref() != Some(&now)).then(|| (name.clone(), now))
    }

    fn update_health_check(&mut self, name: &ServiceName) {
        let service = self.model.service(name);
        let check = service.and_then(|service| health_check(service, &self.model.slices(name), &self.place.node_name));
        match check {
            Some(check) => drop(self.health_checks.insert(name.clone(), check)),
            None => drop(self.health_checks.remove(name)),
        }
    }

    /// What load balancers are to be told, as of the last [`Self::sync`].
    pub fn health_checks(&self) -> &BTreeMap<ServiceName, HealthCheck> {
        &self.health_checks
    }

    /// The addresses on which they may ask.
    pub fn health_check_addresses(&self) -> Vec<IpAddr> {
        node_ports::listeners(&self.settings.node_ports, self.model.node(), &self.host_addresses)
    }

    /// Computes all Services anew with the next [`Self::sync`].
    pub fn recompute(&mut self) {
        self.all_changed = true;
    }

    /// Whether everything wanted is in the tables.
    pub fn is_settled(&self) -> bool {
        self.adopted && self.v4.planner.is_settled() && self.v6.planner.is_settled()
    }

    /// Reads all tables back. What differs from what was written is taken as it is, so that the next
    /// [`Self::sync`] repairs it. Returns the families that differed.
    pub fn check_drift(&mut self) -> Result<Vec<Family>, TableError> {
        let mut differing = Vec::new();
        if self.adopted {
            if self.v4.check_drift()? {
                differing.push(Family::V4);
            }
            if self.v6.check_drift()? {
                differing.push(Family::V6);
            }
        }
        Ok(differing)
    }

    /// Whether the active halves of the interest bitmaps are far too small or too big for what is there.
    pub fn halves_fit_badly(&self) -> bool {
        self.adopted && (self.v4.planner.fits_badly() || self.v6.planner.fits_badly())
    }

    /// A CONFIG whose idle halves have the extents that fit, to be written and handed to [`Self::set_config`] before they are.
    pub fn with_fitting_idle_halves(&self, config: &Config) -> Config {
        let idle = usize::from(!svclb_common::interest::active_half(config));
        let mut config = *config;
        config.interest[0][idle] = self.v4.planner.idle_extents();
        config.interest[1][idle] = self.v6.planner.idle_extents();
        config
    }

    /// Writes the idle halves of the interest bitmaps from what is there; the caller then writes a CONFIG
    /// that makes them the active ones, and hands it to [`Self::set_config`].
    pub fn write_idle_halves(&mut self, now: Duration) -> Result<(), TableError> {
        tables::write_idle_half(&mut self.v4.planner, &mut self.v4.tables, now)?;
        tables::write_idle_half(&mut self.v6.planner, &mut self.v6.tables, now)
    }

    /// Takes over another CONFIG.
    pub fn set_config(&mut self, config: &Config) {
        self.v4.planner.set_config(*config);
        self.v6.planner.set_config(*config);
    }

    /// The engines of both families, for those who look.
    pub fn families(&self) -> (&FamilyEngine<Addr4, T4>, &FamilyEngine<Addr6, T6>) {
        (&self.v4, &self.v6)
    }

    /// The tables of both families.
    pub fn tables_mut(&mut self) -> (&mut T4, &mut T6) {
        (&mut self.v4.tables, &mut self.v6.tables)
    }

    /// The tables of both families, when the engine is not needed any more.
    pub fn into_tables(self) -> (T4, T6) {
        (self.v4.tables, self.v6.tables)
    }

    fn place(&self) -> Place {
        let node = self.model.node();
        let mut node_addresses = self.host_addresses.clone();
        node_addresses.extend(node.into_iter().flat_map(|node| &node.addresses));
        node_addresses.sort_unstable();
        node_addresses.dedup();
        Place {
            node_name: self.settings.name.clone(),
            zone: node.and_then(|node| node.zone.clone()),
            node_port_addresses: node_ports::addresses(&self.settings.node_ports, node, &self.host_addresses),
            loopback_node_ports: self.settings.loopback_node_ports,
            node_addresses,
            external_ip_cidrs: self.settings.external_ip_cidrs.clone(),
            ping_services: self.settings.ping_services,
        }
    }
}

/// The part of the engine for one family.
pub struct FamilyEngine<A: FamilyAddress, T> {
    planner: Planner<A>,
    tables: T,
    /// The ports that each Service has in this family.
    ports: HashMap<ServiceName, Vec<PortKey>>,
    /// Services with ports that lack a local endpoint, and how many ports: see [`lacks_local`](crate::desired::PortTables::lacks_local).
    no_local: HashMap<ServiceName, [usize; 2]>,
}

impl<A: FamilyAddress, T: Tables<A>> FamilyEngine<A, T> {
    fn new(tables: T, config: &Config) -> Result<Self, TableError> {
        let planner = Planner::new(tables.read()?, *config, &tables.limits());
        Ok(Self { planner, tables, ports: HashMap::default(), no_local: HashMap::default() })
    }

    /// What is wanted and written.
    pub fn planner(&self) -> &Planner<A> {
        &self.planner
    }

    /// Where it is written to.
    pub fn tables(&self) -> &T {
        &self.tables
    }

    /// How many ports this node drops packets of, as the internal, or the external, policy is Local and
    /// only other nodes have endpoints.
    pub fn no_local_endpoints(&self) -> [usize; 2] {
        self.no_local.values().fold([0; 2], |sum, own| [sum[0] + own[0], sum[1] + own[1]])
    }

    /// Computes a Service's tables anew. Returns the ports of other Services that want the same.
    fn update(&mut self, name: &ServiceName, model: &Model, place: &Place) -> Vec<(PortKey, PortKey)> {
        let service = model.service(name);
        let wanted = service.map(|service| services::tables::<A>(service, &model.slices(name), place));
        let mut rivals = Vec::new();
        let mut ports = Vec::new();
        let mut no_local = [0; 2];
        for (key, tables) in wanted.unwrap_or_default() {
            for (count, lacks) in no_local.iter_mut().zip(tables.lacks_local()) {
                *count += usize::from(lacks);
            }
            let others: BTreeSet<PortKey> = self.planner.want(&key, Some(tables)).into_iter().collect();
            rivals.extend(others.into_iter().map(|other| (key.clone(), other)));
            ports.push(key);
        }
        for key in self.ports.remove(name).unwrap_or_default() {
            if !ports.contains(&key) {
                self.planner.want(&key, None);
            }
        }
        if !ports.is_empty() {
            self.ports.insert(name.clone(), ports);
        }
        if no_local == [0; 2] {
            self.no_local.remove(name);
        } else {
            self.no_local.insert(name.clone(), no_local);
        }
        rivals
    }

    fn run(&mut self, now: Duration, report: &mut SyncReport) {
        let done = tables::run(&mut self.planner, &mut self.tables, now);
        report.writes += done.writes;
        report.retired += done.retired;
        report.failures.extend(done.failures.into_iter().map(|(port, failure)| (A::FAMILY, port, failure)));
    }

    fn check_drift(&mut self) -> Result<bool, TableError> {
        let found = self.tables.read()?;
        let differs = self.planner.differs_from(&found);
        if differs {
            self.planner.found(found);
        }
        Ok(differs)
    }
}
