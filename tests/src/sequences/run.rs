//! One sequence from its first step to its end.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::flag;
use svclb_common::schema::ServiceKey;
use svclb_common::service::backend_state;
use svclb_userspace::agent::engine::{Engine, NodeSettings};
use svclb_userspace::desired::node_ports::Entry;
use svclb_userspace::model::{Event, FamilyAddress, Kind, Node, Service, ServiceName, Slice, SliceName};
use svclb_userspace::plan::Planner;
use svclb_userspace::tables::Tables;
use svclb_userspace::tables::faulty::{Fault, FaultyTables};

use super::api_server::ApiServer;
use super::objects::{NODE, host_address};
use super::packets::{Family, Touched};
use super::steps::{Step, Told, What};
use super::tables::{Observed, Stage};
use crate::script;
use crate::world::host::Of;

type Agent = Engine<FaultyTables<Observed>, FaultyTables<Observed>>;

/// Between two synchronizations: longer than a freed number rests.
const PAUSE: Duration = Duration::from_secs(10);

/// How much was looked at.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Seen {
    /// Events that the agent was told.
    pub(super) events: u64,
    /// Writes after which every packet was asked for again.
    pub(super) writes: u64,
}

/// Carries out a sequence. The error says what is wrong with the tables.
pub(super) fn run(steps: &[Step]) -> Result<Seen, String> {
    let mut world = World::new();
    world.arrive(usize::MAX, 0)?;
    for (number, step) in steps.iter().enumerate() {
        world.step(number, step).map_err(|error| format!("step {}, {step:?}: {error}", number + 1))?;
    }
    world.end().map_err(|error| format!("at the end: {error}"))?;
    Ok(world.seen)
}

struct World {
    server: ApiServer,
    addresses: Vec<IpAddr>,
    stage: Rc<Stage>,
    agent: Agent,
    now: Duration,
    fault: Fault,
    dies: bool,
    changed: Changed,
    seen: Seen,
}

/// What the agent was told that differs from what it knew, until the tables show it.
#[derive(Default)]
struct Changed {
    services: HashMap<ServiceName, Arc<Service>>,
    slices: HashMap<SliceName, Arc<Slice>>,
    node: Option<Node>,
    /// Objects that a list under way has not named yet.
    unseen_services: HashSet<ServiceName>,
    unseen_slices: HashSet<SliceName>,
    unseen_node: bool,
    names: BTreeSet<ServiceName>,
    all: bool,
    touched: Touched,
}

impl Changed {
    fn told(&mut self, event: &Event) {
        match event {
            Event::ListStarted(Kind::Service) => self.unseen_services = self.services.keys().cloned().collect(),
            Event::ListStarted(Kind::Slice) => self.unseen_slices = self.slices.keys().cloned().collect(),
            Event::ListStarted(Kind::Node) => self.unseen_node = true,
            Event::Listed(Kind::Service) => {
                for name in std::mem::take(&mut self.unseen_services) {
                    self.no_service(&name);
                }
            }
            Event::Listed(Kind::Slice) => {
                for name in std::mem::take(&mut self.unseen_slices) {
                    self.no_slice(&name);
                }
            }
            Event::Listed(Kind::Node) => {
                if std::mem::take(&mut self.unseen_node) {
                    self.set_node(None);
                }
            }
            Event::ServiceApplied(service) => {
                self.unseen_services.remove(&service.name);
                let before = self.services.insert(service.name.clone(), service.clone());
                if before.as_ref() != Some(service) {
                    self.names.insert(service.name.clone());
                }
            }
            Event::ServiceDeleted(name) => self.no_service(name),
            Event::SliceApplied(slice) => {
                self.unseen_slices.remove(&slice.name);
                let before = self.slices.insert(slice.name.clone(), slice.clone());
                if before.as_ref() != Some(slice) {
                    self.names.extend(before.map(|slice| slice.service.clone()));
                    self.names.insert(slice.service.clone());
                }
            }
            Event::SliceDeleted(name) => self.no_slice(name),
            Event::NodeApplied(node) => {
                self.unseen_node = false;
                self.set_node(Some(node.clone()));
            }
            Event::NodeDeleted => self.set_node(None),
            Event::Bad(_)
            | Event::ListStarted(Kind::ServiceCidr)
            | Event::Listed(Kind::ServiceCidr)
            | Event::ServiceCidrApplied(..)
            | Event::ServiceCidrDeleted(_) => {}
        }
    }

    fn no_service(&mut self, name: &ServiceName) {
        if self.services.remove(name).is_some() {
            self.names.insert(name.clone());
        }
    }

    fn no_slice(&mut self, name: &SliceName) {
        self.names.extend(self.slices.remove(name).map(|slice| slice.service.clone()));
    }

    fn set_node(&mut self, node: Option<Node>) {
        self.all |= self.node != node;
        self.node = node;
    }

    /// Notes the frontends that changed Services want now.
    fn touch(&mut self, agent: &Agent) {
        let (v4, v6) = agent.families();
        touch(&self.names, v4.planner(), &mut self.touched.v4);
        touch(&self.names, v6.planner(), &mut self.touched.v6);
    }

    /// The tables show everything.
    fn settled(&mut self) {
        self.names.clear();
        self.touched = Touched::default();
        self.all = false;
    }
}

fn touch<A: FamilyAddress>(names: &BTreeSet<ServiceName>, planner: &Planner<A>, touched: &mut HashSet<ServiceKey<A>>) {
    for (port, tables) in planner.wanted() {
        if names.contains(&port.service) {
            for key in tables.frontends.keys() {
                touched.insert(*key);
            }
        }
    }
}

fn agent(stage: &Rc<Stage>, addresses: &[IpAddr]) -> Agent {
    let settings = NodeSettings {
        name: NODE.into(),
        node_ports: vec![Entry::Primary],
        external_ip_cidrs: Some(["10.97.0.0/30", "fd00:97::/126"].map(|cidr| cidr.parse().expect("a prefix")).into()),
        ping_services: false,
        loopback_node_ports: true,
    };
    let tables = || FaultyTables::new(Observed(stage.clone()), Fault::Never);
    let mut agent = Engine::new(settings, &stage.config(), tables(), tables()).expect("memory can be read");
    agent.set_host_addresses(addresses.to_vec());
    agent
}

impl World {
    fn new() -> Self {
        let stage = Stage::new();
        let agent = agent(&stage, &[]);
        let mut server = ApiServer::default();
        server.restart();
        Self {
            server,
            addresses: Vec::new(),
            stage,
            agent,
            now: Duration::ZERO,
            fault: Fault::Never,
            dies: false,
            changed: Changed::default(),
            seen: Seen::default(),
        }
    }

    fn step(&mut self, number: usize, step: &Step) -> Result<(), String> {
        self.server.happens(&step.what);
        match &step.what {
            What::Addresses(addresses) => {
                self.addresses = addresses.iter().map(|ip| host_address(*ip)).collect();
                self.agent.set_host_addresses(self.addresses.clone());
                self.changed.all = true;
            }
            What::Restart => return self.restart(),
            What::Die(write) => {
                self.fault = Fault::From(*write);
                self.dies = true;
            }
            What::Fail(parts) => self.fault = Fault::OneIn(*parts, number as u64),
            What::Clear(hours) => return self.clear(*hours),
            _ => {}
        }
        match step.told {
            Told::AtOnce => self.arrive(usize::MAX, number),
            Told::InPart => self.arrive(1, number),
            Told::Later => Ok(()),
        }
    }

    /// Tells the agent and lets it write.
    fn arrive(&mut self, items: usize, turn: usize) -> Result<(), String> {
        self.take_in(items, turn, None)
    }

    /// What arrives is told the agent, or the one that takes its place.
    fn take_in(&mut self, items: usize, turn: usize, next: Option<Agent>) -> Result<(), String> {
        let events = self.server.arrive(items, turn);
        self.seen.events += events.len() as u64;
        for event in &events {
            self.changed.told(event);
        }
        self.changed.touch(&self.agent);
        self.ask();
        let restarted = next.is_some();
        if let Some(next) = next {
            self.agent = next;
        }
        for event in events {
            self.agent.apply(event);
        }
        self.sync(restarted)
    }

    fn ask(&mut self) {
        let (v4, v6) = self.agent.families();
        self.stage.asked.borrow_mut().begin(&self.stage.env.borrow(), (v4.planner(), v6.planner()));
    }

    fn sync(&mut self, restarted: bool) -> Result<(), String> {
        self.now += PAUSE;
        let fault = std::mem::replace(&mut self.fault, Fault::Never);
        set_fault(&mut self.agent, fault);
        let report = self.agent.sync(self.now);
        set_fault(&mut self.agent, Fault::Never);
        if fault == Fault::Never && !report.failures.is_empty() {
            return Err(format!("writes that cannot fail failed: {:?}", report.failures));
        }
        self.changed.touch(&self.agent);
        self.judge(restarted)?;
        if self.agent.is_settled() {
            self.changed.settled();
            self.check_use()?;
        } else if fault == Fault::Never {
            return Err("something is left to do".to_owned());
        }
        if std::mem::take(&mut self.dies) { self.restart() } else { Ok(()) }
    }

    fn judge(&mut self, restarted: bool) -> Result<(), String> {
        let mut asked = self.stage.asked.borrow_mut();
        self.seen.writes += asked.writes();
        let (v4, v6) = self.agent.families();
        let touched = (!self.changed.all).then_some(&self.changed.touched);
        asked.judge(&self.stage.env.borrow(), (v4.planner(), v6.planner()), touched, restarted)
    }

    /// Another agent takes over, with the tables as they are.
    fn restart(&mut self) -> Result<(), String> {
        self.server.restart();
        let next = agent(&self.stage, &self.addresses);
        self.take_in(usize::MAX, 0, Some(next))
    }

    /// Clears bits of interest.
    fn clear(&mut self, hours: u64) -> Result<(), String> {
        self.now += Duration::from_hours(hours);
        self.ask();
        self.agent.write_idle_halves(self.now).map_err(|error| error.to_string())?;
        let config = self.stage.config();
        let config = svclb_common::config::Config { flags: config.flags ^ flag::SECOND_HALF, ..config };
        self.stage.set_config(&config);
        self.agent.set_config(&config);
        self.judge(false)
    }

    /// Everything arrives; the tables then show what those of a new agent show, and nothing is left when
    /// everything is deleted.
    fn end(&mut self) -> Result<(), String> {
        self.fault = Fault::Never;
        self.arrive(usize::MAX, 0)?;
        let (shown, expected) = (self.show(), self.fresh()?);
        if shown != expected {
            return Err(format!("the tables show\n{shown}  instead of\n{expected}"));
        }
        let drift = self.agent.check_drift().map_err(|error| error.to_string())?;
        if !drift.is_empty() {
            return Err(format!("the agent believes that other things are in the tables: {drift:?}"));
        }
        self.server.delete_all();
        self.arrive(usize::MAX, 0)?;
        let (v4, v6) = self.agent.families();
        left::<Addr4>(&v4.tables().inner)?;
        left::<Addr6>(&v6.tables().inner)
    }

    /// What a new agent makes of everything.
    fn fresh(&self) -> Result<String, String> {
        let mut world = Self { server: self.server.listed(), addresses: self.addresses.clone(), ..Self::new() };
        world.agent.set_host_addresses(self.addresses.clone());
        world.arrive(usize::MAX, 0)?;
        Ok(world.show())
    }

    fn show(&self) -> String {
        let (v4, v6) = self.agent.families();
        let mut text = script::show(&v4.tables().inner, &v6.tables().inner);
        for (name, check) in self.agent.health_checks() {
            text.extend([format!("{name} {check:?}\n")]);
        }
        text.extend([format!("no local: {:?} {:?}\n", v4.no_local_endpoints(), v6.no_local_endpoints())]);
        text
    }

    /// As many numbers and slots are in use as there are Service ports, endpoints and lists.
    fn check_use(&self) -> Result<(), String> {
        let (v4, v6) = self.agent.families();
        check_use(v4.planner())?;
        check_use(v6.planner())
    }
}

fn set_fault(agent: &mut Agent, fault: Fault) {
    let (v4, v6) = agent.tables_mut();
    (v4.fault, v4.tried) = (fault, 0);
    (v6.fault, v6.tried) = (fault, 0);
}

fn check_use<A: Family>(planner: &Planner<A>) -> Result<(), String> {
    let wanted = planner.wanted();
    let list = |flag| wanted.values().map(|tables| tables.list(flag).count()).sum::<usize>();
    let needed = (
        wanted.len(),
        wanted.values().map(|tables| tables.backends.keys().count()).sum::<usize>(),
        list(svclb_common::service::backend_flag::IN_CLUSTER) + list(svclb_common::service::backend_flag::IN_LOCAL),
    );
    if planner.used() == needed {
        return Ok(());
    }
    Err(format!(
        "{:?}: in use are {:?} Service numbers, backend numbers and slots, needed {needed:?}",
        A::FAMILY,
        planner.used()
    ))
}

/// What is left when nothing is wanted.
fn left<A: Of>(tables: &Observed) -> Result<(), String>
where
    Observed: Tables<A>,
{
    tables.content::<A, _>(|content| {
        let serving = content.backends.iter().filter(|backend| backend.state == backend_state::SERVING).count();
        let left = (content.frontends.len(), serving, content.source_ranges.len());
        if left == (0, 0, 0) {
            Ok(())
        } else {
            Err(format!("frontends, endpoints and source ranges are left: {left:?}"))
        }
    })
}
