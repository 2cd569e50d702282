//! Cutting a packet into fragments, and putting fragments together again.

/// Length of the Ethernet header, which all packets here begin with.
const ETHERNET: usize = 14;
/// Length of the fixed IPv6 header.
const IPV6: usize = 40;

/// How a packet is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// What the datagram is called.
    pub id: u16,
    /// Bytes of the datagram in each fragment but the last; a multiple of 8.
    pub size: usize,
    /// In IPv6: the fragment header stands behind an extension header of 8 bytes, which each fragment then has, rather
    /// than before it.
    pub behind_options: bool,
}

impl Cut {
    /// Pieces of this many bytes.
    pub const fn pieces(size: usize) -> Self {
        Self { id: 0x1234, size, behind_options: false }
    }

    /// The same under another name.
    #[must_use]
    pub const fn named(self, id: u16) -> Self {
        Self { id, ..self }
    }

    /// Cuts a packet without VLAN tags. With a size that the whole fits in: an atomic fragment in IPv6 (RFC 6946), the
    /// packet itself in IPv4.
    ///
    /// # Panics
    /// If the size is no multiple of 8.
    pub fn of(self, packet: &[u8]) -> Vec<Vec<u8>> {
        assert_eq!(self.size % 8, 0, "only the last fragment may have any length");
        let body = self.headers(packet);
        let (headers, datagram) = packet.split_at(body);
        let count = datagram.chunks(self.size).count();
        let piece = |(at, bytes): (usize, &[u8])| self.fragment(headers, at * self.size, at + 1 < count, bytes);
        datagram.chunks(self.size).enumerate().map(piece).collect()
    }

    /// Where what is cut begins.
    fn headers(self, packet: &[u8]) -> usize {
        if is_v6(packet) {
            ETHERNET + IPV6 + if self.behind_options { 8 } else { 0 }
        } else {
            ETHERNET + usize::from(packet[ETHERNET] & 15) * 4
        }
    }

    /// One fragment: `bytes` of the datagram from `offset` on, behind `headers`, whatever sense that makes.
    ///
    /// # Panics
    /// If the headers are too short to be some.
    pub fn fragment(self, headers: &[u8], offset: usize, more: bool, bytes: &[u8]) -> Vec<u8> {
        let mut out = headers.to_vec();
        if is_v6(headers) {
            let next = if self.behind_options { ETHERNET + IPV6 } else { ETHERNET + 6 };
            let field = (offset as u16 | u16::from(more)).to_be_bytes();
            let id = u32::from(self.id).to_be_bytes();
            out.extend_from_slice(&[headers[next], 0]);
            out.extend_from_slice(&field);
            out.extend_from_slice(&id);
            out[next] = 44;
            out.extend_from_slice(bytes);
            let length = (out.len() - ETHERNET - IPV6) as u16;
            out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
        } else {
            out.extend_from_slice(bytes);
            let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            let length = (out.len() - ETHERNET) as u16;
            out[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
            out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&self.id.to_be_bytes());
            out[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&field.to_be_bytes());
            seal(&mut out, headers.len());
        }
        out
    }
}

fn is_v6(packet: &[u8]) -> bool {
    packet[ETHERNET] >> 4 == 6
}

/// Computes the checksum of the IPv4 header that ends at `end`.
fn seal(packet: &mut [u8], end: usize) {
    packet[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = super::plain_checksum(&packet[ETHERNET..end], 10);
    packet[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
}

/// What a fragment's headers say.
struct Place {
    /// Where the headers that every fragment has end.
    headers: usize,
    /// Where the piece of the datagram begins.
    body: usize,
    /// Its offset in the datagram.
    offset: usize,
    /// Others follow.
    more: bool,
    /// Addresses and name.
    datagram: Vec<u8>,
}

impl Place {
    /// Reads the headers of a fragment, and checks the checksum of an IPv4 header.
    #[track_caller]
    fn of(fragment: &[u8]) -> Self {
        let ip = &fragment[ETHERNET..];
        if is_v6(fragment) {
            let header = if ip[6] == 44 { IPV6 } else { IPV6 + 8 };
            assert!(header == IPV6 || ip[IPV6] == 44, "no fragment header");
            let field = u16::from_be_bytes([ip[header + 2], ip[header + 3]]);
            return Self {
                headers: ETHERNET + header,
                body: ETHERNET + header + 8,
                offset: usize::from(field & 0xfff8),
                more: field & 1 != 0,
                datagram: [&ip[8..IPV6], &ip[header + 4..header + 8]].concat(),
            };
        }
        let header = usize::from(ip[0] & 15) * 4;
        assert_eq!(ip[10..12], super::plain_checksum(&ip[..header], 10).to_be_bytes(), "IPv4 header checksum");
        let field = u16::from_be_bytes([ip[6], ip[7]]);
        Self {
            headers: ETHERNET + header,
            body: ETHERNET + header,
            offset: usize::from(field & 0x1fff) * 8,
            more: field & 0x2000 != 0,
            datagram: [&ip[12..20], &ip[4..6]].concat(),
        }
    }
}

/// Puts the fragments of one datagram, in their order, together, as its receiver does.
///
/// # Panics
/// If they do not fit together: other addresses, another name, a gap, a wrong checksum of an IPv4 header.
#[track_caller]
pub fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    let first = Place::of(&fragments[0]);
    let mut whole = fragments[0][..first.headers].to_vec();
    for (at, fragment) in fragments.iter().enumerate() {
        let place = Place::of(fragment);
        assert_eq!(place.datagram, first.datagram, "addresses and name of fragment {at}");
        let here = (whole.len() - first.headers, at + 1 < fragments.len());
        assert_eq!((place.offset, place.more), here, "the place of fragment {at}");
        whole.extend_from_slice(&fragment[place.body..]);
    }
    if is_v6(&whole) {
        // The header before it names what the fragment header named.
        let next = if first.headers == ETHERNET + IPV6 { ETHERNET + 6 } else { ETHERNET + IPV6 };
        whole[next] = fragments[0][first.headers];
        let length = (whole.len() - ETHERNET - IPV6) as u16;
        whole[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
    } else {
        let length = (whole.len() - ETHERNET) as u16;
        whole[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
        whole[ETHERNET + 6..ETHERNET + 8].fill(0);
        seal(&mut whole, first.headers);
    }
    whole
}
