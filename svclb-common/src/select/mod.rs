//! Picking the backend of a new flow.
//!
//! [`choice`] asks everything that decides about a new flow, for packets and for sockets: the frontend, the Service's
//! record, its source ranges, and [`eligible`], which is policy: which list serves this client, if any, and whether
//! the client's address is hidden from the backend. [`pick`] takes a backend out of that list: the one of the client's session
//! affinity, else one at random, each with the same chance, as kube-proxy does.

pub mod affinity;

use crate::addr::{Address, Endpoint};
use crate::config::{self, Config};
use crate::env::{Env, Tables, Tick};
use crate::schema::{Backend, BackendRef, Device, Service, ServiceRef, SourceRange, SourceRangeKey};
use crate::service::{self, Frontend, backend_flag, flag, role, scope, serving};
use crate::verdict::{DropReason, Refusal, Verdict};

/// Who may serve a new flow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Choice {
    /// The list.
    pub list: Eligible,
    /// Service number.
    pub service: u32,
    /// Ticks for which session affinity holds; 0 without it.
    pub affinity: u32,
}

/// In place of a service number where no Service is known; nothing is counted for it.
const NO_SERVICE: u32 = u32::MAX;

/// Finds out who may serve what `client` sends to `to`: fills in `choice`, or says what becomes of it. Where a Service
/// turns it away, `choice` names that Service, and its list is empty.
///
/// Cost: one bucket of SERVICES, SERVICE, and what the Service's fields demand.
#[inline(always)]
pub fn choice<A: Address, E: Env + Tables<A>>(
    env: &E,
    to: Endpoint<A>,
    protocol: u8,
    client: A,
    entry: impl FnOnce() -> Entry,
    choice: &mut Choice,
) -> Result<(), Verdict> {
    choice.list.count = 0;
    choice.service = NO_SERVICE;
    let ServiceRef { number, scope, .. } = match service::frontend(env, to, protocol) {
        Frontend::Port(reference) => reference,
        Frontend::UnknownPort => return Err(Verdict::Refuse(Refusal::UnknownPort)),
        Frontend::None => return Err(Verdict::Pass),
        Frontend::Unsettled => return Err(Verdict::Drop(DropReason::Inconsistent)),
    };
    let Some(service) = service::record::<A, E>(env, number) else {
        return Err(Verdict::Drop(DropReason::Inconsistent));
    };
    choice.service = number;
    if !admits(env, &service, number, scope, client) {
        return Err(Verdict::Drop(DropReason::SourceRange));
    }
    match eligible(env.config(), &service, scope, client, entry) {
        Eligibility::List(list) => {
            choice.list = list;
            choice.affinity = env.config().ticks(service.affinity_seconds);
            Ok(())
        }
        Eligibility::NoEndpoint => Err(Verdict::Refuse(Refusal::NoEndpoint)),
        Eligibility::Drop(reason) => Err(Verdict::Drop(reason)),
    }
}

/// The list that serves a client.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Eligible {
    /// First slot.
    pub first: u32,
    /// Number of slots, not 0.
    pub count: u32,
    /// Flag of the backends in the list ([`backend_flag`]).
    pub list: u8,
    /// The client's address is hidden from the backend.
    pub masquerade: bool,
}

/// Where a packet comes from, as its device tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// From this node: a pod of it, or a process.
    Local,
    /// From another machine, by a node device or a tunnel.
    Outside,
    /// The device does not tell.
    Untold,
}

impl Entry {
    /// What the device with this record tells.
    #[inline(always)]
    pub fn by(device: Option<Device>) -> Self {
        match device {
            Some(device) if device.local != 0 => Self::Local,
            Some(device) if matches!(device.role, role::NODE | role::TUNNEL) => Self::Outside,
            _ => Self::Untold,
        }
    }
}

/// Answers of [`eligible`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Eligibility {
    /// This list serves.
    List(Eligible),
    /// No endpoint anywhere: refuse.
    NoEndpoint,
    /// Drop.
    Drop(DropReason),
}

/// Which list serves a client of a frontend in the role `scope`, and whether it is masqueraded.
///
/// * Cluster IP: `internalTrafficPolicy` picks the list. Masqueraded only if all are
///   (`masqueradeAll`), or the source is known to be outside the cluster.
/// * Node port, load balancer address, external IP with `externalTrafficPolicy: Cluster`: the cluster
///   list, always masqueraded, so that the reply comes back through this node.
/// * The same with `Local`: endpoints of this node, the client's address kept. Local traffic counts as
///   already having passed the load balancer: cluster list, address kept.
/// * An empty list is a drop if the Service has endpoints elsewhere and a refusal if it has none.
///
/// Traffic is local if it came in by a pod's device, or by one that does not tell and with a source in
/// `--cluster-cidr`; where the operator names the devices of local traffic, by those alone. `entry` is a hash lookup,
/// asked only where a policy depends on it.
///
/// Source: kube-proxy's `CategorizeEndpoints` and the verdicts of its nftables mode, Kubernetes 1.37. That takes a pod
/// of another node for local traffic, too, if its address is in `--cluster-cidr`: here it is a client like those
/// outside, as the end-to-end test of `externalTrafficPolicy: Local` with terminating endpoints wants it.
#[inline(always)]
fn eligible<A: Address>(
    config: &Config,
    service: &Service,
    scope: u8,
    source: A,
    entry: impl FnOnce() -> Entry,
) -> Eligibility {
    let (cidrs_given, inside_cidrs) = config::in_cluster_cidrs(config, source);
    let (local, masquerade) = if scope == scope::CLUSTER {
        let outside = if config.has(config::flag::LOCAL_BY_DEVICE) {
            entry() != Entry::Local
        } else {
            cidrs_given && !inside_cidrs
        };
        (service.flags & flag::INTERNAL_LOCAL != 0, config.has(config::flag::MASQUERADE_ALL) || outside)
    } else if service.flags & flag::EXTERNAL_LOCAL != 0 {
        let local = match entry() {
            Entry::Local => true,
            Entry::Outside => false,
            Entry::Untold => cidrs_given && inside_cidrs,
        };
        (!local, false)
    } else {
        (false, true)
    };
    let (first, count, list) = if local {
        (service.local_first, service.local_count, backend_flag::IN_LOCAL)
    } else {
        (service.cluster_first, service.cluster_count, backend_flag::IN_CLUSTER)
    };
    if count > 0 {
        Eligibility::List(Eligible { first, count, list, masquerade })
    } else if service.flags & flag::HAS_ENDPOINTS != 0 {
        Eligibility::Drop(DropReason::NoLocalEndpoint)
    } else {
        Eligibility::NoEndpoint
    }
}

/// Whether a load balancer address admits this client. Only load balancer addresses ask; node ports
/// and external IPs stay open, as with kube-proxy.
#[inline(always)]
fn admits<A: Address, T: Tables<A>>(tables: &T, service: &Service, number: u32, role: u8, client: A) -> bool {
    let range = SourceRange { service: number, address: client };
    role != scope::LOAD_BALANCER
        || service.flags & flag::SOURCE_RANGES == 0
        || tables.in_source_range(&SourceRangeKey { prefix_length: 32 + A::BITS, range })
}

/// A backend and the reference by which it was found.
#[derive(Clone, Copy, Default, Debug)]
pub struct Chosen<A> {
    /// Number and generation.
    pub reference: BackendRef,
    /// The backend.
    pub backend: Backend<A>,
}

/// Picks a backend at random; `false` if the slot names one that is gone, as may happen for an instant
/// while lists change.
#[inline(never)]
pub fn pick<A: Address, E: Env + Tables<A>>(env: &E, list: &Eligible, chosen: &mut Chosen<A>) -> bool {
    // Multiply and shift spreads 32 random bits over `count` without a division.
    let n = ((env.random() as u64 * list.count as u64) >> 32) as u32;
    let Some(reference) = Tables::<A>::slot(env, list.first + n) else { return false };
    let Some(backend) = serving(env, reference) else { return false };
    *chosen = Chosen { reference, backend };
    true
}

/// Whether `seen` is at most `ticks` before `now`.
#[inline(always)]
pub fn is_recent(seen: u32, ticks: u32, now: Tick) -> bool {
    now.0.wrapping_sub(seen) <= ticks
}
