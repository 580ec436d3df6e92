//! What happens to a clock between two looks at it: it is set, the machine sleeps, or everything
//! stands still.
//!
//! The kernel's clocks tell them apart. Slewing (NTP's way of small corrections) moves wall,
//! monotonic and boot clock alike, so that only a *step* changes the wall clock against the boot
//! clock. Suspending stops the monotonic clock and not the boot clock. A paused virtual machine
//! whose clocks go on, or a stopped process, shows as a look that comes far too late. One whose
//! clocks stopped as well sees nothing itself: its peers do, and then whatever sets its clock.

use std::time::Duration;

/// A step smaller than this is not worth an event: NTP slews what is smaller, and readings of two
/// clocks are not made in one instruction.
const STEP_MIN_US: u64 = 10_000;

/// Timers of a loaded machine come late by less than this.
const LATE_MAX: Duration = Duration::from_secs(3);

/// The clocks of this machine at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    /// Microseconds since 1970.
    pub wall_us: i64,
    /// Without the time in which the machine was suspended (CLOCK_MONOTONIC).
    pub monotonic_us: i64,
    /// With it (CLOCK_BOOTTIME).
    pub boot_us: i64,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jolt {
    /// The wall clock was set by so much.
    Stepped(i64),
    /// The machine was suspended for so long.
    Suspended(Duration),
    /// The machine, or this process, stood still for so long, while the clocks went on.
    StoodStill(Duration),
}

/// Remembers the last look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looks {
    last: Option<Ticks>,
}

impl Looks {
    /// Compares with the last look, which was to be `period` ago.
    pub fn note(&mut self, now: Ticks, period: Duration) -> Vec<Jolt> {
        let Some(last) = self.last.replace(now) else {
            return Vec::new();
        };
        let passed = |pick: fn(&Ticks) -> i64| pick(&now).saturating_sub(pick(&last));
        let (wall, boot) = (passed(|t| t.wall_us), passed(|t| t.boot_us));
        let monotonic = passed(|t| t.monotonic_us);
        let mut jolts = Vec::new();
        let asleep = positive(boot.saturating_sub(monotonic));
        if asleep > Duration::from_micros(STEP_MIN_US) {
            jolts.push(Jolt::Suspended(asleep));
        }
        let late = positive(monotonic).saturating_sub(period);
        if late > LATE_MAX {
            jolts.push(Jolt::StoodStill(late));
        }
        let step = wall.saturating_sub(boot);
        if step.unsigned_abs() > STEP_MIN_US {
            jolts.push(Jolt::Stepped(step));
        }
        jolts
    }
}

fn positive(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ticks(wall_ms: i64, monotonic_ms: i64, boot_ms: i64) -> Ticks {
        Ticks {
            wall_us: 1_700_000_000_000_000 + wall_ms * 1000,
            monotonic_us: monotonic_ms * 1000,
            boot_us: boot_ms * 1000,
        }
    }

    fn seen(now: Ticks) -> Vec<Jolt> {
        let mut looks = Looks::default();
        assert_eq!(looks.note(ticks(0, 0, 0), SECOND), []);
        looks.note(now, SECOND)
    }

    #[test]
    fn ordinary_seconds_are_nothing() {
        assert_eq!(seen(ticks(1_000, 1_000, 1_000)), []);
        // A loaded machine, and a reading that was interrupted.
        assert_eq!(seen(ticks(3_505, 3_500, 3_500)), []);
    }

    #[test]
    fn slewing_is_no_step() {
        // chrony slews by up to 8.3 %, and takes all three clocks along.
        assert_eq!(seen(ticks(1_083, 1_083, 1_083)), []);
    }

    #[test]
    fn steps_sleep_and_stillness_are_told_apart() {
        let step = Jolt::Stepped(-5_000_000);
        assert_eq!(seen(ticks(-4_000, 1_000, 1_000)), [step]);
        let asleep = Jolt::Suspended(Duration::from_secs(60));
        assert_eq!(seen(ticks(61_000, 1_000, 61_000)), [asleep]);
        let still = Jolt::StoodStill(Duration::from_secs(9));
        assert_eq!(seen(ticks(10_000, 10_000, 10_000)), [still]);
        // Clocks that stopped with the machine, until NTP set the time right.
        let step = Jolt::Stepped(60_000_000);
        assert_eq!(seen(ticks(61_000, 1_000, 1_000)), [step]);
    }

    #[test]
    fn a_step_is_told_once() {
        let mut looks = Looks::default();
        looks.note(ticks(0, 0, 0), SECOND);
        assert_eq!(looks.note(ticks(900, 1_000, 1_000), SECOND).len(), 1);
        assert_eq!(looks.note(ticks(1_900, 2_000, 2_000), SECOND), []);
    }
}
