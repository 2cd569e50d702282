//! `xdp_md` as a [`Frame`].
//!
//! Headers are read and written where the driver has put them. Of a frame in several buffers they are in the first, or
//! the frame is none that XDP knows what to do with. No helper is called: helpers that change packets would make the
//! verifier forget all checks.

use crate::packet::bounded;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use svclb_common::checksum;
use svclb_common::packet::Frame;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A frame at XDP.
#[derive(Clone, Copy)]
pub(crate) struct XdpFrame {
    /// The context that the kernel gave the program.
    pub(crate) ctx: *mut xdp_md,
}

impl XdpFrame {
    /// Start of `T` at `offset` in the first buffer, if all of it is there.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let offset = bounded(offset)?;
        // SAFETY: the kernel hands a valid context to the program; the verifier rewrites the loads.
        let (data, end) = unsafe { ((*self.ctx).data as usize, (*self.ctx).data_end as usize) };
        let start = data + offset;
        if start + size_of::<T>() > end {
            return None;
        }
        Some(start as *mut T)
    }
}

impl Frame for XdpFrame {
    const PLAIN_CHECKSUMS: bool = true;

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: a helper on a valid context.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` checked that all of T is there; T is valid for any bytes (FromBytes). A misaligned load is
        // what BPF does on every machine that the verifier allows it on.
        self.at::<T>(offset).map(|start| unsafe { *start })
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable + Copy>(&mut self, offset: usize, value: &T) -> Option<()> {
        // SAFETY: `at` checked the bounds; T is plain bytes without padding (IntoBytes).
        self.at::<T>(offset).map(|start| unsafe { *start = *value })
    }

    #[inline(always)]
    fn add_l4_checksum(&mut self, offset: usize, difference: u32, _pseudo: bool) -> Option<()> {
        let field: u16 = self.read(offset)?;
        self.write(offset, &checksum::update(field, difference))
    }

    #[inline(always)]
    fn add_packet_sum(&mut self, _difference: u32) {}

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: as in `at`.
        unsafe { (*self.ctx).ingress_ifindex }
    }
}
