//! SCTP clients (RFC 9260): over raw sockets, or with the kernel's own where it has SCTP.

mod kernel;
mod raw;

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, timeout};

use super::{AskError, Client, Failure, Outcome, SourcePort, failure, finish, timed_out};
use crate::net::{Answer, kernel_sctp};

/// An association with one address, from one port.
#[derive(Debug)]
pub struct Association {
    to: SocketAddr,
    deadline: Duration,
    messages: u32,
    end: End,
}

/// Who speaks SCTP for the client.
#[derive(Debug)]
enum End {
    Raw(raw::End),
    Kernel(kernel::End),
}

impl Client {
    /// An SCTP association of its own, one message through it and its answer, and its end.
    pub async fn sctp(&self, to: SocketAddr) -> Outcome {
        let mut association = self.associate(to, SourcePort::Fresh).await?;
        let reply = association.ask().await?;
        association.shut_down().await?;
        Ok(reply)
    }

    /// Opens an SCTP association.
    pub async fn associate(&self, to: SocketAddr, from: SourcePort) -> Result<Association, Failure> {
        let start = Instant::now();
        let end = if kernel_sctp::is_there() {
            let port = match from {
                SourcePort::Fixed(port) => port,
                SourcePort::Fresh => 0,
            };
            kernel::End::new(&self.netns, to, port).map(End::Kernel)
        } else {
            raw::End::new(&self.netns, to, from).await.map(End::Raw)
        };
        let end = end.map_err(|error| failure(start, to, &error))?;
        let mut association = Association { to, deadline: self.deadline, messages: 0, end };
        association.begin().await?;
        Ok(association)
    }
}

impl Association {
    /// Begins, or begins again as a client does that lost its memory: another tag, the same port.
    pub async fn begin(&mut self) -> Result<(), Failure> {
        let (start, to) = (Instant::now(), self.to);
        let begin = async {
            match &mut self.end {
                End::Raw(end) => end.begin().await,
                End::Kernel(end) => end.begin().await,
            }
        };
        done(start, to, timeout(self.deadline, begin).await)
    }

    /// Sends one message and waits for the answer to it.
    pub async fn ask(&mut self) -> Outcome {
        let (start, to) = (Instant::now(), self.to);
        let within = timeout(self.deadline, self.say()).await;
        finish(start, to, within)
    }

    async fn say(&mut self) -> Result<Answer, AskError> {
        self.messages += 1;
        let number = self.messages;
        match &mut self.end {
            End::Raw(end) => end.say(&format!("message {number} of {}", end.port())).await,
            End::Kernel(end) => end.say(&format!("message {number} of {}", end.port())).await,
        }
    }

    /// Ends the association in order.
    pub async fn shut_down(mut self) -> Result<(), Failure> {
        let (start, to) = (Instant::now(), self.to);
        let end = async {
            match &mut self.end {
                End::Raw(end) => end.shut_down().await,
                End::Kernel(end) => {
                    end.shut_down();
                    Ok(())
                }
            }
        };
        done(start, to, timeout(self.deadline, end).await)
    }
}

fn done(
    start: Instant,
    to: SocketAddr,
    within: Result<Result<(), AskError>, tokio::time::error::Elapsed>,
) -> Result<(), Failure> {
    match within {
        Ok(done) => done.map_err(|error| failure(start, to, &error)),
        Err(_elapsed) => Err(timed_out(start, to)),
    }
}
