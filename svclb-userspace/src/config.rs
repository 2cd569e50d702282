//! Options of `svclb agent`: flags, their environment variables, and what is wrong with them.
//!
//! Flags have kube-proxy's names where they mean the same.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use regex::Regex;
use svclb_common::config::{CLUSTER_CIDRS, Sizes};

use crate::bpf::attach;
use crate::desired::datapath_config::Settings;
use crate::desired::node_ports;
use crate::model::Family;

/// Folder of pins unless `--bpffs` says otherwise.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/svclb";

/// Options of `svclb agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentOptions {
    /// Where Services come from.
    #[command(flatten)]
    pub source: SourceOptions,
    /// Name of this node's Node object; the host name if not given.
    #[arg(long, env = "NODE_NAME", alias = "hostname-override", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Folder in a BPF file system for maps and links; they stay when the agent ends.
    #[arg(long, env = "SVCLB_BPFFS", default_value = DEFAULT_BPFFS, value_name = "DIR")]
    pub bpffs: PathBuf,
    /// How programs are attached to devices: auto, tcx or clsact.
    #[arg(long, env = "SVCLB_ATTACH", default_value = "auto", value_name = "WAY")]
    pub attach: attach::Mode,
    /// Prefixes of the cluster's pods: sources outside are masqueraded when they use a cluster IP.
    #[arg(long, env = "SVCLB_CLUSTER_CIDR", value_delimiter = ',', value_name = "CIDR,...")]
    pub cluster_cidr: Vec<IpNet>,
    /// Masquerade everything that uses a cluster IP.
    #[arg(long, env = "SVCLB_MASQUERADE_ALL")]
    pub masquerade_all: bool,
    /// Addresses on which node ports are served: prefixes, primary, or all. A family of which the list
    /// has no entry is served on all its addresses.
    #[arg(
        long,
        env = "SVCLB_NODEPORT_ADDRESSES",
        value_delimiter = ',',
        default_value = "primary",
        value_name = "CIDR|primary|all,..."
    )]
    pub nodeport_addresses: Vec<node_ports::Entry>,
    /// External IPs of Services are served only inside these prefixes; without any, none is served.
    #[arg(long, env = "SVCLB_EXTERNAL_IP_CIDRS", value_delimiter = ',', value_name = "CIDR,...")]
    pub external_ip_cidrs: Vec<IpNet>,
    /// Names of the devices that lead out of the node; found by their kind if not given.
    #[arg(long, env = "SVCLB_DEVICES", value_name = "REGEX")]
    pub devices: Option<Regex>,
    /// Names of devices to leave alone.
    #[arg(long, env = "SVCLB_EXCLUDE_DEVICES", value_name = "REGEX")]
    pub exclude_devices: Option<Regex>,
    /// Address of /healthz and /livez.
    #[arg(long, env = "SVCLB_HEALTHZ_BIND_ADDRESS", default_value = "0.0.0.0:10256", value_name = "ADDRESS:PORT")]
    pub healthz_bind_address: SocketAddr,
    /// Address of /metrics and /proxyMode.
    #[arg(long, env = "SVCLB_METRICS_BIND_ADDRESS", default_value = "127.0.0.1:10249", value_name = "ADDRESS:PORT")]
    pub metrics_bind_address: SocketAddr,
    /// Entries of maps that are made anew, as NAME=ENTRIES: flow_buckets, spill_buckets, frontend_buckets,
    /// services, slot_pairs, backends, masquerade, affinity, source_ranges. Follows the machine's memory if not
    /// given.
    #[arg(long, env = "SVCLB_MAP_SIZES", value_delimiter = ',', value_parser = map_size, value_name = "NAME=ENTRIES,...")]
    pub map_sizes: Vec<(&'static str, u32)>,
    /// How logs look on stderr.
    #[arg(long, env = "SVCLB_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
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
    #[arg(long, env = "SVCLB_API_SERVER", alias = "master", value_delimiter = ',', value_name = "URL,...")]
    pub api_server: Vec<String>,
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

const SIZE_NAMES: [&str; 11] = [
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
    /// Checks what the flags' own parsers cannot.
    pub fn check(&self) -> Result<(), OptionsError> {
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
        if self.healthz_bind_address.port() != 0 && self.healthz_bind_address == self.metrics_bind_address {
            let message = "--healthz-bind-address and --metrics-bind-address must differ";
            return Err(OptionsError(message.to_owned()));
        }
        Ok(())
    }

    /// The name of this node: trimmed and in lower case, as Kubernetes does with host names.
    pub fn node_name(&self) -> std::io::Result<String> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::sys::utsname::uname()?.nodename().to_string_lossy().into_owned(),
        };
        Ok(name.trim().to_lowercase())
    }

    /// Settings of the packet path.
    pub fn settings(&self) -> Settings {
        Settings {
            cluster_cidrs: self.cluster_cidr.iter().map(IpNet::trunc).collect(),
            masquerade_all: self.masquerade_all,
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
