//! The node's routing tables, as [`Tables::route`](svclb_common::env::Tables::route) asks them.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Params,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use core::ffi::c_void;
use svclb_common::addr::{Addr4, Addr6, Address};
use svclb_common::route::{Route, Trip, reach};

/// `AF_INET` and `AF_INET6`.
pub(crate) const INET: u8 = 2;
pub(crate) const INET6: u8 = 10;

/// An address as the helper wants it.
pub(crate) trait Routed: Address {
    /// Its family.
    const FAMILY: u8;
    /// Puts the ends of a trip into the question.
    fn set(trip: &Trip<Self>, params: &mut Params);
}

impl Routed for Addr4 {
    const FAMILY: u8 = INET;

    #[inline(always)]
    fn set(trip: &Trip<Self>, params: &mut Params) {
        // Writing fields of a union of plain integers is safe.
        params.__bindgen_anon_2.rt_metric = 0;
        params.__bindgen_anon_2.tos = trip.class;
        params.__bindgen_anon_3.ipv4_src = trip.from.address.0;
        params.__bindgen_anon_4.ipv4_dst = trip.to.address.0;
    }
}

impl Routed for Addr6 {
    const FAMILY: u8 = INET6;

    #[inline(always)]
    fn set(trip: &Trip<Self>, params: &mut Params) {
        params.__bindgen_anon_2.flowinfo = ((trip.class as u32) << 20).to_be();
        params.__bindgen_anon_3.ipv6_src = trip.from.address.0;
        params.__bindgen_anon_4.ipv6_dst = trip.to.address.0;
    }
}

/// Asks for the way of a packet; `context` is that of the program.
#[inline(never)]
pub(crate) fn ask<A: Routed>(context: *mut c_void, trip: &mut Trip<A>) {
    let mut found = look_up(context, trip, trip.length);
    let too_long = found == BPF_FIB_LKUP_RET_FRAG_NEEDED;
    if too_long {
        // The answer then names no device: ask for a packet of any length.
        found = look_up(context, trip, 0);
    }
    let route = &mut trip.route;
    route.reach = match found {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH if too_long => reach::TOO_LONG,
        BPF_FIB_LKUP_RET_SUCCESS => reach::KNOWN,
        BPF_FIB_LKUP_RET_NO_NEIGH => reach::ASKED,
        _ => reach::STACK,
    };
    if route.reach == reach::STACK {
        route.device = 0;
    }
    if route.reach != reach::KNOWN {
        route.macs = [[0; 6]; 2];
    }
}

/// One question. Fills in all of the route but how it is reached. A function of its own, so that there is one room for the
/// question on the stack.
#[inline(never)]
fn look_up<A: Routed>(context: *mut c_void, trip: &mut Trip<A>, length: u16) -> u32 {
    // SAFETY: all zero is a valid value of a struct of plain integers.
    let mut params: Params = unsafe { core::mem::zeroed() };
    params.family = A::FAMILY;
    params.l4_protocol = trip.protocol;
    params.sport = trip.from.port.0;
    params.dport = trip.to.port.0;
    params.__bindgen_anon_1.tot_len = length;
    params.ifindex = trip.input;
    A::set(trip, &mut params);
    // SAFETY: the context is that of the program, the parameters are initialised and as long as it is said.
    let found = unsafe { bpf_fib_lookup(context, &mut params, size_of::<Params>() as i32, 0) };
    let is_v6 = params.family == INET6;
    trip.route = Route {
        reach: reach::STACK,
        device: params.ifindex,
        // SAFETY: a union of plain integers, all of them initialised.
        next_hop: unsafe { params.__bindgen_anon_4.ipv6_dst },
        next_hop_is_v6: u32::from(is_v6),
        into_pod: 0,
        macs: [params.dmac, params.smac],
    };
    if !is_v6 {
        let [_, rest @ ..] = &mut trip.route.next_hop;
        *rest = [0; 3];
    }
    found as u32
}
