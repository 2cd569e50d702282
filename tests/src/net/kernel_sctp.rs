//! SCTP sockets of the kernel, one association each (RFC 6458 section 4), where it has SCTP.
//!
//! Few kernels have: Debian's have it as a module, see `cargo xtask vm`. One that has answers every packet itself, so
//! that raw sockets ([`super::raw_sctp`]) are of use only where it has not.

use std::{fs, io, io::Read as _, net::SocketAddr, path::Path, time::Duration};

use socket2::{Domain, Protocol, SockAddr, SockRef, Type};
use tokio::{io::Interest, net::UdpSocket};

/// Whether this kernel has SCTP. A module that is not loaded does not count.
pub(super) fn is_there() -> bool {
    Path::new("/proc/sys/net/sctp").is_dir()
}

/// How many packets with a wrong checksum have come into the calling thread's network namespace.
pub(super) fn damaged_packets() -> io::Result<u64> {
    let counters = fs::read_to_string("/proc/thread-self/net/sctp/snmp")?;
    let count = counters.lines().find_map(|line| line.strip_prefix("SctpChecksumErrors")?.trim().parse().ok());
    count.ok_or_else(|| io::Error::other("the kernel does not count wrong checksums of SCTP"))
}

/// Associations that may wait for being accepted.
const BACKLOG: i32 = 4096;

/// The kernel tells a socket that waits for data of an ABORT by an error alone.
const READABLE: Interest = Interest::READABLE.add(Interest::ERROR);
const WRITABLE: Interest = Interest::WRITABLE.add(Interest::ERROR);

/// A socket, of the network namespace that its maker was in. Dropping it ends its association in order;
/// nobody is told when the peer has agreed.
///
/// Whatever its type, to wait for it is as for one for datagrams.
#[derive(Debug)]
pub(super) struct Socket(UdpSocket);

impl Socket {
    /// One at this address; port 0 stands for any that is free.
    pub(super) fn bind(at: SocketAddr) -> io::Result<Self> {
        let socket =
            socket2::Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::from(libc::IPPROTO_SCTP)))?;
        // The port of an association that was ended a moment ago.
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        Self::ready(socket)
    }

    /// One that waits for associations at this address.
    pub(super) fn listen(at: SocketAddr) -> io::Result<Self> {
        let socket = Self::bind(at)?;
        socket.own().listen(BACKLOG)?;
        Ok(socket)
    }

    fn ready(socket: socket2::Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    fn own(&self) -> SockRef<'_> {
        SockRef::from(&self.0)
    }

    /// The next association that somebody has begun.
    pub(super) async fn accept(&self) -> io::Result<Self> {
        let (socket, _peer) = self.0.async_io(READABLE, || self.own().accept()).await?;
        Self::ready(socket)
    }

    /// Opens an association.
    pub(super) async fn connect(&self, to: SocketAddr) -> io::Result<()> {
        match self.own().connect(&SockAddr::from(to)) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            done => return done,
        }
        let state = || match self.own().take_error()? {
            Some(error) => Err(error),
            None if self.peer().is_ok() => Ok(()),
            None => Err(io::ErrorKind::WouldBlock.into()),
        };
        self.0.async_io(WRITABLE, state).await
    }

    /// Sends a message.
    pub(super) async fn send(&self, message: &[u8]) -> io::Result<()> {
        let sent = self.0.async_io(WRITABLE, || self.own().send(message)).await?;
        if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Waits for a message; its length, 0 when the peer has ended the association.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(READABLE, || (&*self.own()).read(buffer)).await
    }

    /// Ends the association at once, by ABORT.
    pub(super) fn abort(self) -> io::Result<()> {
        self.own().set_linger(Some(Duration::ZERO))
    }

    /// Its own end.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        inet(&self.own().local_addr()?)
    }

    /// The end of its peer.
    pub(super) fn peer(&self) -> io::Result<SocketAddr> {
        inet(&self.own().peer_addr()?)
    }
}

fn inet(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("an address of another family"))
}
