//! Entry point at XDP, for devices that lead out of the node and have Ethernet headers.

use crate::env::{self, Kernel};
use crate::frame::XdpFrame;
use crate::maps;
use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use svclb_common::datapath::{self, Attachment};
use svclb_common::packet::Frame as _;
use svclb_common::verdict::Action;

/// Sends frames of direct flows on before there is a packet. All else passes, without CONFIG everything.
#[xdp(frags)]
pub(crate) fn xdp(context: XdpContext) -> u32 {
    let mut frame = XdpFrame { ctx: context.ctx };
    let Some(config) = maps::CONFIG.get(0) else { return XDP_PASS };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return XDP_PASS };
    // SAFETY: this CPU's value; drivers run XDP where they run the stack, so it does not interrupt `tc` programs.
    let scratch = unsafe { &mut *scratch };
    let kernel = Kernel { config, context: frame.ctx.cast() };
    match datapath::xdp(&mut frame, &kernel, Attachment::ETHERNET, scratch) {
        Action::Forward => {
            let onward = scratch.onward();
            env::note_onward(onward);
            send(&frame, onward.device)
        }
        Action::Next | Action::Back | Action::Drop => XDP_PASS,
    }
}

/// Out of the device by which it came, or out of another one that can send frames.
#[inline(always)]
fn send(frame: &XdpFrame, device: u32) -> u32 {
    if device == frame.device() {
        return XDP_TX;
    }
    // SAFETY: a helper on plain numbers.
    unsafe { bpf_redirect(device, 0) as u32 }
}
