//! `sk_buff` as a [`Packet`].
//!
//! Headers are read and written through the pointers to the linear part, which costs a few
//! instructions; a header that lies outside of it (rare: drivers put headers into the linear part) goes
//! through the helpers. The pointers are loaded anew for each access, because helpers invalidate
//! them and the verifier wants to see each check.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_csum_diff, bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_head,
    bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use core::arch::asm;
use core::hint::cold_path;
use core::mem::MaybeUninit;
use svclb_common::packet::{Frame, MAX_SUM, Packet};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `BPF_F_PSEUDO_HDR`: the checksum covers a pseudo header.
const PSEUDO_HEADER: u64 = 1 << 4;
/// `BPF_F_INGRESS`: a packet is redirected to where packets of the device come in.
const INGRESS: u64 = 1;
/// `BPF_ADJ_ROOM_MAC`: room between link layer and network header.
const ROOM_MAC: u32 = 1;
/// Headers end before this offset, a bound that the verifier needs.
const MAX_OFFSET: usize = 4096;
/// Length of an Ethernet header with one and with two VLAN tags.
const ONE_TAG: usize = 18;
const TWO_TAGS: usize = 22;
/// Bytes summed at once.
const CHUNK: usize = 64;

/// `offset` if it is small enough, as a value that the verifier knows to be: kernel 6.1 forgets what a
/// comparison told about a register when the compiler saved the value before it and loads it after it.
#[inline(always)]
pub(crate) fn bounded(offset: usize) -> Option<usize> {
    if offset > MAX_OFFSET {
        return None;
    }
    let mut bounded = offset;
    // SAFETY: changes nothing but the register, and not its value, as MAX_OFFSET lies inside the mask.
    unsafe { asm!("{0} &= 8191", inout(reg) bounded, options(pure, nomem, nostack)) };
    Some(bounded)
}

/// A packet at a `tc` hook.
#[derive(Clone, Copy)]
pub(crate) struct Skb {
    /// The context that the kernel gave the program.
    pub(crate) ctx: *mut __sk_buff,
}

impl Skb {
    /// Makes a packet one that is for this host whatever the receiver's MAC address was (`PACKET_HOST`): at a port of a bridge
    /// it is for another, and pods do not take those.
    #[inline(always)]
    pub(crate) fn be_for_host(&self) {
        // SAFETY: as in `linear`, and a helper on plain numbers.
        unsafe {
            if (*self.ctx).pkt_type != 0 {
                bpf_skb_change_type(self.ctx, 0);
            }
        }
    }

    /// Start of `T` at `offset` in the linear part, if all of it is there.
    #[inline(always)]
    fn linear<T>(&self, offset: usize) -> Option<*mut T> {
        // SAFETY: the kernel hands a valid context to the program; the verifier rewrites the loads.
        let (data, end) = unsafe { ((*self.ctx).data as usize, (*self.ctx).data_end as usize) };
        let start = data + offset;
        if start + size_of::<T>() > end {
            return None;
        }
        Some(start as *mut T)
    }
}

impl Frame for Skb {
    const PLAIN_CHECKSUMS: bool = false;

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as in `linear`.
        unsafe { (*self.ctx).len }
    }

    #[inline(always)]
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        let offset = bounded(offset)?;
        if let Some(start) = self.linear::<T>(offset) {
            // SAFETY: `linear` checked that all of T is there; T is valid for any bytes (FromBytes). A
            // misaligned load is what BPF does on every machine that the verifier allows it on.
            return Some(unsafe { *start });
        }
        cold_path();
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all size_of::<T>() bytes or fails.
        let failed = unsafe {
            bpf_skb_load_bytes(self.ctx.cast(), offset as u32, value.as_mut_ptr().cast(), size_of::<T>() as u32)
        };
        if failed != 0 {
            return None;
        }
        // SAFETY: written in full by the helper; T is valid for any bytes.
        Some(unsafe { value.assume_init() })
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable + Copy>(&mut self, offset: usize, value: &T) -> Option<()> {
        // SAFETY: the helper checks the bounds.
        let failed = unsafe {
            bpf_skb_store_bytes(self.ctx, offset as u32, core::ptr::from_ref(value).cast(), size_of::<T>() as u32, 0)
        };
        (failed == 0).then_some(())
    }

    #[inline(always)]
    fn add_l4_checksum(&mut self, offset: usize, difference: u32, pseudo: bool) -> Option<()> {
        let flags = if pseudo { PSEUDO_HEADER } else { 0 };
        // SAFETY: the helper checks the bounds. A size of 0 in the flags means that `to` is a difference.
        let failed = unsafe { bpf_l4_csum_replace(self.ctx, offset as u32, 0, difference as u64, flags) };
        (failed == 0).then_some(())
    }

    #[inline(always)]
    fn add_packet_sum(&mut self, difference: u32) {
        // SAFETY: a helper on plain numbers. It fails where there is no such sum, and nothing is to be done.
        let _no_sum = unsafe { bpf_csum_update(self.ctx, difference) };
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: as in `linear`.
        unsafe { (*self.ctx).ifindex }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn sum(&self, offset: usize, length: usize) -> Option<u32> {
        u32::try_from(sum_packet(self.ctx, offset as u32, length as u32)).ok()
    }

    #[inline(always)]
    fn resize(&mut self, length: u32) -> Option<()> {
        // SAFETY: the helper checks everything.
        (unsafe { bpf_skb_change_tail(self.ctx, length, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn insert(&mut self, l3: usize, bytes: u32) -> Option<()> {
        // SAFETY: the helper checks everything; it knows itself where the network header starts.
        if unsafe { bpf_skb_adjust_room(self.ctx, bytes as i32, ROOM_MAC, 0) } == 0 {
            return Some(());
        }
        // It knows nothing of VLAN tags in the packet's bytes: make room at the head and move the link layer.
        // SAFETY: the helper checks everything.
        if unsafe { bpf_skb_change_head(self.ctx, bytes, 0) } != 0 {
            return None;
        }
        match l3 {
            ONE_TAG => self.move_to_head::<[u8; ONE_TAG]>(bytes),
            TWO_TAGS => self.move_to_head::<[u8; TWO_TAGS]>(bytes),
            _ => None,
        }
    }

    #[inline(always)]
    fn copy_into_node(&mut self) -> Option<()> {
        // SAFETY: the helper checks everything. The copy waits in the queue of this CPU.
        (unsafe { bpf_clone_redirect(self.ctx, self.device(), INGRESS) } == 0).then_some(())
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: as in `linear`.
        unsafe { (*self.ctx).gso_size }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: as in `linear`.
        unsafe { (*self.ctx).vlan_present != 0 }
    }

    #[inline(always)]
    fn mark(&self) -> u16 {
        // SAFETY: as in `linear`.
        unsafe { (*self.ctx).tc_index as u16 }
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u16) {
        // SAFETY: as in `linear`; tc_index may be written by tc programs.
        unsafe { (*self.ctx).tc_index = mark as u32 };
    }
}

/// [`Packet::sum`], verified once, whoever calls it; what is more than 32 bits means that it failed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_packet(ctx: *mut __sk_buff, offset: u32, length: u32) -> u64 {
    let skb = Skb { ctx };
    skb.sum_all(offset as usize, length as usize).map_or(u64::MAX, u64::from)
}

impl Skb {
    #[inline(always)]
    fn sum_all(&self, offset: usize, length: usize) -> Option<u32> {
        let mut total = 0u32;
        let mut buffer = [0u64; CHUNK / 8];
        let whole = length / CHUNK;
        let mut chunk = 0;
        while chunk < MAX_SUM / CHUNK {
            if chunk >= whole {
                break;
            }
            total = self.sum_chunk(&mut buffer, offset + chunk * CHUNK, CHUNK as u32, total)?;
            chunk += 1;
        }
        // What is left, by its binary digits: the verifier wants lengths that it knows.
        let mut at = offset + whole * CHUNK;
        let mut size = CHUNK / 2;
        while size > 0 {
            if length & size != 0 {
                buffer = [0; CHUNK / 8];
                total = self.sum_chunk(&mut buffer, at, size as u32, total)?;
                at += size;
            }
            size /= 2;
        }
        Some(total)
    }

    /// Copies what stands at `offset` to the start of the packet.
    #[inline(always)]
    fn move_to_head<T: FromBytes + IntoBytes + Immutable + Copy>(&mut self, offset: u32) -> Option<()> {
        let header: T = self.read(offset as usize)?;
        self.write(0, &header)
    }

    /// Adds up to a chunk of the packet to `total`. What follows the `length` bytes in the buffer must be
    /// zero.
    #[inline(always)]
    fn sum_chunk(&self, buffer: &mut [u64; CHUNK / 8], offset: usize, length: u32, total: u32) -> Option<u32> {
        // SAFETY: `length` is between 1 and the size of the buffer; the helper checks the packet.
        let failed = unsafe { bpf_skb_load_bytes(self.ctx.cast(), offset as u32, buffer.as_mut_ptr().cast(), length) };
        if failed != 0 {
            return None;
        }
        // SAFETY: the whole buffer is initialised, and its size a multiple of 4.
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, buffer.as_mut_ptr().cast(), CHUNK as u32, total) };
        Some(sum as u32)
    }
}
