//! Asks chrony how good the clock is, through `chronyc -c`: `tracking` and `sources`.
//!
//! Judges nothing. Its output comes from a program that can be missing, old, slow or broken, so
//! whatever isn't exactly as expected is an error and never a number.

use super::program::{self, ProgramError};
use pgaa_core::clock::{ClockSource, SourceReport};
use pgaa_core::time::Wall;
use std::path::Path;

/// The fields of `tracking` (chronyc(1)).
const FIELDS: usize = 14;

/// The fields of a line of `sources`.
const SOURCE_FIELDS: usize = 10;

/// The reference id of chronyd's own local clock (`local` in its configuration): it then follows
/// nothing but itself.
const LOCAL_REFERENCE: &str = "7F7F0101";

/// Asks `chronyc`. `now` gives the age of chrony's last reference.
pub async fn ask(chronyc: &Path, now: Wall) -> Result<SourceReport, ProgramError> {
    let arguments = ["-c", "-n", "-m", "tracking", "sources"];
    parse(&program::run(chronyc, &arguments).await?, now)
}

/// Reads the line of `tracking`, and those of `sources` below it.
pub fn parse(text: &str, now: Wall) -> Result<SourceReport, ProgramError> {
    let mut lines = text.trim().lines();
    let report = tracking(lines.next().unwrap_or_default(), now)?;
    let mut reachable = None;
    for line in lines {
        let usable = reaches(line)?;
        reachable = Some(usable || reachable == Some(true));
    }
    Ok(SourceReport {
        reachable,
        ..report
    })
}

/// Is this a server that chrony takes for right and that has answered one of the last eight
/// questions? One that lies (`x`), jumps about (`~`) or is silent (`?`) is none.
fn reaches(line: &str) -> Result<bool, ProgramError> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let [_, state, _, _, _, reach, ..] = fields.as_slice() else {
        let text = format!("a source of {} fields", fields.len());
        return Err(ProgramError::Nonsense(text));
    };
    if fields.len() != SOURCE_FIELDS {
        let text = format!("a source of {} fields", fields.len());
        return Err(ProgramError::Nonsense(text));
    }
    let reach = u32::from_str_radix(reach, 8)
        .map_err(|_| ProgramError::Nonsense(format!("the reach {reach:?} is no octal number")))?;
    Ok(reach != 0 && ["*", "+", "-"].contains(state))
}

fn tracking(line: &str, now: Wall) -> Result<SourceReport, ProgramError> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let &[
        id,
        _,
        _,
        reference,
        offset,
        _,
        _,
        _,
        _,
        _,
        delay,
        dispersion,
        interval,
        leap,
    ] = fields.as_slice()
    else {
        let text = format!("{} fields where there should be {FIELDS}", fields.len());
        return Err(ProgramError::Nonsense(text));
    };
    let reference_s = number("reference time", reference)?;
    // chronyc prints how much the clock has to be moved: what is slow (positive) is behind.
    let offset_s = -number("system time", offset)?;
    let known = [
        "Normal",
        "Insert second",
        "Delete second",
        "Not synchronised",
    ];
    if !known.contains(&leap) {
        return Err(ProgramError::Nonsense(format!(
            "the leap status {leap:?} is unknown"
        )));
    }
    let referenced = reference_s > 0.0 && id != "00000000" && id != LOCAL_REFERENCE;
    Ok(SourceReport {
        source: ClockSource::Chrony,
        follows: referenced && leap != "Not synchronised",
        offset_s,
        root_delay_s: number("root delay", delay)?,
        root_dispersion_s: number("root dispersion", dispersion)?,
        reference_age_s: referenced.then_some((now.0 as f64 / 1000.0 - reference_s).max(0.0)),
        update_interval_s: Some(number("update interval", interval)?),
        reachable: None,
    })
}

fn number(what: &str, text: &str) -> Result<f64, ProgramError> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| ProgramError::Nonsense(format!("the {what} {text:?} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const GOOD: &str = "0A000001,10.0.0.1,3,1795221459.000000000,0.000200000,-0.000010,0.00002,\
                        -3.1,0.001,0.02,0.010000000,0.001000000,64.2,Normal\n";
    const NOW: Wall = Wall(1_795_221_489_000);

    #[test]
    fn a_report_is_read() {
        let report = parse(GOOD, NOW).unwrap();
        let expected = SourceReport {
            source: ClockSource::Chrony,
            follows: true,
            offset_s: -0.0002,
            root_delay_s: 0.01,
            root_dispersion_s: 0.001,
            reference_age_s: Some(30.0),
            update_interval_s: Some(64.2),
            reachable: None,
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn a_server_that_is_silent_or_lies_is_none() {
        let with = |sources: &str| parse(&format!("{GOOD}{sources}"), NOW).map(|r| r.reachable);
        let source = |state: &str, reach: &str| {
            format!("^,{state},10.0.0.1,3,6,{reach},12,0.000001,0.000001,0.000003\n")
        };
        assert_eq!(with("").unwrap(), None);
        assert_eq!(with(&source("*", "377")).unwrap(), Some(true));
        for (state, reach) in [("?", "377"), ("x", "377"), ("~", "377"), ("*", "0")] {
            assert_eq!(with(&source(state, reach)).unwrap(), Some(false), "{state}");
        }
        let both = source("x", "377") + &source("+", "1");
        assert_eq!(with(&both).unwrap(), Some(true));
        for bad in ["^,*,10.0.0.1", "506 Cannot talk", &source("*", "9")] {
            assert!(with(bad).is_err(), "{bad:?} was taken");
        }
        let long = source("*", "1").trim().to_owned() + ",1";
        assert!(with(&long).is_err());
    }

    #[test]
    fn what_follows_nothing_says_so() {
        let unsynchronised = "00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised";
        let report = parse(unsynchronised, NOW).unwrap();
        assert!(!report.follows);
        assert_eq!(report.reference_age_s, None);
        let local = GOOD.replace("0A000001", LOCAL_REFERENCE);
        assert!(!parse(&local, NOW).unwrap().follows);
    }

    #[test]
    fn hostile_and_truncated_output_is_an_error() {
        for end in 0..GOOD.trim().len() - 1 {
            let cut = &GOOD[..end];
            assert!(parse(cut, NOW).is_err(), "{cut:?} was taken");
        }
        for (from, to) in [
            ("0.000200000", "nan"),
            ("0.000200000", "inf"),
            ("0.010000000", ""),
            ("Normal", "Normal,"),
            ("1795221459.000000000", "1e999"),
        ] {
            let bad = GOOD.replace(from, to);
            assert!(parse(&bad, NOW).is_err(), "{bad:?} was taken");
        }
    }

    fn script(directory: &Path, text: &str) -> std::path::PathBuf {
        let path = directory.join("chronyc");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_program_that_fails_floods_or_is_missing_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("no-such-program");
        assert!(matches!(
            ask(&missing, NOW).await,
            Err(ProgramError::Run { .. })
        ));
        let refused = script(directory.path(), "echo '506 Cannot talk to daemon'; exit 1");
        assert!(matches!(
            ask(&refused, NOW).await,
            Err(ProgramError::Refused { .. })
        ));
        let flood = script(directory.path(), "exec yes");
        assert!(ask(&flood, NOW).await.is_err());
        let good = script(directory.path(), &format!("echo '{}'", GOOD.trim()));
        assert!(ask(&good, NOW).await.unwrap().follows);
    }
}
