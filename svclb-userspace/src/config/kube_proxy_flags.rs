//! Flags of kube-proxy that mean nothing here, and what is instead.
//!
//! They are accepted, so that a DaemonSet's command line can stay as it is, and named in a warning each.
//! Flags that make kube-proxy do something else than serve (`--cleanup`, `--write-config-to`) are not among them: an agent that serves instead would be a surprise.

use clap::builder::{Arg, ArgAction};
use clap::error::Error;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::values::is_set;

const HEADING: &str = "Flags of kube-proxy without a meaning here, each named in a warning";

/// A flag with a value, or one that may stand alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Valued,
    Switch,
}
use Shape::{Switch, Valued};

const AT_ONCE: &str = "changes are written at once";
/// What is said of node ports on loopback addresses.
pub(super) const LOOPBACK: &str = "--socket-lb serves node ports on loopback addresses, without route_localnet";

const LOGS: &str = "logs go to stderr, one line each; RUST_LOG chooses";
const NO_IPVS: &str = "nothing of ipvs is used; endpoints are picked at random";
const REQUESTS: &str = "the agent has three watches, in JSON";

const FLAGS: [(&str, Shape, &str); 37] = [
    ("add_dir_header", Switch, LOGS),
    ("alsologtostderr", Switch, LOGS),
    ("bind-address-hard-fail", Switch, "an address that is taken is tried again"),
    ("boot-id-file", Valued, "it is not read"),
    ("config-sync-period", Valued, "everything is compared with the kernel every five minutes"),
    ("feature-gates", Valued, "but for AllowServiceExternalIPs there are none"),
    ("iptables-localhost-nodeports", Switch, LOOPBACK),
    ("iptables-masquerade-bit", Valued, "no packet is marked"),
    ("iptables-min-sync-period", Valued, AT_ONCE),
    ("iptables-sync-period", Valued, AT_ONCE),
    ("ipvs-exclude-cidrs", Valued, NO_IPVS),
    ("ipvs-min-sync-period", Valued, NO_IPVS),
    ("ipvs-scheduler", Valued, NO_IPVS),
    ("ipvs-strict-arp", Switch, NO_IPVS),
    ("ipvs-sync-period", Valued, NO_IPVS),
    ("ipvs-tcp-timeout", Valued, NO_IPVS),
    ("ipvs-tcpfin-timeout", Valued, NO_IPVS),
    ("ipvs-udp-timeout", Valued, NO_IPVS),
    ("kube-api-burst", Valued, REQUESTS),
    ("kube-api-content-type", Valued, REQUESTS),
    ("kube-api-qps", Valued, REQUESTS),
    ("log-flush-frequency", Valued, LOGS),
    ("log-json-info-buffer-size", Valued, LOGS),
    ("log-json-split-stream", Switch, LOGS),
    ("log-text-info-buffer-size", Valued, LOGS),
    ("log-text-split-stream", Switch, LOGS),
    ("log_backtrace_at", Valued, LOGS),
    ("log_dir", Valued, LOGS),
    ("log_file", Valued, LOGS),
    ("logtostderr", Switch, LOGS),
    ("machine-id-file", Valued, "it is not read"),
    ("oom-score-adj", Valued, "it stays as it is; set it where the agent is started"),
    ("profiling", Switch, "there is no profiling"),
    ("show-hidden-metrics-for-version", Valued, "there are no hidden metrics"),
    ("skip_headers", Switch, LOGS),
    ("stderrthreshold", Valued, LOGS),
    ("vmodule", Valued, LOGS),
];

/// Which of them were given.
#[derive(Clone, Default, Debug)]
pub struct KubeProxyFlags {
    /// A sentence about each.
    pub warnings: Vec<String>,
    /// The feature gate `AllowServiceExternalIPs` is off.
    pub no_external_ips: bool,
}

/// The one feature gate of kube-proxy's that is honoured.
pub(super) const EXTERNAL_IPS_GATE: &str = "AllowServiceExternalIPs";

/// The gates of a list such as `A=true,B=false`.
fn gates(list: &str) -> impl Iterator<Item = (&str, bool)> {
    let pairs = list.split(',').filter_map(|gate| gate.split_once('='));
    pairs.map(|(gate, value)| (gate.trim(), !value.trim().eq_ignore_ascii_case("false")))
}

impl FromArgMatches for KubeProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let warning = |(name, _, instead): &(&'static str, Shape, &str)| {
            let value = matches.get_one::<String>(name).filter(|value| is_set(value))?;
            if *name == "feature-gates" && gates(value).all(|(gate, _)| gate == EXTERNAL_IPS_GATE) {
                return None;
            }
            Some(format!("--{name} {value} has no meaning here: {instead}"))
        };
        let given = matches.get_one::<String>("feature-gates").map(String::as_str).unwrap_or_default();
        Ok(Self {
            warnings: FLAGS.iter().filter_map(warning).collect(),
            no_external_ips: gates(given).any(|(gate, on)| gate == EXTERNAL_IPS_GATE && !on),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for KubeProxyFlags {
    fn augment_args(command: Command) -> Command {
        FLAGS.into_iter().fold(command, |command, (name, shape, instead)| {
            let arg = Arg::new(name).long(name).help(instead).help_heading(HEADING).hide_short_help(true);
            let arg = arg.action(ArgAction::Set).value_name("...");
            command.arg(match shape {
                Valued => arg,
                Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
