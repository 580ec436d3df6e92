//! An interval that a true value lies in, microseconds. Arithmetic on what may come from anywhere:
//! nothing overflows, it only saturates.

use serde::{Deserialize, Serialize};

/// From `lo_us` to `hi_us`, both included; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// The least it can be.
    pub lo_us: i64,
    /// The most it can be.
    pub hi_us: i64,
}

/// Microseconds as a signed number; what doesn't fit is as much as there is.
pub(super) fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

impl Interval {
    /// `middle` give or take `error`.
    #[must_use]
    pub fn around(middle_us: i64, error_us: u64) -> Interval {
        Interval {
            lo_us: middle_us.saturating_sub(signed(error_us)),
            hi_us: middle_us.saturating_add(signed(error_us)),
        }
    }

    /// Exactly this.
    #[must_use]
    pub fn point(at_us: i64) -> Interval {
        Interval::around(at_us, 0)
    }

    /// Moved by a known amount.
    #[must_use]
    pub fn shifted(self, by_us: i64) -> Interval {
        Interval {
            lo_us: self.lo_us.saturating_add(by_us),
            hi_us: self.hi_us.saturating_add(by_us),
        }
    }

    /// Wider on both sides.
    #[must_use]
    pub fn widened(self, by_us: u64) -> Interval {
        Interval {
            lo_us: self.lo_us.saturating_sub(signed(by_us)),
            hi_us: self.hi_us.saturating_add(signed(by_us)),
        }
    }

    /// What lies in both; `None` when nothing does.
    #[must_use]
    pub fn with(self, other: Interval) -> Option<Interval> {
        let lo_us = self.lo_us.max(other.lo_us);
        let hi_us = self.hi_us.min(other.hi_us);
        (lo_us <= hi_us).then_some(Interval { lo_us, hi_us })
    }

    /// Does it lie in here?
    #[must_use]
    pub fn contains(self, us: i64) -> bool {
        self.lo_us <= us && us <= self.hi_us
    }

    /// The value that is wrong by least.
    #[must_use]
    pub fn middle_us(self) -> i64 {
        let middle = i128::midpoint(self.lo_us.into(), self.hi_us.into());
        i64::try_from(middle).unwrap_or(0)
    }

    /// How much the middle can be wrong by.
    #[must_use]
    pub fn error_us(self) -> u64 {
        let middle = self.middle_us();
        self.hi_us.abs_diff(middle).max(middle.abs_diff(self.lo_us))
    }

    /// The least that the true value can differ from zero by.
    #[must_use]
    pub fn least_us(self) -> u64 {
        if self.contains(0) {
            0
        } else {
            self.lo_us.unsigned_abs().min(self.hi_us.unsigned_abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_numbers_are_no_trap() {
        let all = Interval {
            lo_us: i64::MIN,
            hi_us: i64::MAX,
        };
        assert_eq!(all.shifted(i64::MAX).widened(u64::MAX), all);
        assert_eq!(all.middle_us(), 0);
        assert!(all.contains(0) && all.least_us() == 0);
        let far = Interval::around(i64::MIN, u64::MAX);
        assert_eq!(far.lo_us, i64::MIN);
        assert_eq!(Interval::point(i64::MIN).least_us(), 1 << 63);
    }

    #[test]
    fn middle_and_error_cover_both_ends() {
        for (lo_us, hi_us) in [(-3, 4), (-4, 3), (5, 5), (-1, 0), (0, 1)] {
            let interval = Interval { lo_us, hi_us };
            let around = Interval::around(interval.middle_us(), interval.error_us());
            assert!(
                around.contains(lo_us) && around.contains(hi_us),
                "{interval:?}"
            );
        }
    }

    #[test]
    fn what_lies_in_both() {
        let (a, b) = (Interval::around(0, 10), Interval::around(15, 5));
        assert_eq!(a.with(b), Some(Interval::point(10)));
        assert_eq!(a.with(b.shifted(1)), None);
        assert_eq!(b.least_us(), 10);
        assert_eq!(b.shifted(-40).least_us(), 20);
    }
}
