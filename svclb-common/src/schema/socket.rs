//! SOCKETS: what the sockets of the node's own processes were led to.

use super::BackendRef;
use crate::addr::{Address, Be16, Endpoint};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Which end of a socket's conversation a key of SOCKETS names.
pub mod side {
    /// What the process addressed; the value is the backend that it got.
    pub const FRONTEND: u8 = 1;
    /// The backend; the value is what the process addressed.
    pub const BACKEND: u8 = 2;
}

/// Key of SOCKETS: a socket of this node and a peer of it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct SocketKey<A> {
    /// The kernel's cookie of the socket, which no other socket ever has, the lower half first.
    pub cookie: [u32; 2],
    /// The peer's address.
    pub address: A,
    /// The peer's port.
    pub port: Be16,
    /// One of [`side`].
    pub side: u8,
    /// Always 0.
    pub zero: u8,
}

impl<A: Address> SocketKey<A> {
    /// Key of a socket and one of its peers.
    #[inline(always)]
    pub const fn new(cookie: u64, peer: Endpoint<A>, side: u8) -> Self {
        Self { cookie: [cookie as u32, (cookie >> 32) as u32], address: peer.address, port: peer.port, side, zero: 0 }
    }
}

/// Value of SOCKETS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct SocketPeer<A> {
    /// Address of the other end.
    pub address: A,
    /// Its port.
    pub port: Be16,
    /// Always 0.
    pub zero: u16,
    /// The backend's number and generation.
    pub backend: BackendRef,
    /// Tick of the last datagram, at a coarse grain.
    pub seen: u32,
}
