//! Answering a packet that nobody serves: a TCP reset, ABORT in SCTP ([`sctp`]), ICMP port unreachable for the rest.
//!
//! The packet is turned into its own answer and goes back where it came from: out of the device by which it entered, or
//! in by the device by which it was about to leave. The answer
//! is right whatever state the checksum was in: where it was left to the device
//! (`CHECKSUM_PARTIAL`), the device will still complete it after us. In a reset that is what we want;
//! in a quotation it changes two bytes after our ICMP checksum was computed, in a way that is known
//! beforehand: the quoted transport part then sums to the complement of what stands in the field now.
//!
//! Resets, packets that end an SCTP association, ICMP and packets to groups are never answered (RFC 1122 section 3.2.2), and the number of
//! answers is limited.

mod sctp;

use super::reset::Reset;
use super::{Work, drop};
use crate::addr::{Addr4, Addr6, Be16};
use crate::checksum::{add, fold16, sum};
use crate::env::{Env, Tables};
use crate::packet::Packet;
use crate::parse::{Headers, Network};
use crate::rewrite::is_partial;
use crate::verdict::{DropReason, Refusal, Verdict};
use crate::wire::ethernet::{Ethernet, Mac};
use crate::wire::{icmp, ipv4, ipv6, protocol, tcp, udp};
use zerocopy::IntoBytes;

/// Hops that an answer may take; what Linux uses for its own packets.
const HOPS: u8 = 64;
/// Bytes of a packet that an answer quotes at most: the answer then has 576 bytes (RFC 1812 section
/// 4.3.2.3).
const QUOTE4: u32 = 548;
/// The same for IPv6: 1,280 bytes in all (RFC 4443 section 2.4 c).
const QUOTE6: u32 = 1232;

/// Turns `packet` into its refusal. Each kind of answer is a function of its own, as one is all that fits on the stack.
#[inline(never)]
pub fn refuse<A: Answer, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    work: &Work<A>,
    why: Refusal,
) -> Verdict {
    let headers = &work.headers;
    if let Some(reason) = unanswered(env, headers) {
        return drop(env, reason);
    }
    let done = match headers.protocol {
        protocol::TCP => reset(packet, headers),
        protocol::SCTP => sctp::abort(packet, headers),
        _ => unreachable(packet, headers),
    };
    if done.is_none() || (work.attachment.ethernet && turn_around(packet).is_none()) {
        return drop(env, DropReason::RefusalFailed);
    }
    env.count(why.counter());
    Verdict::Refuse(why)
}

/// Why a packet gets no answer, if it gets none.
#[inline(never)]
pub(super) fn unanswered<A: Answer, E: Env>(env: &E, headers: &Headers<A>) -> Option<DropReason> {
    if headers.is_reset() || headers.source.is_group() || headers.destination.is_group() {
        return Some(DropReason::NotAnswered);
    }
    let second = env.now().0.checked_div(env.config().ticks(1)).unwrap_or(0);
    (!env.may_refuse(second)).then_some(DropReason::RefusalLimited)
}

/// Swaps the MAC addresses.
#[inline(always)]
pub(super) fn turn_around<P: Packet>(packet: &mut P) -> Option<()> {
    let ethernet: Ethernet = packet.read(0)?;
    let macs: [Mac; 2] = [ethernet.source, ethernet.destination];
    packet.write(0, &macs)
}

/// Sum of the pseudo header of a packet from `source` to `destination`.
#[inline(always)]
pub(super) fn pseudo_header<A: Network>(source: A, destination: A, protocol: u8, length: u32) -> u32 {
    let ends = add(source.sum(), destination.sum());
    add(ends, add(Be16::new(protocol as u16).0 as u32, Be16::new(length as u16).0 as u32))
}

/// Turns a packet into the TCP reset that answers it.
#[inline(never)]
fn reset<A: Answer, P: Packet>(packet: &mut P, headers: &Headers<A>) -> Option<()> {
    let request: tcp::Tcp = packet.read(headers.l4)?;
    let partial = is_partial(packet, headers.checksum())?;
    packet.resize((headers.l4 + tcp::LENGTH) as u32)?;
    let mut answer = Reset { from: headers.receiver(), to: headers.sender(), partial, ..Reset::default() };
    answer.answers(headers, &request);
    answer.write(packet, headers)
}

/// Whether the device is to complete the checksum. A CRC of SCTP is then 0 yet; in UDP 0 means that there is none.
#[inline(never)]
fn is_unfinished<A: Answer, P: Packet>(packet: &mut P, headers: &Headers<A>) -> Option<bool> {
    let at = headers.checksum();
    let is_zero =
        if headers.protocol == protocol::SCTP { packet.read::<u32>(at)? == 0 } else { packet.read::<u16>(at)? == 0 };
    Some(is_zero == (headers.protocol == protocol::SCTP) && is_partial(packet, at)?)
}

/// Makes an ICMP port unreachable that quotes the packet.
#[inline(never)]
fn unreachable<A: Answer, P: Packet>(packet: &mut P, headers: &Headers<A>) -> Option<()> {
    let partial = is_unfinished(packet, headers)?;
    let header = (headers.l4 - headers.l3) as u32;
    let there = packet.length().checked_sub(headers.l3 as u32)?;
    let limit = if A::IS_V6 { QUOTE6 } else { QUOTE4 };
    // Of a packet that stands for several, no more than what every quotation has.
    let limit = if packet.segment() != 0 { header + udp::LENGTH as u32 } else { limit };
    let quote = (header + headers.payload).min(there).min(limit);
    if quote < header + udp::LENGTH as u32 {
        return None;
    }
    packet.resize(headers.l3 as u32 + quote)?;
    let network = packet.sum(headers.l3, header as usize)?;
    let transport = if partial {
        !packet.read::<u16>(headers.checksum())? as u32
    } else {
        packet.sum(headers.l4, (quote - header) as usize)?
    };
    packet.insert(headers.l3, A::ERROR_LENGTH)?;
    A::write_error(packet, headers, quote, add(network, transport))
}

/// What differs between the families in an answer.
pub trait Answer: Network {
    /// Bytes of network and ICMP header before the quotation.
    const ERROR_LENGTH: u32;

    /// Makes the network header that of a packet of the node's own between these ends, source first, with a payload of
    /// `length` bytes.
    fn readdress<P: Packet>(packet: &mut P, headers: &Headers<Self>, ends: (Self, Self), length: u16) -> Option<()>;

    /// Turns the network header around for a payload of `length` bytes.
    #[inline(always)]
    fn turn_around<P: Packet>(packet: &mut P, headers: &Headers<Self>, length: u16) -> Option<()> {
        Self::readdress(packet, headers, (headers.destination, headers.source), length)
    }

    /// Writes network and ICMP header in front of a quotation of `quote` bytes with this sum.
    fn write_error<P: Packet>(packet: &mut P, headers: &Headers<Self>, quote: u32, quoted: u32) -> Option<()>;
}

impl Answer for Addr4 {
    const ERROR_LENGTH: u32 = 28;

    #[inline(always)]
    fn readdress<P: Packet>(packet: &mut P, headers: &Headers<Self>, ends: (Self, Self), length: u16) -> Option<()> {
        let mut header: ipv4::Ipv4 = packet.read(headers.l3)?;
        let header_length = headers.l4 - headers.l3;
        header.total_length = Be16::new(header_length as u16 + length);
        header.identification = Be16::ZERO;
        header.fragment = Be16::new(0x4000);
        header.ttl = HOPS;
        header.checksum = 0;
        (header.source, header.destination) = ends;
        packet.write(headers.l3, &header)?;
        let checksum = !fold16(packet.sum(headers.l3, header_length)?);
        packet.write(headers.l3 + ipv4::CHECKSUM, &checksum)
    }

    #[inline(never)]
    fn write_error<P: Packet>(packet: &mut P, headers: &Headers<Self>, quote: u32, quoted: u32) -> Option<()> {
        let mut header = ipv4::Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_length: Be16::new((Self::ERROR_LENGTH + quote) as u16),
            identification: Be16::ZERO,
            fragment: Be16::ZERO,
            ttl: HOPS,
            protocol: protocol::ICMP,
            checksum: 0,
            source: headers.destination,
            destination: headers.source,
        };
        header.checksum = !fold16(sum(header.as_bytes()));
        let mut message = icmp::Icmp { kind: icmp::UNREACHABLE, code: icmp::PORT_UNREACHABLE, checksum: 0, rest: 0 };
        message.checksum = !fold16(add(sum(message.as_bytes()), quoted));
        packet.write(headers.l3, &header)?;
        packet.write(headers.l3 + 20, &message)
    }
}

impl Answer for Addr6 {
    const ERROR_LENGTH: u32 = 48;

    #[inline(always)]
    fn readdress<P: Packet>(packet: &mut P, headers: &Headers<Self>, ends: (Self, Self), length: u16) -> Option<()> {
        let mut header: ipv6::Ipv6 = packet.read(headers.l3)?;
        let extensions = headers.l4 - headers.l3 - ipv6::LENGTH;
        header.payload_length = Be16::new(extensions as u16 + length);
        header.hop_limit = HOPS;
        (header.source, header.destination) = ends;
        packet.write(headers.l3, &header)
    }

    #[inline(never)]
    fn write_error<P: Packet>(packet: &mut P, headers: &Headers<Self>, quote: u32, quoted: u32) -> Option<()> {
        let header = ipv6::Ipv6 {
            version_class_flow: [0x60, 0, 0, 0],
            payload_length: Be16::new((icmp::LENGTH as u32 + quote) as u16),
            next_header: protocol::ICMPV6,
            hop_limit: HOPS,
            source: headers.destination,
            destination: headers.source,
        };
        let mut message =
            icmp::Icmp { kind: icmp::V6_UNREACHABLE, code: icmp::V6_PORT_UNREACHABLE, checksum: 0, rest: 0 };
        let pseudo = pseudo_header(header.source, header.destination, protocol::ICMPV6, icmp::LENGTH as u32 + quote);
        message.checksum = !fold16(add(add(pseudo, sum(message.as_bytes())), quoted));
        packet.write(headers.l3, &header)?;
        packet.write(headers.l3 + ipv6::LENGTH, &message)
    }
}
