//! The clock as a verdict for its consumers, after AWS ClockBound: the time, and how wrong it
//! may be. Last-update-wins needs clocks that agree with one another.

use serde::{Deserialize, Serialize};

/// What can be said of a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ClockVerdict {
    /// Nothing has been measured, or the source gave no answer that can be read.
    #[default]
    Unknown,
    /// A source is followed and its error bound is small enough.
    Synchronized,
    /// A source was followed until recently, or the error bound has grown too large.
    Drifting,
    /// No source is followed.
    Unsynchronized,
}

/// Where a reading comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ClockSource {
    /// No source could be asked.
    #[default]
    None,
    /// `chronyc -c tracking`.
    Chrony,
    /// `adjtimex(2)` with modes = 0.
    Kernel,
}

/// One reading of the local clock's quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct ClockReading {
    /// The verdict.
    pub verdict: ClockVerdict,
    /// Who said so.
    pub source: ClockSource,
    /// Estimated offset from true time, microseconds; positive when this clock is ahead.
    pub offset_us: i64,
    /// |offset| + root dispersion + root delay / 2, microseconds; `None` when unknown.
    pub error_us: Option<u64>,
}

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
}

/// Judges a report against the largest error bound that still counts as synchronized.
///
/// chrony keeps saying `Normal` for a while after its server is lost, so the age of the
/// reference counts as well: four update intervals without a new one is drifting.
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
        (Some(age), Some(interval)) => age > 4.0 * interval.max(64.0),
        (Some(_) | None, Some(_) | None) => false,
    };
    let verdict = if !report.follows {
        ClockVerdict::Unsynchronized
    } else if stale || error_us > error_us_max {
        ClockVerdict::Drifting
    } else {
        ClockVerdict::Synchronized
    };
    ClockReading {
        verdict,
        source: report.source,
        offset_us: (report.offset_s * 1e6).clamp(-1e15, 1e15) as i64,
        error_us: Some(error_us),
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
    };

    #[test]
    fn bound_is_the_sum_of_what_can_be_wrong() {
        let reading = judge(&GOOD, 100_000);
        assert_eq!(reading.verdict, ClockVerdict::Synchronized);
        assert_eq!(reading.offset_us, -200);
        assert_eq!(reading.error_us, Some(6_200));
    }

    #[test]
    fn a_lost_or_wide_source_is_drifting_and_a_missing_one_unsynchronized() {
        let lost = SourceReport {
            reference_age_s: Some(300.0),
            ..GOOD
        };
        assert_eq!(judge(&lost, 100_000).verdict, ClockVerdict::Drifting);
        assert_eq!(judge(&GOOD, 6_000).verdict, ClockVerdict::Drifting);
        let none = SourceReport {
            follows: false,
            ..GOOD
        };
        assert_eq!(judge(&none, 100_000).verdict, ClockVerdict::Unsynchronized);
    }

    #[test]
    fn nonsense_is_unknown() {
        let nonsense = SourceReport {
            offset_s: f64::NAN,
            ..GOOD
        };
        assert_eq!(judge(&nonsense, 100_000).verdict, ClockVerdict::Unknown);
    }
}
