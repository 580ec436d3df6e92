//! The one place that reads clocks: the time for the rest of the agent, and how good it is.
//!
//! Must not decide what a reading means for the mesh: `pgaa_core::clock` judges.

mod chrony;
mod kernel;

use crate::config::ClockSettings;
use log::debug;
use pgaa_core::clock::{ClockReading, judge};
use pgaa_core::time::{Mono, Now, Wall};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
