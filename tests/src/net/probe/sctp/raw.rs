//! SCTP clients over raw sockets.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

use super::super::{AskError, SourcePort, read_answer};
use crate::net::{Answer, Netns, raw_sctp};
use crate::packet::sctp::{Chunk, DATA_HEADER, Message, kind};

/// Ports that clients take one after the other: the kernel hands none out to raw sockets.
const PORTS: std::ops::Range<u16> = 20_000..60_000;
static PORT: AtomicU16 = AtomicU16::new(0);
/// Tags of associations of this process.
static TAG: AtomicU32 = AtomicU32::new(0x7a67_0001);
/// A packet without an answer is sent again after this time.
const AGAIN: Duration = Duration::from_millis(200);
/// Offset of the cookie in INIT ACK: after the fixed fields and the header of its parameter.
const COOKIE: usize = 20;

/// The client's end of an association.
#[derive(Debug)]
pub(super) struct End {
    socket: UdpSocket,
    to: SocketAddr,
    port: u16,
    own_tag: u32,
    peer_tag: u32,
    sequence: u32,
}

impl End {
    /// Of a client in `netns`.
    pub(super) async fn new(netns: &Netns, to: SocketAddr, from: SourcePort) -> Result<Self, AskError> {
        let port = match from {
            SourcePort::Fixed(port) => port,
            SourcePort::Fresh => PORTS.start + PORT.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u16,
        };
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = netns.enter(|| raw_sctp::open(any)).map_err(AskError::Local)?;
        // Connected, so that it gets what the peer sends alone, and is told of ICMP errors.
        socket.connect(SocketAddr::new(to.ip(), 0)).await?;
        Ok(Self { socket, to, port, own_tag: 0, peer_tag: 0, sequence: 0 })
    }

    /// The port that it asks from.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Begins, with a new tag of its own.
    pub(super) async fn begin(&mut self) -> Result<(), AskError> {
        self.own_tag = TAG.fetch_add(1, Ordering::Relaxed);
        self.peer_tag = 0;
        self.sequence = 1;
        let mut init = self.own_tag.to_be_bytes().to_vec();
        init.extend_from_slice(&[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        let answer = self.exchange(Chunk::with(kind::INIT, init), kind::INIT_ACK).await?;
        let field = |at| answer.field(at).ok_or_else(|| AskError::NotAnAnswer("INIT ACK is cut short".into()));
        self.peer_tag = field(0)?;
        let cookie = field(COOKIE)?.to_be_bytes().to_vec();
        self.exchange(Chunk::with(kind::COOKIE_ECHO, cookie), kind::COOKIE_ACK).await?;
        Ok(())
    }

    /// Sends one message and waits for the answer to it.
    pub(super) async fn say(&mut self, text: &str) -> Result<Answer, AskError> {
        self.sequence += 1;
        loop {
            let data = self.exchange(Chunk::data(self.sequence, text.as_bytes()), kind::DATA).await?;
            let answer = read_answer(data.body.get(DATA_HEADER - 4..).unwrap_or_default())?;
            if answer.asked == text {
                return Ok(answer);
            }
        }
    }

    /// Ends the association in order.
    pub(super) async fn shut_down(&mut self) -> Result<(), AskError> {
        self.exchange(Chunk::new(kind::SHUTDOWN), kind::SHUTDOWN_ACK).await?;
        self.send(Chunk::new(kind::SHUTDOWN_COMPLETE)).await
    }

    async fn send(&self, chunk: Chunk) -> Result<(), AskError> {
        let (source, destination) = (self.port, self.to.port());
        let message = Message { source, destination, tag: self.peer_tag, chunks: vec![chunk] };
        self.socket.send(&message.bytes()).await?;
        Ok(())
    }

    /// Sends a chunk, again while nothing comes back, until the wanted one does.
    async fn exchange(&self, chunk: Chunk, wanted: u8) -> Result<Chunk, AskError> {
        loop {
            self.send(chunk.clone()).await?;
            if let Ok(received) = timeout(AGAIN, self.receive(wanted)).await {
                return received;
            }
        }
    }

    async fn receive(&self, wanted: u8) -> Result<Chunk, AskError> {
        let mut buffer = vec![0; 0x1_0000];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            let message = raw_sctp::read(buffer.get(..length).unwrap_or_default(), self.to.is_ipv6())
                .map_err(AskError::NotAnAnswer)?;
            if (message.source, message.destination) != (self.to.port(), self.port) {
                continue; // another client's, in the same namespace
            }
            // Sent back by who knows no association, the tag is the peer's own.
            let reflected = message.chunk(kind::ABORT).is_some_and(|abort| abort.flags & 1 == 1);
            if message.tag != if reflected { self.peer_tag } else { self.own_tag } {
                continue;
            }
            if message.has(kind::ABORT) {
                let known = self.peer_tag != 0;
                let kind = if known { ErrorKind::ConnectionReset } else { ErrorKind::ConnectionRefused };
                return Err(AskError::Io(kind.into()));
            }
            if let Some(chunk) = message.chunk(wanted) {
                return Ok(chunk.clone());
            }
        }
    }
}
