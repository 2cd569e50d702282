//! What the drivers of devices can do with XDP, as the kernel tells it in its family `netdev` of generic netlink (Linux
//! 6.3; the numbers are those of its file `Documentation/netlink/specs/netdev.yaml`).

use std::convert::Infallible;
use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

/// The family that knows the numbers of the others, and its only number that is the same everywhere.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Of the family `netdev`.
const GET_DEVICE: u8 = 1;
const INDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;

/// What the driver of a device can do with XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpFeatures {
    /// It runs XDP programs, and sends frames back out of the device that they came by.
    pub runs: bool,
    /// It sends frames that come from the XDP programs of other devices. A veth does when its peer takes frames, and only
    /// then can it send any back.
    pub sends: bool,
}

impl XdpFeatures {
    /// From the bits `NETDEV_XDP_ACT_BASIC` and `NETDEV_XDP_ACT_NDO_XMIT`.
    const fn of(bits: u64) -> Self {
        Self { runs: bits & 1 != 0, sends: bits & 1 << 2 != 0 }
    }
}

/// A connection to the kernel.
pub struct Netdev {
    socket: Socket,
    /// The family's number on this machine.
    family: u16,
}

impl Netdev {
    /// Opens it in the calling thread's network namespace, where it stays. `None` if the kernel has no such family.
    pub fn open() -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let control = Self { socket, family: CONTROL };
        let name = DefaultNla::new(FAMILY_NAME, b"netdev\0".to_vec());
        match control.ask(GET_FAMILY, &name, FAMILY_ID) {
            Ok(found) => {
                Ok(found.and_then(number).map(|family| Self { family: u16::from_ne_bytes(family), ..control }))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the driver of a device can do. What it does not tell it cannot.
    pub fn xdp_features(&self, index: u32) -> io::Result<XdpFeatures> {
        let found = self.ask(GET_DEVICE, &DefaultNla::new(INDEX, index.to_ne_bytes().to_vec()), XDP_FEATURES)?;
        Ok(found.and_then(number).map(u64::from_ne_bytes).map(XdpFeatures::of).unwrap_or_default())
    }

    /// Sends a request with one attribute. The value of an attribute of the answer, if there is one.
    fn ask(&self, command: u8, attribute: &DefaultNla, wanted: u16) -> io::Result<Option<Vec<u8>>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut body = vec![0; attribute.buffer_len()];
        attribute.emit(&mut body);
        let request = Message { family: self.family, command, attributes: body };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut found = None;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<Message>::deserialize(rest).map_err(io::Error::other)?;
                let length = (answer.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::InnerMessage(answer) => found = answer.attribute(wanted).or(found),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// The bytes of a number, if they are as many as it has.
fn number<const LENGTH: usize>(value: Vec<u8>) -> Option<[u8; LENGTH]> {
    value.try_into().ok()
}

/// A message of generic netlink.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    family: u16,
    command: u8,
    attributes: Vec<u8>,
}

/// Bytes of its own header: command, version, two that are reserved.
const HEADER: usize = 4;

impl Message {
    fn attribute(&self, wanted: u16) -> Option<Vec<u8>> {
        let mut all = NlasIterator::new(self.attributes.as_slice()).filter_map(Result::ok);
        all.find(|attribute| attribute.kind() == wanted).map(|attribute| attribute.value().to_vec())
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(HEADER);
        header.copy_from_slice(&[self.command, 1, 0, 0]);
        attributes.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        let command = payload.first().copied().unwrap_or_default();
        let attributes = payload.get(HEADER..).unwrap_or_default().to_vec();
        Ok(Self { family: header.message_type, command, attributes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_can_do_is_told_in_bits() {
        assert_eq!(XdpFeatures::of(0b001), XdpFeatures { runs: true, sends: false });
        assert_eq!(XdpFeatures::of(0b100), XdpFeatures { runs: false, sends: true });
        assert_eq!(XdpFeatures::of(0b111), XdpFeatures { runs: true, sends: true });
    }

    #[test]
    fn an_attribute_is_found_among_others() {
        let mut attributes = Vec::new();
        for (kind, value) in [(1, vec![7, 0, 0, 0]), (3, vec![1, 2, 3, 4, 5, 6, 7, 8])] {
            let attribute = DefaultNla::new(kind, value);
            let start = attributes.len();
            attributes.resize(start + attribute.buffer_len(), 0);
            attribute.emit(&mut attributes[start..]);
        }
        let message = Message { family: 20, command: 1, attributes };
        assert_eq!(message.attribute(XDP_FEATURES), Some(vec![1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(message.attribute(2), None);
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let mut header = NetlinkHeader::default();
        header.message_type = 20;
        assert_eq!(Message::deserialize(&header, &bytes), Ok(message));
    }
}
