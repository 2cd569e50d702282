//! The options as they are in force, for /configz: under the names of the flags, defaults filled in.

use std::fmt::Display;

use serde_json::{Value, json};

use super::{AgentOptions, Forwarding, LogFormat, ProxyMode, SocketLb};

fn texts<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn seconds(timeout: Option<std::time::Duration>) -> Option<f64> {
    timeout.map(|timeout| timeout.as_secs_f64())
}

impl AgentOptions {
    /// The options of an agent on this node. What is null is as if not given; times are in seconds. Flags without a
    /// meaning here are left out.
    pub fn in_force(&self, node_name: &str) -> Value {
        json!({
            "config": self.config,
            "manifests": self.source.manifests,
            "kubeconfig": self.source.kubeconfig,
            "api-server": self.source.api_server,
            "node-name": node_name,
            "bpffs": self.bpffs,
            "attach": self.attach.to_string(),
            "forwarding": match self.forwarding {
                Forwarding::Stack => "stack",
                Forwarding::Direct => "direct",
            },
            "xdp": self.xdp.to_string(),
            "socket-lb": match self.socket_lb {
                SocketLb::Off => "off",
                SocketLb::Host => "host",
            },
            "cgroup": self.cgroup,
            "cluster-cidr": texts(&self.cluster_cidr),
            "detect-local-mode": self.detect_local_mode.map(super::LocalMode::name),
            "pod-bridge-interface": self.pod_bridge_interface,
            "pod-interface-name-prefix": self.pod_interface_name_prefix,
            "ping-services": self.ping_services.unwrap_or(false),
            "masquerade-all": self.masquerade_all.unwrap_or(false),
            "nodeport-addresses": texts(&self.node_ports()),
            "proxy-mode": self.proxy_mode.map(|mode| match mode {
                ProxyMode::Iptables => "iptables",
                ProxyMode::Ipvs => "ipvs",
                ProxyMode::Nftables => "nftables",
            }),
            "external-ip-cidrs": texts(&self.external_ip_cidrs),
            "devices": self.devices.as_ref().map(ToString::to_string),
            "exclude-devices": self.exclude_devices.as_ref().map(ToString::to_string),
            "healthz-bind-address": self.healthz_bind_address(),
            "metrics-bind-address": self.metrics_bind_address(),
            "bind-address": self.bind_address,
            "conntrack-tcp-timeout-established": seconds(self.conntrack.conntrack_tcp_timeout_established),
            "conntrack-tcp-timeout-close-wait": seconds(self.conntrack.conntrack_tcp_timeout_close_wait),
            "conntrack-udp-timeout": seconds(self.conntrack.conntrack_udp_timeout),
            "conntrack-udp-timeout-stream": seconds(self.conntrack.conntrack_udp_timeout_stream),
            "conntrack-sctp-timeout-established": seconds(self.conntrack.conntrack_sctp_timeout_established),
            "conntrack-sctp-timeout-cookie-wait": seconds(self.conntrack.conntrack_sctp_timeout_cookie_wait),
            "conntrack-sctp-timeout-cookie-echoed": seconds(self.conntrack.conntrack_sctp_timeout_cookie_echoed),
            "conntrack-sctp-timeout-shutdown": seconds(self.conntrack.conntrack_sctp_timeout_shutdown),
            "conntrack-sctp-timeout-shutdown-ack": seconds(self.conntrack.conntrack_sctp_timeout_shutdown_ack),
            "conntrack-tcp-be-liberal": self.conntrack.conntrack_tcp_be_liberal,
            "conntrack-max-per-core": self.conntrack.conntrack_max_per_core,
            "conntrack-min": self.conntrack.conntrack_min,
            "map-sizes": self.map_sizes.iter().map(|(name, entries)| format!("{name}={entries}")).collect::<Vec<_>>(),
            "log-format": match self.log_format() {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
            "init-only": self.init_only.unwrap_or(false),
            "v": self.verbosity,
        })
    }
}
