//! TCP resets: what one says, and writing it over the packet that caused it.

use super::refuse::{Answer, pseudo_header};
use crate::addr::{Be16, Be32, Endpoint};
use crate::checksum::{add, fold16, sum};
use crate::packet::Packet;
use crate::parse::Headers;
use crate::wire::{protocol, tcp};
use zerocopy::IntoBytes;

/// A reset.
#[derive(Clone, Copy, Default, Debug)]
pub struct Reset<A> {
    /// In whose name it is.
    pub from: Endpoint<A>,
    /// Who gets it.
    pub to: Endpoint<A>,
    /// Sequence number.
    pub sequence: Be32,
    /// Acknowledgement number.
    pub acknowledgement: Be32,
    /// TCP flags.
    pub flags: u8,
    /// The device is to complete the packet's checksum.
    pub partial: bool,
}

/// Sequence numbers that a segment takes (RFC 9293 section 3.4).
#[inline(always)]
fn occupied<A>(headers: &Headers<A>, segment: &tcp::Tcp) -> u32 {
    headers.payload.saturating_sub((segment.offset >> 4) as u32 * 4)
        + (segment.flags & tcp::flag::SYN != 0) as u32
        + (segment.flags & tcp::flag::FIN != 0) as u32
}

impl<A: Answer> Reset<A> {
    /// Makes it say what answers a segment (RFC 9293 section 3.10.7.1): it begins where the segment's sender waits for the
    /// next byte, so it is taken.
    #[inline(always)]
    pub fn answers(&mut self, headers: &Headers<A>, segment: &tcp::Tcp) {
        if segment.flags & tcp::flag::ACK != 0 {
            self.sequence = segment.acknowledgement;
            self.acknowledgement = Be32(0);
            self.flags = tcp::flag::RST;
        } else {
            self.sequence = Be32(0);
            self.acknowledgement = Be32::new(segment.sequence.get().wrapping_add(occupied(headers, segment)));
            self.flags = tcp::flag::RST | tcp::flag::ACK;
        }
    }

    /// Makes it say what goes on in place of a segment, in the name of its sender.
    ///
    /// The receiver takes a reset at the byte that it waits for, and answers others in its window by a challenge, an
    /// acknowledgement that names this byte (RFC 5961 section 3.2). In order that byte is the first of the segment. A
    /// segment without any is mostly a keepalive, which begins one byte early on purpose (RFC 9293 section 3.8.4); a mere
    /// acknowledgement is challenged.
    #[inline(always)]
    pub fn replaces(&mut self, headers: &Headers<A>, segment: &tcp::Tcp) {
        let early = (occupied(headers, segment) == 0) as u32;
        self.sequence = Be32::new(segment.sequence.get().wrapping_add(early));
        self.acknowledgement = segment.acknowledgement;
        self.flags = tcp::flag::RST | segment.flags & tcp::flag::ACK;
    }

    /// Writes it over a packet that has been cut to the length of one: the network header stays with other addresses, so
    /// that the transport header keeps its offset, on which the device's work depends.
    #[inline(never)]
    pub fn write<P: Packet>(&self, packet: &mut P, headers: &Headers<A>) -> Option<()> {
        A::readdress(packet, headers, (self.from.address, self.to.address), tcp::LENGTH as u16)?;
        if A::IS_V6 && headers.fragment != 0 {
            packet.write(headers.fragment as usize, &Be16::ZERO)?; // a reset is whole (RFC 6946)
        }
        let mut header = tcp::Tcp {
            source: self.from.port,
            destination: self.to.port,
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            offset: 5 << 4,
            flags: self.flags,
            window: Be16::ZERO,
            checksum: 0,
            urgent: Be16::ZERO,
        };
        let pseudo = pseudo_header(self.from.address, self.to.address, protocol::TCP, tcp::LENGTH as u32);
        header.checksum = if self.partial { fold16(pseudo) } else { !fold16(add(pseudo, sum(header.as_bytes()))) };
        packet.write(headers.l4, &header)
    }
}
