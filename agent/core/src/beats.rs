//! The numbers of heartbeats. Each grows by one from the last. When an agent has started and looked at
//! its slots, and whenever it finds that one is gone or was made anew, it goes on from a round number far
//! above: in a new series, which its record tells of. Who hears a heartbeat of a series that the record it
//! knows does not tell of, knows an old record: the slot that it reads may be another one by now, and
//! what comes through it hides a gap.
//!
//! Must not know how a heartbeat travels, nor what is made of one whose series nobody has told of.

/// So many heartbeats fit in one series: 136 years of one a second.
const SERIES_BITS: u32 = 32;

/// Later series share the numbers of this one: a number is an `int8` in the database.
const SERIES_MAX: u64 = (1 << 31) - 2;

/// The number above which the heartbeats of a series lie.
#[must_use]
pub fn floor(series: u64) -> u64 {
    series.min(SERIES_MAX) << SERIES_BITS
}

/// The series that a heartbeat belongs to; 0 for those of agents that numbered them from 1.
#[must_use]
pub fn series(number: u64) -> u64 {
    number >> SERIES_BITS
}

#[cfg(test)]
mod tests {
    use super::{floor, series};

    #[test]
    fn each_series_lies_above_the_one_before() {
        assert_eq!(series(1_234), 0);
        assert_eq!(series(floor(3)), 3);
        assert_eq!(series(floor(3) + 1_000_000), 3);
        assert!(floor(4) > floor(3) + u64::from(u32::MAX));
        // A damaged row may claim anything: there is room above it all the same.
        assert!(floor(u64::MAX) < i64::MAX.unsigned_abs() - u64::from(u32::MAX));
    }
}
