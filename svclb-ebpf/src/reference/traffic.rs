//! Another packet for each run.
//!
//! The kernel's test-run hands the same packet to a program again and again, as the program left it. So
//! each run begins here: both ends, TCP flags and mark are written anew, and the packet goes on to the
//! program under measurement. Checksums are left as they are: nobody looks at them, and programs change
//! them by differences.

use crate::maps::{ENDS, End, PLAN, SUBJECTS, Tables};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use svclb_common::addr::{Addr4, Addr6, Be16};
use svclb_common::parse::Network;
use svclb_common::wire::{ethernet::Ethernet, tcp};

/// What the kernel does with a packet when the tail call fails (`TC_ACT_SHOT`); the measuring side then
/// knows that nothing was measured.
const NO_SUBJECT: i32 = 2;
/// Client addresses: as many clients share one, each with its own port, from this one on.
const ADDRESSES: u32 = 4096;
const FIRST_PORT: u32 = 1024;

/// A client by its number.
trait Clients: Tables + Network {
    fn client(number: u32) -> Self;
}

impl Clients for Addr4 {
    #[inline(always)]
    fn client(number: u32) -> Self {
        // 10.128.0.0 and up
        Self((0x0a80_0000 | number).to_be())
    }
}

impl Clients for Addr6 {
    #[inline(always)]
    fn client(number: u32) -> Self {
        // fd00:128:: and up
        Self([0xfd00_0128_u32.to_be(), 0, 0, number.to_be()])
    }
}

#[repr(C)]
struct Pair<T>(T, T);

#[inline(always)]
fn send<A: Clients>(ctx: &TcContext) -> i32 {
    let l3 = size_of::<Ethernet>();
    let l4 = l3 + A::HEADER;
    let Some(plan) = PLAN.get_ptr_mut(0) else { return NO_SUBJECT };
    // SAFETY: only this CPU writes the plan while a measurement runs.
    let plan = unsafe { &mut *plan };
    let number = plan.next.wrapping_mul(plan.stride) & plan.clients;
    plan.next = plan.next.wrapping_add(1);
    let client = End {
        address: A::client(number % ADDRESSES),
        port: Be16::new((FIRST_PORT + number / ADDRESSES) as u16),
        zero: 0,
    };
    let Some(peer) = A::peer(number & (ENDS - 1)) else { return NO_SUBJECT };
    let (source, destination) = if plan.replies == 0 { (client, peer) } else { (peer, client) };
    // SAFETY: the bounds are checked before anything is written; the verifier sees to it.
    unsafe {
        let data = (*ctx.skb.skb).data as usize;
        if data + l4 + tcp::LENGTH > (*ctx.skb.skb).data_end as usize {
            return NO_SUBJECT;
        }
        *((data + l3 + A::SOURCE) as *mut Pair<A>) = Pair(source.address, destination.address);
        *((data + l4) as *mut Pair<Be16>) = Pair(source.port, destination.port);
        *((data + l4 + 13) as *mut u8) = plan.tcp_flags as u8;
        (*ctx.skb.skb).tc_index = 0;
        SUBJECTS.tail_call(ctx, plan.subject);
    }
    NO_SUBJECT
}

/// IPv4 and TCP.
#[classifier]
pub(crate) fn traffic4(ctx: TcContext) -> i32 {
    send::<Addr4>(&ctx)
}

/// IPv6 and TCP.
#[classifier]
pub(crate) fn traffic6(ctx: TcContext) -> i32 {
    send::<Addr6>(&ctx)
}
