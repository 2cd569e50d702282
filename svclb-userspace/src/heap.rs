//! Memory that the agent needs no more.

/// Gives the free parts of the heap back to the system. What is read once (first lists, pinned maps, the kernel's
/// types) leaves holes between what stays, and glibc by itself only gives back what is at the end.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes no pointers, and may be called at any time from any thread.
        let _given: i32 = unsafe { libc::malloc_trim(0) };
    }
}
