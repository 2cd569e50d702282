//! `svclb agent`: where the parts meet.
//!
//! One task owns the [`engine`]. It takes in what the source and the machine tell, lets the pending
//! changes gather, and then writes them all at once. A change that fails is tried again, later and later;
//! every few minutes the kernel's maps are compared with what was written to them. When the task ends,
//! maps, programs and hooks stay as they are: the next agent goes on with them.

pub mod conntrack;
pub mod devices;
pub mod engine;
mod health_checks;
pub mod lock;
pub mod prepare;
mod report;
mod servers;
mod socket_lb;
mod stale_sockets;
pub mod sweep;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Config, Ports, flag};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, info, warn};

use crate::bpf::attach::Attacher;
use crate::bpf::load::{self, Object};
use crate::bpf::xdp::XdpHooks;
use crate::clock::jiffies_per_second;
use crate::config::AgentOptions;
use crate::desired::datapath_config::{self, Identity, Settings};
use crate::health::Health;
use crate::heap;
use crate::host::{self, Attachment, DeviceEvent, HostEvent, NodeAddresses, sysctl};
use crate::ids::GRACE;
use crate::k8s;
use crate::metrics::Metrics;
use crate::model::{Event, Family, Notice};
use crate::tables::bpf::{BpfConfig, BpfTables};
use crate::tables::{ConfigTable as _, Failure, TableError, switch_halves};
use conntrack::Conntrack;
use devices::{DeviceMap, PacketCounters};
use engine::{Engine, NodeSettings};
use health_checks::HealthChecks;
use prepare::Prepared;
use report::{Notices, label, unix_seconds};
use socket_lb::SocketHooks;
use stale_sockets::StaleSockets;
use sweep::Sweep;

/// How often everything is computed anew and compared with the kernel's maps.
const CHECK: Duration = Duration::from_mins(5);

/// How often it is said that a first list is still missing, and looked for sysctls that are.
const MISSING: Duration = Duration::from_secs(10);

/// How often the interest bitmaps are rebuilt. Not below the time that bits of removed members are kept,
/// as a new agent does not know what an earlier one removed.
const REBUILD: Duration = Duration::from_hours(25);

/// First and longest pause before what failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Runs the agent until SIGTERM or SIGINT.
pub async fn run(options: AgentOptions) -> Result<()> {
    let node_name = options.node_name().context("read the host name (or give --node-name)")?;
    let (events_in, events) = unbounded_channel();
    let (notices, notices_out) = unbounded_channel();
    let notices = Notices(notices);
    // Before anything is loaded: a source that cannot work must change nothing.
    let source = Source::prepare(&options, &node_name).await?;

    let Prepared { lock: _lock, conntrack } = prepare::prepare(&options).await?;
    let sockets = SocketHooks::prepare(&options)?;
    let memory = machine_memory().context("read the size of this machine's memory")?;
    let load_options =
        load::Options { bpffs: Some(&options.bpffs), sizes: options.sizes(memory), test_mode: false, programs: &[] };
    let mut object = Object::load(&load_options)?;
    let mut config_table = BpfConfig::take(&mut object)?;
    let before = config_table.read_config()?;
    let settings = Settings { namespace: sockets.namespace(), ..options.settings() };
    let config = datapath_config::config(&settings, object.sizes(), jiffies_per_second()?, &before, identity()?);
    config_table.write_config(&config)?;
    let node_settings = NodeSettings {
        name: node_name.as_str().into(),
        node_ports: options.node_ports(),
        external_ip_cidrs: options.external_ips(),
        ping_services: settings.ping_services,
        loopback_node_ports: sockets.namespace() != 0,
    };
    if settings.direct {
        warn_of_passed_chains();
    }
    let v4 = BpfTables::take(&mut object, &options.bpffs, &config)?;
    let v6 = BpfTables::take(&mut object, &options.bpffs, &config)?;
    let engine = Engine::new(node_settings, &config, v4, v6)?;
    let (metrics, registry) = Metrics::register(PacketCounters::take(&mut object)?);

    let sweep = Sweep::take(&mut object)?;
    let stale_sockets = StaleSockets::take(&mut object)?;
    let devices = DeviceMap::take(&mut object)?;
    let served = sockets.attach(&mut object, &options.bpffs);
    metrics.socket_lb.get_or_create(&served).set(1);
    let xdp = XdpHooks::load(options.xdp, &options.bpffs, &mut object);
    let mut attacher = Attacher::new(options.attach, &options.bpffs, object, devices, xdp)?;
    let host_options = host::Options {
        node_devices: options.devices.clone(),
        excluded: options.exclude_devices.clone(),
        local: options.local_devices(),
    };
    let (host_events, _watch) = host::watch(host_options, move |events: &[DeviceEvent]| attacher.apply(events))?;

    let health = Health::default();
    let answered = metrics.kube_proxy.clone();
    let router = health.clone().router(answered.healthz, answered.livez);
    let refused = |reason| {
        let (notices, node_name) = (notices.clone(), node_name.clone());
        move |message| notices.no_server(&node_name, reason, message)
    };
    servers::serve("healthz", options.healthz_bind_address(), router, refused("FailedToStartProxierHealthcheck"));
    let router = crate::metrics::router(registry, &options.in_force(&node_name));
    servers::serve("metrics", options.metrics_bind_address(), router, refused("FailedToStartMetricServer"));
    let needs_node = matches!(source, Source::Api { .. });
    source.start(events_in, notices_out)?;
    notices.starting(&node_name);
    info!(node = node_name, version = env!("CARGO_PKG_VERSION"), adopted = before.layout != 0, "svclb agent runs");
    let agent = Agent {
        engine,
        sweep,
        stale_sockets,
        config,
        config_table,
        health_checks: HealthChecks::new(health.clone()),
        health,
        metrics,
        notices,
        conntrack,
        started: Instant::now(),
        started_at: SystemTime::now(),
        needs_node,
        local: if options.settings().cluster_cidrs.is_some() { Local::Given } else { Local::ByNode },
        host_synced: false,
        hooked: BTreeSet::new(),
        ready: false,
        retry: None,
        pause: RETRY.0,
    };
    Box::pin(agent.run(events, host_events)).await
}

/// Says whom direct flows go past.
fn warn_of_passed_chains() {
    const PAST: &str =
        "--forwarding direct: packets of Services pass this node's netfilter by, network policies included";
    match host::netfilter::forward_chains() {
        Ok(chains) if chains.is_empty() => warn!("{PAST}"),
        Ok(chains) => warn!("{PAST}: {}", chains.join(", ")),
        Err(error) => warn!("{PAST}; its chains cannot be read ({error}), `nft list ruleset` shows them"),
    }
}

/// Where objects come from, checked and not yet started.
enum Source {
    Manifests { folder: PathBuf, node_name: String },
    Api { client: k8s::api::Client, node_name: String },
}

impl Source {
    async fn prepare(options: &AgentOptions, node_name: &str) -> Result<Self> {
        let node_name = node_name.to_owned();
        let source = &options.source;
        if let Some(folder) = source.manifests.clone() {
            return Ok(Self::Manifests { folder, node_name });
        }
        let server = k8s::api::Server { kubeconfig: source.kubeconfig.clone(), urls: source.api_server.clone() };
        Ok(Self::Api { client: server.client().await?, node_name })
    }

    fn start(self, events: UnboundedSender<Event>, notices: UnboundedReceiver<Notice>) -> Result<()> {
        match self {
            Self::Manifests { folder, node_name } => {
                // Files have no Events.
                drop(notices);
                k8s::manifests::follow(&folder, &node_name, events)?;
            }
            Self::Api { client, node_name } => k8s::api::follow(&client, &node_name, events, notices),
        }
        Ok(())
    }
}

/// Who says which sources are local.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Local {
    /// The options.
    Given,
    /// The podCIDRs of the own Node: nothing is written before they are known.
    ByNode,
}

struct Agent {
    engine: Engine<BpfTables<Addr4>, BpfTables<Addr6>>,
    sweep: Sweep,
    stale_sockets: StaleSockets,
    config: Config,
    config_table: BpfConfig,
    health_checks: HealthChecks,
    health: Health,
    metrics: Metrics,
    notices: Notices,
    conntrack: Conntrack,
    started: Instant,
    started_at: SystemTime,
    /// Without its Node object this node must not get traffic from load balancers.
    needs_node: bool,
    local: Local,
    host_synced: bool,
    /// Devices with hooks, by index.
    hooked: BTreeSet<u32>,
    ready: bool,
    retry: Option<Instant>,
    pause: Duration,
}

impl Agent {
    async fn run(
        mut self,
        mut events: UnboundedReceiver<Event>,
        mut host_events: UnboundedReceiver<HostEvent>,
    ) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut check = interval_at(tokio::time::Instant::now() + CHECK, CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missing = interval_at(tokio::time::Instant::now() + MISSING, MISSING);
        missing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sysctls = interval_at(tokio::time::Instant::now() + MISSING, MISSING);
        sysctls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rebuild = interval_at(tokio::time::Instant::now() + REBUILD, REBUILD);
        self.follow_own_ports();
        loop {
            let retry =
                [self.retry, self.health_checks.again(), self.stale_sockets.again()].into_iter().flatten().min();
            let incomplete = !self.engine.model().complete() || self.lacks_pod_cidrs();
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => anyhow::bail!("the source of objects has ended; see the log for the reason"),
                },
                event = host_events.recv() => match event {
                    Some(event) => self.take_host(event),
                    None => anyhow::bail!("nobody follows the devices any more; see the log for the reason"),
                },
                _ = missing.tick(), if incomplete => {
                    let kinds: Vec<String> = self.engine.model().missing().iter().map(ToString::to_string).collect();
                    if kinds.is_empty() {
                        warn!("still waiting for podCIDRs in this node's Node object (--detect-local-mode NodeCIDR)");
                    } else {
                        warn!("still waiting for the first list of {}", kinds.join(", "));
                    }
                }
                _ = sysctls.tick(), if self.conntrack.waits() => self.conntrack.write(),
                _ = check.tick() => self.check(),
                _ = rebuild.tick() => self.rebuild(),
                () = sleep_until(retry.unwrap_or_else(Instant::now).into()), if retry.is_some() => {}
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            while let Ok(event) = host_events.try_recv() {
                self.take_host(event);
            }
            if self.host_synced && self.engine.model().complete() && self.follow_pod_cidrs() {
                self.sync();
                self.follow_service_cidrs();
                self.follow_cuts();
                self.fit_halves();
            }
        }
        info!("svclb agent ends; its maps and hooks stay and go on serving");
        Ok(())
    }

    fn take(&mut self, event: Event) {
        if let Event::Bad(problem) = event {
            self.report(problem);
            return;
        }
        self.health.waiting(Instant::now());
        self.metrics.kube_proxy.heard(&event, unix_seconds());
        self.engine.apply(event);
    }

    fn take_host(&mut self, event: HostEvent) {
        match event {
            HostEvent::Addresses(addresses) => {
                let all: Vec<IpAddr> = addresses.all.iter().map(|address| address.ip).collect();
                info!(?all, "addresses of this node");
                self.engine.set_host_addresses(all);
                self.set_node_addresses(&addresses);
            }
            HostEvent::Device { event, took, failure } => {
                let hooked = match event {
                    DeviceEvent::Present(device) | DeviceEvent::Disturbed(device) => {
                        let hooked = failure.is_none() && matches!(device.attachment, Attachment::Hooked(_));
                        (device.index, hooked)
                    }
                    DeviceEvent::Gone { index, .. } => (index, false),
                    DeviceEvent::AllTold => {
                        self.host_synced = true;
                        return;
                    }
                };
                match hooked {
                    (index, true) => {
                        self.metrics.hook_seconds.observe(took.as_secs_f64());
                        self.hooked.insert(index);
                    }
                    (index, false) => {
                        self.hooked.remove(&index);
                    }
                }
                self.metrics.devices.set(i64::try_from(self.hooked.len()).unwrap_or(i64::MAX));
            }
        }
    }

    /// Whether what is local is not known yet, here or from an earlier agent.
    fn lacks_pod_cidrs(&self) -> bool {
        let known = self.config.has(flag::CLUSTER_CIDRS4) || self.config.has(flag::CLUSTER_CIDRS6);
        self.local == Local::ByNode && !known
    }

    /// Puts the Node's podCIDRs into CONFIG where they say what is local. Returns whether there are any: those
    /// that were known stay when the Node has none.
    fn follow_pod_cidrs(&mut self) -> bool {
        let cidrs = self.engine.model().node().map(|node| node.pod_cidrs.as_slice()).unwrap_or_default();
        if self.local == Local::Given || cidrs.is_empty() {
            return !self.lacks_pod_cidrs();
        }
        let cidrs = cidrs.to_vec();
        match self.put_config(&datapath_config::with_cluster_cidrs(&self.config, &cidrs)) {
            Ok(false) => true,
            Ok(true) => {
                info!(?cidrs, "podCIDRs of this node: sources inside are local");
                true
            }
            Err(error) => {
                warn!(%error, "cannot write the podCIDRs of this node to CONFIG; trying again");
                self.retry = Some(Instant::now() + RETRY.1);
                false
            }
        }
    }

    /// Makes a CONFIG the one in force, and tells whether it is another than before.
    fn put_config(&mut self, config: &Config) -> Result<bool, TableError> {
        if *config == self.config {
            return Ok(false);
        }
        self.config_table.write_config(config)?;
        self.config = *config;
        self.engine.set_config(&self.config);
        Ok(true)
    }

    /// Puts the prefixes of cluster IPs into CONFIG, after the Services that have addresses there are in the tables.
    fn follow_service_cidrs(&mut self) {
        let Some(cidrs) = self.engine.model().service_cidrs() else { return };
        let (config, left_out) = datapath_config::with_service_cidrs(&self.config, &cidrs);
        match self.put_config(&config) {
            Ok(false) => {}
            Ok(true) => {
                info!(
                    ?cidrs,
                    "prefixes of cluster IPs: what goes to an address that no Service has is dropped at node devices"
                );
                if !left_out.is_empty() {
                    warn!(?left_out, "too many ServiceCIDRs: packets to unknown addresses of these pass");
                }
            }
            Err(error) => {
                warn!(%error, "cannot write the prefixes of cluster IPs to CONFIG; trying again");
                self.retry = Some(Instant::now() + RETRY.1);
            }
        }
    }

    /// Says in CONFIG whether the backends of TCP flows have to be looked at.
    fn follow_cuts(&mut self) {
        let cuts = self.engine.cuts();
        match self.put_config(&datapath_config::with_cut(&self.config, cuts)) {
            Ok(false) => {}
            Ok(true) if cuts => info!("some Service asks for TCP connections to be cut when their backend goes"),
            Ok(true) => info!("no Service asks any more for TCP connections to be cut when their backend goes"),
            Err(error) => {
                warn!(%error, "cannot write to CONFIG whether connections are to be cut; trying again");
                self.retry = Some(Instant::now() + RETRY.1);
            }
        }
    }

    /// Writes to CONFIG as which client the node's own processes count.
    fn set_node_addresses(&mut self, addresses: &NodeAddresses) {
        let node4 = addresses.primary4.map(Addr4::from).unwrap_or_default();
        let node6 = addresses.primary6.map(Addr6::from).unwrap_or_default();
        if let Err(error) = self.put_config(&Config { node4, node6, ..self.config }) {
            warn!(
                %error,
                "cannot write the node's addresses to CONFIG: source ranges and session affinity of its own processes \
                 may be wrong until they change again or the agent is restarted"
            );
        }
    }

    /// Writes to CONFIG which ports the node's own sockets are given, so that masqueraded flows keep out of their way.
    fn follow_own_ports(&mut self) {
        let (first, last) = match sysctl::local_port_range() {
            Ok(range) => range,
            Err(error) => {
                return warn!(%error, "cannot read net.ipv4.ip_local_port_range: masqueraded flows may have \
                                                ports in it, as sockets of this node");
            }
        };
        match self.put_config(&Config { own_ports: Ports { first, last }, ..self.config }) {
            Ok(true) => info!(first, last, "ports of this node's own sockets: masqueraded flows have others"),
            Ok(false) => {}
            Err(error) => warn!(%error, "cannot write the ports of this node's own sockets to CONFIG"),
        }
    }

    fn sync(&mut self) {
        let began = Instant::now();
        let report = self.engine.sync(self.started.elapsed());
        self.note_sync(&report, began.elapsed());
        self.note_state(&report);
        self.note_latency(&report);
        self.report_rivals(&report);
        self.report_not_admitted(&report);
        let broken = |family| {
            let of_family = report.failures.iter().filter(move |(own, _, _)| *own == family);
            of_family.filter(|(_, _, failure)| matches!(failure, Failure::Table(_))).count()
        };
        for family in Family::ALL {
            self.health.synced(family, broken(family) == 0);
            if broken(family) == 0 {
                self.metrics.kube_proxy.last_sync.get_or_create(&label(family)).set(unix_seconds());
            }
        }
        self.report_failures(&report);
        self.follow_health_checks();
        // An agent that has just begun does not know what went before.
        let some_went = report.retired > 0 || !self.ready;
        let closed = self.stale_sockets.follow(&self.config, some_went, self.engine.contents());
        self.metrics.sockets_closed.inc_by(closed);
        if report.failures.is_empty() && self.engine.is_settled() {
            (self.retry, self.pause) = (None, RETRY.0);
        } else {
            self.retry = Some(Instant::now() + self.pause);
            // What only lacks room gets it as soon as something that was freed has rested.
            let longest = if Family::ALL.into_iter().all(|family| broken(family) == 0) { GRACE } else { RETRY.1 };
            self.pause = (self.pause * 2).min(longest);
        }
        if !self.ready && Family::ALL.into_iter().all(|family| broken(family) == 0) {
            self.ready = true;
            heap::give_back();
            self.tell_ready();
        }
    }

    /// Load balancers hear of endpoints after the tables did.
    fn follow_health_checks(&mut self) {
        let (checks, addresses) = (self.engine.health_checks(), self.engine.health_check_addresses());
        let problems = self.health_checks.follow(checks, &addresses, Instant::now());
        let listening = i64::try_from(self.health_checks.listening()).unwrap_or(i64::MAX);
        self.metrics.health_check_listeners.set(listening);
        for problem in problems {
            self.report(problem);
        }
    }

    fn check(&mut self) {
        self.follow_own_ports();
        self.engine.recompute();
        let (v4, v6) = self.engine.contents();
        match self.sweep.run(v4, v6) {
            Ok(removed) => debug!(removed, "affinity entries past their timeout removed"),
            Err(error) => warn!(error = format!("{error:#}"), "affinity entries past their timeout stay for now"),
        }
        match self.engine.check_drift() {
            Ok(differing) => {
                for family in differing {
                    self.metrics.drift.get_or_create(&label(family)).inc();
                    warn!(%family, "somebody else wrote to the tables: they are repaired");
                }
            }
            Err(error) => warn!(%error, "cannot compare the tables with what was written"),
        }
        heap::give_back();
    }

    /// Makes interest bitmaps anew that have far more or far fewer bits than what is there needs.
    fn fit_halves(&mut self) {
        if self.engine.halves_fit_badly() {
            self.rebuild();
        }
    }

    fn rebuild(&mut self) {
        match self.try_rebuild() {
            Ok(()) => info!("interest bitmaps rebuilt"),
            Err(error) => {
                warn!(%error, "interest bitmaps not rebuilt; they work as before, if slower, and it is tried again");
            }
        }
    }

    fn try_rebuild(&mut self) -> Result<(), TableError> {
        let config = self.engine.with_fitting_idle_halves(&self.config);
        self.put_config(&config)?;
        self.engine.write_idle_halves(self.started.elapsed())?;
        let config = switch_halves(&mut self.config_table, &self.config)?;
        self.config = config;
        self.engine.set_config(&self.config);
        Ok(())
    }
}

fn machine_memory() -> Result<u64> {
    let info = nix::sys::sysinfo::sysinfo()?;
    Ok(info.ram_total())
}

fn identity() -> Result<Identity> {
    let seed = getrandom::u64().context("get random numbers")?;
    let mark = getrandom::u32().context("get random numbers")?;
    Ok(Identity { seed, mark: (mark & 0xffff).try_into().unwrap_or(1) })
}
