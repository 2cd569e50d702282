//! The two rtnetlink sockets: one that hears of changes, one that asks for everything.

use std::{future::poll_fn, io, task::Poll};

use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::{
    AddressFamily as RouteFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::LinkMessage,
    route::{RouteHeader, RouteMessage},
};
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

use super::{
    decode::{Change, Message, messages},
    topology::Topology,
};

/// Link, traffic control, IPv4 and IPv6 address, IPv4 and IPv6 route: bits of the `RTNLGRP_` numbers.
const GROUPS: u32 = (1 << 0) | (1 << 3) | (1 << 4) | (1 << 8) | (1 << 6) | (1 << 10);

/// Room for what the kernel tells while we are busy: some 3,000 devices at once.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Datagrams of one batch. More wait in the socket, so that what came first is hooked first.
const BATCH: usize = 32;

/// The longest datagram: the kernel fills answers to dumps up to 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// A dump that changes disturb is repeated this often before it counts as failed.
const DUMP_ATTEMPTS: usize = 20;

/// The socket that hears of changes.
pub(super) struct Changes {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What a batch holds.
pub(super) enum Batch {
    /// Changes in their order.
    Changes(Vec<Change>),
    /// The kernel dropped messages because we did not read in time: only a dump tells what holds now.
    Overrun,
}

impl Changes {
    /// Subscribes in the network namespace of the calling thread, which must be inside a runtime.
    pub(super) fn subscribe() -> io::Result<Self> {
        let mut socket = <TokioSocket as AsyncSocket>::new(NETLINK_ROUTE)?;
        // Beyond the limit of ordinary sockets; refused without CAP_NET_ADMIN, then the limit holds.
        if setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(socket.socket_ref(), sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits for a change and takes what else is there.
    pub(super) async fn next(&mut self) -> io::Result<Batch> {
        poll_fn(|context| {
            let mut found = Vec::new();
            for _ in 0..BATCH {
                self.buffer.clear();
                match self.socket.poll_recv(context, &mut self.buffer) {
                    Poll::Ready(Ok(())) => self.decode(&mut found),
                    Poll::Ready(Err(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                        return Poll::Ready(self.discard());
                    }
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if found.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(Batch::Changes(found)))
        })
        .await
    }

    fn decode(&self, found: &mut Vec<Change>) {
        found.extend(messages(&self.buffer).flat_map(|message| match message {
            Message::Changes(changes) => changes,
            Message::Done(_) | Message::Interrupted => Vec::new(),
        }));
    }

    /// Throws away what waits: it is older than the dump that will follow, and has a gap.
    fn discard(&mut self) -> io::Result<Batch> {
        loop {
            self.buffer.clear();
            match self.socket.socket_ref().recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Batch::Overrun),
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads everything there is in the network namespace of the calling thread: some milliseconds for a
/// thousand devices.
///
/// # Errors
/// `EINTR` when the namespace changed during each of several attempts: try again later.
pub(super) fn dump() -> io::Result<Topology> {
    for _ in 0..DUMP_ATTEMPTS {
        let mut topology = Topology::default();
        let mut whole = true;
        for request in requests() {
            whole &= ask(request, &mut topology)?;
        }
        if whole {
            return Ok(topology);
        }
    }
    Err(io::Error::from(Errno::EINTR))
}

fn requests() -> [RouteNetlinkMessage; 4] {
    let routes = |family| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        RouteNetlinkMessage::GetRoute(message)
    };
    [
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        routes(RouteFamily::Inet),
        routes(RouteFamily::Inet6),
    ]
}

/// Asks for one dump and takes it in; `false` if a change disturbed it.
fn ask(request: RouteNetlinkMessage, topology: &mut Topology) -> io::Result<bool> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(10, 0))?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    socket.send(&buffer, 0)?;

    let mut whole = true;
    buffer.reserve(DATAGRAM);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => {
                other?;
            }
        }
        for message in messages(&buffer) {
            match message {
                Message::Changes(changes) => changes.into_iter().for_each(|change| topology.apply(change)),
                Message::Interrupted => whole = false,
                Message::Done(0) => return Ok(whole),
                Message::Done(error) => return Err(io::Error::from_raw_os_error(-error)),
            }
        }
        if !whole {
            return Ok(false);
        }
    }
}
