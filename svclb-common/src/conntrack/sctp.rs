//! The life of an SCTP association (RFC 9260 section 4), seen from between its ends.
//!
//! Verification tags are not checked, as sequence numbers of TCP are not; an INIT counts only with tag 0. States decide
//! how long an idle entry is kept, and nothing else: which backend an association has is a matter of whether that still
//! serves, not of the state.

use super::{Direction, State};
use crate::wire::sctp::signal;

/// State of an entry that begins with this packet of the client.
#[inline(always)]
pub(super) const fn first(says: u8) -> State {
    // What is no INIT comes out of the blue: the backend answers with ABORT (RFC 9260 section 8.4).
    if says == signal::INIT { State::COOKIE_WAIT } else { State::CLOSED }
}

/// The state after a packet that says this ([`signal`]).
#[inline(always)]
pub(super) const fn next(state: State, direction: Direction, says: u8) -> State {
    match says {
        signal::END => State::CLOSED,
        // A client that lost its memory begins again within the association (RFC 9260 section 5.2.2), which goes on
        // until the backend has answered COOKIE ECHO.
        signal::INIT => match (state, direction) {
            (State::CLOSED | State::SHUTTING_DOWN | State::SHUTDOWN_ACKED, Direction::Original) => State::COOKIE_WAIT,
            _ => state,
        },
        signal::COOKIE_ECHO => match state {
            State::COOKIE_WAIT => State::COOKIE_ECHOED,
            _ => state,
        },
        signal::SHUTDOWN => match state {
            State::ASSOCIATED => State::SHUTTING_DOWN,
            _ => state,
        },
        signal::SHUTDOWN_ACK => match state {
            State::ASSOCIATED | State::SHUTTING_DOWN => State::SHUTDOWN_ACKED,
            _ => state,
        },
        signal::INIT_ACK => state,
        // COOKIE ACK, data: the backend has the association, also if an END before was forged or late.
        _ => match (state, direction) {
            (State::COOKIE_ECHOED | State::CLOSED, Direction::Reply) => State::ASSOCIATED,
            _ => state,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{first, next};
    use crate::conntrack::Direction::{Original, Reply};
    use crate::conntrack::State;
    use crate::wire::sctp::signal::{COOKIE_ACK, COOKIE_ECHO, END, INIT, INIT_ACK, OTHER, SHUTDOWN, SHUTDOWN_ACK};

    #[test]
    fn an_association_lives_from_init_to_shutdown_complete() {
        let steps = [
            (Reply, INIT_ACK, State::COOKIE_WAIT),
            (Original, COOKIE_ECHO, State::COOKIE_ECHOED),
            (Reply, COOKIE_ACK, State::ASSOCIATED),
            (Original, OTHER, State::ASSOCIATED),
            (Reply, OTHER, State::ASSOCIATED),
            (Reply, SHUTDOWN, State::SHUTTING_DOWN),
            (Original, OTHER, State::SHUTTING_DOWN),
            (Original, SHUTDOWN_ACK, State::SHUTDOWN_ACKED),
            (Reply, END, State::CLOSED),
        ];
        let mut state = first(INIT);
        assert_eq!(state, State::COOKIE_WAIT);
        for (direction, says, expected) in steps {
            state = next(state, direction, says);
            assert_eq!(state, expected, "after {says:#x}, {direction:?}");
        }
    }

    #[test]
    fn an_init_in_the_middle_does_not_shorten_the_life_of_an_association() {
        assert_eq!(next(State::ASSOCIATED, Original, INIT), State::ASSOCIATED);
        for over in [State::CLOSED, State::SHUTTING_DOWN, State::SHUTDOWN_ACKED] {
            assert_eq!(next(over, Original, INIT), State::COOKIE_WAIT);
        }
    }

    #[test]
    fn what_comes_out_of_the_blue_counts_when_a_backend_answers_it() {
        let state = first(OTHER);
        assert_eq!(state, State::CLOSED);
        assert_eq!(next(state, Reply, END), State::CLOSED);
        assert_eq!(next(state, Original, OTHER), State::CLOSED);
        assert_eq!(next(state, Reply, OTHER), State::ASSOCIATED);
    }

    #[test]
    fn a_backend_cannot_begin_an_association_of_its_client() {
        assert_eq!(next(State::CLOSED, Reply, INIT), State::CLOSED);
    }
}
