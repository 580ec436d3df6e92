//! The one place that reads clocks: the time for the rest of the agent, and how good it is.
//!
//! Must not decide what a reading means for the mesh: `pgaa_core::clock` judges.

mod chrony;
mod keeper;
mod kernel;
mod ntpd_rs;
mod program;
mod timesyncd;

pub use keeper::unkept;

use crate::config::ClockSettings;
use log::debug;
use nix::time::{ClockId, clock_gettime};
use pgaa_core::clock::jolt::Ticks;
use pgaa_core::clock::pair::Instants;
use pgaa_core::clock::{ClockReading, SourceReport, judge};
use pgaa_core::time::{Mono, Now, Wall};
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::sleep_until;

/// The agent's handle on time. Cheap to copy; every copy counts from the same start.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    start: Instant,
}

impl Clocks {
    /// Starts counting now.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock handle")]
    #[must_use]
    pub fn start() -> Clocks {
        Clocks {
            start: Instant::now(),
        }
    }

    /// Both readings.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            mono: self.mono(),
            wall: self.wall(),
        }
    }

    /// Milliseconds since the start; keeps counting through steps of the wall clock.
    #[must_use]
    pub fn mono(&self) -> Mono {
        Mono(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Rests until the next whole multiple of `period` since the start. Tasks that rest so wake
    /// together: what waking costs is the process, not the task.
    pub async fn pulse(&self, period: Duration) {
        sleep_until((self.start + next_multiple(self.start.elapsed(), period)).into()).await;
    }

    /// Milliseconds since 1970 UTC.
    #[must_use]
    pub fn wall(&self) -> Wall {
        Wall(self.wall_us() / 1000)
    }

    /// The raw clock, which nobody sets or slews, and how far the wall clock is ahead of it.
    #[must_use]
    pub fn instants(&self) -> Instants {
        let mut best = self.bracket();
        for _ in 1..BRACKETS_MAX {
            if best.error_us <= BRACKET_GOOD_US {
                break;
            }
            let next = self.bracket();
            if next.error_us < best.error_us {
                best = next;
            }
        }
        best
    }

    /// The wall clock between two looks at the raw one.
    fn bracket(&self) -> Instants {
        let before_us = read_us(ClockId::CLOCK_MONOTONIC_RAW);
        let wall_us = self.wall_us();
        let raw_us = read_us(ClockId::CLOCK_MONOTONIC_RAW);
        let between = raw_us.saturating_sub(before_us).max(0);
        Instants {
            raw_us,
            ahead_us: wall_us.saturating_sub(before_us.saturating_add(between / 2)),
            // Each of the three readings is cut to whole microseconds.
            error_us: u32::try_from(between / 2 + 2).unwrap_or(u32::MAX),
        }
    }

    /// The clocks between which a step or a pause shows.
    #[must_use]
    pub fn ticks(&self) -> Ticks {
        Ticks {
            wall_us: self.wall_us(),
            monotonic_us: read_us(ClockId::CLOCK_MONOTONIC),
            boot_us: read_us(ClockId::CLOCK_BOOTTIME),
        }
    }

    /// Microseconds since 1970 UTC.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock handle")]
    #[must_use]
    pub fn wall_us(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        }
    }
}

/// So good a bracket is not tried again.
const BRACKET_GOOD_US: u32 = 10;

/// A process is seldom interrupted twice within microseconds.
const BRACKETS_MAX: usize = 3;

/// Microseconds of one of the kernel's clocks; those that are asked for here exist on every Linux
/// since 2.6.39.
fn read_us(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| {
        time.tv_sec()
            .saturating_mul(1_000_000)
            .saturating_add(time.tv_nsec() / 1000)
    })
}

/// The first multiple of `period` after `passed`.
fn next_multiple(passed: Duration, period: Duration) -> Duration {
    let periods = passed.as_nanos() / period.as_nanos().max(1) + 1;
    period.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX))
}

/// How good this machine's clock is, by the first source that can be asked: chrony, the other
/// daemons where they run, and the kernel at last.
pub async fn sample(settings: &ClockSettings, error_us_max: u64, now: Wall) -> ClockReading {
    match ask(settings, now).await {
        Ok(report) => judge(&report, error_us_max),
        Err(error) => {
            debug!("the kernel doesn't tell about the clock: {error}");
            ClockReading::default()
        }
    }
}

async fn ask(settings: &ClockSettings, now: Wall) -> io::Result<SourceReport> {
    match chrony::ask(&settings.chronyc, now).await {
        Ok(report) => return Ok(report),
        Err(error) => debug!("{error}; another source is asked instead"),
    }
    if timesyncd::runs() {
        match timesyncd::ask(now).await {
            Ok(report) => return Ok(report),
            Err(error) => debug!("{error}; another source is asked instead"),
        }
    }
    if ntpd_rs::runs() {
        match ntpd_rs::ask().await {
            Ok(report) => return Ok(report),
            Err(error) => debug!("{error}; the kernel is asked instead"),
        }
    }
    kernel::ask()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_meet_at_their_common_multiples() {
        let next = |passed_ms, period_ms| {
            let (passed, period) = (
                Duration::from_millis(passed_ms),
                Duration::from_millis(period_ms),
            );
            u64::try_from(next_multiple(passed, period).as_millis()).unwrap()
        };
        assert_eq!(next(0, 1000), 1000);
        assert_eq!(next(999, 1000), 1000);
        // Whoever wakes on time rests for a whole period.
        assert_eq!(next(1000, 1000), 2000);
        for period_ms in [1000, 2000, 5000] {
            assert_eq!(next(9_001, period_ms), 10_000);
        }
    }
}
