//! CONFIG: the settings of the packet path.

use ipnet::IpNet;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{CLUSTER_CIDRS, Config, Prefix, Sizes, flag};
use svclb_common::conntrack::State;
use svclb_common::schema::LAYOUT;

/// Jiffies in a tick of the packet path's clock.
const JIFFIES_PER_TICK: u64 = 16;

/// Answers to refused packets per CPU and second.
const REFUSALS: u32 = 1_000;

/// What an operator sets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Settings {
    /// `--cluster-cidr`, at most four of each family.
    pub cluster_cidrs: Vec<IpNet>,
    /// `--masquerade-all`.
    pub masquerade_all: bool,
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
/// depend on them, and so does the choice between the halves of the interest bitmaps. `fresh` is used
/// where there was none. `hz` is the kernel's number of jiffies in a second.
pub fn config(settings: &Settings, sizes: &Sizes, hz: u64, before: &Config, fresh: Identity) -> Config {
    let is_first = before.layout == 0;
    let mut flags = if is_first { 0 } else { before.flags & flag::SECOND_HALF };
    let mut prefixes4 = [NOWHERE4; CLUSTER_CIDRS];
    let mut prefixes6 = [NOWHERE6; CLUSTER_CIDRS];
    let (mut slots4, mut slots6) = (prefixes4.iter_mut(), prefixes6.iter_mut());
    for cidr in &settings.cluster_cidrs {
        match cidr {
            IpNet::V4(cidr) => {
                flags |= flag::CLUSTER_CIDRS4;
                if let Some(slot) = slots4.next() {
                    *slot = Prefix { network: cidr.network().into(), mask: cidr.netmask().into() };
                }
            }
            IpNet::V6(cidr) => {
                flags |= flag::CLUSTER_CIDRS6;
                if let Some(slot) = slots6.next() {
                    *slot = Prefix { network: cidr.network().into(), mask: cidr.netmask().into() };
                }
            }
        }
    }
    if settings.masquerade_all {
        flags |= flag::MASQUERADE_ALL;
    }
    let mut timeouts = [0; 16];
    for (state, _, seconds) in State::ALL {
        if let Some(timeout) = timeouts.get_mut(usize::from(state.0)) {
            let ticks = (u64::from(*seconds) * hz).div_ceil(JIFFIES_PER_TICK);
            *timeout = u32::try_from(ticks).unwrap_or(u32::MAX);
        }
    }
    let bits_of_half = |words: u32| words * 32 - 1;
    Config {
        layout: LAYOUT,
        flags,
        seed: if is_first { fresh.seed } else { before.seed },
        mark: if is_first || before.mark == 0 { fresh.mark.max(1) } else { before.mark },
        zero: 0,
        refusals: REFUSALS,
        ticks_per_second: u32::try_from(hz / JIFFIES_PER_TICK).unwrap_or(u32::MAX).max(1),
        frontends: sizes.frontend_buckets - 1,
        buckets: [[sizes.flow_buckets - 1, sizes.spill_buckets - 1]; 2],
        interest: [[bits_of_half(sizes.interest_frontends); 2], [bits_of_half(sizes.interest_backends); 2]],
        timeouts,
        cluster_cidrs4: prefixes4,
        cluster_cidrs6: prefixes6,
    }
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
        let all = Settings { cluster_cidrs: vec!["10.0.0.0/8".parse().expect("a prefix")], masquerade_all: true };
        let first = config(&all, &sizes, 250, &empty, Identity { seed: 7, mark: 0 });
        assert_eq!((first.seed, first.mark, first.ticks_per_second), (7, 1, 15));
        assert_eq!(first.flags, flag::CLUSTER_CIDRS4 | flag::MASQUERADE_ALL);
        let switched = Config { flags: first.flags | flag::SECOND_HALF, ..first };
        let second = config(&Settings::default(), &sizes, 250, &switched, Identity { seed: 8, mark: 9 });
        assert_eq!((second.seed, second.mark, second.flags), (7, 1, flag::SECOND_HALF));
    }

    #[test]
    fn an_idle_connection_is_kept_for_a_day() {
        let empty: Config = zerocopy::FromZeros::new_zeroed();
        let identity = Identity { seed: 1, mark: 1 };
        let made = config(&Settings::default(), &Sizes::for_memory(0), 100, &empty, identity);
        assert_eq!(made.timeout(State::ESTABLISHED), 86_400 * 100 / 16);
    }
}
