//! One entry of the flow table and the names of flows.

use crate::addr::{Address, Endpoint};
use crate::config::Config;
use crate::conntrack::State;
use crate::env::{Place, Tick};
use crate::schema::{BackendRef, Detail, Tags, WAYS, Way};
use crate::wire::protocol;

/// Field `meta` of a way: protocol, state and flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta(pub u16);

impl Meta {
    /// The packet's source must become an address of this node on its way out.
    pub const MASQUERADE: u16 = 1 << 6;
    /// Its packets pass the node's IP stack by ([`crate::datapath::forward`]).
    pub const DIRECT: u16 = 1 << 7;
    const PROTOCOL: u16 = 3;

    /// A flow's meta. Only TCP, UDP and SCTP have flows.
    #[inline(always)]
    pub const fn new(protocol: u8, state: State, flags: u16) -> Self {
        Self(Self::protocol_bits(protocol) | ((state.0 & 15) as u16) << 2 | flags)
    }

    /// The protocol as two bits; 0 stands for a free way.
    #[inline(always)]
    pub const fn protocol_bits(protocol: u8) -> u16 {
        if protocol == protocol::TCP {
            1
        } else if protocol == protocol::UDP {
            2
        } else {
            3
        }
    }

    /// IP protocol number.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        match self.0 & Self::PROTOCOL {
            1 => protocol::TCP,
            2 => protocol::UDP,
            _ => protocol::SCTP,
        }
    }

    /// State.
    #[inline(always)]
    pub const fn state(self) -> State {
        State((self.0 >> 2 & 15) as u8)
    }

    /// The same with another state.
    #[inline(always)]
    #[must_use]
    pub const fn with_state(self, state: State) -> Self {
        Self(self.0 & !(15 << 2) | ((state.0 & 15) as u16) << 2)
    }

    /// Whether requests are masqueraded.
    #[inline(always)]
    pub const fn is_masqueraded(self) -> bool {
        self.0 & Self::MASQUERADE != 0
    }

    /// Whether packets pass the node's IP stack by.
    #[inline(always)]
    pub const fn is_direct(self) -> bool {
        self.0 & Self::DIRECT != 0
    }

    /// Whether the way is in use (it may have expired).
    #[inline(always)]
    pub const fn is_used(self) -> bool {
        self.0 & Self::PROTOCOL != 0
    }
}

impl<A: Address> Way<A> {
    /// Its [`Meta`].
    #[inline(always)]
    pub const fn meta(&self) -> Meta {
        Meta(self.meta)
    }

    /// The client.
    #[inline(always)]
    pub const fn client_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.client, self.client_port)
    }

    /// What the client addressed.
    #[inline(always)]
    pub const fn frontend_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.frontend, self.frontend_port)
    }

    /// What serves it.
    #[inline(always)]
    pub const fn backend_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.backend, self.backend_port)
    }

    /// Whether it is a flow of this client; `protocol` as in [`Meta::protocol_bits`].
    #[inline(always)]
    pub(super) fn is_of(&self, client: &Endpoint<A>, protocol: u16) -> bool {
        self.client_port == client.port && self.meta & 3 == protocol && self.client == client.address
    }
}

/// The other end by which a flow of a client is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// What the client addressed: a request before its translation.
    Frontend,
    /// Who serves it: a request after its translation, or a reply.
    Backend,
}

/// Names one flow.
#[derive(Clone, Copy, Default, Debug)]
pub struct FlowKey<A> {
    /// The client.
    pub client: Endpoint<A>,
    /// The other end.
    pub other: Endpoint<A>,
    /// [`crate::interest::endpoint_hash`] of the client.
    pub hash: u64,
    /// IP protocol number.
    pub protocol: u8,
}

impl<A: Address> FlowKey<A> {
    /// The flow between a client, whose [`crate::interest::endpoint_hash`] is `hash`, and another end.
    #[inline(always)]
    pub const fn new(client: Endpoint<A>, other: Endpoint<A>, protocol: u8, hash: u64) -> Self {
        Self { client, other, hash, protocol }
    }
}

/// The way where a flow of a client with this hash is put if it is free, and which a search asks first: a
/// number below [`WAYS`]. A sum, as the verifier cannot follow the bounds of what the compiler makes of a product or
/// a remainder; the middle ways are picked more often than the others, which does little harm.
#[inline(always)]
pub const fn first_way(hash: u64) -> usize {
    const { assert!(WAYS == 7) };
    (hash >> 17 & 3) as usize + (hash >> 19 & 3) as usize
}

/// What the head of a bucket holds of each way, so that a search that finds nothing need not load them: 15 bits of
/// the client's hash that pick neither its home nor its SPILL bucket. Never 0, which is that of an unused way.
#[inline(always)]
pub(super) const fn tag(hash: u64) -> u16 {
    (hash >> 16) as u16 | 1
}

/// Tags in a word of [`Tags`].
const TAGS_OF_WORD: usize = 4;
/// Bits of a tag.
const TAG_BITS: usize = 16;
/// The lowest bit of each tag in a word.
const LOWEST: u64 = 0x0001_0001_0001_0001;
/// The highest.
const HIGHEST: u64 = LOWEST << (TAG_BITS - 1);

impl Tags {
    /// Whether a way may be of a client with this hash. Without a branch for each way.
    #[inline(always)]
    pub const fn may_have(self, hash: u64) -> bool {
        let wanted = tag(hash) as u64 * LOWEST;
        let [low, high] = [self.0[0] ^ wanted, self.0[1] ^ wanted];
        // The classic test for a zero among the parts of a word.
        (low.wrapping_sub(LOWEST) & !low | high.wrapping_sub(LOWEST) & !high) & HIGHEST != 0
    }

    /// Whether a way was ever used.
    #[inline(always)]
    pub(super) const fn is_used(self, way: usize) -> bool {
        self.0[way / TAGS_OF_WORD % 2] >> (way % TAGS_OF_WORD * TAG_BITS) & 0xffff != 0
    }

    /// Sets the tag of a way.
    #[inline(always)]
    pub(super) const fn set(&mut self, way: usize, hash: u64) {
        let shift = way % TAGS_OF_WORD * TAG_BITS;
        let word = &mut self.0[way / TAGS_OF_WORD % 2];
        *word = *word & !(0xffff << shift) | (tag(hash) as u64) << shift;
    }
}

impl<A: Address> Way<A> {
    /// Whether it still is the flow that was copied to `read`.
    #[inline(always)]
    pub(super) fn is_same_flow(&self, read: &Self) -> bool {
        self.client_port == read.client_port
            && self.frontend_port == read.frontend_port
            && self.backend_port == read.backend_port
            && self.meta & 3 == read.meta & 3
            && self.client == read.client
            && self.frontend == read.frontend
            && self.backend == read.backend
    }
}

impl<A: Address> FlowKey<A> {
    /// Whether a way is the flow of this name.
    #[inline(always)]
    pub fn matches(&self, way: &Way<A>, by: By) -> bool {
        way.is_of(&self.client, Meta::protocol_bits(self.protocol))
            && match by {
                By::Frontend => way.frontend_port == self.other.port && way.frontend == self.other.address,
                By::Backend => way.backend_port == self.other.port && way.backend == self.other.address,
            }
    }
}

/// Which flow is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a, A> {
    /// Its name.
    pub key: &'a FlowKey<A>,
    /// Which of its ends the name has.
    pub by: By,
    /// An entry that is over by now is none: it may be of an older flow between the same ends.
    pub now: Tick,
}

impl<A: Address> Sought<'_, A> {
    /// Whether a way is it.
    #[inline(always)]
    pub fn is(&self, config: &Config, way: &Way<A>) -> bool {
        self.key.matches(way, self.by) && !config.expired(way.meta().state(), way.seen, self.now)
    }
}

/// A flow that was found: a copy of its entry, and where that stands.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Found<A: Address> {
    /// The entry, as it was when it was read.
    pub way: Way<A>,
    /// Bucket.
    pub place: Place,
    /// Way in the bucket.
    pub index: u32,
}

/// A question to the flow table and its answer. Lives in the datapath's working memory: on the stack, which
/// has 512 bytes for all functions together, it would be too big.
#[derive(Clone, Copy, Default, Debug)]
pub struct Lookup<A: Address> {
    /// The flow that is looked for.
    pub key: FlowKey<A>,
    /// The time. Entries that are over by then are not found.
    pub now: Tick,
    /// What was found.
    pub found: Found<A>,
}

/// A flow to be entered.
#[derive(Clone, Copy, Default, Debug)]
pub struct NewFlow<A: Address> {
    /// The entry.
    pub way: Way<A>,
    /// Hash of its client ([`crate::interest::endpoint_hash`]).
    pub hash: u64,
    /// What belongs to it.
    pub detail: Detail<A>,
    /// Where an older entry of the same client and frontend stands is a SPILL bucket.
    pub from_spill: bool,
    /// Answer: it stands in SPILL now.
    pub in_spill: bool,
    /// Answer: its bucket.
    pub place: Place,
    /// Answer: its way in the bucket.
    pub index: u32,
    /// What stood in the way that it took over.
    pub(super) displaced: Displaced<A>,
}

/// An entry that another took the place of.
#[derive(Clone, Copy, Default, Debug)]
pub struct Displaced<A: Address> {
    /// The flow's client.
    pub client: Endpoint<A>,
    /// Its backend.
    pub backend: Endpoint<A>,
    /// IP protocol number.
    pub protocol: u8,
    /// What its packets were sent from; port 0 if nothing was settled or nothing was displaced.
    pub ours: Endpoint<A>,
}

/// A new entry.
#[inline(always)]
pub fn new_flow<A: Address>(
    client: Endpoint<A>,
    frontend: Endpoint<A>,
    backend: Endpoint<A>,
    meta: Meta,
    backend_ref: BackendRef,
    now: Tick,
) -> Way<A> {
    Way {
        client: client.address,
        frontend: frontend.address,
        backend: backend.address,
        client_port: client.port,
        frontend_port: frontend.port,
        backend_port: backend.port,
        meta: meta.0,
        seen: now.0,
        backend_ref,
        spare: A::Spare::default(),
    }
}
