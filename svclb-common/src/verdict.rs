//! What became of a packet, and the counters that say so.

/// Result of one hook for one packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Verdict {
    /// Not changed; the next program and the stack go on with it.
    #[default]
    Pass,
    /// Addresses or ports (or the quotation in an ICMP error) were rewritten; the stack goes on with it.
    Translate,
    /// The packet was turned into its own answer (TCP reset, ABORT, ICMP port unreachable) and goes back out
    /// of the device it came from.
    Refuse(Refusal),
    /// The packet was turned into the answer that it asks for and goes back as a refusal does.
    Answer,
    /// Both ends were rewritten; it passes the node's IP stack by, to where [`crate::datapath::Scratch::onward`] says.
    Forward,
    /// Dropped, for the reason given.
    Drop(DropReason),
}

/// What the kernel is to do with a packet after a hook. Unlike a verdict it has no byte that may be undefined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Action {
    /// The next program and the stack go on with it.
    Next,
    /// It is an answer, and goes back: out of the device by which it entered, or in by the one by which it would leave.
    Back,
    /// It passes the stack by, on its way out of another device.
    Forward,
    /// It is gone.
    Drop,
}

impl Verdict {
    /// What it means to the kernel.
    #[inline(always)]
    pub const fn action(self) -> Action {
        match self {
            Self::Pass | Self::Translate => Action::Next,
            Self::Refuse(_) | Self::Answer => Action::Back,
            Self::Forward => Action::Forward,
            Self::Drop(_) => Action::Drop,
        }
    }

    const REFUSE: u16 = 0x100;
    const DROP: u16 = 0x200;

    /// As a number, to be kept in memory: an enum with fields leaves bytes undefined that the verifier does not
    /// let anybody store.
    #[inline(always)]
    pub const fn to_bits(self) -> u16 {
        match self {
            Self::Pass => 0,
            Self::Translate => 1,
            Self::Answer => 2,
            Self::Forward => 3,
            Self::Refuse(why) => Self::REFUSE | why as u16,
            Self::Drop(reason) => Self::DROP | reason as u16,
        }
    }

    /// Back from [`Self::to_bits`].
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Self {
        match Self::refusal_of(bits) {
            Some(why) => Self::Refuse(why),
            None if bits & 0xff00 == Self::DROP => Self::Drop(DropReason::from_number(bits as u8)),
            None if bits == Self::Translate.to_bits() => Self::Translate,
            None if bits == Self::Answer.to_bits() => Self::Answer,
            None if bits == Self::Forward.to_bits() => Self::Forward,
            None => Self::Pass,
        }
    }

    /// What [`Self::action`] of the verdict is that has these bits.
    #[inline(always)]
    pub const fn action_of(bits: u16) -> Action {
        match bits & 0xff00 {
            Self::REFUSE => Action::Back,
            Self::DROP => Action::Drop,
            _ if bits == Self::Answer.to_bits() => Action::Back,
            _ if bits == Self::Forward.to_bits() => Action::Forward,
            _ => Action::Next,
        }
    }

    /// Why the packet was refused whose verdict has these bits.
    #[inline(always)]
    pub const fn refusal_of(bits: u16) -> Option<Refusal> {
        if bits & 0xff00 != Self::REFUSE {
            return None;
        }
        let number = bits as u8;
        Some(if number == Refusal::UnknownPort as u8 {
            Refusal::UnknownPort
        } else if number == Refusal::StaleAssociation as u8 {
            Refusal::StaleAssociation
        } else if number == Refusal::GoneBackend as u8 {
            Refusal::GoneBackend
        } else if number == Refusal::OwnAssociation as u8 {
            Refusal::OwnAssociation
        } else {
            Refusal::NoEndpoint
        })
    }
}

/// Why a packet was refused. Each reason has its own [`Counter`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// See [`Counter::RefusedNoEndpoint`].
    NoEndpoint = Counter::RefusedNoEndpoint as u8,
    /// See [`Counter::RefusedUnknownPort`].
    UnknownPort = Counter::RefusedUnknownPort as u8,
    /// See [`Counter::RefusedStaleAssociation`].
    StaleAssociation = Counter::RefusedStaleAssociation as u8,
    /// See [`Counter::RefusedGoneBackend`].
    GoneBackend = Counter::RefusedGoneBackend as u8,
    /// See [`Counter::RefusedOwnAssociation`].
    OwnAssociation = Counter::RefusedOwnAssociation as u8,
}

impl Refusal {
    /// All reasons.
    pub const ALL: &[Self] =
        &[Self::NoEndpoint, Self::UnknownPort, Self::StaleAssociation, Self::GoneBackend, Self::OwnAssociation];

    /// The counter of its refusals.
    #[inline(always)]
    pub const fn counter(self) -> Counter {
        match self {
            Self::NoEndpoint => Counter::RefusedNoEndpoint,
            Self::UnknownPort => Counter::RefusedUnknownPort,
            Self::StaleAssociation => Counter::RefusedStaleAssociation,
            Self::GoneBackend => Counter::RefusedGoneBackend,
            Self::OwnAssociation => Counter::RefusedOwnAssociation,
        }
    }
}

/// Declares counters: a number once given is never used for something else.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal $label:literal,)+) => {
        /// An event that the datapath counts per CPU; the number is its index in COUNTERS.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Counter {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Counter {
            /// All counters, by number.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Name in metrics and tables.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }

            /// What it counts, as in the documentation.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc,)+),)+
                }
            }
        }
    };
}

counters! {
    /// Packets of no Service: left after the interest bitmaps or for want of an entry.
    NoService = 0 "no_service",
    /// Egress packets skipped because this agent's ingress had finished with them.
    Marked = 1 "marked",
    /// Packets that are neither IPv4 nor IPv6.
    NotIp = 2 "not_ip",
    /// Packets whose headers are cut short or contradict themselves; passed.
    Malformed = 3 "malformed",
    /// Fragments behind the first one that belong to no Service as far as is known, and all of other protocols than TCP
    /// and UDP; passed. A first fragment counts as a whole packet does.
    Fragment = 4 "fragment",
    /// Transport protocols that no Service can have; passed.
    OtherProtocol = 6 "other_protocol",
    /// TCP resets, and SCTP packets that end an association, to a frontend without a flow; passed.
    ResetWithoutFlow = 7 "reset_without_flow",
    /// ICMP errors that quote no known flow; passed.
    IcmpWithoutFlow = 8 "icmp_without_flow",
    /// Requests whose destination became a backend.
    RequestTranslated = 10 "request_translated",
    /// Requests whose source became an address of this node.
    RequestMasqueraded = 11 "request_masqueraded",
    /// Replies to a masqueraded request whose destination became the client.
    ReplyUnmasqueraded = 12 "reply_unmasqueraded",
    /// Replies whose source became the frontend.
    ReplyTranslated = 13 "reply_translated",
    /// Replies between two ports of a bridge that were sent through the node's IP stack.
    ReplyLifted = 14 "reply_lifted",
    /// ICMP errors whose quotation was translated.
    IcmpTranslated = 15 "icmp_translated",
    /// Connections and datagrams of this node's own processes whose destination became a backend.
    SocketTranslated = 16 "socket_translated",
    /// Peers shown to this node's own processes that became the frontend.
    SocketPeerTranslated = 17 "socket_peer_translated",
    /// Echo requests to a Service address that were answered.
    PingAnswered = 18 "ping_answered",
    /// Fragments behind the first one whose address was rewritten as the first one's was.
    FragmentTranslated = 19 "fragment_translated",
    /// Flows made.
    FlowCreated = 20 "flow_created",
    /// Flows that replaced an older flow of the same client and frontend.
    FlowReplaced = 21 "flow_replaced",
    /// Flows placed in SPILL because their home bucket was full.
    FlowSpilled = 22 "flow_spilled",
    /// Backends picked afresh for a UDP flow, or for an SCTP client that begins again, whose endpoint no longer serves.
    FlowRepicked = 23 "flow_repicked",
    /// Masquerade ports given out.
    MasqueradeAllocated = 24 "masquerade_allocated",
    /// Affinity entries that chose the backend.
    AffinityUsed = 25 "affinity_used",
    /// Affinity entries that could not be stored: the table is full.
    AffinityFull = 26 "affinity_full",
    /// Requests of direct flows that passed the node's IP stack by, to their backend.
    RequestForwarded = 29 "request_forwarded",
    /// Refused with a reset or an ICMP error: the Service has no endpoint.
    RefusedNoEndpoint = 30 "refused_no_endpoint",
    /// Refused with a reset or an ICMP error: no Service has this port of a cluster IP, or the protocol has no ports.
    RefusedUnknownPort = 31 "refused_unknown_port",
    /// Connections and datagrams of this node's own processes that nobody serves, refused by an error at once.
    RefusedSocket = 32 "refused_socket",
    /// Refused with an ABORT: the backend of this SCTP association no longer serves.
    RefusedStaleAssociation = 33 "refused_stale_association",
    /// TCP connections cut, by a reset to both sides: the backend no longer serves, and the Service asks for it. A side
    /// that speaks on is reset again, and counted.
    RefusedGoneBackend = 34 "refused_gone_backend",
    /// Refused with an ABORT: a process of this node asks for an SCTP Service at its cluster IP, which is not served.
    RefusedOwnAssociation = 35 "refused_own_association",
    /// Replies of direct flows that passed the node's IP stack by, to their client.
    ReplyForwarded = 36 "reply_forwarded",
    /// Packets of direct flows that were left to the stack all the same: no route, no hop left, IP options, too long for
    /// the way, or a frame that was not addressed to the node.
    DirectToStack = 37 "direct_to_stack",
    /// Packets with a VLAN tag, in direct mode left to the device of the VLAN.
    Tagged = 38 "tagged",
    /// Drop: a traffic policy allows only endpoints of this node, and there is none.
    NoLocalEndpoint = 40 "drop_no_local_endpoint",
    /// Drop: the client is outside the Service's source ranges.
    SourceRange = 41 "drop_source_range",
    /// Drop: the flow table has no room for another flow.
    FlowTableFull = 42 "drop_flow_table_full",
    /// Drop: the client's port already talks to the only backends there are through another frontend.
    TupleTaken = 43 "drop_tuple_taken",
    /// Drop: no masquerade port is free for this remote endpoint.
    MasqueradeExhausted = 44 "drop_masquerade_exhausted",
    /// Drop: the output device and the node have no address to masquerade with.
    NoMasqueradeAddress = 45 "drop_no_masquerade_address",
    /// Drop: an answer was due but the limit of refusals is reached.
    RefusalLimited = 46 "drop_refusal_limited",
    /// Drop: an answer was due but could not be built.
    RefusalFailed = 47 "drop_refusal_failed",
    /// Drop: the packet must not be answered (it is a reset, or goes to a group) and has no endpoint.
    NotAnswered = 48 "drop_not_answered",
    /// Drop: the Service's record kept changing while it was read, or its slots named no backend.
    Inconsistent = 49 "drop_inconsistent",
    /// Drop: the packet could not be written.
    Unwritable = 50 "drop_unwritable",
    /// Drop: about to leave the node for an address that only Services have, and nobody has translated it. No Service
    /// has the address, or it was sent in a way that is not served.
    NobodysAddress = 51 "drop_nobodys_address",
    /// Drop: a fragment to a cluster IP came before the first one of its datagram, which has the ports.
    FragmentBeforeFirst = 52 "drop_fragment_before_first",
    /// Drop: the first fragment of this datagram was refused or dropped.
    FragmentOfDropped = 53 "drop_fragment_of_dropped",
    /// Drop: a first fragment that ends within the transport header, or another one that begins there.
    FragmentedHeader = 54 "drop_fragmented_header",
    /// Requests and replies of direct flows that XDP sent on.
    XdpForwarded = 56 "xdp_forwarded",
}

/// Slots in COUNTERS: room for numbers to come.
pub const COUNTER_SLOTS: u32 = 64;

/// Declares drop reasons: each is the counter of the same name, and has its number.
macro_rules! drop_reasons {
    ($($name:ident,)+) => {
        /// Why a packet was dropped. Each reason has its own [`Counter`].
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $(
                #[doc = concat!("See [`Counter::", stringify!($name), "`].")]
                $name = Counter::$name as u8,
            )+
        }

        impl DropReason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The counter of its drops.
            #[inline(always)]
            pub const fn counter(self) -> Counter {
                match self {
                    $(Self::$name => Counter::$name,)+
                }
            }
        }
    };
}

drop_reasons! {
    NoLocalEndpoint,
    SourceRange,
    FlowTableFull,
    TupleTaken,
    MasqueradeExhausted,
    NoMasqueradeAddress,
    RefusalLimited,
    RefusalFailed,
    NotAnswered,
    Inconsistent,
    Unwritable,
    NobodysAddress,
    FragmentBeforeFirst,
    FragmentOfDropped,
    FragmentedHeader,
}

impl DropReason {
    #[inline(always)]
    const fn from_number(number: u8) -> Self {
        let mut at = 0;
        while at < Self::ALL.len() {
            if Self::ALL[at] as u8 == number {
                return Self::ALL[at];
            }
            at += 1;
        }
        Self::Inconsistent
    }
}

#[cfg(test)]
mod tests {
    use super::{DropReason, Refusal, Verdict};

    #[test]
    fn verdicts_survive_being_numbers() {
        let plain = [Verdict::Pass, Verdict::Translate, Verdict::Answer, Verdict::Forward];
        let refusals = Refusal::ALL.iter().copied().map(Verdict::Refuse);
        let drops = DropReason::ALL.iter().copied().map(Verdict::Drop);
        for verdict in plain.into_iter().chain(refusals).chain(drops) {
            assert_eq!(Verdict::from_bits(verdict.to_bits()), verdict);
            assert_eq!(Verdict::action_of(verdict.to_bits()), verdict.action());
        }
    }
}
