//! Session affinity `ClientIP`.
//!
//! The key is the Service port and the client's address before masquerading, shared by all frontends
//! of the port. Each new flow renews it. An entry is honoured only while its backend serves and is in
//! the list that is used for this packet; else another backend is picked and remembered.

use super::{Eligible, affinity_ticks, is_recent};
use crate::addr::Address;
use crate::env::{Env, Tables, Tick};
use crate::schema::{Affinity, AffinityKey, Backend, BackendRef, Service};
use crate::service::serving;
use crate::verdict::Counter;

/// The backend that the client had before, if it may have it again.
#[inline(always)]
pub fn recall<A: Address, E: Env + Tables<A>>(
    env: &E,
    number: u32,
    service: &Service,
    client: A,
    list: &Eligible,
    now: Tick,
) -> Option<(BackendRef, Backend<A>)> {
    let entry = env.affinity(&AffinityKey { service: number, client })?;
    if !is_recent(entry.seen, affinity_ticks(env.config(), service), now) {
        return None;
    }
    let backend = serving(env, entry.backend)?;
    if backend.flags & list.list == 0 || backend.service != number {
        return None;
    }
    Some((entry.backend, backend))
}

/// Remembers the backend of a new flow.
#[inline(always)]
pub fn remember<A: Address, E: Env + Tables<A>>(env: &E, number: u32, client: A, backend: BackendRef, now: Tick) {
    let entry = Affinity { backend, seen: now.0 };
    if !env.set_affinity(&AffinityKey { service: number, client }, &entry) {
        env.count(Counter::AffinityFull);
    }
}
