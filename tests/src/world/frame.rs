//! Frames at XDP.

use svclb_common::datapath::Attachment;
use svclb_common::packet::Frame;
use svclb_common::route::Route;
use svclb_common::verdict::{Action, Counter};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::host::HostPacket;
use super::kernel::DEVICE;
use super::{Hook, Outcome, Port, World};
use crate::packet;

/// The frame is left to `tc`.
const PASSED: i32 = 2;
/// It is sent out of the device by which it came.
pub const SENT_OUT: i32 = 3;
/// It is sent out of another device.
pub const SENT_ACROSS: i32 = 4;

/// What the XDP program returns to the kernel for an action.
pub(super) const fn number(action: Action, onward: u32) -> i32 {
    match action {
        Action::Forward if onward == DEVICE => SENT_OUT,
        Action::Forward => SENT_ACROSS,
        Action::Next | Action::Back | Action::Drop => PASSED,
    }
}

/// A packet in a buffer without anything beside it.
pub(super) struct HostFrame<'a>(pub(super) &'a mut HostPacket);

impl Frame for HostFrame<'_> {
    const PLAIN_CHECKSUMS: bool = true;

    fn length(&self) -> u32 {
        self.0.length()
    }

    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        self.0.read(offset)
    }

    fn write<T: IntoBytes + Immutable + Copy>(&mut self, offset: usize, value: &T) -> Option<()> {
        self.0.write(offset, value)
    }

    fn add_l4_checksum(&mut self, offset: usize, difference: u32, pseudo: bool) -> Option<()> {
        self.0.add_l4_checksum(offset, difference, pseudo)
    }

    fn add_packet_sum(&mut self, _difference: u32) {}

    fn device(&self) -> u32 {
        self.0.device
    }
}

impl World {
    /// A frame comes to the uplink, at XDP.
    pub fn frame(&mut self, frame: &[u8]) -> Outcome {
        self.run(Hook::Xdp, Port::Uplink, Attachment::ETHERNET, "xdp", frame)
    }
}

impl Outcome {
    /// The frame goes on to `tc` and is as it was; no counter moved.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn left_to_tc(&self) {
        self.expect(PASSED, &[]);
        assert_eq!(self.bytes, self.before, "the frame was changed\n{self:#?}");
    }

    /// The frame was rewritten and is sent on, which is the action given. Returns what it is now, and where it goes.
    ///
    /// # Panics
    /// If anything else happened.
    #[track_caller]
    pub fn sent_by_xdp(&self, action: i32) -> (packet::Seen, Route) {
        self.expect(action, &[Counter::XdpForwarded]);
        (packet::read(&self.bytes), self.onward.expect("where it goes"))
    }
}
