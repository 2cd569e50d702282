//! Keeping the heap small, see docs/decisions/0007.

/// Lets all threads share one heap. Must be called before there are others; the agent's seldom allocate at the same
/// time.
pub(crate) fn share() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes no pointers, and only this thread is there.
        let _accepted: i32 = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

/// Gives the free parts of the heap back to the system. What is read once (first lists, pinned maps, the kernel's
/// types) leaves holes between what stays, and glibc by itself only gives back what is at the end.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes no pointers, and may be called at any time from any thread.
        let _given: i32 = unsafe { libc::malloc_trim(0) };
    }
}
