//! ABORT, the answer to SCTP packets. An ICMP error would tell their senders nothing: Linux sends INIT again until the
//! last time, whatever port it hears to be unreachable (`sctp_v4_err` in `net/sctp/input.c`).

use super::{Answer, is_unfinished};
use crate::addr::{Be16, Be32};
use crate::crc32c::Crc;
use crate::packet::Packet;
use crate::parse::Headers;
use crate::wire::sctp::{Chunk, LENGTH, Sctp, TAG_REFLECTED, chunk, signal};

/// Bytes of a packet that has one chunk without content.
const SHORTEST: usize = LENGTH + size_of::<Chunk>();

/// Turns a packet into an ABORT in the name of its receiver, who knows no association. To INIT it has the tag that this
/// asks for (RFC 9260 section 8.4 (3)), to all else the tag that came (section 8.4 (8)). The network header stays, turned
/// around.
#[inline(never)]
pub(super) fn abort<A: Answer, P: Packet>(packet: &mut P, headers: &Headers<A>) -> Option<()> {
    let request: Sctp = packet.read(headers.l4)?;
    let (tag, flags) = if headers.signal == signal::INIT {
        (packet.read::<Be32>(headers.l4 + SHORTEST)?, 0)
    } else {
        (request.tag, TAG_REFLECTED)
    };
    let unfinished = is_unfinished(packet, headers)?;
    packet.resize((headers.l4 + SHORTEST) as u32)?;
    A::turn_around(packet, headers, SHORTEST as u16)?;
    let mut answer = Abort {
        header: Sctp { source: headers.destination_port, destination: headers.source_port, tag, checksum: 0 },
        chunk: Chunk { kind: chunk::ABORT, flags, length: Be16::new(size_of::<Chunk>() as u16) },
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
