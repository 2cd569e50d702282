//! What the chunks of an SCTP packet say of its association.

use crate::packet::Frame;
use crate::wire::sctp::{Chunk, LENGTH, Sctp, chunk, signal, signal_of};

/// Chunks that are looked at. INIT, INIT ACK and SHUTDOWN COMPLETE stand alone, COOKIE ECHO and COOKIE ACK come first
/// (RFC 9260 sections 5.1, 6.10), so only an ABORT, SHUTDOWN or SHUTDOWN ACK may stand behind others (SACK, say); one
/// that is not seen leaves an entry to its timeout, no more.
const MAX_CHUNKS: usize = 4;

/// What a packet says of its association: the first chunk that says something, [`signal::OTHER`] if none does.
/// `payload`: bytes from the common header at `l4` to the end of the packet. A function of its own, so that TCP and UDP
/// do not pay for it.
#[inline(never)]
pub(super) fn signal<F: Frame>(packet: &F, header: &Sctp, l4: usize, payload: u32) -> u8 {
    let mut at = LENGTH;
    let mut read = 0;
    while read < MAX_CHUNKS && at + size_of::<Chunk>() <= payload as usize {
        let Some(next) = packet.read::<Chunk>(l4 + at) else { break };
        if next.kind == chunk::DATA {
            break;
        }
        let says = signal_of(next.kind);
        if says == signal::INIT {
            // With another tag it is of no association, and thrown away by everybody (RFC 9260 section 8.5.1 A).
            return if header.tag.0 == 0 { says } else { signal::OTHER };
        }
        if says != signal::OTHER {
            return says;
        }
        // A length below that of its own header is nonsense; the next chunk is then looked for where it may be.
        at += (next.length.get() as usize).max(size_of::<Chunk>()).next_multiple_of(4);
        read += 1;
    }
    signal::OTHER
}
