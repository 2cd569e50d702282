//! kube-proxy's configuration file, `KubeProxyConfiguration` of `kubeproxy.config.k8s.io/v1alpha1`.
//!
//! Fields that mean the same here fill in what no flag and no environment variable says. Of the others,
//! those that are set to something are named in a warning with what is instead, and those that nobody
//! knows are named, too, as kube-proxy does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::kube_proxy_flags::{EXTERNAL_IPS_GATE, LOOPBACK};
use super::{AgentOptions, LocalMode, LogFormat, ProxyMode, values};
use crate::desired::node_ports;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// The fields that are used.
#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
struct Used {
    bind_address: Option<String>,
    client_connection: Option<ClientConnection>,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: Option<String>,
    conntrack: Option<Conntrack>,
    detect_local: Option<DetectLocal>,
    detect_local_mode: Option<String>,
    feature_gates: Option<BTreeMap<String, bool>>,
    healthz_bind_address: Option<String>,
    hostname_override: Option<String>,
    iptables: Option<Masquerading>,
    logging: Option<Logging>,
    metrics_bind_address: Option<String>,
    mode: Option<String>,
    nftables: Option<Masquerading>,
    node_port_addresses: Option<Vec<String>>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct ClientConnection {
    kubeconfig: Option<String>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
struct DetectLocal {
    bridge_interface: Option<String>,
    interface_name_prefix: Option<String>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
struct Conntrack {
    max_per_core: Option<u32>,
    min: Option<u32>,
    tcp_be_liberal: Option<bool>,
    #[serde(rename = "tcpEstablishedTimeout")]
    established: Option<String>,
    #[serde(rename = "tcpCloseWaitTimeout")]
    close_wait: Option<String>,
    #[serde(rename = "udpTimeout")]
    udp: Option<String>,
    #[serde(rename = "udpStreamTimeout")]
    udp_stream: Option<String>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct Logging {
    format: Option<String>,
    verbosity: Option<u8>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
struct Masquerading {
    masquerade_all: Option<bool>,
}

/// The paths of [`Used`].
const USED: [&str; 25] = [
    "apiVersion",
    "kind",
    "bindAddress",
    "clientConnection.kubeconfig",
    "clusterCIDR",
    "conntrack.maxPerCore",
    "conntrack.min",
    "conntrack.tcpBeLiberal",
    "conntrack.tcpEstablishedTimeout",
    "conntrack.tcpCloseWaitTimeout",
    "conntrack.udpTimeout",
    "conntrack.udpStreamTimeout",
    "detectLocal.bridgeInterface",
    "detectLocal.interfaceNamePrefix",
    "detectLocalMode",
    "featureGates.AllowServiceExternalIPs",
    "healthzBindAddress",
    "hostnameOverride",
    "iptables.masqueradeAll",
    "logging.format",
    "logging.verbosity",
    "metricsBindAddress",
    "mode",
    "nftables.masqueradeAll",
    "nodePortAddresses",
];

const AT_ONCE: &str = "changes are written at once";
const LOGS: &str = "logs go to stderr at once; RUST_LOG chooses";
const REQUESTS: &str = "the agent has three watches, in JSON";
const WINDOWS: &str = "this is no Windows";

/// Fields without a meaning, whole parts of the file among them, and what is instead.
const UNUSED: [(&str, &str); 24] = [
    ("bindAddressHardFail", "an address that is taken is tried again"),
    ("clientConnection.acceptContentTypes", REQUESTS),
    ("clientConnection.burst", REQUESTS),
    ("clientConnection.contentType", REQUESTS),
    ("clientConnection.qps", REQUESTS),
    ("configSyncPeriod", "everything is compared with the kernel every five minutes"),
    ("enableProfiling", "there is no profiling"),
    ("iptables.localhostNodePorts", LOOPBACK),
    ("iptables.masqueradeBit", "no packet is marked"),
    ("iptables.minSyncPeriod", AT_ONCE),
    ("iptables.syncPeriod", AT_ONCE),
    ("ipvs", "nothing of ipvs is used; endpoints are picked at random"),
    ("logging.flushFrequency", LOGS),
    ("logging.options", LOGS),
    ("logging.vmodule", LOGS),
    ("nftables.masqueradeBit", "no packet is marked"),
    ("nftables.minSyncPeriod", AT_ONCE),
    ("nftables.syncPeriod", AT_ONCE),
    ("oomScoreAdj", "it stays as it is; set it where the agent is started"),
    ("portRange", "it has no meaning in kube-proxy either"),
    ("showHiddenMetricsForVersion", "there are no hidden metrics"),
    ("udpIdleTimeout", "it has no meaning in kube-proxy either; see conntrack.udpTimeout"),
    ("windowsRunAsService", WINDOWS),
    ("winkernel", WINDOWS),
];

/// Fills `options` from the text of a file. Returns warnings; an error says what is wrong with the file.
pub(super) fn fill(options: &mut AgentOptions, text: &str) -> Result<Vec<String>, String> {
    let file: Value = serde_saphyr::from_str(text).map_err(|error| format!("this is not YAML: {error}"))?;
    let of = |name: &str| file.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (of("apiVersion"), of("kind"));
    if kind == "ConfigMap" {
        return Err("this is the ConfigMap; give the text under its key config.conf".to_owned());
    }
    if (api_version, kind) != (API_VERSION, KIND) {
        return Err(format!("it is of apiVersion {api_version:?} and kind {kind:?}, not of {API_VERSION} and {KIND}"));
    }
    let mut warnings = Vec::new();
    look_at(&file, "", &mut warnings);
    let used: Used =
        serde_json::from_value(file).map_err(|error| format!("a field has no value of its kind: {error}"))?;
    used.fill(options, &mut warnings)?;
    Ok(warnings)
}

/// Names what is not used in `part` of the file, which is at `path`.
fn look_at(part: &Value, path: &str, warnings: &mut Vec<String>) {
    for (name, value) in part.as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let is_part = || {
            let start = format!("{path}.");
            USED.iter().chain(UNUSED.iter().map(|(unused, _)| unused)).any(|known| known.starts_with(&start))
        };
        if USED.contains(&path.as_str()) {
            continue;
        }
        if let Some((_, instead)) = UNUSED.iter().find(|(unused, _)| *unused == path) {
            if is_set(value) {
                warnings.push(format!("{path} has no meaning here: {instead}"));
            }
        } else if is_part() {
            look_at(value, &path, warnings);
        } else if path.starts_with("featureGates.") {
            if is_set(value) {
                warnings.push(format!("{path} has no meaning here: but for {EXTERNAL_IPS_GATE} there are none"));
            }
        } else {
            warnings.push(format!("{path} is no known field; it is left out"));
        }
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => values::is_set(text),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => fields.values().any(is_set),
    }
}

impl Used {
    fn fill(self, options: &mut AgentOptions, warnings: &mut Vec<String>) -> Result<(), String> {
        let mode = given(self.mode.as_deref(), "mode", str::parse::<ProxyMode>)?;
        // kube-proxy's own choice where none is given.
        let mode = *options.proxy_mode.get_or_insert(mode.unwrap_or(ProxyMode::Iptables));
        let masquerading = if mode == ProxyMode::Nftables { self.nftables } else { self.iptables };
        or(&mut options.masquerade_all, masquerading.unwrap_or_default().masquerade_all);

        let connection = self.client_connection.unwrap_or_default();
        if options.source.manifests.is_none() {
            or(&mut options.source.kubeconfig, text(connection.kubeconfig).map(PathBuf::from));
        }
        or(&mut options.node_name, text(self.hostname_override));
        or(&mut options.bind_address, given(self.bind_address.as_deref(), "bindAddress", str::parse::<IpAddr>)?);
        let healthz = given(self.healthz_bind_address.as_deref(), "healthzBindAddress", values::healthz)?;
        or(&mut options.healthz_bind_address, healthz);
        let metrics = given(self.metrics_bind_address.as_deref(), "metricsBindAddress", values::metrics)?;
        or(&mut options.metrics_bind_address, metrics);

        let detect_local = self.detect_local.unwrap_or_default();
        or(&mut options.pod_bridge_interface, text(detect_local.bridge_interface));
        or(&mut options.pod_interface_name_prefix, text(detect_local.interface_name_prefix));
        let gates = self.feature_gates.unwrap_or_default();
        options.without_meaning.no_external_ips |= gates.get(EXTERNAL_IPS_GATE) == Some(&false);
        let local = given(self.detect_local_mode.as_deref(), "detectLocalMode", str::parse::<LocalMode>)?;
        or(&mut options.detect_local_mode, local);
        if options.cluster_cidr.is_empty() {
            for cidr in self.cluster_cidr.iter().flat_map(|list| list.split(',')) {
                options.cluster_cidr.extend(given(Some(cidr.trim()), "clusterCIDR", str::parse::<IpNet>)?);
            }
        }
        if options.nodeport_addresses.is_empty() {
            for entry in self.node_port_addresses.unwrap_or_default() {
                options.nodeport_addresses.extend(given(
                    Some(&entry),
                    "nodePortAddresses",
                    str::parse::<node_ports::Entry>,
                )?);
            }
        }

        let conntrack = self.conntrack.unwrap_or_default();
        let timeout = |text: &Option<String>, name: &str| given(text.as_deref(), name, values::timeout);
        let tracking = &mut options.conntrack;
        let established = timeout(&conntrack.established, "conntrack.tcpEstablishedTimeout")?;
        or(&mut tracking.conntrack_tcp_timeout_established, established);
        let close_wait = timeout(&conntrack.close_wait, "conntrack.tcpCloseWaitTimeout")?;
        or(&mut tracking.conntrack_tcp_timeout_close_wait, close_wait);
        or(&mut tracking.conntrack_udp_timeout, timeout(&conntrack.udp, "conntrack.udpTimeout")?);
        let stream = timeout(&conntrack.udp_stream, "conntrack.udpStreamTimeout")?;
        or(&mut tracking.conntrack_udp_timeout_stream, stream);
        or(&mut tracking.conntrack_tcp_be_liberal, conntrack.tcp_be_liberal);
        or(&mut tracking.conntrack_max_per_core, conntrack.max_per_core);
        or(&mut tracking.conntrack_min, conntrack.min);

        let logging = self.logging.unwrap_or_default();
        or(&mut options.verbosity, logging.verbosity.filter(|verbosity| *verbosity > 0));
        match logging.format.as_deref().unwrap_or_default() {
            "" => {}
            "text" => or(&mut options.log_format, Some(LogFormat::Text)),
            "json" => or(&mut options.log_format, Some(LogFormat::Json)),
            other => warnings.push(format!("logging.format {other:?} is not known; logs are text")),
        }
        Ok(())
    }
}

/// Takes a value that is not there yet.
fn or<T>(option: &mut Option<T>, value: Option<T>) {
    if option.is_none() {
        *option = value;
    }
}

/// A text that says something.
fn text(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// The value of a field that is not empty. The error names the field.
fn given<T, E: ToString>(
    text: Option<&str>,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, String> {
    let parsed = text.filter(|text| !text.is_empty()).map(parse).transpose();
    parsed.map_err(|error| format!("{name}: {} ({:?})", error.to_string(), text.unwrap_or_default()))
}
