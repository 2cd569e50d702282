//! The life of a flow: a pure state machine over what its packets say.
//!
//! Sequence numbers are not checked. A translator that calls a packet invalid for being outside a
//! window it guessed does harm (the peer then sees an untranslated packet and resets a good
//! connection); so every packet of a known flow is translated, and the state only decides how long
//! an idle flow is kept and whether a SYN may start afresh.

mod sctp;

use crate::wire::{protocol, tcp::flag};

/// State of a flow; 4 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct State(pub u8);

impl State {
    /// TCP: the client spoke, the backend has not answered.
    pub const SYN_SENT: Self = Self(0);
    /// TCP: both sides spoke.
    pub const ESTABLISHED: Self = Self(1);
    /// TCP: the client sent FIN.
    pub const CLIENT_CLOSED: Self = Self(2);
    /// TCP: the backend sent FIN.
    pub const BACKEND_CLOSED: Self = Self(3);
    /// TCP: both sent FIN.
    pub const CLOSING: Self = Self(4);
    /// TCP: one side sent RST. SCTP: one side sent ABORT or SHUTDOWN COMPLETE, or there never was more than a packet
    /// of the client out of the blue.
    pub const CLOSED: Self = Self(5);
    /// UDP: only the client spoke.
    pub const UNREPLIED: Self = Self(6);
    /// UDP: both spoke.
    pub const REPLIED: Self = Self(7);
    /// SCTP: the client sent INIT.
    pub const COOKIE_WAIT: Self = Self(8);
    /// SCTP: the client sent COOKIE ECHO.
    pub const COOKIE_ECHOED: Self = Self(9);
    /// SCTP: both sides have the association.
    pub const ASSOCIATED: Self = Self(10);
    /// SCTP: one side sent SHUTDOWN.
    pub const SHUTTING_DOWN: Self = Self(11);
    /// SCTP: the other side sent SHUTDOWN ACK.
    pub const SHUTDOWN_ACKED: Self = Self(12);

    /// Every state with its name and its default timeout in seconds. Those of TCP are Linux
    /// `nf_conntrack`'s (`tcp_timeouts` in `nf_conntrack_proto_tcp.c`), with kube-proxy's 24 h for
    /// established and 1 h for half-closed connections; those of UDP are `nf_conntrack`'s 30 s and
    /// 120 s, those of SCTP its as well (`sctp_timeouts` in `nf_conntrack_proto_sctp.c`: associations
    /// send a HEARTBEAT every 30 s).
    pub const ALL: &[(Self, &'static str, u32)] = &[
        (Self::SYN_SENT, "syn-sent", 60),
        (Self::ESTABLISHED, "established", 86_400),
        (Self::CLIENT_CLOSED, "client-closed", 3_600),
        (Self::BACKEND_CLOSED, "backend-closed", 3_600),
        (Self::CLOSING, "closing", 120),
        (Self::CLOSED, "closed", 10),
        (Self::UNREPLIED, "unreplied", 30),
        (Self::REPLIED, "replied", 120),
        (Self::COOKIE_WAIT, "cookie-wait", 3),
        (Self::COOKIE_ECHOED, "cookie-echoed", 3),
        (Self::ASSOCIATED, "associated", 210),
        (Self::SHUTTING_DOWN, "shutting-down", 3),
        (Self::SHUTDOWN_ACKED, "shutdown-acked", 3),
    ];

    /// State of a flow that begins with this packet of the client. `signal` as in [`next`].
    #[inline(always)]
    pub const fn first(protocol: u8, signal: u8) -> Self {
        match protocol {
            protocol::TCP => Self::SYN_SENT,
            protocol::SCTP => sctp::first(signal),
            _ => Self::UNREPLIED,
        }
    }

    /// Whether a SYN with the same addresses may start a new flow in its place. An established entry
    /// keeps its backend, which answers with a challenge (RFC 5961 section 4.2); so does a SYN that
    /// is sent again.
    #[inline(always)]
    pub const fn gives_way_to_syn(self) -> bool {
        matches!(self, Self::CLOSING | Self::CLOSED)
    }
}

/// Who sent a packet of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the client to the frontend.
    Original,
    /// From the backend to the client.
    Reply,
}

/// The state after a packet. `signal` is what it says of its connection
/// ([`Headers::signal`](crate::parse::Headers::signal)).
#[inline(always)]
pub const fn next(state: State, protocol: u8, direction: Direction, signal: u8) -> State {
    match protocol {
        protocol::TCP => next_of_tcp(state, direction, signal),
        protocol::SCTP => sctp::next(state, direction, signal),
        _ => match direction {
            Direction::Original => state,
            Direction::Reply => State::REPLIED,
        },
    }
}

#[inline(always)]
const fn next_of_tcp(state: State, direction: Direction, flags: u8) -> State {
    if flags & flag::RST != 0 {
        return State::CLOSED;
    }
    if flags & flag::FIN != 0 {
        return match (state, direction) {
            (State::CLOSING | State::CLOSED, _) => state,
            (State::BACKEND_CLOSED, Direction::Original) | (State::CLIENT_CLOSED, Direction::Reply) => State::CLOSING,
            (_, Direction::Original) => State::CLIENT_CLOSED,
            (_, Direction::Reply) => State::BACKEND_CLOSED,
        };
    }
    match (state, direction) {
        (State::SYN_SENT, Direction::Reply) => State::ESTABLISHED,
        // Somebody speaks after a reset: the reset was forged or out of its window.
        (State::CLOSED, Direction::Reply) => State::ESTABLISHED,
        (State::CLOSED, Direction::Original) if flags & flag::SYN == 0 => State::ESTABLISHED,
        _ => state,
    }
}
