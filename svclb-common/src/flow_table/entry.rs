//! One entry of the flow table and the names of flows.

use crate::addr::{Address, Endpoint};
use crate::conntrack::State;
use crate::env::{Place, Tick};
use crate::schema::{BackendRef, Detail, Way};
use crate::wire::protocol;

/// Field `meta` of a way: protocol, state and flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta(pub u16);

impl Meta {
    /// The packet's source must become an address of this node on its way out.
    pub const MASQUERADE: u16 = 1 << 6;
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
    /// IP protocol number.
    pub protocol: u8,
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
    /// What was found.
    pub found: Found<A>,
}

/// A flow to be entered.
#[derive(Clone, Copy, Default, Debug)]
pub struct NewFlow<A: Address> {
    /// The entry.
    pub way: Way<A>,
    /// What belongs to it.
    pub detail: Detail<A>,
    /// Where an older entry of the same client and frontend stands is a SPILL bucket.
    pub from_spill: bool,
    /// Answer: it stands in SPILL now.
    pub in_spill: bool,
    /// What stood in the way that it took over.
    pub(super) displaced: Displaced<A>,
}

/// An entry that another took the place of.
#[derive(Clone, Copy, Default, Debug)]
pub struct Displaced<A: Address> {
    /// The flow, by its backend.
    pub key: FlowKey<A>,
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
