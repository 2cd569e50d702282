//! The packet path's clock, read from userspace: jiffies, in ticks of [`Tick`](svclb_common::env::Tick).

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_getres, clock_gettime};
use std::time::Duration;
use svclb_common::env::TICK_SHIFT;

const NANOSECONDS: u64 = 1_000_000_000;

/// The kernel's jiffies in a second: the coarse clock moves once a jiffy.
pub fn jiffies_per_second() -> Result<u64> {
    let resolution =
        clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).context("read the resolution of the kernel's coarse clock")?;
    Ok(NANOSECONDS / u64::try_from(resolution.tv_nsec())?.max(1))
}

/// The time as the packet path sees it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now: u32,
    ticks_per_second: f64,
}

impl Clock {
    /// Reads the clock.
    pub fn read() -> Result<Self> {
        let hz = jiffies_per_second()?;
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).context("read the kernel's coarse clock")?;
        let jiffies = u64::try_from(now.tv_sec())? * hz + u64::try_from(now.tv_nsec())? * hz / NANOSECONDS;
        // Jiffies begin five minutes before they wrap around 32 bits (INITIAL_JIFFIES).
        let first = u64::from(u32::try_from(300 * hz)?.wrapping_neg());
        let ticks = (first + jiffies) >> TICK_SHIFT;
        let ticks_per_second = f64::from(u32::try_from(hz)?) / f64::from(1u32 << TICK_SHIFT);
        Ok(Self { now: (ticks & u64::from(u32::MAX)).try_into()?, ticks_per_second })
    }

    /// Ticks since a moment; a moment just ahead, by the clocks' difference, is now.
    pub const fn ticks_since(&self, tick: u32) -> u32 {
        let age = self.now.wrapping_sub(tick);
        if age > u32::MAX / 2 { 0 } else { age }
    }

    /// Whole seconds in some ticks.
    pub fn seconds(&self, ticks: u32) -> u64 {
        Duration::from_secs_f64(f64::from(ticks) / self.ticks_per_second).as_secs()
    }
}
