//! The programs that svclb is measured against, and the traffic for both.
//!
//! A second kernel object, built only for `cargo xtask bench`. [`traffic`] makes another packet for
//! each run and hands it to the program under measurement by a tail call, be that one of svclb's or one of
//! [`programs`], so that making the packet costs all of them the same. Parsing and rewriting are svclb's own
//! functions; what differs is how flows are kept.
//! [`flood`] is something else: packets for whole nodes to forward.
//!
//! For any other target than BPF this is an empty program.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod flood;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
#[path = "../packet.rs"]
mod packet;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod traffic;

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
