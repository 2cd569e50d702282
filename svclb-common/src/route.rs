//! Where the node's routing tables lead a packet, for packets that pass its IP stack by.

use crate::addr::{Address, Endpoint};
use crate::wire::ethernet::Mac;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What [`Route::reach`] says.
pub mod reach {
    /// Not to be sent on by us: it is for the node itself, has no route, or goes a way that only the stack knows.
    pub const STACK: u32 = 0;
    /// The hardware address of the next hop is known.
    pub const KNOWN: u32 = 1;
    /// There is a device and a next hop, whose hardware address has to be asked for first.
    pub const ASKED: u32 = 2;
    /// There is a device, but the packet is too long for the way.
    pub const TOO_LONG: u32 = 3;
}

/// The answer of the routing tables. Plain integers, all of them always written, as it stands in memory that is used
/// again.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Route {
    /// One of [`reach`].
    pub reach: u32,
    /// Index of the output device; 0 with [`reach::STACK`].
    pub device: u32,
    /// The next hop, of IPv4 in the first word. In network order.
    pub next_hop: [u32; 4],
    /// 1 if the next hop is an IPv6 address, as it may be of an IPv4 packet; else 0.
    pub next_hop_is_v6: u32,
    /// 1 if the packet is put into the pod behind the device, past the device's own queue; else 0. The datapath writes it.
    pub into_pod: u32,
    /// Hardware addresses of the next hop and of the output device; zero unless [`reach::KNOWN`].
    pub macs: [Mac; 2],
}

/// A question to the routing tables, and its answer: a packet as the stack would see it between the two halves of its
/// translation.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Trip<A> {
    /// Who sends it.
    pub from: Endpoint<A>,
    /// Who is to get it.
    pub to: Endpoint<A>,
    /// IP protocol number.
    pub protocol: u8,
    /// Type of service, or traffic class.
    pub class: u8,
    /// Length of the IP packet in bytes; of one that stands for several, that of the longest.
    pub length: u16,
    /// Index of the device by which routing sees it come ([`crate::schema::Device::input`]).
    pub input: u32,
    /// The answer.
    pub route: Route,
}

impl<A: Address> Trip<A> {
    /// Whether routing leads the packet out of some device, be it too long or not.
    #[inline(always)]
    pub const fn leads_on(&self) -> bool {
        self.route.reach != reach::STACK
    }

    /// Whether the packet may take the way at once.
    #[inline(always)]
    pub const fn is_open(&self) -> bool {
        matches!(self.route.reach, reach::KNOWN | reach::ASKED)
    }
}
