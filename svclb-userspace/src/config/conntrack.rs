//! What is said of connection tracking: svclb's own flows, and the kernel's `nf_conntrack`, which other rules of the
//! node use. One option is meant for both, as an operator thinks of one thing.

use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use svclb_common::conntrack::State;

use super::values;
use crate::host::sysctl::Wanted;

/// kube-proxy's defaults for `nf_conntrack`.
const ESTABLISHED: Duration = Duration::from_hours(24);
const CLOSE_WAIT: Duration = Duration::from_hours(1);
const MAX_PER_CORE: u32 = 32 * 1024;
const MIN: u32 = 128 * 1024;

/// No more entries than this are asked for by `--conntrack-max-per-core`, however many CPUs there are.
const MOST_BY_CORES: u64 = 1024 * 1024;

/// Options of connection tracking, with kube-proxy's names. 0 leaves things as they are.
#[derive(Args, Clone, Copy, Default, Debug)]
pub struct Conntrack {
    /// How long an idle TCP connection is kept, by svclb and by nf_conntrack; 24h if not given.
    #[arg(long, value_parser = values::timeout, value_name = "DURATION")]
    pub conntrack_tcp_timeout_established: Option<Duration>,
    /// The same for a TCP connection that one side has closed; 1h if not given.
    #[arg(long, value_parser = values::timeout, value_name = "DURATION")]
    pub conntrack_tcp_timeout_close_wait: Option<Duration>,
    /// The same for UDP without a reply so far; if not given, 30s and what nf_conntrack has.
    #[arg(long, value_parser = values::timeout, value_name = "DURATION")]
    pub conntrack_udp_timeout: Option<Duration>,
    /// The same for UDP with replies; if not given, 2m and what nf_conntrack has.
    #[arg(long, value_parser = values::timeout, value_name = "DURATION")]
    pub conntrack_udp_timeout_stream: Option<Duration>,
    /// Whether nf_conntrack takes TCP packets outside the window for good ones; svclb always does.
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        value_name = "BOOL"
    )]
    pub conntrack_tcp_be_liberal: Option<bool>,
    /// For how many connections and CPU nf_conntrack has room at least; 32768 if not given. svclb's own tables are a
    /// matter of --map-sizes.
    #[arg(long, value_name = "CONNECTIONS")]
    pub conntrack_max_per_core: Option<u32>,
    /// For how many connections nf_conntrack has room at least, if --conntrack-max-per-core is not 0; 131072 if not
    /// given.
    #[arg(long, value_name = "CONNECTIONS")]
    pub conntrack_min: Option<u32>,
}

impl Conntrack {
    /// Seconds that svclb keeps its flows, by state, of what is given.
    pub(super) fn flow_timeouts(&self) -> Vec<(State, u32)> {
        let by_state = [
            (State::ESTABLISHED, self.conntrack_tcp_timeout_established),
            (State::CLIENT_CLOSED, self.conntrack_tcp_timeout_close_wait),
            (State::BACKEND_CLOSED, self.conntrack_tcp_timeout_close_wait),
            (State::UNREPLIED, self.conntrack_udp_timeout),
            (State::REPLIED, self.conntrack_udp_timeout_stream),
        ];
        let given = by_state.into_iter().filter_map(|(state, timeout)| Some((state, seconds(timeout?))));
        given.filter(|(_, seconds)| *seconds > 0).collect()
    }

    /// What kube-proxy would write to the sysctls of `nf_conntrack` on a machine with so many CPUs
    /// (`pkg/proxy/conntrack` of Kubernetes 1.37): timeouts as they are given, and room that only grows.
    pub fn sysctls(&self, cpus: u32) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        let room = self.room(cpus);
        if room > 0 {
            wanted.push(Wanted::at_least("nf_conntrack_max", room));
            // The module's parameter "hashsize" by another name: no more than four entries a bucket.
            wanted.push(Wanted::at_least("nf_conntrack_buckets", room / 4));
        }
        let established = self.conntrack_tcp_timeout_established.unwrap_or(ESTABLISHED);
        let close_wait = self.conntrack_tcp_timeout_close_wait.unwrap_or(CLOSE_WAIT);
        let timeouts = [
            ("nf_conntrack_tcp_timeout_established", established),
            ("nf_conntrack_tcp_timeout_close_wait", close_wait),
            ("nf_conntrack_udp_timeout", self.conntrack_udp_timeout.unwrap_or_default()),
            ("nf_conntrack_udp_timeout_stream", self.conntrack_udp_timeout_stream.unwrap_or_default()),
        ];
        let timeouts = timeouts.into_iter().filter(|(_, timeout)| !timeout.is_zero());
        wanted.extend(timeouts.map(|(name, timeout)| Wanted::exactly(name, seconds(timeout).into())));
        if self.conntrack_tcp_be_liberal == Some(true) {
            wanted.push(Wanted::exactly("nf_conntrack_tcp_be_liberal", 1));
        }
        wanted
    }

    /// Connections for which `nf_conntrack` is to have room; 0 for as many as it has.
    fn room(&self, cpus: u32) -> u64 {
        match self.conntrack_max_per_core.unwrap_or(MAX_PER_CORE) {
            0 => 0,
            per_core => {
                let by_cores = u64::from(per_core) * u64::from(cpus);
                if by_cores > MOST_BY_CORES {
                    MOST_BY_CORES
                } else {
                    by_cores.max(self.conntrack_min.unwrap_or(MIN).into())
                }
            }
        }
    }
}

/// Whole seconds, no fewer than asked for.
fn seconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        conntrack: Conntrack,
    }

    /// What flags want on a machine with eight CPUs, as `name=value` without what all names begin with; what only
    /// grows with `>=`.
    fn wanted(flags: &str) -> String {
        let line = Line::try_parse_from(["agent"].into_iter().chain(flags.split_whitespace())).expect("good flags");
        let wanted: Vec<String> = line.conntrack.sysctls(8).iter().map(ToString::to_string).collect();
        wanted.join(" ").replace("nf_conntrack_", "")
    }

    #[test]
    fn nf_conntrack_gets_what_kube_proxy_gives_it() {
        let room = "max>=262144 buckets>=65536";
        let timeouts = "tcp_timeout_established=86400 tcp_timeout_close_wait=3600";
        assert_eq!(wanted(""), format!("{room} {timeouts}"));
        let both = "--conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0s";
        assert_eq!(wanted(both), room, "0 leaves them as they are");
        let all = "--conntrack-max-per-core=0 --conntrack-tcp-timeout-established=2h --conntrack-udp-timeout=1500ms \
                   --conntrack-udp-timeout-stream=90s --conntrack-tcp-be-liberal";
        assert_eq!(
            wanted(all),
            "tcp_timeout_established=7200 tcp_timeout_close_wait=3600 udp_timeout=2 udp_timeout_stream=90 \
             tcp_be_liberal=1"
        );
        assert_eq!(wanted("--conntrack-tcp-be-liberal=false"), wanted(""));
    }

    #[test]
    fn the_room_of_nf_conntrack_follows_the_cpus_between_two_bounds() {
        let room = |flags: &str| wanted(flags).split(' ').next().unwrap_or_default().to_owned();
        assert_eq!(room("--conntrack-max-per-core=1000"), "max>=131072");
        assert_eq!(room("--conntrack-max-per-core=1000 --conntrack-min=0"), "max>=8000");
        assert_eq!(room("--conntrack-max-per-core=4000000000"), "max>=1048576");
        assert_eq!(room("--conntrack-max-per-core=1 --conntrack-min=2000000"), "max>=2000000");
        assert_eq!(
            room("--conntrack-max-per-core=0 --conntrack-min=2000000"),
            "tcp_timeout_established=86400",
            "without the first the second counts for nothing"
        );
    }
}
