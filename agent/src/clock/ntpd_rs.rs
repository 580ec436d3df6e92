//! Asks ntpd-rs how good the clock is, through `ntp-ctl status` in the format of Prometheus: the
//! one that is made for programs (ntp-ctl(8)).
//!
//! Judges nothing. Whatever isn't exactly as expected is an error and never a number.

use super::program::{self, ProgramError};
use pgaa_core::clock::{ClockSource, SourceReport};
use std::path::Path;

/// A source of this many unanswered questions has answered none of the last eight.
const UNANSWERED_MAX: f64 = 8.0;

/// NTP's stratum of a clock that follows nothing.
const STRATUM_NONE: f64 = 16.0;

/// The directory of its socket.
const RUNS: &str = "/run/ntpd-rs";

/// Is there an ntpd-rs to ask? Asking starts a program.
pub fn runs() -> bool {
    Path::new(RUNS).is_dir()
}

/// Asks.
pub async fn ask() -> Result<SourceReport, ProgramError> {
    let text = program::run(Path::new("ntp-ctl"), &["status", "-f", "prometheus"]).await?;
    parse(&text)
}

/// Every value of a metric, with the labels that it stands for.
fn values<'a>(text: &'a str, name: &str) -> Result<Vec<(&'a str, f64)>, ProgramError> {
    let mut values = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(name)) {
        let (labels, value) = match line.chars().next() {
            Some('{') => line.rsplit_once("} "),
            Some(' ') => Some(("", line.trim_start())),
            Some(_) | None => continue,
        }
        .ok_or_else(|| ProgramError::Nonsense(format!("{name} has no value")))?;
        let number = value.trim().parse().ok().filter(|n: &f64| n.is_finite());
        let number = number
            .ok_or_else(|| ProgramError::Nonsense(format!("{name} is {value:?}, no number")))?;
        values.push((labels, number));
    }
    Ok(values)
}

fn one(text: &str, name: &str) -> Result<f64, ProgramError> {
    let values = values(text, name)?;
    let first = values.first().map(|(_, value)| *value);
    first.ok_or_else(|| ProgramError::Nonsense(format!("ntp-ctl names no {name}")))
}

/// Reads the metrics.
pub fn parse(text: &str) -> Result<SourceReport, ProgramError> {
    let unanswered = values(text, "ntp_source_unanswered_polls")?;
    let answers: Vec<&str> = unanswered
        .iter()
        .filter(|(_, count)| *count < UNANSWERED_MAX)
        .map(|(labels, _)| *labels)
        .collect();
    // The system's offset is steered to zero; what its best source says is left of it.
    let uncertain = values(text, "ntp_source_uncertainty_seconds")?;
    let best = uncertain
        .iter()
        .filter(|(labels, _)| answers.contains(labels))
        .min_by(|(_, one), (_, other)| one.total_cmp(other));
    let offsets = values(text, "ntp_source_offset_seconds")?;
    let offset = best.and_then(|(labels, _)| offsets.iter().find(|(of, _)| of == labels));
    let stratum = one(text, "ntp_system_stratum")?;
    Ok(SourceReport {
        source: ClockSource::NtpdRs,
        follows: stratum < STRATUM_NONE && !unanswered.is_empty(),
        // What the source is ahead by: then this clock is behind.
        offset_s: offset.map_or(0.0, |(_, offset)| -offset),
        root_delay_s: one(text, "ntp_system_root_delay_seconds")?,
        root_dispersion_s: one(text, "ntp_system_root_dispersion_seconds")?,
        reference_age_s: None,
        update_interval_s: None,
        reachable: Some(!answers.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ntp-ctl 1.9.0 printed, without the metrics that aren't read; the second source was made
    /// a silent one, 5 s off.
    const GOOD: &str = r#"# HELP ntp_system_root_delay_seconds Distance to the closest root time source.
# TYPE ntp_system_root_delay_seconds gauge
# UNIT ntp_system_root_delay_seconds seconds
ntp_system_root_delay_seconds 0.000014458317312984336
# HELP ntp_system_root_dispersion_seconds Estimate of how precise our time is.
# TYPE ntp_system_root_dispersion_seconds gauge
# UNIT ntp_system_root_dispersion_seconds seconds
ntp_system_root_dispersion_seconds 0.003685091203470968
# HELP ntp_system_stratum Stratum of our clock.
# TYPE ntp_system_stratum gauge
ntp_system_stratum 4
# HELP ntp_source_unanswered_polls Number of polls since the last successful poll with a maximum of eight.
# TYPE ntp_source_unanswered_polls gauge
ntp_source_unanswered_polls{name="10.9.9.1:123",address="10.9.9.1:123",id="1"} 0
ntp_source_unanswered_polls{name="10.9.9.77:123",address="10.9.9.77:123",id="2"} 8
# HELP ntp_source_offset_seconds Offset between the upstream source and system time.
# TYPE ntp_source_offset_seconds gauge
# UNIT ntp_source_offset_seconds seconds
ntp_source_offset_seconds{name="10.9.9.1:123",address="10.9.9.1:123",id="1"} -0.00000483426265531086
ntp_source_offset_seconds{name="10.9.9.77:123",address="10.9.9.77:123",id="2"} 5
# HELP ntp_source_uncertainty_seconds Estimated error of the source clock.
# TYPE ntp_source_uncertainty_seconds gauge
# UNIT ntp_source_uncertainty_seconds seconds
ntp_source_uncertainty_seconds{name="10.9.9.1:123",address="10.9.9.1:123",id="1"} 0.004956312013081348
ntp_source_uncertainty_seconds{name="10.9.9.77:123",address="10.9.9.77:123",id="2"} 0.000002409396460841
# EOF
"#;

    #[test]
    fn a_report_is_read() {
        let report = parse(GOOD).unwrap();
        assert!(report.follows && report.reachable == Some(true));
        // The source is 4.8 us behind: this clock is ahead.
        assert!((report.offset_s - 4.834e-6).abs() < 1e-9, "{report:?}");
        assert!((report.root_delay_s - 14.458e-6).abs() < 1e-9);
        assert!((report.root_dispersion_s - 0.003_685).abs() < 1e-6);
    }

    #[test]
    fn what_follows_nobody_says_so() {
        let alone = GOOD.replace("ntp_system_stratum 4", "ntp_system_stratum 16");
        assert!(!parse(&alone).unwrap().follows);
        let lost = GOOD.replace("id=\"1\"} 0\n", "id=\"1\"} 8\n");
        assert_eq!(parse(&lost).unwrap().reachable, Some(false));
    }

    #[test]
    fn hostile_and_truncated_output_is_an_error() {
        for (from, to) in [
            ("_delay_seconds 0.000014", "_delay_seconds NaN"),
            ("_dispersion_seconds 0.003", "_dispersion_seconds e"),
            ("ntp_system_stratum 4", ""),
            ("id=\"1\"} -0.0000", "id=\"1\"} lots"),
            ("id=\"2\"} 8", "id=\"2\""),
        ] {
            assert!(GOOD.contains(from));
            assert!(parse(&GOOD.replace(from, to)).is_err(), "{to:?} was taken");
        }
        assert!(parse("").is_err());
    }
}
