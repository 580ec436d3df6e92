//! Points in time, as the shell hands them in. The core never reads a clock.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A reading of a monotonic clock: milliseconds since some start that only this process knows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Mono(pub u64);

impl Mono {
    /// The time that passed since `earlier`; zero when `earlier` lies ahead.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved forward by `by`.
    #[must_use]
    pub fn plus(self, by: Duration) -> Mono {
        Mono(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// Wall-clock time: milliseconds since 1970-01-01 UTC. Shown to people, never used to decide.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Wall(pub i64);

/// Both readings, taken at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For intervals and time-outs.
    pub mono: Mono,
    /// For people and logs.
    pub wall: Wall,
}
