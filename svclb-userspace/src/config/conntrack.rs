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

/// Options of connection tracking, with kube-proxy's names where it has them. 0 leaves things as they are.
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
    /// The same for an SCTP association; if not given, 210s and what nf_conntrack has. kube-proxy has no such option.
    #[arg(long, value_parser = values::timeout, value_name = "DURATION")]
    pub conntrack_sctp_timeout_established: Option<Duration>,
    /// The same for an SCTP association whose client has sent INIT; if not given, 3s and what nf_conntrack has.
    #[arg(long, value_parser = values::timeout, value_name = "DURATION")]
    pub conntrack_sctp_timeout_cookie_wait: Option<Duration>,
    /// The same for one whose client has sent COOKIE ECHO; if not given, 3s and what nf_conntrack has.
    #[arg(long, value_parser = values::timeout, value_name = "DURATION")]
    pub conntrack_sctp_timeout_cookie_echoed: Option<Duration>,
    /// The same for one of which a side has sent SHUTDOWN; if not given, 3s and what nf_conntrack has.
    #[arg(long, value_parser = values::timeout, value_name = "DURATION")]
    pub conntrack_sctp_timeout_shutdown: Option<Duration>,
    /// The same for one of which the other side has sent SHUTDOWN ACK; if not given, 3s and what nf_conntrack has.
    #[arg(long, value_parser = values::timeout, value_name = "DURATION")]
    pub conntrack_sctp_timeout_shutdown_ack: Option<Duration>,
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

/// What one option of a timeout is about.
struct Timeout {
    /// What is asked for.
    given: Option<Duration>,
    /// svclb's flows in these states.
    states: &'static [State],
    /// The sysctls of `nf_conntrack`.
    sysctls: &'static [&'static str],
    /// What kube-proxy writes there if nothing is asked for; 0 for nothing.
    by_kube_proxy: Duration,
}

impl Conntrack {
    fn timeouts(&self) -> [Timeout; 9] {
        let row = |given, states, sysctls| Timeout { given, states, sysctls, by_kube_proxy: Duration::ZERO };
        [
            Timeout {
                by_kube_proxy: ESTABLISHED,
                ..row(
                    self.conntrack_tcp_timeout_established,
                    &[State::ESTABLISHED],
                    &["nf_conntrack_tcp_timeout_established"],
                )
            },
            Timeout {
                by_kube_proxy: CLOSE_WAIT,
                ..row(
                    self.conntrack_tcp_timeout_close_wait,
                    &[State::CLIENT_CLOSED, State::BACKEND_CLOSED],
                    &["nf_conntrack_tcp_timeout_close_wait"],
                )
            },
            row(self.conntrack_udp_timeout, &[State::UNREPLIED], &["nf_conntrack_udp_timeout"]),
            row(self.conntrack_udp_timeout_stream, &[State::REPLIED], &["nf_conntrack_udp_timeout_stream"]),
            row(
                self.conntrack_sctp_timeout_established,
                &[State::ASSOCIATED],
                &["nf_conntrack_sctp_timeout_established"],
            ),
            row(
                self.conntrack_sctp_timeout_cookie_wait,
                &[State::COOKIE_WAIT],
                &["nf_conntrack_sctp_timeout_cookie_wait"],
            ),
            row(
                self.conntrack_sctp_timeout_cookie_echoed,
                &[State::COOKIE_ECHOED],
                &["nf_conntrack_sctp_timeout_cookie_echoed"],
            ),
            row(
                self.conntrack_sctp_timeout_shutdown,
                &[State::SHUTTING_DOWN],
                &["nf_conntrack_sctp_timeout_shutdown_sent", "nf_conntrack_sctp_timeout_shutdown_recd"],
            ),
            row(
                self.conntrack_sctp_timeout_shutdown_ack,
                &[State::SHUTDOWN_ACKED],
                &["nf_conntrack_sctp_timeout_shutdown_ack_sent"],
            ),
        ]
    }

    /// Seconds that svclb keeps its flows, by state, of what is given.
    pub(super) fn flow_timeouts(&self) -> Vec<(State, u32)> {
        let mut by_state = Vec::new();
        for timeout in self.timeouts() {
            let given = timeout.given.map(seconds).filter(|seconds| *seconds > 0);
            by_state.extend(timeout.states.iter().filter_map(|state| Some((*state, given?))));
        }
        by_state
    }

    /// What kube-proxy would write to the sysctls of `nf_conntrack` on a machine with so many CPUs
    /// (`pkg/proxy/conntrack` of Kubernetes 1.37): timeouts as they are given, and room that only grows; and the
    /// timeouts of SCTP that are given, of which kube-proxy knows nothing.
    pub fn sysctls(&self, cpus: u32) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        let room = self.room(cpus);
        if room > 0 {
            wanted.push(Wanted::at_least("nf_conntrack_max", room));
            // The module's parameter "hashsize" by another name: no more than four entries a bucket.
            wanted.push(Wanted::at_least("nf_conntrack_buckets", room / 4));
        }
        for timeout in self.timeouts() {
            let value = seconds(timeout.given.unwrap_or(timeout.by_kube_proxy)).into();
            if value > 0 {
                wanted.extend(timeout.sysctls.iter().map(|name| Wanted::exactly(name, value)));
            }
        }
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
    fn timeouts_of_sctp_hold_for_svclb_and_for_nf_conntrack_if_they_are_given() {
        let flags = "--conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
                     --conntrack-tcp-timeout-close-wait=0 --conntrack-sctp-timeout-established=1h \
                     --conntrack-sctp-timeout-cookie-wait=9s --conntrack-sctp-timeout-cookie-echoed=8s \
                     --conntrack-sctp-timeout-shutdown=7s --conntrack-sctp-timeout-shutdown-ack=6s";
        assert_eq!(
            wanted(flags),
            "sctp_timeout_established=3600 sctp_timeout_cookie_wait=9 sctp_timeout_cookie_echoed=8 \
             sctp_timeout_shutdown_sent=7 sctp_timeout_shutdown_recd=7 sctp_timeout_shutdown_ack_sent=6"
        );
        let line = Line::try_parse_from(["agent"].into_iter().chain(flags.split_whitespace())).expect("good flags");
        assert_eq!(
            line.conntrack.flow_timeouts(),
            [
                (State::ASSOCIATED, 3600),
                (State::COOKIE_WAIT, 9),
                (State::COOKIE_ECHOED, 8),
                (State::SHUTTING_DOWN, 7),
                (State::SHUTDOWN_ACKED, 6),
            ]
        );
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
