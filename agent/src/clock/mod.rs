//! The one place that reads clocks: the time for the rest of the agent, and how good it is.
//!
//! Must not decide what a reading means for the mesh: `pgaa_core::clock` judges.

mod chrony;
mod kernel;

use crate::config::ClockSettings;
use log::debug;
use pgaa_core::clock::{ClockReading, judge};
use pgaa_core::time::{Mono, Now, Wall};
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

/// The first multiple of `period` after `passed`.
fn next_multiple(passed: Duration, period: Duration) -> Duration {
    let periods = passed.as_nanos() / period.as_nanos().max(1) + 1;
    period.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX))
}

/// How good this machine's clock is: by chrony, and by the kernel where chrony can't be asked.
pub async fn sample(settings: &ClockSettings) -> ClockReading {
    let now = Clocks::start().wall();
    let report = match chrony::ask(&settings.chronyc, now).await {
        Ok(report) => Ok(report),
        Err(error) => {
            debug!("{error}; the kernel is asked instead");
            kernel::ask()
        }
    };
    let error_us_max = u64::try_from(settings.error_max.as_micros()).unwrap_or(u64::MAX);
    match report {
        Ok(report) => judge(&report, error_us_max),
        Err(error) => {
            debug!("the kernel doesn't tell about the clock: {error}");
            ClockReading::default()
        }
    }
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
