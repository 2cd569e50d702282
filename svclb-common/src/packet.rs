//! Access to the bytes and the metadata of a packet.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What a hook can do with a packet at XDP and at `tc` alike: in the kernel a frame in the driver's memory or an
/// `sk_buff`, on the host a buffer.
///
/// Offsets count from the first byte of the link-layer header (of the IP header on devices without
/// one). Every access is checked; `None` means that the packet has no such bytes.
pub trait Frame {
    /// Whether nothing but the bytes says what the checksums are: whoever changes what a transport checksum covers
    /// updates the field, and is done.
    const PLAIN_CHECKSUMS: bool;

    /// Length in bytes, link-layer header included.
    fn length(&self) -> u32;

    /// Reads a header. A few instructions when it lies in the linear part, a helper call else.
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T>;

    /// Writes a header or a field. The bytes must exist. Does not keep a checksum that a device gave
    /// for the whole packet (`CHECKSUM_COMPLETE`): the caller's changes sum to zero, or it says so by
    /// [`Frame::add_l4_checksum`].
    fn write<T: IntoBytes + Immutable + Copy>(&mut self, offset: usize, value: &T) -> Option<()>;

    /// Adds `difference` to the transport checksum at `offset` as the kernel's
    /// `inet_proto_csum_replace_by_diff` does, about 30 ns:
    ///
    /// * checksum complete in the packet: the field is updated;
    /// * checksum left to the device (`CHECKSUM_PARTIAL`): the field, which then holds the sum of the
    ///   pseudo header, is updated only if `pseudo`;
    /// * the device gave a sum of the whole packet (`CHECKSUM_COMPLETE`): that sum is updated as well
    ///   if `pseudo`.
    fn add_l4_checksum(&mut self, offset: usize, difference: u32, pseudo: bool) -> Option<()>;

    /// Says that the bytes of the packet sum to `difference` more than before. Counts only where the device gave a
    /// sum of the whole packet (`CHECKSUM_COMPLETE`). A helper call.
    fn add_packet_sum(&mut self, difference: u32);

    /// Index of the device at whose hook the packet is.
    fn device(&self) -> u32;
}

/// A packet at a `tc` hook: in the kernel an `sk_buff`, on the host a buffer with the same metadata.
pub trait Packet: Frame {
    /// One's complement sum of `length` bytes, for answers only. `length` is at most
    /// [`MAX_SUM`]; `offset` and the start of the sum are 16-bit aligned to each other.
    fn sum(&self, offset: usize, length: usize) -> Option<u32>;

    /// Cuts or lengthens the packet at its end. A packet of several segments becomes one.
    fn resize(&mut self, length: u32) -> Option<()>;

    /// Makes room for `bytes` between the link-layer header, which ends at `l3`, and the rest.
    fn insert(&mut self, l3: usize, bytes: u32) -> Option<()>;

    /// Sends a copy of the packet into the node, by the device at whose hook it is: it will pass the hooks of that device
    /// as a packet that comes in, after this one has passed. `None` if there is no memory for it.
    fn copy_into_node(&mut self) -> Option<()>;

    /// Bytes of payload of each segment, where it stands for several that a device will cut (GSO); else 0.
    fn segment(&self) -> u32;

    /// Whether it bears a VLAN tag beside its bytes.
    fn is_tagged(&self) -> bool;

    /// The 16-bit mark (`tc_index`) that travels with the packet through the node.
    fn mark(&self) -> u16;

    /// Sets the mark.
    fn set_mark(&mut self, mark: u16);
}

/// Longest run of bytes that [`Packet::sum`] takes: what an `ICMPv6` error may quote.
pub const MAX_SUM: usize = 1280;
