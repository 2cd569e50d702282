//! Entry points at `tc`: one for each kind of device, so that what is constant for a device is constant
//! in its program.

use crate::env::{self, Kernel};
use crate::fib;
use crate::maps;
use crate::packet::Skb;
use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use svclb_common::datapath::{self, Attachment};
use svclb_common::packet::Frame;
use svclb_common::route::Route;
use svclb_common::verdict::Action;

/// Go on with the next program, then the stack (`TCX_NEXT`; the same number is `TC_ACT_UNSPEC` on
/// clsact). `TC_ACT_OK` would overwrite `tc_index` and hide the packet from programs behind.
const NEXT: i32 = -1;

/// Where an answer goes: out of the device by which the packet entered.
const OUT: u64 = 0;
/// In by the device by which it was about to leave.
const IN: u64 = BPF_F_INGRESS as u64;

/// The kernel's number for an action; `back` is where an answer goes, `onward` what passes the stack by.
#[inline(always)]
fn number(skb: &Skb, action: Action, back: u64, onward: &Route) -> i32 {
    match action {
        Action::Next => NEXT,
        Action::Forward => send_on(skb, onward),
        // SAFETY: a helper on plain numbers.
        Action::Back => unsafe { bpf_redirect(skb.device(), back) as i32 },
        Action::Drop => TC_ACT_SHOT as i32,
    }
}

/// Redirects a packet: into the pod behind a device, or to a neighbour, whom the kernel asks for its address if need be and
/// looks after as it does for packets of its own.
#[inline(always)]
fn send_on(skb: &Skb, onward: &Route) -> i32 {
    env::note_onward(onward);
    // SAFETY: helpers on plain numbers, and on a struct that is initialised and as long as it is said.
    unsafe {
        if onward.into_pod != 0 {
            skb.be_for_host();
            return bpf_redirect_peer(onward.device, 0) as i32;
        }
        let mut to = bpf_redir_neigh {
            nh_family: u32::from(if onward.next_hop_is_v6 != 0 { fib::INET6 } else { fib::INET }),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: onward.next_hop },
        };
        bpf_redirect_neigh(onward.device, &mut to, size_of::<bpf_redir_neigh>() as i32, 0) as i32
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
            number(&skb, action, $back, scratch.onward())
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
