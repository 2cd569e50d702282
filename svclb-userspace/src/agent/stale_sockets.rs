//! Connected sockets of the node's own processes whose backend serves no more.
//!
//! The kernel asks nobody again once a socket is connected, so its datagrams would go to an address that may be
//! another pod's soon. Such a UDP socket is closed (`SOCK_DESTROY`): its process gets ECONNABORTED and connects anew,
//! to a backend that serves. A TCP connection ends with its backend, as those of pods do; where its Service asks for
//! cuts, it is closed as well, and the backend gets a reset. Nothing is done to a socket that was not led to a backend
//! here.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData, MapError};
use svclb_common::addr::{Addr4, Addr6, Be16, Endpoint};
use svclb_common::config::{Config, flag as config_flag};
use svclb_common::schema::{BackendRef, Plain, SocketKey, SocketPeer, side};
use svclb_common::service::{backend_state, flag as service_flag};
use svclb_common::wire::protocol;
use tracing::{debug, warn};

use crate::bpf::load::{LoadError, Object};
use crate::bpf::pod::Pod;
use crate::host::sock_diag::{Connected, SockDiag};
use crate::model::FamilyAddress;
use crate::plan::Content;

/// A process that had picked its backend just before that was marked may not have been connected yet.
const STRAGGLERS: Duration = Duration::from_secs(1);

type SocketMap<A> = HashMap<MapData, Pod<SocketKey<A>>, Pod<SocketPeer<A>>>;

/// Which sockets were led to which backends, and the means to close one.
pub(super) struct StaleSockets {
    v4: SocketMap<Addr4>,
    v6: SocketMap<Addr6>,
    diag: Option<SockDiag>,
    again: Option<Instant>,
    /// The kernel cannot close sockets of others; said once.
    cannot: bool,
}

impl StaleSockets {
    /// Takes the tables out of a loaded object.
    pub(super) fn take(object: &mut Object) -> Result<Self, LoadError> {
        Ok(Self {
            v4: object.take_hash("SOCKETS4")?,
            v6: object.take_hash("SOCKETS6")?,
            diag: None,
            again: None,
            cannot: false,
        })
    }

    /// When it is to be looked again.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Closes what is connected to backends that serve no more, if some have just gone or it is time to look again.
    /// Returns how many were closed. Costs one question to the kernel about all connected sockets of the node, of UDP
    /// and where a Service asks for cuts of TCP, and one read for each of them.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        some_went: bool,
        (v4, v6): (&Content<Addr4>, &Content<Addr6>),
    ) -> u64 {
        let now = Instant::now();
        let is_due = self.again.is_some_and(|again| again <= now);
        if !(some_went || is_due) || config.namespace == 0 || self.cannot {
            return 0;
        }
        self.again = some_went.then(|| now + STRAGGLERS);
        let tcp = config.has(config_flag::CUT).then_some(protocol::TCP);
        let closed = [protocol::UDP].into_iter().chain(tcp).map(|protocol| self.close(protocol, v4, v6)).sum();
        match closed {
            Ok(closed) => closed,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                self.cannot = true;
                warn!(
                    "this kernel cannot close sockets (it lacks INET_DIAG_DESTROY): connected sockets of the node's own \
                     processes stay with an endpoint that is gone until they connect again"
                );
                0
            }
            Err(error) => {
                warn!(%error, "sockets that are connected to endpoints that are gone are not closed; trying again");
                self.diag = None;
                self.again = Some(now + STRAGGLERS);
                0
            }
        }
    }

    fn close(&mut self, protocol: u8, v4: &Content<Addr4>, v6: &Content<Addr6>) -> io::Result<u64> {
        if self.diag.is_none() {
            self.diag = Some(SockDiag::open()?);
        }
        let Some(diag) = &mut self.diag else { return Ok(0) };
        let mut closed = 0;
        for socket in diag.connected(protocol)? {
            let is_stale = match socket.peer.ip() {
                IpAddr::V4(ip) => is_stale(&self.v4, v4, protocol, &socket, ip.into()),
                IpAddr::V6(ip) => is_stale(&self.v6, v6, protocol, &socket, ip.into()),
            };
            if is_stale.map_err(io::Error::other)? && diag.close(&socket)? {
                closed += 1;
                debug!(protocol, endpoint = %socket.peer, "a socket of this node is closed: its endpoint serves no more");
            }
        }
        Ok(closed)
    }
}

/// Whether a socket was led to a backend that serves no more and must not go on.
fn is_stale<A: FamilyAddress>(
    map: &SocketMap<A>,
    content: &Content<A>,
    protocol: u8,
    socket: &Connected,
    address: A,
) -> Result<bool, MapError>
where
    SocketKey<A>: Plain,
    SocketPeer<A>: Plain,
{
    let Connected { cookie, peer, .. } = socket;
    let key = SocketKey::new(*cookie, Endpoint::new(address, Be16::new(peer.port())), side::BACKEND);
    match map.get(&Pod(key), 0) {
        Ok(Pod(known)) => Ok(must_end(content, protocol, known.backend)),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the backend serves no more, as [`svclb_common::service::serving`] of the same tables, and the protocol's
/// sockets are not to outlive it. Whose connection it was cannot be told any more once the number has another owner.
fn must_end<A: FamilyAddress>(content: &Content<A>, protocol: u8, reference: BackendRef) -> bool {
    let backend = content.backend(reference.number());
    let is_same = backend.generation == reference.generation();
    if is_same && backend.state == backend_state::SERVING {
        return false;
    }
    protocol == protocol::UDP || (is_same && content.service(backend.service).flags & service_flag::CUT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use svclb_common::schema::{Backend, Service};

    #[test]
    fn udp_never_outlives_its_backend_and_tcp_does_unless_its_service_asks_for_cuts() {
        let backend =
            |generation, state, service| Backend::<Addr4> { generation, state, service, ..Backend::default() };
        let (serving, gone) = (backend_state::SERVING, backend_state::GONE);
        let content = Content {
            services: vec![Service::default(), Service { flags: service_flag::CUT, ..Service::default() }],
            backends: vec![backend(7, serving, 1), backend(7, gone, 0), backend(7, gone, 1)],
            ..Content::default()
        };
        let ends = |protocol, number, generation| must_end(&content, protocol, BackendRef::new(number, generation));
        let of_both = |number, generation| [protocol::UDP, protocol::TCP].map(|own| ends(own, number, generation));
        assert_eq!(of_both(0, 7), [false, false], "it serves");
        assert_eq!(of_both(0, 6), [true, false], "the number is another's, who serves");
        assert_eq!(of_both(1, 7), [true, false], "its Service drains");
        assert_eq!(of_both(2, 7), [true, true], "its Service cuts");
        assert_eq!(of_both(9, 1), [true, false], "nobody ever wrote it");
    }
}
