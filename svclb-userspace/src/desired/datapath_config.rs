//! CONFIG: the settings of the packet path.

use ipnet::IpNet;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{CLUSTER_CIDRS, Config, Extent, Prefix, SERVICE_CIDRS, Sizes, flag};
use svclb_common::conntrack::State;
use svclb_common::schema::LAYOUT;

/// Answers to refused packets per CPU and second.
const REFUSALS: u32 = 1_000;

/// What an operator sets.
#[expect(clippy::struct_excessive_bools, reason = "they are settings that have nothing to do with each other")]
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Settings {
    /// Prefixes of local sources, at most four of each family: `--cluster-cidr`, or none where those of the
    /// Node will follow (see [`with_cluster_cidrs`]).
    pub cluster_cidrs: Option<Vec<IpNet>>,
    /// `--masquerade-all`.
    pub masquerade_all: bool,
    /// What is local is told by devices alone.
    pub local_by_device: bool,
    /// `--ping-services`.
    pub ping_services: bool,
    /// `--forwarding direct`.
    pub direct: bool,
    /// Timeouts in seconds that are other than svclb's own.
    pub timeouts: Vec<(State, u32)>,
    /// The network namespace whose processes are served; 0 for none.
    pub namespace: u64,
}

/// What two agents on one machine must not share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Seed of every hash.
    pub seed: u64,
    /// Mark of packets, not 0.
    pub mark: u16,
}

/// The value for CONFIG. `before` is the value of an earlier agent: its seed and mark stay, as the tables
/// depend on them, and so do the extents of the interest bitmaps and the choice between their halves. `fresh` is used
/// where there was none. `hz` is the kernel's number of jiffies in a second.
pub fn config(settings: &Settings, sizes: &Sizes, hz: u64, before: &Config, fresh: Identity) -> Config {
    let is_first = before.layout == 0;
    // What Services ask for holds until this agent knows them, and flows keep to the way that they were made for.
    let mut flags =
        if is_first { 0 } else { before.flags & (flag::SECOND_HALF | flag::CUT | flag::DIRECT_FLOWS | CIDRS) };
    if settings.masquerade_all {
        flags |= flag::MASQUERADE_ALL;
    }
    if settings.local_by_device {
        flags |= flag::LOCAL_BY_DEVICE;
    }
    if settings.ping_services {
        flags |= flag::PING_SERVICES;
    }
    if settings.direct {
        flags |= flag::DIRECT | flag::DIRECT_FLOWS;
    }
    let interest = [false, true]
        .map(|half| [sizes.interest_frontends, sizes.interest_backends].map(|words| Extent::whole(words, half)));
    let mut config = Config {
        layout: LAYOUT,
        flags,
        seed: if is_first { fresh.seed } else { before.seed },
        mark: if is_first || before.mark == 0 { fresh.mark.max(1) } else { before.mark },
        zero: 0,
        refusals: REFUSALS,
        jiffies_per_second: u32::try_from(hz).unwrap_or(u32::MAX),
        frontends: sizes.frontend_buckets - 1,
        buckets: [[sizes.flow_buckets - 1, sizes.spill_buckets - 1]; 2],
        interest: if is_first { [interest; 2] } else { before.interest },
        timeouts: [0; 16],
        cluster_cidrs4: if is_first { [NOWHERE4; CLUSTER_CIDRS] } else { before.cluster_cidrs4 },
        cluster_cidrs6: if is_first { [NOWHERE6; CLUSTER_CIDRS] } else { before.cluster_cidrs6 },
        // Those of an earlier agent hold until this one has read its own.
        service_cidrs4: if is_first { [NOWHERE4; SERVICE_CIDRS] } else { before.service_cidrs4 },
        service_cidrs6: if is_first { [NOWHERE6; SERVICE_CIDRS] } else { before.service_cidrs6 },
        service_cidrs: before.service_cidrs,
        namespace: settings.namespace,
        node4: before.node4,
        node6: before.node6,
        own_ports: before.own_ports,
    };
    for (state, _, seconds) in State::ALL {
        let wanted = settings.timeouts.iter().find(|(own, _)| own == state).map_or(*seconds, |(_, seconds)| *seconds);
        let ticks = config.ticks(wanted);
        if let Some(timeout) = config.timeouts.get_mut(usize::from(state.0)) {
            *timeout = ticks;
        }
    }
    match &settings.cluster_cidrs {
        Some(cidrs) => with_cluster_cidrs(&config, cidrs),
        None => config,
    }
}

/// Flags that say of which family there are prefixes.
const CIDRS: u32 = flag::CLUSTER_CIDRS4 | flag::CLUSTER_CIDRS6;

/// A value for CONFIG with other prefixes of local sources.
pub fn with_cluster_cidrs(config: &Config, cidrs: &[IpNet]) -> Config {
    let ([four, six], cluster_cidrs4, cluster_cidrs6) = prefixes::<CLUSTER_CIDRS>(cidrs);
    let mut flags = config.flags & !CIDRS;
    if four > 0 {
        flags |= flag::CLUSTER_CIDRS4;
    }
    if six > 0 {
        flags |= flag::CLUSTER_CIDRS6;
    }
    Config { flags, cluster_cidrs4, cluster_cidrs6, ..*config }
}

/// A value for CONFIG that says whether some Service port asks for connections to be cut.
pub const fn with_cut(config: &Config, cut: bool) -> Config {
    let others = config.flags & !flag::CUT;
    Config { flags: if cut { others | flag::CUT } else { others }, ..*config }
}

/// A value for CONFIG with other prefixes of cluster IPs, and those for which there was no room.
pub fn with_service_cidrs(config: &Config, cidrs: &[IpNet]) -> (Config, Vec<IpNet>) {
    let (service_cidrs, service_cidrs4, service_cidrs6) = prefixes::<SERVICE_CIDRS>(cidrs);
    let of_family = |v6: bool| cidrs.iter().filter(move |cidr| cidr.network().is_ipv6() == v6);
    let left_out = [false, true].into_iter().flat_map(|v6| of_family(v6).skip(SERVICE_CIDRS)).copied().collect();
    (Config { service_cidrs, service_cidrs4, service_cidrs6, ..*config }, left_out)
}

/// How many prefixes of IPv4 and of IPv6 there are, at most `N`, and the prefixes.
fn prefixes<const N: usize>(cidrs: &[IpNet]) -> ([u32; 2], [Prefix<Addr4>; N], [Prefix<Addr6>; N]) {
    let (mut prefixes4, mut prefixes6) = ([NOWHERE4; N], [NOWHERE6; N]);
    let (mut slots4, mut slots6) = (prefixes4.iter_mut(), prefixes6.iter_mut());
    let mut counts = [0; 2];
    for cidr in cidrs {
        match cidr {
            IpNet::V4(cidr) => {
                if let Some(slot) = slots4.next() {
                    *slot = Prefix { network: cidr.network().into(), mask: cidr.netmask().into() };
                    counts[0] += 1;
                }
            }
            IpNet::V6(cidr) => {
                if let Some(slot) = slots6.next() {
                    *slot = Prefix { network: cidr.network().into(), mask: cidr.netmask().into() };
                    counts[1] += 1;
                }
            }
        }
    }
    (counts, prefixes4, prefixes6)
}

/// Prefixes that hold nothing: the mask leaves no bit of an address, and the network has all.
const NOWHERE4: Prefix<Addr4> = Prefix { network: Addr4(u32::MAX), mask: Addr4(0) };
const NOWHERE6: Prefix<Addr6> = Prefix { network: Addr6([u32::MAX; 4]), mask: Addr6([0; 4]) };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_mark_survive_a_restart_and_settings_do_not() {
        let sizes = Sizes::for_memory(1 << 30);
        let empty: Config = zerocopy::FromZeros::new_zeroed();
        let all = Settings {
            cluster_cidrs: Some(vec!["10.0.0.0/8".parse().expect("a prefix")]),
            masquerade_all: true,
            timeouts: vec![(State::REPLIED, 300)],
            ..Settings::default()
        };
        let first = config(&all, &sizes, 250, &empty, Identity { seed: 7, mark: 0 });
        assert_eq!((first.seed, first.mark, first.jiffies_per_second), (7, 1, 250));
        assert_eq!(first.flags, flag::CLUSTER_CIDRS4 | flag::MASQUERADE_ALL);
        let switched = Config { flags: first.flags | flag::SECOND_HALF, ..first };
        let none = Settings { cluster_cidrs: Some(Vec::new()), ..Settings::default() };
        let second = config(&none, &sizes, 250, &switched, Identity { seed: 8, mark: 9 });
        assert_eq!((second.seed, second.mark, second.flags), (7, 1, flag::SECOND_HALF));
        assert_eq!(first.timeout(State::REPLIED), (300_u32 * 250).div_ceil(16));
        assert_eq!(second.timeout(State::REPLIED), (120_u32 * 250).div_ceil(16));
    }

    #[test]
    fn flows_that_pass_the_stack_by_are_known_to_an_agent_that_makes_no_more_of_them() {
        let sizes = Sizes::for_memory(1 << 30);
        let empty: Config = zerocopy::FromZeros::new_zeroed();
        let identity = Identity { seed: 1, mark: 1 };
        let direct = Settings { direct: true, ..Settings::default() };
        let first = config(&direct, &sizes, 250, &empty, identity);
        assert_eq!(first.flags, flag::DIRECT | flag::DIRECT_FLOWS);
        let second = config(&Settings::default(), &sizes, 250, &first, identity);
        assert_eq!(second.flags, flag::DIRECT_FLOWS);
        assert_eq!(config(&direct, &sizes, 250, &second, identity).flags, first.flags);
    }

    #[test]
    fn connections_are_cut_across_a_restart_until_no_service_asks_for_it() {
        let sizes = Sizes::for_memory(1 << 30);
        let empty: Config = zerocopy::FromZeros::new_zeroed();
        let identity = Identity { seed: 1, mark: 1 };
        let first = config(&Settings::default(), &sizes, 250, &empty, identity);
        let cutting = with_cut(&Config { flags: flag::SECOND_HALF, ..first }, true);
        assert_eq!((first.flags, cutting.flags), (0, flag::SECOND_HALF | flag::CUT));
        let again = config(&Settings::default(), &sizes, 250, &cutting, identity);
        assert_eq!(again.flags, cutting.flags);
        assert_eq!(with_cut(&again, false).flags, flag::SECOND_HALF);
    }

    #[test]
    fn prefixes_that_are_not_known_yet_stay_as_they_were() {
        let sizes = Sizes::for_memory(1 << 30);
        let empty: Config = zerocopy::FromZeros::new_zeroed();
        let identity = Identity { seed: 1, mark: 1 };
        let later = Settings::default();
        let fresh = config(&later, &sizes, 250, &empty, identity);
        assert_eq!((fresh.flags, fresh.cluster_cidrs4), (0, [NOWHERE4; CLUSTER_CIDRS]));
        assert_eq!(with_service_cidrs(&fresh, &[]), (fresh, vec![]), "none is what there is at first");
        let known = with_cluster_cidrs(&fresh, &["10.0.1.0/24".parse().expect("a prefix")]);
        assert_eq!(known.flags, flag::CLUSTER_CIDRS4);
        let again = config(&later, &sizes, 250, &known, identity);
        assert_eq!((again.flags, again.cluster_cidrs4), (known.flags, known.cluster_cidrs4));
        let other = with_cluster_cidrs(&again, &["fd00::/64".parse().expect("a prefix")]);
        assert_eq!((other.flags, other.cluster_cidrs4), (flag::CLUSTER_CIDRS6, [NOWHERE4; CLUSTER_CIDRS]));
    }

    #[test]
    fn prefixes_of_cluster_ips_are_counted_and_those_without_room_named() {
        let empty: Config = zerocopy::FromZeros::new_zeroed();
        let cidrs: Vec<IpNet> = (0..9).map(|n| format!("10.{n}.0.0/16").parse().expect("a prefix")).collect();
        let both = [cidrs.as_slice(), &["fd00:10:96::/112".parse().expect("a prefix")]].concat();
        let (config, left_out) = with_service_cidrs(&empty, &both);
        assert_eq!((config.service_cidrs, left_out.as_slice()), ([8, 1], &cidrs[8..]));
        let inside = |ip: &str| {
            let ip: std::net::Ipv4Addr = ip.parse().expect("an address");
            svclb_common::config::in_service_cidrs(&config, Addr4::from(ip))
        };
        assert!(inside("10.0.255.1") && inside("10.7.0.1") && !inside("10.8.0.1") && !inside("11.0.0.1"));
        let (none, left_out) = with_service_cidrs(&config, &[]);
        assert_eq!((none.service_cidrs, left_out.len()), ([0, 0], 0));
    }

    #[test]
    fn an_idle_connection_is_kept_for_a_day() {
        let empty: Config = zerocopy::FromZeros::new_zeroed();
        let identity = Identity { seed: 1, mark: 1 };
        let made = config(&Settings::default(), &Sizes::for_memory(0), 100, &empty, identity);
        assert_eq!(made.timeout(State::ESTABLISHED), 86_400 * 100 / 16);
    }
}
