//! What is particular to answers to SCTP packets: ABORT, and quotations whose CRC is not computed yet.

use super::{Answer, is_unfinished};
use crate::addr::{Be16, Be32};
use crate::checksum::add;
use crate::crc32c::Crc;
use crate::packet::Packet;
use crate::parse::Headers;
use crate::wire::sctp::{Chunk, LENGTH, Sctp, TAG_REFLECTED, chunk};

/// Bytes of an SCTP packet with an unfinished CRC that are quoted: the common header, and of an INIT the tag by which its
/// sender knows it again (RFC 9260 section 10).
pub(super) const QUOTED: usize = SHORTEST + size_of::<Be32>();
/// Bytes of a packet that has one chunk without content.
const SHORTEST: usize = LENGTH + size_of::<Chunk>();

/// Internet sum of a quotation of `length` bytes, a multiple of four and at most [`QUOTED`], from the common header on, as it will be when the device has computed the
/// CRC of just these bytes.
#[inline(never)]
pub(super) fn unfinished_sum<A: Answer, P: Packet>(packet: &P, headers: &Headers<A>, length: u32) -> Option<u32> {
    let (mut crc, mut sum) = (Crc::START, 0);
    let mut at = 0;
    while at < QUOTED && at < length as usize {
        let word: u32 = packet.read(headers.l4 + at)?;
        crc = crc.and(word);
        sum = add(sum, word);
        at += size_of::<u32>();
    }
    Some(add(sum, crc.field()))
}

/// Turns a packet into an ABORT in the name of its receiver, who does not know the association: it sends the tag back
/// that it got (RFC 9260 section 8.4 (8)). The network header stays, turned around.
#[inline(never)]
pub(super) fn abort<A: Answer, P: Packet>(packet: &mut P, headers: &Headers<A>) -> Option<()> {
    let request: Sctp = packet.read(headers.l4)?;
    let unfinished = is_unfinished(packet, headers)?;
    packet.resize((headers.l4 + SHORTEST) as u32)?;
    A::turn_around(packet, headers, SHORTEST as u16)?;
    let mut answer = Abort {
        header: Sctp {
            source: headers.destination_port,
            destination: headers.source_port,
            tag: request.tag,
            checksum: 0,
        },
        chunk: Chunk { kind: chunk::ABORT, flags: TAG_REFLECTED, length: Be16::new(size_of::<Chunk>() as u16) },
    };
    if !unfinished {
        let words: [u32; SHORTEST / size_of::<u32>()] = zerocopy::transmute!(answer);
        answer.header.checksum = words.iter().fold(Crc::START, |crc, word| crc.and(*word)).field();
    }
    packet.write(headers.l4, &answer)
}

/// A packet with nothing but an ABORT.
#[repr(C)]
#[derive(Clone, Copy, zerocopy::IntoBytes, zerocopy::Immutable)]
struct Abort {
    header: Sctp,
    chunk: Chunk,
}
