//! The CPU that a thread runs on, and how much of it the thread has had.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

/// Keeps the calling thread on one CPU.
pub(super) fn stay_on(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus))
        .with_context(|| format!("stay on CPU {cpu}; does this machine have it? --cpu names another one"))
}

/// Lets the calling thread go before all that are not of its kind, as long as it lives. What else runs on the machine
/// then takes the CPU's caches for moments only.
pub(super) fn go_first() -> Result<()> {
    let real_time = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, real_time)
        .map_err(|error| anyhow::anyhow!("run a thread before others (this takes CAP_SYS_NICE): {error:?}"))
}

/// The CPU time that the calling thread has had, with what the kernel did for it: packets that it sends are processed
/// up to their receiver's socket on its account.
pub(super) fn time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the CPU time of this thread")?.into())
}
