//! The kernel object of svclb.
//!
//! Adapters only: [`maps`] declares the tables of [`svclb_common::schema`], [`packet`] and [`env`] put
//! `sk_buff`, maps and helpers behind the traits of svclb-common, and [`tc`] and [`sock`] have the entry points. What
//! happens to a packet or a socket is decided in `svclb_common::datapath`.
//!
//! For any other target than BPF this is an empty program, so that the whole workspace builds anywhere.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "BPF has no other way to compare and exchange"))]

#[cfg(target_arch = "bpf")]
mod address_set;
#[cfg(target_arch = "bpf")]
mod buckets;
#[cfg(target_arch = "bpf")]
mod env;
#[cfg(target_arch = "bpf")]
mod fib;
#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod tc;
#[cfg(target_arch = "bpf")]
mod xdp;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Never reached: the build refuses an object from which it could be.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence that the kernel's helpers demand.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
