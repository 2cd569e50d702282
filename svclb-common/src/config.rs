//! CONFIG: what the agent may change while packets flow, and the sizes of the maps, which it may not.

use crate::addr::{Addr4, Addr6, Address};
use crate::conntrack::State;
use crate::env::{TICK_SHIFT, Tick};
use crate::schema::WAYS;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A prefix as network and mask, for comparing without a shift.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Prefix<A> {
    /// Network address, bits outside the mask 0.
    pub network: A,
    /// Mask.
    pub mask: A,
}

/// A range of ports, in host byte order; none if `last` is 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Ports {
    /// Its first port.
    pub first: u16,
    /// Its last port.
    pub last: u16,
}

impl Ports {
    /// Whether it has no ports.
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.last == 0
    }

    /// Whether `port` is one of them.
    #[inline(always)]
    pub const fn holds(&self, port: u16) -> bool {
        self.first <= port && port <= self.last && !self.is_none()
    }
}

/// Prefixes of each family in `--cluster-cidr` that CONFIG has room for.
pub const CLUSTER_CIDRS: usize = 4;

/// Prefixes of each family that Services get cluster IPs from, and that CONFIG has room for.
pub const SERVICE_CIDRS: usize = 8;

/// Flags of [`Config::flags`].
pub mod flag {
    /// Masquerade every request to a cluster IP (kube-proxy's `masqueradeAll`).
    pub const MASQUERADE_ALL: u32 = 1;
    /// `--cluster-cidr` names IPv4 prefixes: sources inside are local, sources outside are
    /// masqueraded when they use a cluster IP.
    pub const CLUSTER_CIDRS4: u32 = 2;
    /// The same for IPv6.
    pub const CLUSTER_CIDRS6: u32 = 4;
    /// The active half of the interest bitmaps is the second one.
    pub const SECOND_HALF: u32 = 8;
    /// What is local is told by the device alone ([`crate::schema::Device::local`]): what comes by another is
    /// masqueraded when it uses a cluster IP.
    pub const LOCAL_BY_DEVICE: u32 = 16;
    /// Echo requests to Service addresses are answered.
    pub const PING_SERVICES: u32 = 32;
    /// Some Service port has [`crate::service::flag::CUT`]: the backend of TCP flows has to be looked at.
    pub const CUT: u32 = 64;
    /// New flows pass the node's IP stack by, where they can ([`crate::datapath::forward`]).
    pub const DIRECT: u32 = 128;
    /// Such flows may exist: this agent or one before it made some.
    pub const DIRECT_FLOWS: u32 = 256;
}

/// The part of an interest bitmap that one of its halves takes up. It is as small as its members allow, so that it stays
/// in the processor's caches.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Extent {
    /// Its first bit in the map.
    pub first: u32,
    /// Number of its bits, a power of two, less one.
    pub mask: u32,
}

impl Extent {
    /// A whole half of a map of so many 64-bit words, a power of two.
    pub const fn whole(words: u32, half: bool) -> Self {
        Self { first: if half { words * 32 } else { 0 }, mask: words * 32 - 1 }
    }
}

/// The one value of CONFIG. What every packet needs comes first, behind the 8 bytes that the kernel's header of a map
/// leaves in a cache line.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Config {
    /// [`crate::schema::LAYOUT`].
    pub layout: u32,
    /// Answers to refused packets per CPU and second.
    pub refusals: u32,
    /// Seed of every hash; pinned with the tables, as their content depends on it.
    pub seed: u64,
    /// See [`flag`].
    pub flags: u32,
    /// Value of `tc_index` on packets that this agent's ingress has finished with. Never 0; random
    /// per agent, as the field survives the way to another node's namespace on one machine.
    pub mark: u16,
    /// Always 0.
    pub zero: u16,
    /// Number of buckets, a power of two, less one: for IPv4 and then IPv6 those of FLOWS and of SPILL.
    pub buckets: [[u32; 2]; 2],
    /// Interest bitmaps: for IPv4 and then IPv6, of the first half and of the second, those of frontends and of backends.
    pub interest: [[[Extent; 2]; 2]; 2],
    /// Number of buckets of SERVICES, a power of two, less one.
    pub frontends: u32,
    /// The kernel's jiffies in a second.
    pub jiffies_per_second: u32,
    /// Timeouts in ticks, by [`State`].
    pub timeouts: [u32; 16],
    /// `--cluster-cidr` of IPv4; unused ones have mask and network that match nothing.
    pub cluster_cidrs4: [Prefix<Addr4>; CLUSTER_CIDRS],
    /// `--cluster-cidr` of IPv6.
    pub cluster_cidrs6: [Prefix<Addr6>; CLUSTER_CIDRS],
    /// Prefixes of cluster IPs of IPv4.
    pub service_cidrs4: [Prefix<Addr4>; SERVICE_CIDRS],
    /// Prefixes of cluster IPs of IPv6.
    pub service_cidrs6: [Prefix<Addr6>; SERVICE_CIDRS],
    /// How many of them there are, of IPv4 and IPv6.
    pub service_cidrs: [u32; 2],
    /// The kernel's cookie of the network namespace whose processes are served; 0 without socket load balancing.
    pub namespace: u64,
    /// The node's address: the client that its processes are to source ranges and session affinity. 0 without one.
    pub node4: Addr4,
    /// The same for IPv6.
    pub node6: Addr6,
    /// Ports that the kernel gives sockets of the node which ask for none (`net.ipv4.ip_local_port_range`).
    pub own_ports: Ports,
}

impl Config {
    /// A flag.
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// A timeout in ticks. It is never over too early, and up to 31 jiffies too late: a tick has
    /// [`TICK_SHIFT`]'s 16, and the time that is compared with may be the last one of a tick, and now the first of
    /// another. Cost: a multiplication.
    #[inline(always)]
    pub const fn ticks(&self, seconds: u32) -> u32 {
        let jiffies = seconds as u64 * self.jiffies_per_second as u64;
        ((jiffies + (1 << TICK_SHIFT) - 1) >> TICK_SHIFT) as u32
    }

    /// Timeout of a flow in `state`, in ticks.
    #[inline(always)]
    pub fn timeout(&self, state: State) -> u32 {
        self.timeouts[(state.0 & 15) as usize]
    }

    /// Whether a flow in `state` that was last seen at `seen` is over.
    #[inline(always)]
    pub fn expired(&self, state: State, seen: u32, now: Tick) -> bool {
        now.0.wrapping_sub(seen) > self.timeout(state)
    }
}

/// Whether `--cluster-cidr` names prefixes of this family, and whether one of them holds `address`.
#[inline(always)]
pub fn in_cluster_cidrs<A: Address>(config: &Config, address: A) -> (bool, bool) {
    let given = config.has(if A::IS_V6 { flag::CLUSTER_CIDRS6 } else { flag::CLUSTER_CIDRS4 });
    let both = config.cluster_cidrs4.iter().zip(&config.cluster_cidrs6);
    (given, both.into_iter().any(|(four, six)| holds(four, six, address)))
}

/// Whether the prefix of the address's family holds it. The family is a constant, so the other one is no code at all.
#[inline(always)]
fn holds<A: Address>(four: &Prefix<Addr4>, six: &Prefix<Addr6>, address: A) -> bool {
    address.within(A::either(four.network, six.network), A::either(four.mask, six.mask))
}

/// Whether a prefix that Services get cluster IPs from holds `address`. Cost: a comparison for each prefix, mostly one.
#[inline(always)]
pub fn in_service_cidrs<A: Address>(config: &Config, address: A) -> bool {
    let count = config.service_cidrs[A::IS_V6 as usize] as usize;
    let mut at = 0;
    while at < SERVICE_CIDRS && at < count {
        if holds(&config.service_cidrs4[at], &config.service_cidrs6[at], address) {
            return true;
        }
        at += 1;
    }
    false
}

/// Sizes of the maps, set when the object is loaded; powers of two where a hash picks the place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// 64-bit words of both halves of an interest bitmap of frontends.
    pub interest_frontends: u32,
    /// The same for backends.
    pub interest_backends: u32,
    /// Buckets of SERVICES, each with room for 4 frontends, to be filled to half. Node ports count once for each node
    /// address, and each cluster IP once more.
    pub frontend_buckets: u32,
    /// Service numbers: Service ports.
    pub services: u32,
    /// Entries of SLOTS, of two slots each: the list of every Service port, twice, as lists are replaced, not edited.
    /// The list of endpoints on this node is short beside it.
    pub slot_pairs: u32,
    /// Backend numbers: endpoints, counted once for each Service port.
    pub backends: u32,
    /// Buckets of FLOWS for each family; 7 flows each ([`WAYS`]), to be filled to 40 %.
    pub flow_buckets: u32,
    /// Buckets of SPILL.
    pub spill_buckets: u32,
    /// Masqueraded flows: as many as there are ways in FLOWS and SPILL, since an entry goes with its way.
    pub masquerade: u32,
    /// Clients with affinity.
    pub affinity: u32,
    /// Source ranges of all Services.
    pub source_ranges: u32,
    /// Entries of SOCKETS: two for each frontend that a socket of this node talks to.
    pub sockets: u32,
    /// Entries of FRAGMENTS: datagrams in fragments that are under way through the node, twice, as ingress and egress
    /// have entries of their own.
    pub fragments: u32,
}

impl Sizes {
    /// Sizes for a node with this much memory. Flow tables take about 1/512 of it (each bucket of both
    /// families has 1,024 bytes), between 4,096 and 262,144 buckets of 7 flows; the tables of Services have room
    /// for 10,000 Services with 10 endpoints on any node.
    pub const fn for_memory(bytes: u64) -> Self {
        let buckets = bytes / 512 / 1024;
        let mut flow_buckets = 4096;
        while flow_buckets < 262_144 && (flow_buckets as u64) * 2 <= buckets {
            flow_buckets *= 2;
        }
        Self {
            interest_frontends: 8192,
            interest_backends: 65_536,
            frontend_buckets: 32_768,
            services: 32_768,
            slot_pairs: 131_072,
            backends: 131_072,
            flow_buckets,
            spill_buckets: flow_buckets / 16,
            masquerade: flow_buckets / 16 * 17 * WAYS as u32,
            affinity: 65_536,
            source_ranges: 16_384,
            sockets: 16_384,
            fragments: 8192,
        }
    }

    fn field(&mut self, name: &str) -> &mut u32 {
        match name {
            "interest_frontends" => &mut self.interest_frontends,
            "interest_backends" => &mut self.interest_backends,
            "frontend_buckets" => &mut self.frontend_buckets,
            "services" => &mut self.services,
            "slot_pairs" => &mut self.slot_pairs,
            "backends" => &mut self.backends,
            "flow_buckets" => &mut self.flow_buckets,
            "spill_buckets" => &mut self.spill_buckets,
            "masquerade" => &mut self.masquerade,
            "affinity" => &mut self.affinity,
            "source_ranges" => &mut self.source_ranges,
            "sockets" => &mut self.sockets,
            "fragments" => &mut self.fragments,
            _ => panic!("no map size has this name"),
        }
    }

    /// The value behind a name in [`crate::schema::Entries::Sized`].
    ///
    /// # Panics
    /// On a name that is no field, which only a wrong `maps!` list can produce.
    pub fn get(&self, name: &str) -> u32 {
        *self.clone().field(name)
    }

    /// Sets the value behind a name.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn set(&mut self, name: &str, value: u32) {
        *self.field(name) = value;
    }
}

#[cfg(test)]
mod tests {
    use super::Config;
    use crate::env::TICK_SHIFT;
    use zerocopy::FromZeros;

    #[test]
    fn a_timeout_is_never_over_too_early_and_at_most_31_jiffies_too_late() {
        let mut config = Config::new_zeroed();
        for hz in [100, 250, 300, 1000] {
            config.jiffies_per_second = hz;
            for seconds in [1, 3, 120, 10_800, 86_400] {
                let ticks = u64::from(config.ticks(seconds));
                let jiffies = u64::from(seconds) * u64::from(hz);
                for first in 0..1 << TICK_SHIFT {
                    let ticks_after = |jiffies| ((first + jiffies) >> TICK_SHIFT) - (first >> TICK_SHIFT);
                    assert!(ticks_after(jiffies) <= ticks, "{seconds} s of {hz} jiffies end too early");
                    assert!(ticks_after(jiffies + 32) > ticks, "{seconds} s of {hz} jiffies end too late");
                }
            }
        }
    }
}
