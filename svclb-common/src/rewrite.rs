//! Writing another address and port into a packet, with every checksum that covers them.
//!
//! The transport checksum is the hard part: the packet may carry a finished one, or leave it to the
//! device (`CHECKSUM_PARTIAL`: the field holds the sum of the pseudo header), or come with a sum of the
//! whole packet that the device computed (`CHECKSUM_COMPLETE`), and nothing says which. One call of
//! the kernel's helper for the address knows; comparing the field before and after shows which
//! formula it used, and the port's part is then written directly (32 ns in all, where two calls cost
//! 70).
//!
//! SCTP has a CRC in its place, which does not cover the addresses. It is finished, or left to the device with 0 in the
//! field (`CHECKSUM_PARTIAL` with `csum_not_inet`, as SCTP sockets send where the first device can compute it); a packet
//! that stands for several (GSO) is always of the second kind. A sum of the whole packet from the device is not kept: no
//! receiver looks at it, as it says nothing of the CRC.

use crate::addr::{Address, Be16, Endpoint};
use crate::checksum::{add, difference, fold16, is_zero, update, update_partial};
use crate::crc32c;
use crate::packet::Frame;
use crate::parse::{Headers, Network, Parts};
use crate::wire::{ipv4, protocol};

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// Replaces one end of a packet. `None` if the packet could not be written.
#[inline(always)]
pub fn rewrite<A: Network, F: Frame>(packet: &mut F, headers: &Headers<A>, side: Side, to: &Endpoint<A>) -> Option<()> {
    if headers.protocol == protocol::SCTP {
        update_crc(packet, headers, side, to.port)?;
    }
    rewrite_end(packet, headers, side, to)
}

/// [`rewrite`] but for the CRC of SCTP.
#[inline(never)]
fn rewrite_end<A: Network, F: Frame>(packet: &mut F, headers: &Headers<A>, side: Side, to: &Endpoint<A>) -> Option<()> {
    let (from, ends) = match side {
        Side::Source => (headers.sender(), [*to, headers.receiver()]),
        Side::Destination => (headers.receiver(), [headers.sender(), *to]),
    };
    let changed = Changed::by(&from, to);
    A::write_ends(packet, headers, &ends, changed.address, Parts { ports: true, routed: false })?;
    update_transport(packet, headers, changed)
}

/// Replaces both ends of a packet that a router sends on, and takes one of its hops, of which there are more: each checksum
/// is updated once. `None` if the packet could not be written.
#[inline(always)]
pub fn forward<A: Network, F: Frame>(packet: &mut F, headers: &Headers<A>, ends: &[Endpoint<A>; 2]) -> Option<()> {
    if headers.protocol == protocol::SCTP {
        update_crc(packet, headers, Side::Source, ends[0].port)?;
        update_crc(packet, headers, Side::Destination, ends[1].port)?;
    }
    forward_ends(packet, headers, ends)
}

/// [`forward`] but for the CRC of SCTP.
#[inline(never)]
fn forward_ends<A: Network, F: Frame>(packet: &mut F, headers: &Headers<A>, ends: &[Endpoint<A>; 2]) -> Option<()> {
    let [source, destination] = ends;
    let changed = Changed::by(&headers.sender(), source).and(Changed::by(&headers.receiver(), destination));
    let hop = A::write_ends(packet, headers, ends, changed.address, Parts { ports: true, routed: true })?;
    if A::IS_V6 {
        // No checksum makes up for it.
        packet.add_packet_sum(hop);
    }
    update_transport(packet, headers, changed)
}

/// What other addresses and ports change in the sums that cover them.
#[derive(Clone, Copy)]
struct Changed {
    address: u32,
    port: u32,
}

impl Changed {
    #[inline(always)]
    fn by<A: Address>(from: &Endpoint<A>, to: &Endpoint<A>) -> Self {
        Self {
            address: difference(from.address.sum(), to.address.sum()),
            port: difference(from.port.0 as u32, to.port.0 as u32),
        }
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Self { address: add(self.address, other.address), port: add(self.port, other.port) }
    }
}

/// Brings the transport checksum to what was changed.
#[inline(always)]
fn update_transport<A: Network, F: Frame>(packet: &mut F, headers: &Headers<A>, changed: Changed) -> Option<()> {
    if headers.protocol == protocol::SCTP {
        return Some(());
    }
    let at = headers.checksum();
    let field: u16 = packet.read(at)?;
    if headers.protocol == protocol::UDP && field == 0 {
        return Some(()); // sent without a checksum (RFC 768)
    }
    let (sum, there) = if F::PLAIN_CHECKSUMS {
        (update(field, add(changed.address, changed.port)), field)
    } else {
        transport_checksum::<A, F>(packet, at, field, changed)?
    };
    // In UDP 0 would mean "none" (RFC 768).
    let sum = if headers.protocol == protocol::UDP && sum == 0 { 0xffff } else { sum };
    if sum == there { Some(()) } else { packet.write(at, &sum) }
}

/// Brings the CRC of an SCTP packet to another port at one end, unless it is left to the device. A function of its own, so
/// that TCP and UDP do not pay for it, and not called by [`rewrite_end`], whose stack would be below it.
#[inline(never)]
fn update_crc<A: Network, F: Frame>(packet: &mut F, headers: &Headers<A>, side: Side, to: Be16) -> Option<()> {
    let at = headers.checksum();
    let field: u32 = packet.read(at)?;
    if field == 0 && is_partial(packet, at)? {
        return Some(());
    }
    packet.write(at, &crc_after(headers, side, field, to))
}

/// The checksum field of an SCTP packet, finished before, after the port at one end became `to`.
#[inline(always)]
pub fn crc_after<A: Network>(headers: &Headers<A>, side: Side, field: u32, to: Be16) -> u32 {
    let (from, to_end) = match side {
        Side::Source => (headers.source_port, headers.payload),
        Side::Destination => (headers.destination_port, headers.payload - 2),
    };
    field ^ crc32c::difference(from, to, to_end).to_le()
}

/// Replaces one address of a fragment that has no transport header. `None` if the packet could not be written.
#[inline(always)]
pub fn rewrite_address<A: Network, F: Frame>(packet: &mut F, headers: &Headers<A>, side: Side, to: A) -> Option<()> {
    let ends = match side {
        Side::Source => [to, headers.destination],
        Side::Destination => [headers.source, to],
    };
    write_addresses(packet, headers, ends, false)
}

/// Replaces both addresses of a fragment that has no transport header, and takes one of its hops, of which there are more.
/// `None` if the packet could not be written.
#[inline(always)]
pub fn forward_addresses<A: Network, F: Frame>(packet: &mut F, headers: &Headers<A>, ends: [A; 2]) -> Option<()> {
    write_addresses(packet, headers, ends, true)
}

/// A function of its own, whose stack is not its callers'.
#[inline(never)]
fn write_addresses<A: Network, F: Frame>(
    packet: &mut F,
    headers: &Headers<A>,
    [source, destination]: [A; 2],
    routed: bool,
) -> Option<()> {
    let change =
        add(difference(headers.source.sum(), source.sum()), difference(headers.destination.sum(), destination.sum()));
    let ends = [Endpoint::new(source, Be16::ZERO), Endpoint::new(destination, Be16::ZERO)];
    let hop = A::write_ends(packet, headers, &ends, change, Parts { ports: false, routed })?;
    if A::IS_V6 {
        // The transport checksum that makes up for it is in another fragment.
        packet.add_packet_sum(add(hop, change));
    }
    Some(())
}

/// Updates the IPv4 header checksum. The whole header sums to the same as before, so a checksum of the
/// whole packet stays right.
#[inline(always)]
pub fn network_checksum<F: Frame>(packet: &mut F, l3: usize, difference: u32) -> Option<()> {
    let field: u16 = packet.read(l3 + ipv4::CHECKSUM)?;
    packet.write(l3 + ipv4::CHECKSUM, &update(field, difference))
}

/// The transport checksum at `at` after a change of address and port, and what is there by now; `field` is its value before.
#[inline(always)]
fn transport_checksum<A: Address, F: Frame>(
    packet: &mut F,
    at: usize,
    field: u16,
    Changed { address, port }: Changed,
) -> Option<(u16, u16)> {
    // IPv4: the address changes the header checksum too, so a sum of the whole packet moves by what the
    // transport field moves, and the helper must be told (`pseudo`). IPv6 has no header checksum:
    // address and field cancel out (kernel commit ead7f9b8de65), so the helper must not touch that
    // sum; a partial field is then left alone by it and written here.
    packet.add_l4_checksum(at, address, !A::IS_V6)?;
    let after: u16 = packet.read(at)?;
    let full = update(field, address);
    let partial = if A::IS_V6 { field } else { update_partial(field, address) };
    if full == partial {
        // Both formulas agree: the address changes nothing. Let the helper find out for the port.
        packet.add_l4_checksum(at, port, false)?;
        let sum = packet.read(at)?;
        return Some((sum, sum));
    }
    if after == partial {
        // The device adds everything behind the pseudo header, ports included.
        return Some((if A::IS_V6 { update_partial(field, address) } else { after }, after));
    }
    Some((update(after, port), after))
}

/// Whether the checksum of a TCP or UDP frame looks as if a device were to complete it: the field is the sum of the pseudo
/// header. At XDP nothing else says so, and one in 65,536 finished checksums looks the same.
#[inline(always)]
pub fn looks_unfinished<A: Network, F: Frame>(packet: &F, headers: &Headers<A>) -> Option<bool> {
    let field: u16 = packet.read(headers.checksum())?;
    let addresses = add(headers.source.sum(), headers.destination.sum());
    let rest = (headers.protocol as u16).to_be() as u32 + (headers.payload as u16).to_be() as u32;
    Some(field == fold16(add(addresses, rest)))
}

/// Whether the device is to complete the transport checksum at `at`. Slow; for answers, and for SCTP if the field is 0.
#[inline(always)]
pub fn is_partial<F: Frame>(packet: &mut F, at: usize) -> Option<bool> {
    let field: u16 = packet.read(at)?;
    // Any difference that changes a finished checksum will do.
    let probe = 1;
    debug_assert!(!is_zero(probe));
    packet.add_l4_checksum(at, probe, false)?;
    let after: u16 = packet.read(at)?;
    packet.write(at, &field)?;
    Some(after == field)
}
