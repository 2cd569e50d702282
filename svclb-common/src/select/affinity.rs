//! Session affinity `ClientIP`.
//!
//! The key is the Service port and the client's address before masquerading, shared by all frontends
//! of the port. Each new flow renews it. An entry is honoured only while its backend serves and is in
//! the list that is used for this packet; else another backend is picked and remembered.

use super::{Choice, Chosen, is_recent};
use crate::addr::Address;
use crate::env::{Env, Tables, Tick};
use crate::schema::{Affinity, AffinityKey, BackendRef};
use crate::service::serving;
use crate::verdict::Counter;

/// Finds the backend that the client had before, if it may have it again.
#[inline(never)]
pub fn recall<A: Address, E: Env + Tables<A>>(
    env: &E,
    choice: &Choice,
    client: A,
    now: Tick,
    chosen: &mut Chosen<A>,
) -> bool {
    let Some(entry) = env.affinity(&AffinityKey { service: choice.service, client }) else { return false };
    if !is_recent(entry.seen, choice.affinity, now) {
        return false;
    }
    let Some(backend) = serving(env, entry.backend) else { return false };
    if backend.flags & choice.list.list == 0 || backend.service != choice.service {
        return false;
    }
    *chosen = Chosen { reference: entry.backend, backend };
    true
}

/// Remembers the backend of a new flow.
#[inline(never)]
pub fn remember<A: Address, E: Env + Tables<A>>(env: &E, choice: &Choice, client: A, backend: BackendRef, now: Tick) {
    let entry = Affinity { backend, seen: now.0 };
    if !env.set_affinity(&AffinityKey { service: choice.service, client }, &entry) {
        env.count(Counter::AffinityFull);
    }
}
