//! The programs that svclb is measured against.

use crate::maps::{Direction, End, SCRATCH, Tables, Tuple};
use crate::packet::Skb;
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use svclb_common::addr::{Addr4, Addr6, Address, Endpoint};
use svclb_common::parse::{self, Headers, Network};
use svclb_common::rewrite::{Side, rewrite};
use svclb_common::schema::ServiceKey;

/// Go on with the next program (`TCX_NEXT`).
const NEXT: i32 = -1;

/// Does nothing: what the measurement itself costs.
#[classifier]
pub(crate) fn empty(_ctx: TcContext) -> i32 {
    NEXT
}

/// Working memory for either family.
#[derive(Clone, Copy, Default)]
pub(crate) struct Scratch {
    v4: Work<Addr4>,
    v6: Work<Addr6>,
}

macro_rules! program {
    ($(#[$doc:meta])* $name:ident, $run:ident) => {
        $(#[$doc])*
        #[classifier]
        pub(crate) fn $name(ctx: TcContext) -> i32 {
            let mut skb = Skb { ctx: ctx.skb.skb };
            let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return TC_ACT_SHOT as i32 };
            // SAFETY: this CPU's value; `tc` programs of one CPU do not interrupt each other.
            let scratch = unsafe { &mut *scratch };
            let done = match parse::link_layer(&skb) {
                Ok((false, l3)) => $run(&mut skb, l3, &mut scratch.v4),
                Ok((true, l3)) => $run(&mut skb, l3, &mut scratch.v6),
                Err(_) => None,
            };
            if done.is_some() { NEXT } else { TC_ACT_SHOT as i32 }
        }
    };
}

program!(/** Parses and looks the destination up in a hash. */ lookup, look_up);
program!(/** A new flow: Service, backend, two inserts, rewriting. */ new_flow, enter);
program!(/** The same after a look whether the flow is there, as a program in use would do. */ asked_flow, ask_and_enter);
program!(/** A packet of a known flow, in either direction. */ known_flow, go_on);

/// Working memory, as the stack has not enough for IPv6.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work<A: Address> {
    headers: Headers<A>,
    request: Tuple<A>,
    reply: Tuple<A>,
    direction: Direction<A>,
    to: Endpoint<A>,
}

#[inline(always)]
fn service_key<A: Network>(headers: &Headers<A>) -> ServiceKey<A> {
    ServiceKey::new(headers.destination, headers.destination_port, headers.protocol)
}

#[inline(always)]
fn tuple<A: Network>(from: Endpoint<A>, to: Endpoint<A>, protocol: u8) -> Tuple<A> {
    Tuple {
        source: from.address,
        destination: to.address,
        source_port: from.port,
        destination_port: to.port,
        protocol,
        zero: [0; 3],
    }
}

#[inline(always)]
fn tuple_of<A: Network>(headers: &Headers<A>) -> Tuple<A> {
    tuple(headers.sender(), headers.receiver(), headers.protocol)
}

#[inline(always)]
fn look_up<A: Network + Tables>(skb: &mut Skb, l3: usize, work: &mut Work<A>) -> Option<()> {
    parse::headers(skb, l3, &mut work.headers).ok()?;
    // Whether it is there makes no difference: the helper is called all the same.
    let _found = A::service(&service_key(&work.headers));
    Some(())
}

#[inline(always)]
fn enter<A: Network + Tables>(skb: &mut Skb, l3: usize, work: &mut Work<A>) -> Option<()> {
    parse::headers(skb, l3, &mut work.headers).ok()?;
    work.request = tuple_of(&work.headers);
    make(work)?;
    rewrite(skb, &work.headers, Side::Destination, &work.to)
}

#[inline(always)]
fn ask_and_enter<A: Network + Tables>(skb: &mut Skb, l3: usize, work: &mut Work<A>) -> Option<()> {
    parse::headers(skb, l3, &mut work.headers).ok()?;
    work.request = tuple_of(&work.headers);
    if A::flow(&work.request).is_some() {
        return None;
    }
    make(work)?;
    rewrite(skb, &work.headers, Side::Destination, &work.to)
}

/// Enters both directions of a flow whose request is in `work.request`; `work.to` is its backend then.
#[inline(always)]
fn make<A: Network + Tables>(work: &mut Work<A>) -> Option<()> {
    let headers = &work.headers;
    let service = A::service(&service_key(headers))?;
    if service.count == 0 {
        return None;
    }
    // SAFETY: helpers without arguments.
    let (random, now) = unsafe { (bpf_get_prandom_u32(), bpf_jiffies64() as u32) };
    let backend = A::backend(service.first + random % service.count)?;
    work.to = Endpoint::new(backend.address, backend.port);
    work.reply = tuple(work.to, headers.sender(), headers.protocol);
    work.direction = Direction { to: backend, source: 0, seen: now, service: service.first, state: 1 };
    A::insert(&work.request, &work.direction);
    work.direction.to = End { address: headers.destination, port: headers.destination_port, zero: 0 };
    work.direction.source = 1;
    A::insert(&work.reply, &work.direction);
    Some(())
}

#[inline(always)]
fn go_on<A: Network + Tables>(skb: &mut Skb, l3: usize, work: &mut Work<A>) -> Option<()> {
    parse::headers(skb, l3, &mut work.headers).ok()?;
    work.request = tuple_of(&work.headers);
    let flow = A::flow(&work.request)?;
    work.to = Endpoint::new(flow.to.address, flow.to.port);
    let side = if flow.source == 0 { Side::Destination } else { Side::Source };
    rewrite(skb, &work.headers, side, &work.to)
}
