//! Entry points at `tc`: one for each kind of device, so that what is constant for a device is constant
//! in its program.

use crate::env::Kernel;
use crate::maps;
use crate::packet::Skb;
use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use svclb_common::datapath::{self, Attachment};
use svclb_common::packet::Frame;
use svclb_common::verdict::Action;

/// Go on with the next program, then the stack (`TCX_NEXT`; the same number is `TC_ACT_UNSPEC` on
/// clsact). `TC_ACT_OK` would overwrite `tc_index` and hide the packet from programs behind.
const NEXT: i32 = -1;

/// Where an answer goes: out of the device by which the packet entered.
const OUT: u64 = 0;
/// In by the device by which it was about to leave.
const IN: u64 = BPF_F_INGRESS as u64;

/// The kernel's number for an action; `back` is where an answer goes.
#[inline(always)]
fn number(skb: &Skb, action: Action, back: u64) -> i32 {
    match action {
        Action::Next => NEXT,
        // SAFETY: a helper on plain numbers.
        Action::Back => unsafe { bpf_redirect(skb.device(), back) as i32 },
        Action::Drop => TC_ACT_SHOT as i32,
    }
}

/// Runs a hook of the datapath. Without CONFIG, which the agent writes first, everything passes.
macro_rules! hook {
    ($(#[$doc:meta])* $name:ident, $hook:ident, $attachment:ident, $back:ident) => {
        $(#[$doc])*
        #[classifier]
        pub(crate) fn $name(context: TcContext) -> i32 {
            let mut skb = Skb { ctx: context.skb.skb };
            let Some(config) = maps::CONFIG.get(0) else { return NEXT };
            let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return NEXT };
            // SAFETY: this CPU's value; `tc` programs of one CPU do not interrupt each other.
            let scratch = unsafe { &mut *scratch };
            let kernel = Kernel { config, context: skb.ctx.cast() };
            let action = datapath::$hook(&mut skb, &kernel, Attachment::$attachment, scratch);
            number(&skb, action, $back)
        }
    };
}

hook!(/** Ingress of a bottom device with Ethernet header. */ ingress, ingress, ETHERNET, OUT);
hook!(/** Ingress of a bottom device without link-layer header. */ ingress_l3, ingress, BARE_IP, OUT);
hook!(/** Ingress of a stacked device with Ethernet header. */ ingress_stacked, ingress, STACKED, OUT);
hook!(/** Ingress of a stacked device without link-layer header. */ ingress_stacked_l3, ingress, STACKED_BARE_IP, OUT);
hook!(/** Ingress of a bridge port. */ ingress_port, ingress, BRIDGE_PORT, OUT);
hook!(/** Egress of a device with Ethernet header. */ egress, egress, ETHERNET, IN);
hook!(/** Egress of a device without link-layer header. */ egress_l3, egress, BARE_IP, IN);
