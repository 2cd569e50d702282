//! SCTP packets (RFC 9260) as tests make and read them: the checksum bit by bit, chunks as lists.

use std::fmt;

/// Types of chunks.
pub mod kind {
    /// User data.
    pub const DATA: u8 = 0;
    /// Asks for an association.
    pub const INIT: u8 = 1;
    /// Answers it.
    pub const INIT_ACK: u8 = 2;
    /// Says which data arrived.
    pub const SACK: u8 = 3;
    /// Asks whether the peer is there.
    pub const HEARTBEAT: u8 = 4;
    /// Answers it.
    pub const HEARTBEAT_ACK: u8 = 5;
    /// The association ends at once.
    pub const ABORT: u8 = 6;
    /// No more data.
    pub const SHUTDOWN: u8 = 7;
    /// Answers it.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Sends a cookie back.
    pub const COOKIE_ECHO: u8 = 10;
    /// Answers it.
    pub const COOKIE_ACK: u8 = 11;
    /// Answers SHUTDOWN ACK.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// The tag that packets with INIT and INIT ACK ask for, unless a test gives them another.
pub const INITIATE_TAG: u32 = 0x1217_7a65;

/// Bytes before the user data in a DATA chunk: the header of the chunk and three fields.
pub const DATA_HEADER: usize = 16;

/// A chunk.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its type, see [`kind`].
    pub kind: u8,
    /// Depends on the type.
    pub flags: u8,
    /// What follows its header.
    pub body: Vec<u8>,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {} flags {} with {} bytes", self.kind, self.flags, self.body.len())
    }
}

impl Chunk {
    /// A chunk of this type, with zeros in what must be there, but for [`INITIATE_TAG`].
    pub fn new(kind: u8) -> Self {
        let body = match kind {
            kind::INIT | kind::INIT_ACK => 16,
            kind::DATA | kind::SACK => 12,
            kind::HEARTBEAT | kind::HEARTBEAT_ACK | kind::COOKIE_ECHO => 8,
            kind::SHUTDOWN => 4,
            _ => 0,
        };
        let mut body = vec![0; body];
        if matches!(kind, kind::INIT | kind::INIT_ACK) {
            body[..4].copy_from_slice(&INITIATE_TAG.to_be_bytes());
        }
        Self::with(kind, body)
    }

    /// A chunk of this type and content.
    pub fn with(kind: u8, body: Vec<u8>) -> Self {
        Self { kind, flags: if kind == kind::DATA { 3 } else { 0 }, body }
    }

    /// User data, whole in one chunk, with this sequence number.
    pub fn data(sequence: u32, user: &[u8]) -> Self {
        Self::with(kind::DATA, [&sequence.to_be_bytes()[..], &[0; 8], user].concat())
    }

    /// A 32-bit field of its content.
    pub fn field(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.body.get(at..at + 4)?.try_into().ok()?))
    }
}

/// A packet from the common header on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Verification tag.
    pub tag: u32,
    /// Its chunks.
    pub chunks: Vec<Chunk>,
}

impl Message {
    /// The bytes, with the right checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.source.to_be_bytes());
        bytes.extend_from_slice(&self.destination.to_be_bytes());
        bytes.extend_from_slice(&self.tag.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for chunk in &self.chunks {
            let length = chunk.body.len() as u16 + 4;
            bytes.extend_from_slice(&[chunk.kind, chunk.flags]);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&chunk.body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let checksum = checksum(&bytes);
        bytes[8..12].copy_from_slice(&checksum);
        bytes
    }

    /// Reads a packet; the error says what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let (Some(header), Some(mut rest)) = (bytes.get(..12), bytes.get(12..)) else {
            return Err(format!("{} bytes are no SCTP packet", bytes.len()));
        };
        let expected = checksum(bytes);
        if header[8..] != expected {
            return Err(format!("the SCTP checksum is {:02x?}, not {expected:02x?}", &header[8..]));
        }
        let mut chunks = Vec::new();
        while let [kind, flags, high, low, ..] = *rest {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let body = rest.get(4..length).ok_or_else(|| format!("chunk {kind} of {length} bytes is cut short"))?;
            chunks.push(Chunk { kind, flags, body: body.to_vec() });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let tag = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        Ok(Self { source: port(0), destination: port(2), tag, chunks })
    }

    /// Whether it has a chunk of this type.
    pub fn has(&self, kind: u8) -> bool {
        self.chunk(kind).is_some()
    }

    /// Its first chunk of this type.
    pub fn chunk(&self, kind: u8) -> Option<&Chunk> {
        self.chunks.iter().find(|chunk| chunk.kind == kind)
    }
}

/// CRC32c of a packet whose checksum field counts as zero, as it stands in the field (RFC 9260 appendix A).
pub fn checksum(packet: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for (at, byte) in packet.iter().enumerate() {
        crc ^= if (8..12).contains(&at) { 0 } else { u32::from(*byte) };
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).to_le_bytes()
}
