//! What is heard on the way of a packet: sockets that are told of the ICMP errors about what they sent (`IP_RECVERR`), as
//! traceroute and tracepath have them.

use std::{
    io::{self, IoSliceMut, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::netns::Netns;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// A datagram that asks for an answer.
    Udp,
    /// What opens a connection.
    Tcp,
    /// An ICMP echo request.
    Echo,
}

/// What came of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Who was asked has answered.
    Answer,
    /// An error about it.
    Error {
        /// Who says so.
        by: IpAddr,
        /// What the system makes of it.
        errno: Errno,
        /// Where a link is too small for the packet: the bytes that it takes, else 0.
        takes: u32,
    },
    /// Nothing, in time.
    Nothing,
}

/// How long to wait for anything: many times the way through the lab.
const PATIENCE: Duration = Duration::from_millis(700);

/// As many routers are on no way.
const MOST_HOPS: u32 = 8;

/// A client with one socket, so that what it asks is one flow (but of TCP, where each probe opens a connection).
#[derive(Debug)]
pub struct Tracer {
    netns: Netns,
    probe: Probe,
    to: SocketAddr,
    socket: Socket,
}

impl Tracer {
    /// A client inside `netns` that asks `to`; an echo request has no port.
    pub fn new(netns: &Netns, probe: Probe, to: SocketAddr) -> Result<Self> {
        let socket = open(netns, probe, to).with_context(|| format!("a socket to {to} in {}", netns.label()))?;
        Ok(Self { netns: netns.clone(), probe, to, socket })
    }

    /// Sends `length` bytes of payload over at most so many hops, and waits for what comes of it. A connection has no
    /// payload. Blocks the thread.
    pub fn ask(&mut self, length: usize, hops: u32) -> Result<Heard> {
        if self.probe == Probe::Tcp {
            self.socket = open(&self.netns, self.probe, self.to)?;
        }
        if self.to.is_ipv4() {
            self.socket.set_ttl_v4(hops)?;
        } else {
            self.socket.set_unicast_hops_v6(hops)?;
        }
        match self.exchange(length) {
            Ok(()) => Ok(Heard::Answer),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(Heard::Nothing)
            }
            Err(error) => self.error().with_context(|| format!("{error}, of which nothing is known")),
        }
    }

    fn exchange(&mut self, length: usize) -> io::Result<()> {
        if self.probe == Probe::Tcp {
            return self.socket.connect_timeout(&SockAddr::from(self.to), PATIENCE);
        }
        let mut text = vec![b'.'; length.max(8)];
        if self.probe == Probe::Echo {
            let request = if self.to.is_ipv4() { 8 } else { 128 };
            text[..8].copy_from_slice(&[request, 0, 0, 0, 0, 0, 0, 1]);
        }
        self.socket.send(&text)?;
        // As much of the answer as there is room for: that it comes is enough.
        self.socket.read(&mut text).map(|_length| ())
    }

    /// The error that the socket was told of.
    fn error(&self) -> Result<Heard> {
        let mut payload = [0; 2048];
        let mut parts = [IoSliceMut::new(&mut payload)];
        let mut room = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
        for control in message.cmsgs()? {
            #[expect(clippy::wildcard_enum_match_arm, reason = "there are many kinds of control messages")]
            let (error, by): (libc::sock_extended_err, IpAddr) = match control {
                ControlMessageOwned::Ipv4RecvErr(error, Some(by)) => {
                    (error, Ipv4Addr::from(by.sin_addr.s_addr.to_ne_bytes()).into())
                }
                ControlMessageOwned::Ipv6RecvErr(error, Some(by)) => {
                    (error, Ipv6Addr::from(by.sin6_addr.s6_addr).into())
                }
                _ => continue,
            };
            let errno = Errno::from_raw(i32::try_from(error.ee_errno)?);
            let takes = if errno == Errno::EMSGSIZE { error.ee_info } else { 0 };
            return Ok(Heard::Error { by, errno, takes });
        }
        bail!("an error without its origin")
    }

    /// Asks over one hop, over two, and so on, until there is an answer: what is heard of each.
    pub fn trace(mut self) -> Result<Vec<Heard>> {
        let mut heard = Vec::new();
        while heard.last() != Some(&Heard::Answer) {
            ensure!(heard.len() < MOST_HOPS as usize, "no answer from {}: {heard:?}", self.to);
            heard.push(self.ask(0, heard.len() as u32 + 1)?);
        }
        Ok(heard)
    }
}

fn open(netns: &Netns, probe: Probe, to: SocketAddr) -> Result<Socket> {
    let (kind, protocol) = match probe {
        Probe::Udp => (Type::DGRAM, Protocol::UDP),
        Probe::Tcp => (Type::STREAM, Protocol::TCP),
        Probe::Echo if to.is_ipv4() => (Type::DGRAM, Protocol::ICMPV4),
        Probe::Echo => (Type::DGRAM, Protocol::ICMPV6),
    };
    if probe == Probe::Echo {
        netns.sysctls(&[("ipv4/ping_group_range", "0 0")])?;
    }
    let socket = netns.enter(|| Socket::new(Domain::for_address(to), kind, Some(protocol)))?;
    if to.is_ipv4() {
        setsockopt(&socket, Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, Ipv6RecvErr, &true)?;
    }
    if probe != Probe::Tcp {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(&SockAddr::from(to))?;
    }
    Ok(socket)
}
