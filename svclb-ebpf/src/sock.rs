//! Entry points at the sockets of processes: when one connects, sends or receives a datagram, or is asked for its
//! peer. They run in the process, which may be interrupted by the programs of [`crate::tc`] and by other processes:
//! so they use no SCRATCH, and a count may be lost.

use crate::env::Kernel;
use crate::maps;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use core::ptr::{read_volatile, write_volatile};
use svclb_common::addr::{Addr4, Addr6, Address, Be16, Endpoint};
use svclb_common::datapath::socket::{self, Decision, Socket};
use svclb_common::env::Tables;

/// The system call goes on.
const GO_ON: i32 = 1;
/// It fails with the error that was set, else `EPERM`.
const FAIL: i32 = 0;
/// `ECONNREFUSED`.
const REFUSED: i32 = 111;
/// Third word of an IPv6 address that stands for an IPv4 one.
const MAPPED: u32 = 0xffff_u32.to_be();

/// The address in a system call. Each field is read and written whole and at a constant offset, as the verifier asks.
trait Sockaddr: Address {
    /// Reads it.
    fn read(context: *mut bpf_sock_addr) -> Self;
    /// Writes it.
    fn write(self, context: *mut bpf_sock_addr);
}

impl Sockaddr for Addr4 {
    #[inline(always)]
    fn read(context: *mut bpf_sock_addr) -> Self {
        // SAFETY: the program's context.
        Self(unsafe { read_volatile(&raw const (*context).user_ip4) })
    }

    #[inline(always)]
    fn write(self, context: *mut bpf_sock_addr) {
        // SAFETY: the program's context.
        unsafe { write_volatile(&raw mut (*context).user_ip4, self.0) };
    }
}

impl Sockaddr for Addr6 {
    #[inline(always)]
    fn read(context: *mut bpf_sock_addr) -> Self {
        // SAFETY: the program's context.
        unsafe {
            Self([
                read_volatile(&raw const (*context).user_ip6[0]),
                read_volatile(&raw const (*context).user_ip6[1]),
                read_volatile(&raw const (*context).user_ip6[2]),
                read_volatile(&raw const (*context).user_ip6[3]),
            ])
        }
    }

    #[inline(always)]
    fn write(self, context: *mut bpf_sock_addr) {
        let [a, b, c, d] = self.0;
        // SAFETY: the program's context.
        unsafe {
            write_volatile(&raw mut (*context).user_ip6[0], a);
            write_volatile(&raw mut (*context).user_ip6[1], b);
            write_volatile(&raw mut (*context).user_ip6[2], c);
            write_volatile(&raw mut (*context).user_ip6[3], d);
        }
    }
}

/// An IPv4 address in a system call of an IPv6 socket.
#[inline(always)]
fn mapped(address: Addr6) -> Option<Addr4> {
    let [a, b, c, d] = address.0;
    (a | b == 0 && c == MAPPED).then_some(Addr4(d))
}

#[inline(always)]
fn port(context: *mut bpf_sock_addr) -> Be16 {
    // SAFETY: the program's context. The port is in its lower half.
    Be16(unsafe { read_volatile(&raw const (*context).user_port) } as u16)
}

#[inline(always)]
fn set_port(context: *mut bpf_sock_addr, port: Be16) {
    // SAFETY: the program's context.
    unsafe { write_volatile(&raw mut (*context).user_port, u32::from(port.0)) };
}

#[inline(always)]
fn socket_of(context: *mut bpf_sock_addr) -> Socket {
    // SAFETY: helpers on the program's context, and a field of it.
    unsafe {
        Socket {
            namespace: bpf_get_netns_cookie(context.cast()),
            cookie: bpf_get_socket_cookie(context.cast()),
            protocol: read_volatile(&raw const (*context).protocol) as u8,
        }
    }
}

/// Carries out what the datapath says of a connection or a datagram; `write` puts an address into the system call.
#[inline(always)]
fn act<A: Address>(context: *mut bpf_sock_addr, decision: Decision<A>, write: impl FnOnce(A)) -> i32 {
    match decision {
        Decision::Pass => GO_ON,
        Decision::Translate(to) => {
            write(to.address);
            set_port(context, to.port);
            GO_ON
        }
        Decision::Refuse => {
            // SAFETY: a helper on a plain number.
            unsafe { bpf_set_retval(-REFUSED) };
            FAIL
        }
        Decision::Drop(_) => FAIL,
    }
}

/// A connection or a datagram of one family: what the datapath makes of its destination.
#[inline(always)]
fn outward<A: Sockaddr>(
    context: *mut bpf_sock_addr,
    address: A,
    decide: impl FnOnce(&Kernel, &Socket, Endpoint<A>) -> Decision<A>,
    write: impl FnOnce(A),
) -> i32
where
    Kernel: Tables<A>,
{
    let Some(config) = maps::CONFIG.get(0) else { return GO_ON };
    let kernel = Kernel::without_packet(config);
    let decision = decide(&kernel, &socket_of(context), Endpoint::new(address, port(context)));
    act(context, decision, write)
}

/// A peer of one family that is shown to a process.
#[inline(always)]
fn inward<A: Sockaddr>(context: *mut bpf_sock_addr, address: A, write: impl FnOnce(A)) -> i32
where
    Kernel: Tables<A>,
{
    let Some(config) = maps::CONFIG.get(0) else { return GO_ON };
    let kernel = Kernel::without_packet(config);
    if let Some(frontend) = socket::peer(&kernel, &socket_of(context), Endpoint::new(address, port(context))) {
        write(frontend.address);
        set_port(context, frontend.port);
    }
    GO_ON
}

/// Writes an IPv4 address into a system call of an IPv6 socket, whose address stands for an IPv4 one already.
#[inline(always)]
fn write_mapped(context: *mut bpf_sock_addr, address: Addr4) {
    // SAFETY: the program's context.
    unsafe { write_volatile(&raw mut (*context).user_ip6[3], address.0) };
}

macro_rules! hooks {
    ($($(#[$doc:meta])* $name:ident $four:ident $direction:ident $($decide:path)?;)+) => {
        $(
            $(#[$doc])*
            #[cgroup_sock_addr($name)]
            pub(crate) fn $name(context: SockAddrContext) -> i32 {
                hooks!(@ $four context.sock_addr, $direction $($decide)?)
            }
        )+
    };
    (@ v4 $context:expr, $direction:ident $($decide:path)?) => {{
        let context = $context;
        $direction(context, Addr4::read(context), $($decide,)? |address: Addr4| address.write(context))
    }};
    (@ v6 $context:expr, $direction:ident $($decide:path)?) => {{
        let context = $context;
        let address = Addr6::read(context);
        match mapped(address) {
            Some(address) => $direction(context, address, $($decide,)? |address| write_mapped(context, address)),
            None => $direction(context, address, $($decide,)? |address: Addr6| address.write(context)),
        }
    }};
}

hooks! {
    /// `connect` of an IPv4 socket.
    connect4 v4 outward socket::connect;
    /// `connect` of an IPv6 socket, to either family.
    connect6 v6 outward socket::connect;
    /// A datagram with a destination of its own, by IPv4.
    sendmsg4 v4 outward socket::send;
    /// The same by IPv6.
    sendmsg6 v6 outward socket::send;
    /// The sender of a datagram, shown to an IPv4 socket.
    recvmsg4 v4 inward;
    /// The same for an IPv6 socket, of either family.
    recvmsg6 v6 inward;
    /// `getpeername` of an IPv4 socket.
    getpeername4 v4 inward;
    /// The same of an IPv6 socket, of either family.
    getpeername6 v6 inward;
}
