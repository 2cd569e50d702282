//! What is done to a bucket while its lock is held.
//!
//! Each change is a type with one inlined method, not a closure: kernel 6.1 refuses any call between
//! lock and unlock, and whether a closure is inlined is up to the compiler. For the same reason results are
//! small integers, and everything that a change needs is read before.

use super::entry::{By, FlowKey, Found, Meta, NewFlow, Sought, first_way};
use crate::addr::{Address, Be16, Endpoint};
use crate::config::Config;
use crate::conntrack::{self, Direction, State};
use crate::env::{Peek, Tick};
use crate::schema::{Body, Details, WAYS, Way};

/// A change of one bucket, or a look into it.
pub trait Change<A: Address> {
    /// Does it. Must be `inline(always)` and call only what is.
    fn apply(self, body: &mut Body<A>, details: &mut Details<A>) -> u32;
}

/// Looks for a flow. Answers as [`Peek`] does.
pub(super) struct Search<'a, A: Address> {
    pub(super) config: &'a Config,
    pub(super) sought: Sought<'a, A>,
    pub(super) way: &'a mut Way<A>,
}

impl<A: Address> Change<A> for Search<'_, A> {
    #[inline(always)]
    fn apply(self, body: &mut Body<A>, _details: &mut Details<A>) -> u32 {
        let hash = self.sought.key.hash;
        let mut at = first_way(hash);
        if !self.sought.is(self.config, &body.ways[at]) {
            at = if body.tags.may_have(hash) { 0 } else { WAYS };
            while at < WAYS && !self.sought.is(self.config, &body.ways[at]) {
                at += 1;
            }
        }
        if let Some(way) = body.ways.get(at) {
            *self.way = *way;
            return at as u32;
        }
        if body.overflow > 0 { Peek::MISS_OVERFLOW.0 } else { Peek::MISS.0 }
    }
}

/// Results of [`Enter`].
pub(super) mod entered {
    pub(crate) const NEW: u32 = 0;
    pub(crate) const REPLACED: u32 = 1;
    pub(crate) const EXISTING: u32 = 2;
    pub(crate) const CONFLICT: u32 = 3;
    pub(crate) const FULL: u32 = 4;
    /// NEW, over an expired way whose client is in `displaced`.
    pub(crate) const DISPLACED: u32 = 5;
}

/// Enters a flow. `over` allows to replace a live entry of the same client and frontend.
pub(super) struct Enter<'a, A: Address> {
    pub(super) config: &'a Config,
    pub(super) new: &'a mut NewFlow<A>,
    pub(super) over: bool,
}

impl<A: Address> Change<A> for Enter<'_, A> {
    #[inline(always)]
    fn apply(self, body: &mut Body<A>, details: &mut Details<A>) -> u32 {
        let flow = &self.new.way;
        let now = Tick(flow.seen);
        let client = flow.client_endpoint();
        let protocol = flow.meta & 3;
        let live = |way: &Way<A>| !self.config.expired(way.meta().state(), way.seen, now);
        let mut same = WAYS;
        let mut i = 0;
        while i < WAYS && body.tags.may_have(self.new.hash) {
            let way = &body.ways[i];
            if way.is_of(&client, protocol) {
                if way.frontend_port == flow.frontend_port && way.frontend == flow.frontend {
                    if live(way) && !self.over {
                        return entered::EXISTING;
                    }
                    same = i;
                } else if way.backend_port == flow.backend_port && way.backend == flow.backend && live(way) {
                    return entered::CONFLICT;
                }
            }
            i += 1;
        }
        // A loop of its own: in one with the other the verifier would follow every pair of places.
        let (mut at, mut result) = (same, entered::REPLACED);
        if same == WAYS {
            result = entered::NEW;
            at = first_way(self.new.hash);
            // Ways that were never used come first: what stands in others has to be loaded.
            if body.tags.is_used(at) {
                at = 0;
                while at < WAYS && body.tags.is_used(at) {
                    at += 1;
                }
            }
            if at == WAYS {
                at = 0;
                while at < WAYS && live(&body.ways[at]) {
                    at += 1;
                }
            }
        }
        let unused = !body.tags.is_used(at);
        let (Some(way), Some(detail)) = (body.ways.get_mut(at), details.ways.get_mut(at)) else {
            return entered::FULL;
        };
        if !unused {
            let old = way.meta();
            if result == entered::NEW && way.client_port != Be16::ZERO {
                result = entered::DISPLACED; // else it was removed
            }
            let displaced = &mut self.new.displaced;
            displaced.client = way.client_endpoint();
            displaced.backend = way.backend_endpoint();
            displaced.protocol = old.protocol();
            // Details are of masqueraded flows alone: they are a cache line and a page more.
            if old.is_masqueraded() {
                displaced.ours = Endpoint::new(detail.masquerade, detail.masquerade_port);
            }
        }
        if flow.meta().is_masqueraded() {
            *detail = self.new.detail;
        }
        *way = *flow;
        self.new.index = at as u32;
        body.tags.set(at, self.new.hash);
        result
    }
}

/// Adds to or takes from a home bucket's count of flows in SPILL.
pub(super) struct CountOverflow {
    pub(super) more: bool,
}

impl<A: Address> Change<A> for CountOverflow {
    #[inline(always)]
    fn apply(self, body: &mut Body<A>, _details: &mut Details<A>) -> u32 {
        body.overflow = if self.more { body.overflow.saturating_add(1) } else { body.overflow.saturating_sub(1) };
        0
    }
}

/// Frees the way of a flow; 1 if it was there.
pub(super) struct Remove<'a, A: Address> {
    pub(super) key: &'a FlowKey<A>,
}

impl<A: Address> Change<A> for Remove<'_, A> {
    #[inline(always)]
    fn apply(self, body: &mut Body<A>, _details: &mut Details<A>) -> u32 {
        let mut i = 0;
        while i < WAYS && body.tags.may_have(self.key.hash) {
            if self.key.matches(&body.ways[i], By::Frontend) {
                // Of a client that nobody is, and over, so that the way is free to the next flow. Its tag stays: it
                // only makes a search look here in vain.
                body.ways[i].client = A::default();
                body.ways[i].client_port = Be16::ZERO;
                body.ways[i].meta = Meta::new(self.key.protocol, State::CLOSED, 0).0;
                body.ways[i].seen = 0;
                return 1;
            }
            i += 1;
        }
        0
    }
}

/// Moves the state of a flow on; nothing if the way changed hands since it was read.
pub(super) struct Advance<'a, A: Address> {
    pub(super) found: &'a Found<A>,
    pub(super) direction: Direction,
    pub(super) signal: u8,
    pub(super) now: Tick,
}

impl<A: Address> Change<A> for Advance<'_, A> {
    #[inline(always)]
    fn apply(self, body: &mut Body<A>, _details: &mut Details<A>) -> u32 {
        let Some(way) = body.ways.get_mut(self.found.index as usize) else { return 0 };
        if !way.is_same_flow(&self.found.way) {
            return 0;
        }
        let meta = way.meta();
        let state = conntrack::next(meta.state(), meta.protocol(), self.direction, self.signal);
        way.meta = meta.with_state(state).0;
        way.seen = self.now.0;
        1
    }
}

/// Makes a flow direct; nothing if the way changed hands since it was read.
pub(super) struct MakeDirect<'a, A: Address> {
    pub(super) found: &'a Found<A>,
}

impl<A: Address> Change<A> for MakeDirect<'_, A> {
    #[inline(always)]
    fn apply(self, body: &mut Body<A>, _details: &mut Details<A>) -> u32 {
        let Some(way) = body.ways.get_mut(self.found.index as usize) else { return 0 };
        if !way.is_same_flow(&self.found.way) {
            return 0;
        }
        way.meta |= Meta::DIRECT;
        1
    }
}

/// Ticks after which a masquerade entry is renewed by its flow's packets: below every timeout (3 s are 18 ticks at
/// 100 Hz), far above the time between packets.
pub const RENEW_TICKS: u32 = 8;

/// Reads what a flow's packets are sent from: 0 not settled, 1 settled, 2 settled and due to be renewed,
/// which is noted as done.
pub(super) struct ReadMasquerade<'a, A: Address> {
    pub(super) found: &'a Found<A>,
    pub(super) now: Tick,
    pub(super) ours: &'a mut Endpoint<A>,
}

impl<A: Address> Change<A> for ReadMasquerade<'_, A> {
    #[inline(always)]
    fn apply(self, body: &mut Body<A>, details: &mut Details<A>) -> u32 {
        let at = self.found.index as usize;
        let (Some(way), Some(detail)) = (body.ways.get(at), details.ways.get_mut(at)) else { return 0 };
        if detail.masquerade_port == Be16::ZERO || !way.is_same_flow(&self.found.way) {
            return 0;
        }
        *self.ours = Endpoint::new(detail.masquerade, detail.masquerade_port);
        if self.now.0.wrapping_sub(detail.renewed) < RENEW_TICKS {
            return 1;
        }
        detail.renewed = self.now.0;
        2
    }
}

/// Settles what a flow's packets are sent from, unless that is done; 1, and what holds now in `ours`; 0 if
/// the flow is gone.
pub(super) struct SettleMasquerade<'a, A: Address> {
    pub(super) found: &'a Found<A>,
    pub(super) now: Tick,
    pub(super) ours: &'a mut Endpoint<A>,
}

impl<A: Address> Change<A> for SettleMasquerade<'_, A> {
    #[inline(always)]
    fn apply(self, body: &mut Body<A>, details: &mut Details<A>) -> u32 {
        let at = self.found.index as usize;
        let (Some(way), Some(detail)) = (body.ways.get(at), details.ways.get_mut(at)) else { return 0 };
        if !way.is_same_flow(&self.found.way) {
            return 0;
        }
        if detail.masquerade_port == Be16::ZERO {
            detail.masquerade = self.ours.address;
            detail.masquerade_port = self.ours.port;
            detail.renewed = self.now.0;
        } else {
            *self.ours = Endpoint::new(detail.masquerade, detail.masquerade_port);
        }
        1
    }
}
