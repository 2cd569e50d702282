//! Options of `svclb agent`: flags, their environment variables, kube-proxy's configuration file, and what is
//! wrong with them.
//!
//! Flags have kube-proxy's names where they mean the same. What a flag or its variable says goes before
//! what the file says, so options have no defaults of clap's: these come in last, in the methods.

mod conntrack;
mod in_force;
mod kube_proxy_file;
mod kube_proxy_flags;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use regex::Regex;
use svclb_common::config::{CLUSTER_CIDRS, Sizes};

use crate::bpf::{attach, xdp};
use crate::desired::datapath_config::Settings;
use crate::desired::node_ports;
use crate::host::LocalDevices;
use crate::model::Family;
pub use conntrack::Conntrack;
use kube_proxy_flags::KubeProxyFlags;

/// Folder of pins unless `--bpffs` says otherwise.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/svclb";

/// Options of `svclb agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentOptions {
    /// A configuration file of kube-proxy's (KubeProxyConfiguration). Flags and variables go before it.
    #[arg(long, env = "SVCLB_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only do what takes more rights than the agent needs, and end: mount a BPF file system for --bpffs where there is
    /// none, and set the sysctls of connection tracking.
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        value_name = "BOOL"
    )]
    pub init_only: Option<bool>,
    /// Where Services come from.
    #[command(flatten)]
    pub source: SourceOptions,
    /// Name of this node's Node object; the host name if not given.
    #[arg(long, env = "NODE_NAME", visible_alias = "hostname-override", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Folder in a BPF file system for maps and links; they stay when the agent ends. Where none is mounted the agent
    /// mounts one, if it may.
    #[arg(long, env = "SVCLB_BPFFS", default_value = DEFAULT_BPFFS, value_name = "DIR")]
    pub bpffs: PathBuf,
    /// How programs are attached to devices: auto, tcx or clsact.
    #[arg(long, env = "SVCLB_ATTACH", default_value = "auto", value_name = "WAY")]
    pub attach: attach::Mode,
    /// How packets of Services cross the node: through its IP stack and netfilter (stack), or past both, where it can be
    /// (direct): faster, and no network policy of the node sees them.
    #[arg(long, env = "SVCLB_FORWARDING", default_value = "stack", value_name = "WAY")]
    pub forwarding: Forwarding,
    /// Whether drivers of devices that lead out of the node send frames of direct flows on, before there is a packet: off,
    /// native, or auto (where that is known to work). Both take --forwarding direct.
    #[arg(long, env = "SVCLB_XDP", default_value = "off", value_name = "WHETHER")]
    pub xdp: xdp::Mode,
    /// Whose sockets are led to Services besides packets: off (nobody's), or host (those of processes of the node
    /// itself).
    #[arg(long, env = "SVCLB_SOCKET_LB", default_value = "host", value_name = "WHOSE")]
    pub socket_lb: SocketLb,
    /// Folder of the cgroup whose processes --socket-lb serves, or one in which cgroup2 is mounted; the root of all if
    /// not given.
    #[arg(long, env = "SVCLB_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Prefixes of the cluster's pods: sources outside are masqueraded when they use a cluster IP.
    #[arg(long, env = "SVCLB_CLUSTER_CIDR", value_delimiter = ',', value_name = "CIDR,...")]
    pub cluster_cidr: Vec<IpNet>,
    /// Which sources are local: those in --cluster-cidr (ClusterCIDR), in the podCIDRs of this node's Node object
    /// (NodeCIDR), those that come by --pod-bridge-interface (BridgeInterface), or by a device of
    /// --pod-interface-name-prefix (InterfaceNamePrefix).
    #[arg(long, env = "SVCLB_DETECT_LOCAL_MODE", value_name = "MODE")]
    pub detect_local_mode: Option<LocalMode>,
    /// The bridge of the pods, for --detect-local-mode BridgeInterface.
    #[arg(long, env = "SVCLB_POD_BRIDGE_INTERFACE", value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// How the names of the pods' devices begin, for --detect-local-mode InterfaceNamePrefix. A port of a bridge
    /// counts as its bridge does.
    #[arg(long, env = "SVCLB_POD_INTERFACE_NAME_PREFIX", value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Masquerade everything that uses a cluster IP.
    #[arg(
        long,
        env = "SVCLB_MASQUERADE_ALL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        value_name = "BOOL"
    )]
    pub masquerade_all: Option<bool>,
    /// Addresses on which node ports are served: prefixes, primary (the default), or all. A family of which
    /// the list has no entry is served on all its addresses.
    #[arg(long, env = "SVCLB_NODEPORT_ADDRESSES", value_delimiter = ',', value_name = "CIDR|primary|all,...")]
    pub nodeport_addresses: Vec<node_ports::Entry>,
    /// The mode of kube-proxy whose default of --nodeport-addresses is meant: iptables and ipvs mean all,
    /// nftables means primary.
    #[arg(long, env = "SVCLB_PROXY_MODE", value_name = "MODE")]
    pub proxy_mode: Option<ProxyMode>,
    /// External IPs of Services are served only inside these prefixes, or not at all (none). All are served if not
    /// given, as by kube-proxy: whoever may create Services can take any address's traffic then, unless the API
    /// server denies external IPs.
    #[arg(long, env = "SVCLB_EXTERNAL_IP_CIDRS", value_delimiter = ',', value_name = "CIDR,...|none")]
    pub external_ip_cidrs: Vec<ExternalIps>,
    /// Answer echo requests (ping) to cluster IPs, load balancer addresses and external IPs.
    #[arg(
        long,
        env = "SVCLB_PING_SERVICES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        value_name = "BOOL"
    )]
    pub ping_services: Option<bool>,
    /// Names of the devices that lead out of the node; found by their kind if not given.
    #[arg(long, env = "SVCLB_DEVICES", value_name = "REGEX")]
    pub devices: Option<Regex>,
    /// Names of devices to leave alone.
    #[arg(long, env = "SVCLB_EXCLUDE_DEVICES", value_name = "REGEX")]
    pub exclude_devices: Option<Regex>,
    /// Address of /healthz and /livez; 0.0.0.0:10256 if not given.
    #[arg(
        long,
        env = "SVCLB_HEALTHZ_BIND_ADDRESS",
        value_parser = values::healthz,
        value_name = "ADDRESS:PORT"
    )]
    pub healthz_bind_address: Option<SocketAddr>,
    /// Address of /metrics and /proxyMode; 127.0.0.1:10249 if not given.
    #[arg(
        long,
        env = "SVCLB_METRICS_BIND_ADDRESS",
        value_parser = values::metrics,
        value_name = "ADDRESS:PORT"
    )]
    pub metrics_bind_address: Option<SocketAddr>,
    /// An IPv6 address makes the two addresses above IPv6 ones where they are not given.
    #[arg(long, env = "SVCLB_BIND_ADDRESS", value_name = "ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// Connection tracking, svclb's and the kernel's.
    #[command(flatten)]
    pub conntrack: Conntrack,
    /// Entries of maps that are made anew, as NAME=ENTRIES: flow_buckets, spill_buckets, frontend_buckets,
    /// services, slot_pairs, backends, masquerade, affinity, source_ranges, sockets, fragments. Follows the machine's
    /// memory if not given.
    #[arg(long, env = "SVCLB_MAP_SIZES", value_delimiter = ',', value_parser = map_size, value_name = "NAME=ENTRIES,...")]
    pub map_sizes: Vec<(&'static str, u32)>,
    /// How logs look on stderr: text if not given.
    #[arg(long, env = "SVCLB_LOG_FORMAT", visible_alias = "logging-format", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// How much is logged, where RUST_LOG does not say: from 4 on for debugging, from 6 on everything.
    #[arg(short = 'v', long = "v", value_name = "LEVEL")]
    pub verbosity: Option<u8>,
    /// What is accepted for the sake of command lines for kube-proxy.
    #[command(flatten)]
    pub without_meaning: KubeProxyFlags,
}

/// How it is told whether a source is local (kube-proxy's `detectLocalMode`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalMode {
    /// It is in `--cluster-cidr`.
    ClusterCidr,
    /// It is in the podCIDRs of the own Node.
    NodeCidr,
    /// It comes by `--pod-bridge-interface`.
    BridgeInterface,
    /// It comes by a device whose name begins with `--pod-interface-name-prefix`.
    InterfaceNamePrefix,
}

impl LocalMode {
    const ALL: [(Self, &'static str); 4] = [
        (Self::ClusterCidr, "ClusterCIDR"),
        (Self::NodeCidr, "NodeCIDR"),
        (Self::BridgeInterface, "BridgeInterface"),
        (Self::InterfaceNamePrefix, "InterfaceNamePrefix"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for LocalMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = Self::ALL.into_iter().find(|(_, name)| *name == text).map(|(mode, _)| mode);
        mode.ok_or_else(|| "not one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix".to_owned())
    }
}

/// An entry of `--external-ip-cidrs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExternalIps {
    /// Those inside are served.
    Inside(IpNet),
    /// No others are.
    None,
}

impl fmt::Display for ExternalIps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inside(cidr) => write!(f, "{cidr}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for ExternalIps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        text.parse()
            .map(Self::Inside)
            .map_err(|error| format!("neither a prefix such as 203.0.113.0/24 nor none: {error}"))
    }
}

/// A mode of kube-proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyMode {
    /// `iptables`
    Iptables,
    /// `ipvs`
    Ipvs,
    /// `nftables`
    Nftables,
}

impl FromStr for ProxyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "iptables" => Ok(Self::Iptables),
            "ipvs" => Ok(Self::Ipvs),
            "nftables" => Ok(Self::Nftables),
            _ => Err("not one of iptables, ipvs, nftables".to_owned()),
        }
    }
}

/// Where objects come from: exactly one.
#[derive(Args, Clone, Debug)]
pub struct SourceOptions {
    /// Folder of YAML files with Services, EndpointSlices, Pods and Nodes, followed live.
    #[arg(long, env = "SVCLB_MANIFESTS", value_name = "DIR", conflicts_with_all = ["kubeconfig", "api_server"])]
    pub manifests: Option<PathBuf>,
    /// How to reach the API server.
    #[arg(long, env = "SVCLB_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The API servers, not through a Service: the first that answers is used, the next when it fails. With
    /// --kubeconfig they replace the server named there; without, the service account's token and CA are
    /// used.
    #[arg(long, env = "SVCLB_API_SERVER", visible_alias = "master", value_delimiter = ',', value_name = "URL,...")]
    pub api_server: Vec<String>,
}

/// How packets of Services cross the node.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarding {
    /// Through its IP stack.
    Stack,
    /// Past it, where it can be.
    Direct,
}

/// Whose sockets are led to Services.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketLb {
    /// Nobody's.
    Off,
    /// Those of processes in the agent's network namespace.
    Host,
}

/// How logs look.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Options that contradict each other. Ends the command with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OptionsError(String);

const SIZE_NAMES: [&str; 13] = [
    "interest_frontends",
    "interest_backends",
    "frontend_buckets",
    "services",
    "slot_pairs",
    "backends",
    "flow_buckets",
    "spill_buckets",
    "masquerade",
    "affinity",
    "source_ranges",
    "sockets",
    "fragments",
];

/// Sizes that a hash picks a place in.
const POWERS_OF_TWO: [&str; 5] =
    ["interest_frontends", "interest_backends", "frontend_buckets", "flow_buckets", "spill_buckets"];

fn map_size(text: &str) -> Result<(&'static str, u32), String> {
    let (name, entries) = text.split_once('=').ok_or("wants NAME=ENTRIES, such as flow_buckets=65536")?;
    let known = SIZE_NAMES.into_iter().find(|known| *known == name);
    let name = known.ok_or_else(|| format!("{name:?} is no size; sizes are {}", SIZE_NAMES.join(", ")))?;
    let entries: u32 = entries.parse().map_err(|error| format!("{entries:?} is no number of entries: {error}"))?;
    if entries < 2 || (POWERS_OF_TWO.contains(&name) && !entries.is_power_of_two()) {
        return Err(format!("{name} must be at least 2 and, where a hash picks the place, a power of two"));
    }
    Ok((name, entries))
}

impl AgentOptions {
    /// Takes in the file of `--config` and checks what the flags' own parsers cannot. Returns what is to be
    /// said about options that are not, or not wholly, honoured.
    pub fn complete(&mut self) -> Result<Vec<String>, OptionsError> {
        let mut warnings = self.without_meaning.warnings.clone();
        if let Some(file) = self.config.clone() {
            let failed = |reason: String| OptionsError(format!("--config {}: {reason}", file.display()));
            let text = std::fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
            let in_file = kube_proxy_file::fill(self, &text).map_err(failed)?;
            warnings.extend(in_file.into_iter().map(|warning| format!("--config {}: {warning}", file.display())));
        }
        self.check()?;
        warnings.extend(self.check_local()?);
        if let Some(address) = self.bind_address.filter(|address| !address.is_unspecified()) {
            warnings.push(format!(
                "the bind address {address} does not become this node's primary address: that is the Node object's; \
                 --nodeport-addresses chooses where node ports are served"
            ));
        }
        Ok(warnings)
    }

    fn check(&self) -> Result<(), OptionsError> {
        for family in Family::ALL {
            let of_family = self.cluster_cidr.iter().filter(|cidr| Family::of(cidr.network()) == family).count();
            if of_family > CLUSTER_CIDRS {
                let message =
                    format!("--cluster-cidr: {of_family} prefixes of {family}, at most {CLUSTER_CIDRS} are possible");
                return Err(OptionsError(message));
            }
        }
        for (index, entry) in self.nodeport_addresses.iter().enumerate() {
            if self.nodeport_addresses.iter().take(index).any(|earlier| earlier == entry) {
                return Err(OptionsError(format!("--nodeport-addresses: {entry} is there twice")));
            }
        }
        if self.xdp != xdp::Mode::Off && self.forwarding != Forwarding::Direct {
            return Err(OptionsError(format!(
                "--xdp {}: XDP passes the node's IP stack by, which takes --forwarding direct",
                self.xdp
            )));
        }
        if self.healthz_bind_address().port() != 0 && self.healthz_bind_address() == self.metrics_bind_address() {
            let message = "--healthz-bind-address and --metrics-bind-address must differ";
            return Err(OptionsError(message.to_owned()));
        }
        Ok(())
    }

    /// Whether it is said what is local. An agent that does not know would not masquerade what kube-proxy does, without
    /// a sign, so it does not start.
    fn check_local(&self) -> Result<Option<String>, OptionsError> {
        let Some(mode) = self.detect_local_mode else { return Ok(None) };
        let by_device = self.local_devices() != LocalDevices::Pods;
        match (mode, self.cluster_cidr.is_empty()) {
            (LocalMode::BridgeInterface, _) if !by_device => Err(OptionsError(
                "--detect-local-mode BridgeInterface: name the bridge with --pod-bridge-interface \
                 (detectLocal.bridgeInterface in the file)"
                    .to_owned(),
            )),
            (LocalMode::InterfaceNamePrefix, _) if !by_device => Err(OptionsError(
                "--detect-local-mode InterfaceNamePrefix: say how the names begin with --pod-interface-name-prefix \
                 (detectLocal.interfaceNamePrefix in the file)"
                    .to_owned(),
            )),
            (LocalMode::BridgeInterface | LocalMode::InterfaceNamePrefix, empty) => {
                Ok((!empty).then(|| format!("--detect-local-mode {}: --cluster-cidr is not used", mode.name())))
            }
            (LocalMode::ClusterCidr, true) => Ok(Some(
                "--detect-local-mode ClusterCIDR without --cluster-cidr: no source is local, and none is masqueraded \
                 for being outside"
                    .to_owned(),
            )),
            (LocalMode::NodeCidr, false) => {
                Ok(Some("--detect-local-mode NodeCIDR: --cluster-cidr is not used".to_owned()))
            }
            (LocalMode::ClusterCidr, false) | (LocalMode::NodeCidr, true) => Ok(None),
        }
    }

    /// The name of this node: trimmed and in lower case, as Kubernetes does with host names.
    pub fn node_name(&self) -> std::io::Result<String> {
        let name = match &self.node_name {
            Some(name) if !name.trim().is_empty() => name.clone(),
            _ => nix::sys::utsname::uname()?.nodename().to_string_lossy().into_owned(),
        };
        Ok(name.trim().to_lowercase())
    }

    /// By which devices local traffic comes.
    pub fn local_devices(&self) -> LocalDevices {
        let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        match self.detect_local_mode {
            Some(LocalMode::BridgeInterface) => given(&self.pod_bridge_interface).map(LocalDevices::Bridge),
            Some(LocalMode::InterfaceNamePrefix) => {
                given(&self.pod_interface_name_prefix).map(LocalDevices::NamePrefix)
            }
            None | Some(LocalMode::ClusterCidr | LocalMode::NodeCidr) => None,
        }
        .unwrap_or_default()
    }

    /// Inside which prefixes external IPs are served; `None` for everywhere.
    pub fn external_ips(&self) -> Option<Vec<IpNet>> {
        if self.without_meaning.no_external_ips {
            return Some(Vec::new());
        }
        let inside = self.external_ip_cidrs.iter().filter_map(|entry| match entry {
            ExternalIps::Inside(cidr) => Some(*cidr),
            ExternalIps::None => None,
        });
        (!self.external_ip_cidrs.is_empty()).then(|| inside.collect())
    }

    /// On which addresses node ports are served.
    pub fn node_ports(&self) -> Vec<node_ports::Entry> {
        if !self.nodeport_addresses.is_empty() {
            return self.nodeport_addresses.clone();
        }
        vec![match self.proxy_mode {
            None | Some(ProxyMode::Nftables) => node_ports::Entry::Primary,
            Some(ProxyMode::Iptables | ProxyMode::Ipvs) => node_ports::Entry::All,
        }]
    }

    /// Address of /healthz and /livez.
    pub fn healthz_bind_address(&self) -> SocketAddr {
        let host = if self.binds_v6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        self.healthz_bind_address.unwrap_or(SocketAddr::new(host, values::HEALTHZ_PORT))
    }

    /// Address of /metrics.
    pub fn metrics_bind_address(&self) -> SocketAddr {
        let host = if self.binds_v6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        self.metrics_bind_address.unwrap_or(SocketAddr::new(host, values::METRICS_PORT))
    }

    fn binds_v6(&self) -> bool {
        self.bind_address.is_some_and(|address| address.is_ipv6())
    }

    /// How logs look.
    pub fn log_format(&self) -> LogFormat {
        self.log_format.unwrap_or(LogFormat::Text)
    }

    /// What is logged, in the language of `RUST_LOG`.
    pub const fn log_level(&self) -> &'static str {
        match self.verbosity {
            None | Some(0..=3) => "info",
            Some(4..=5) => "info,svclb_userspace=debug",
            Some(6..) => "info,svclb_userspace=trace",
        }
    }

    /// Settings of the packet path.
    pub fn settings(&self) -> Settings {
        let by_node = self.detect_local_mode == Some(LocalMode::NodeCidr);
        let local_by_device = self.local_devices() != LocalDevices::Pods;
        let cidrs = if local_by_device { &[][..] } else { &self.cluster_cidr };
        Settings {
            cluster_cidrs: (!by_node).then(|| cidrs.iter().map(IpNet::trunc).collect()),
            local_by_device,
            ping_services: self.ping_services.unwrap_or(false),
            direct: self.forwarding == Forwarding::Direct,
            masquerade_all: self.masquerade_all.unwrap_or(false),
            timeouts: self.conntrack.flow_timeouts(),
            namespace: 0,
        }
    }

    /// Sizes of maps on a machine with this much memory, in bytes.
    pub fn sizes(&self, memory: u64) -> Sizes {
        let mut sizes = Sizes::for_memory(memory);
        for (name, entries) in &self.map_sizes {
            sizes.set(name, *entries);
        }
        sizes
    }
}
