//! How far the clocks of two nodes are apart, from NTP's four times (RFC 5905, 8).
//!
//! The times are those of *raw* clocks, which nobody sets or slews (CLOCK_MONOTONIC_RAW); each
//! node adds how far its wall clock is ahead of its raw one. So samples of minutes can be held
//! against one another although NTP works on both wall clocks meanwhile, and a step of either is
//! seen at once, exactly.
//!
//! One exchange says of the other's clock minus ours: at least `answered - arrived`, at most
//! `received - sent`, whatever each way took: no answer arrives before it is sent. That is the
//! offset of the textbook give or take half the round trip. What several exchanges say, each
//! wider by the drift since, is what lies in all of them, and never wider than what the one with
//! the shortest round trip says.

use super::interval::{Interval, signed};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;
use thiserror::Error;

/// How much two raw clocks can drift apart, parts in a million: 100 for each. NTP seldom sees more
/// than 50 on hardware; virtual machines add the error of their calibration.
pub const DRIFT_PPM: u64 = 200;

/// Samples older than this say less than the newest: their drift is wider than a round trip.
const AGE_MAX: Duration = Duration::from_secs(120);

/// So many samples are kept.
const SAMPLES_MAX: usize = 32;

/// A reading of two clocks of one machine at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instants {
    /// The raw clock, microseconds since some start.
    pub raw_us: i64,
    /// How far the wall clock (microseconds since 1970) is ahead of it.
    pub ahead_us: i64,
    /// How much `ahead_us` can be wrong by: the two can't be read in one instruction.
    pub error_us: u32,
}

/// One exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// We sent, by our raw clock.
    pub sent_us: i64,
    /// The other received, by its raw clock.
    pub received_us: i64,
    /// The other answered; its clocks at that moment.
    pub answered: Instants,
    /// We have the answer, by our raw clock.
    pub arrived_us: i64,
}

/// Times that can't be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the times of an exchange make no sense: the answer took longer than the whole exchange, or less than no time"
)]
pub struct BadTimes;

/// How far another clock is ahead of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairReading {
    /// The other's wall clock minus ours; positive when it is ahead.
    pub offset_us: i64,
    /// How much that can be wrong by.
    pub error_us: u64,
    /// The shortest round trip of the window.
    pub round_trip_us: u64,
    /// How long ago the newest exchange was.
    pub age_ms: u64,
}

impl PairReading {
    /// Where the true offset lies.
    #[must_use]
    pub fn interval(&self) -> Interval {
        Interval::around(self.offset_us, self.error_us)
    }
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at_us: i64,
    /// The other's raw clock minus ours.
    raw: Interval,
    round_trip_us: u64,
}

/// What a sample did to the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It fits what was known.
    Fits,
    /// It contradicts what was known, which is dropped: one of the raw clocks has jumped (a
    /// machine was restarted, or stood still without its clock).
    Jumped,
}

/// The last exchanges with one other node.
#[derive(Debug, Clone, Default)]
pub struct Window {
    samples: VecDeque<Sample>,
    /// The other's clocks at its last answer.
    other: Instants,
}

fn drift_us(passed_us: i64) -> u64 {
    // Rounded up, for the drift of a moment too short to count.
    passed_us.unsigned_abs().saturating_mul(DRIFT_PPM) / 1_000_000 + 1
}

impl Sample {
    fn read(times: &Exchange) -> Result<Sample, BadTimes> {
        let minus = |a: i64, b: i64| a.checked_sub(b).ok_or(BadTimes);
        let whole = minus(times.arrived_us, times.sent_us)?;
        let there = minus(times.answered.raw_us, times.received_us)?;
        // Both clocks drift while the exchange lasts, and their readings are cut to microseconds.
        let slack = drift_us(whole);
        let least = minus(times.answered.raw_us, times.arrived_us)?;
        let most = minus(times.received_us, times.sent_us)?;
        if whole < 0 || there < 0 || least > most.saturating_add(signed(slack)) {
            return Err(BadTimes);
        }
        let raw = Interval {
            lo_us: least.min(most),
            hi_us: most.max(least),
        };
        Ok(Sample {
            at_us: times.arrived_us,
            raw: raw.widened(slack),
            round_trip_us: whole.saturating_sub(there).unsigned_abs(),
        })
    }

    fn seen_at(&self, now_us: i64) -> Interval {
        self.raw
            .widened(drift_us(now_us.saturating_sub(self.at_us)))
    }
}

impl Window {
    /// Takes an exchange.
    pub fn take(&mut self, times: &Exchange) -> Result<Taken, BadTimes> {
        let sample = Sample::read(times)?;
        let oldest = signed(u64::try_from(AGE_MAX.as_micros()).unwrap_or(u64::MAX));
        let now = sample.at_us;
        self.samples
            .retain(|old| now.saturating_sub(old.at_us) <= oldest);
        let fits = self
            .raw(now)
            .is_none_or(|known| known.with(sample.raw).is_some());
        if !fits {
            self.samples.clear();
        }
        while self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.other = times.answered;
        Ok(if fits { Taken::Fits } else { Taken::Jumped })
    }

    /// Forgets everything: this machine has stood still, and its raw clock with it.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    fn raw(&self, now_us: i64) -> Option<Interval> {
        let mut seen = self.samples.iter().map(|sample| sample.seen_at(now_us));
        let first = seen.next()?;
        // Each was held against the others when it came, and all grow alike.
        Some(seen.fold(first, |known, next| known.with(next).unwrap_or(known)))
    }

    /// How far the other wall clock is ahead of ours; as it was set at its last answer.
    #[must_use]
    pub fn reading(&self, own: Instants) -> Option<PairReading> {
        let raw = self.raw(own.raw_us)?;
        let wall = raw
            .shifted(self.other.ahead_us.saturating_sub(own.ahead_us))
            .widened(u64::from(self.other.error_us) + u64::from(own.error_us));
        let newest = self.samples.back()?;
        let trips = self.samples.iter().map(|sample| sample.round_trip_us);
        Some(PairReading {
            offset_us: wall.middle_us(),
            error_us: wall.error_us(),
            round_trip_us: trips.min()?,
            age_ms: own.raw_us.saturating_sub(newest.at_us).unsigned_abs() / 1000,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other's raw clock shows `theirs` when ours shows 0; its wall clock is 5 s ahead of its
    /// raw one, ours 0.
    fn exchange(sent_us: i64, theirs: i64, there_us: i64, back_us: i64) -> Exchange {
        let received_us = sent_us + there_us + theirs;
        Exchange {
            sent_us,
            received_us,
            answered: Instants {
                raw_us: received_us + 100,
                ahead_us: 5_000_000,
                error_us: 0,
            },
            arrived_us: sent_us + there_us + 100 + back_us,
        }
    }

    fn own(raw_us: i64) -> Instants {
        Instants {
            raw_us,
            ..Instants::default()
        }
    }

    #[test]
    fn the_offset_lies_within_half_a_round_trip() {
        let mut window = Window::default();
        assert_eq!(window.reading(own(0)), None);
        assert_eq!(window.take(&exchange(0, 7_000, 900, 100)), Ok(Taken::Fits));
        let reading = window.reading(own(1_100)).unwrap();
        assert!(reading.interval().contains(5_007_000), "{reading:?}");
        assert_eq!(reading.round_trip_us, 1_000);
        // A round trip's half, and the rounding of two drifts.
        assert!((500..=503).contains(&reading.error_us), "{reading:?}");
        assert_eq!(window.reading(own(1_001_100)).unwrap().age_ms, 1_000);
    }

    #[test]
    fn lopsided_ways_narrow_one_another() {
        let mut window = Window::default();
        window.take(&exchange(0, 7_000, 5_000, 10)).unwrap();
        window.take(&exchange(10_000, 7_000, 10, 5_000)).unwrap();
        let reading = window.reading(own(15_110)).unwrap();
        assert!(reading.interval().contains(5_007_000), "{reading:?}");
        assert!(reading.error_us < 30, "{reading:?}");
    }

    #[test]
    fn age_widens_by_the_drift() {
        let mut window = Window::default();
        window.take(&exchange(0, 0, 50, 50)).unwrap();
        let fresh = window.reading(own(200)).unwrap().error_us;
        let old = window.reading(own(10_000_200)).unwrap().error_us;
        assert_eq!(old - fresh, 10 * DRIFT_PPM);
    }

    #[test]
    fn steps_of_both_wall_clocks_show_at_once() {
        let mut window = Window::default();
        window.take(&exchange(0, 0, 50, 50)).unwrap();
        let mut now = own(300);
        now.ahead_us = 4_000_000;
        assert!(window.reading(now).unwrap().interval().contains(1_000_000));
        let mut later = exchange(1_000, 0, 50, 50);
        later.answered.ahead_us = 4_000_000;
        assert_eq!(window.take(&later), Ok(Taken::Fits));
        now.raw_us = 1_300;
        assert!(window.reading(now).unwrap().interval().contains(0));
    }

    #[test]
    fn a_raw_clock_that_jumps_starts_the_window_anew() {
        let mut window = Window::default();
        window.take(&exchange(0, 0, 50, 50)).unwrap();
        let jumped = window.take(&exchange(1_000, 90_000_000, 50, 50));
        assert_eq!(jumped, Ok(Taken::Jumped));
        let reading = window.reading(own(1_300)).unwrap();
        assert!(reading.interval().contains(95_000_000), "{reading:?}");
    }

    #[test]
    fn times_that_cannot_be_are_refused() {
        let good = exchange(0, 0, 50, 50);
        let mut window = Window::default();
        let mut backwards = good;
        backwards.arrived_us = -1;
        let mut long_answer = good;
        long_answer.answered.raw_us += 1_000_000;
        let mut early_answer = good;
        early_answer.answered.raw_us = good.received_us - 1;
        let mut overflowing = good;
        overflowing.received_us = i64::MIN;
        overflowing.answered.raw_us = i64::MAX;
        for bad in [backwards, long_answer, early_answer, overflowing] {
            assert_eq!(window.take(&bad), Err(BadTimes), "{bad:?}");
        }
        assert_eq!(window.reading(own(0)), None);
    }

    #[test]
    fn the_window_is_bounded() {
        let mut window = Window::default();
        for turn in 0..1_000 {
            window.take(&exchange(turn * 1_000, 0, 50, 50)).unwrap();
        }
        assert_eq!(window.samples.len(), SAMPLES_MAX);
        window.take(&exchange(500_000_000, 0, 50, 50)).unwrap();
        assert_eq!(window.samples.len(), 1);
    }
}
