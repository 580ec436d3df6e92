//! What a node's own source of time says of its clock, judged; and kept from flapping.

use super::{ClockCause, ClockReading, ClockSource, ClockVerdict};

/// What a source of time reports, before it is judged. Seconds where not said otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceReport {
    /// Who reports.
    pub source: ClockSource,
    /// Does it follow something (chrony: leap status other than "Not synchronised" and a
    /// reference; kernel: STA_UNSYNC clear)?
    pub follows: bool,
    /// Offset of the system clock from true time.
    pub offset_s: f64,
    /// Root delay.
    pub root_delay_s: f64,
    /// Root dispersion.
    pub root_dispersion_s: f64,
    /// Age of the last reference, where the source tells.
    pub reference_age_s: Option<f64>,
    /// Time between two updates, where the source tells.
    pub update_interval_s: Option<f64>,
    /// Has any server answered one of the last eight questions (the reach register isn't 0)?
    /// `None` where the source doesn't tell.
    pub reachable: Option<bool>,
}

/// So many update intervals without a new one are too many.
const INTERVALS_MAX: f64 = 4.0;

/// The shortest interval that counts: chrony's shortest usual one, seconds.
const INTERVAL_MIN_S: f64 = 64.0;

/// Judges a report against the largest error bound that still counts as synchronized.
///
/// chrony keeps saying `Normal` for a while after its server is lost, so whether any server still
/// answers and how old the reference is count as well.
#[must_use]
pub fn judge(report: &SourceReport, error_us_max: u64) -> ClockReading {
    let bound_s =
        report.offset_s.abs() + report.root_dispersion_s.abs() + report.root_delay_s.abs() / 2.0;
    if !bound_s.is_finite() {
        return ClockReading {
            source: report.source,
            ..ClockReading::default()
        };
    }
    let error_us = (bound_s * 1e6).min(1e15) as u64;
    let stale = match (report.reference_age_s, report.update_interval_s) {
        (Some(age), Some(interval)) => age > INTERVALS_MAX * interval.max(INTERVAL_MIN_S),
        (Some(_) | None, Some(_) | None) => false,
    };
    let (verdict, cause) = if !report.follows {
        (ClockVerdict::Unsynchronized, ClockCause::NoSource)
    } else if report.reachable == Some(false) {
        (ClockVerdict::Drifting, ClockCause::Unreachable)
    } else if stale {
        (ClockVerdict::Drifting, ClockCause::Stale)
    } else if error_us > error_us_max {
        (ClockVerdict::Drifting, ClockCause::Error)
    } else {
        (ClockVerdict::Synchronized, ClockCause::None)
    };
    ClockReading {
        verdict,
        cause,
        source: report.source,
        offset_us: (report.offset_s * 1e6).clamp(-1e15, 1e15) as i64,
        error_us: Some(error_us),
    }
}

/// So many readings in a row have to say the same before another verdict counts.
const IN_A_ROW: u32 = 2;

/// An error bound that is this many times too large counts at once.
const PLAINLY: u64 = 2;

/// Keeps a verdict from flapping: another one counts when it comes twice in a row. The first
/// counts at once, and so does a clock that is plainly wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settling {
    settled: Option<ClockReading>,
    /// The verdict that differs, and how often it has come in a row.
    other: Option<(ClockVerdict, u32)>,
}

impl Settling {
    /// Takes a reading, and gives the one that counts. Numbers are always the newest.
    pub fn take(&mut self, new: ClockReading, error_us_max: u64) -> ClockReading {
        let plainly = new
            .error_us
            .is_some_and(|error| error > error_us_max.saturating_mul(PLAINLY));
        let counts = match self.settled {
            None => true,
            Some(old) if old.verdict == new.verdict => true,
            Some(old) if old.verdict == ClockVerdict::Unknown => true,
            Some(_) if plainly && new.verdict != ClockVerdict::Synchronized => true,
            Some(_) => {
                let before = self.other.filter(|(verdict, _)| *verdict == new.verdict);
                let times = before.map_or(1, |(_, times)| times + 1);
                self.other = Some((new.verdict, times));
                times >= IN_A_ROW
            }
        };
        let (Some(old), false) = (self.settled, counts) else {
            self.settled = Some(new);
            self.other = None;
            return new;
        };
        // A source that gave no answer has no numbers to offer.
        let kept = if new.verdict == ClockVerdict::Unknown {
            old
        } else {
            ClockReading {
                verdict: old.verdict,
                cause: old.cause,
                ..new
            }
        };
        self.settled = Some(kept);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: SourceReport = SourceReport {
        source: ClockSource::Chrony,
        follows: true,
        offset_s: -0.000_2,
        root_delay_s: 0.010,
        root_dispersion_s: 0.001,
        reference_age_s: Some(30.0),
        update_interval_s: Some(64.0),
        reachable: Some(true),
    };

    fn verdict(report: SourceReport) -> (ClockVerdict, ClockCause) {
        let reading = judge(&report, 100_000);
        (reading.verdict, reading.cause)
    }

    #[test]
    fn bound_is_the_sum_of_what_can_be_wrong() {
        let reading = judge(&GOOD, 100_000);
        assert_eq!(reading.verdict, ClockVerdict::Synchronized);
        assert_eq!(reading.offset_us, -200);
        assert_eq!(reading.error_us, Some(6_200));
    }

    #[test]
    fn a_lost_or_wide_source_is_drifting_and_a_missing_one_unsynchronized() {
        use ClockVerdict::{Drifting, Unsynchronized};
        let old = SourceReport {
            reference_age_s: Some(300.0),
            ..GOOD
        };
        assert_eq!(verdict(old), (Drifting, ClockCause::Stale));
        let lost = SourceReport {
            reachable: Some(false),
            ..GOOD
        };
        assert_eq!(verdict(lost), (Drifting, ClockCause::Unreachable));
        let wide = SourceReport {
            offset_s: 0.2,
            ..GOOD
        };
        assert_eq!(verdict(wide), (Drifting, ClockCause::Error));
        let none = SourceReport {
            follows: false,
            ..GOOD
        };
        assert_eq!(verdict(none), (Unsynchronized, ClockCause::NoSource));
    }

    #[test]
    fn nonsense_is_unknown() {
        let nonsense = SourceReport {
            offset_s: f64::NAN,
            ..GOOD
        };
        assert_eq!(verdict(nonsense).0, ClockVerdict::Unknown);
    }

    #[test]
    fn one_reading_of_another_kind_does_not_count() {
        let good = judge(&GOOD, 100_000);
        let lost = judge(
            &SourceReport {
                reachable: Some(false),
                ..GOOD
            },
            100_000,
        );
        let mut settling = Settling::default();
        assert_eq!(
            settling.take(good, 100_000).verdict,
            ClockVerdict::Synchronized
        );
        for _ in 0..3 {
            assert_eq!(
                settling.take(lost, 100_000).verdict,
                ClockVerdict::Synchronized
            );
            assert_eq!(
                settling.take(good, 100_000).verdict,
                ClockVerdict::Synchronized
            );
        }
        settling.take(lost, 100_000);
        assert_eq!(settling.take(lost, 100_000), lost);
        assert_eq!(settling.take(good, 100_000).verdict, ClockVerdict::Drifting);
        assert_eq!(settling.take(good, 100_000), good);
    }

    #[test]
    fn the_first_and_the_plain_count_at_once() {
        let good = judge(&GOOD, 100_000);
        let wild = judge(
            &SourceReport {
                offset_s: 5.0,
                ..GOOD
            },
            100_000,
        );
        let mut settling = Settling::default();
        let unknown = ClockReading::default();
        assert_eq!(settling.take(unknown, 100_000), unknown);
        assert_eq!(settling.take(good, 100_000), good);
        // A source that could not be asked once leaves its last word standing.
        assert_eq!(settling.take(unknown, 100_000), good);
        assert_eq!(settling.take(wild, 100_000), wild);
        assert_eq!(settling.take(good, 100_000).verdict, ClockVerdict::Drifting);
        assert_eq!(settling.take(good, 100_000), good);
    }
}
