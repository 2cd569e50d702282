//! Packets for a node to forward, as fast as a CPU can make them, and where they end.
//!
//! [`flood`] is run by the kernel's test-run in its mode of live frames and hands every frame to a device whose other
//! end is the node's. [`sink`] hangs in that device, takes what the node has forwarded, and counts it. Both cost the same
//! whoever forwards.

use crate::maps::{FLOOD, SUNK};
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use svclb_common::addr::Be16;

/// 32-bit words of a frame's headers: Ethernet, IPv4, UDP, and two bytes more.
pub(crate) const HEAD: usize = 11;
/// Offsets in the frame.
const ETHER_TYPE: usize = 12;
const PROTOCOL: usize = 23;
const SOURCE_PORT: usize = 34;
const DESTINATION_PORT: usize = 36;
const CHECKSUM: usize = 40;
/// The first source port.
const FIRST_PORT: u32 = 1024;
const IPV4: u16 = 0x0800;
const UDP: u8 = 17;

/// What the frames are.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Flood {
    /// Their first bytes, with the source port 0.
    pub(crate) head: [u32; HEAD],
    /// Number of the next frame.
    pub(crate) next: u32,
    /// Flows, less one; a power of two less one.
    pub(crate) flows: u32,
    /// The device that they go to.
    pub(crate) device: u32,
    /// The sum of what UDP's checksum covers, without the source port, as the machine reads 16 bits of the wire.
    pub(crate) sum: u32,
}

/// The next frame: each flow has a source port of its own.
#[xdp]
pub(crate) fn flood(ctx: XdpContext) -> u32 {
    let Some(plan) = FLOOD.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: only one CPU floods at a time.
    let plan = unsafe { &mut *plan };
    let port = Be16::new((FIRST_PORT + (plan.next & plan.flows)) as u16);
    plan.next = plan.next.wrapping_add(1);
    let sum = plan.sum + u32::from(port.0);
    let sum = (sum & 0xffff) + (sum >> 16);
    let data = ctx.data();
    if data + size_of::<[u32; HEAD]>() > ctx.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: the bounds have been checked, and the verifier sees to it. A frame's memory is used again and is as the
    // last one left it, so all of the headers is written.
    unsafe {
        *(data as *mut [u32; HEAD]) = plan.head;
        *((data + SOURCE_PORT) as *mut Be16) = port;
        *((data + CHECKSUM) as *mut u16) = !(sum as u16);
        bpf_redirect(plan.device, 0) as u32
    }
}

/// Takes datagrams of IPv4 to the port of the FLOOD map's frames once they are forwarded, and lets all else pass.
#[xdp]
pub(crate) fn sink(ctx: XdpContext) -> u32 {
    /// The port `discard`: that of the flood's backend.
    const DISCARD: Be16 = Be16::new(9);
    let data = ctx.data();
    if data + size_of::<[u32; HEAD]>() > ctx.data_end() {
        return XDP_PASS;
    }
    // SAFETY: as above.
    let (ether_type, protocol, port) = unsafe {
        (
            *((data + ETHER_TYPE) as *const Be16),
            *((data + PROTOCOL) as *const u8),
            *((data + DESTINATION_PORT) as *const Be16),
        )
    };
    if ether_type != Be16::new(IPV4) || protocol != UDP || port != DISCARD {
        return XDP_PASS;
    }
    let Some(sunk) = SUNK.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: this CPU's value.
    unsafe { *sunk += 1 };
    XDP_DROP
}
