//! SCTP clients with the kernel's own sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};

use super::super::{AskError, read_answer};
use crate::net::{Answer, Netns, answerer::LARGEST_DATAGRAM, kernel_sctp::Socket};

/// The client's end of an association.
#[derive(Debug)]
pub(super) struct End {
    netns: Netns,
    from: SocketAddr,
    to: SocketAddr,
    socket: Option<Socket>,
}

impl End {
    /// Of a client in `netns`, from a port (0 for any). It has one address, the one that it would use: SCTP takes all that
    /// a client has otherwise.
    pub(super) fn new(netns: &Netns, to: SocketAddr, port: u16) -> Result<Self, AskError> {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let own = netns.enter(|| {
            let asks_the_way = UdpSocket::bind((any, 0))?;
            asks_the_way.connect(to)?;
            asks_the_way.local_addr()
        })?;
        Ok(Self { netns: netns.clone(), from: SocketAddr::new(own.ip(), port), to, socket: None })
    }

    /// Begins, or begins again as a client does that lost its memory: from the same port, and the peer was not told.
    pub(super) async fn begin(&mut self) -> Result<(), AskError> {
        if let Some(old) = self.socket.take() {
            self.forget(old).map_err(|error| AskError::Local(std::io::Error::other(format!("{error:#}"))))?;
        }
        let socket = self.netns.enter(|| Socket::bind(self.from)).map_err(AskError::Local)?;
        self.from = socket.local()?;
        socket.connect(self.to).await?;
        self.socket = Some(socket);
        Ok(())
    }

    /// The kernel sends ABORT; it gets no way to send it by.
    fn forget(&self, socket: Socket) -> Result<()> {
        let peer = self.to.ip();
        let prefix = format!("{peer}/{}", if peer.is_ipv4() { 32 } else { 128 });
        self.netns.ip(&format!("route add blackhole {prefix}\n"))?;
        socket.abort()?;
        self.netns.ip(&format!("route delete blackhole {prefix}\n")).context("take the route away again")
    }

    fn socket(&self) -> Result<&Socket, AskError> {
        self.socket.as_ref().ok_or_else(|| AskError::Io(std::io::ErrorKind::NotConnected.into()))
    }

    /// The port that it asks from.
    pub(super) fn port(&self) -> u16 {
        self.from.port()
    }

    /// Sends one message and waits for the answer to it.
    pub(super) async fn say(&mut self, text: &str) -> Result<Answer, AskError> {
        let socket = self.socket()?;
        socket.send(text.as_bytes()).await?;
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        loop {
            let length = socket.receive(&mut buffer).await?;
            if length == 0 {
                return Err(AskError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let answer = read_answer(buffer.get(..length).unwrap_or_default())?;
            if answer.asked == text {
                return Ok(answer);
            }
        }
    }

    /// Ends the association in order.
    pub(super) fn shut_down(&mut self) {
        self.socket = None;
    }
}
