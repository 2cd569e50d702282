//! What comes in by lo of a namespace, heard before anybody else gets it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use crate::net::Netns;

/// How long a packet may take from one queue of the kernel to the next.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longer than every packet of a test.
const LONGEST: usize = 4096;

/// An ear in a namespace.
#[derive(Debug)]
pub(super) struct Capture(OwnedFd);

impl Capture {
    /// Begins to listen to all devices of a namespace that has none but lo.
    pub(super) fn begin(netns: &Netns) -> Result<Self> {
        let heard = netns
            .enter(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll))
            .context("listen to lo")?;
        Ok(Self(heard))
    }

    /// The packets heard since the last time, from the Ethernet header on: at least `expected`.
    ///
    /// # Panics
    /// If they do not come before the deadline.
    pub(super) fn take(&self, expected: usize) -> Vec<Vec<u8>> {
        let began = Instant::now();
        let mut packets = Vec::new();
        loop {
            match self.next().expect("packets can be heard") {
                Some(packet) => packets.push(packet),
                None if packets.len() >= expected => return packets,
                None => {
                    assert!(began.elapsed() < DEADLINE, "{expected} packets should come in, and {packets:02x?} did");
                    std::thread::yield_now();
                }
            }
        }
    }

    fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let mut packet = vec![0; LONGEST];
        match recv(self.0.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) => {
                packet.truncate(length);
                Ok(Some(packet))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
