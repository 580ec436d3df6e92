//! Asks systemd-timesyncd how good the clock is, over the system bus.
//!
//! Judges nothing. `timedatectl timesync-status` is made for people and says no times; what is
//! asked here is what it asks (org.freedesktop.timesync1). Whatever isn't exactly as expected is
//! an error and never a number.

use super::program::{self, ProgramError};
use pgaa_core::clock::{ClockSource, SourceReport};
use pgaa_core::time::Wall;
use serde::Deserialize;
use std::path::Path;

/// Its runtime directory, which systemd removes when it stops.
const RUNS: &str = "/run/systemd/timesync";

/// The one question, with one answer. Nobody is started to give it.
const QUESTION: [&str; 10] = [
    "--auto-start=no",
    "--timeout=2",
    "--json=short",
    "call",
    "org.freedesktop.timesync1",
    "/org/freedesktop/timesync1",
    "org.freedesktop.DBus.Properties",
    "GetAll",
    "s",
    "org.freedesktop.timesync1.Manager",
];

/// How fast a clock may go wrong after an answer, seconds a second (PHI of RFC 5905).
const DRIFT: f64 = 15e-6;

/// NTP's leap indicator of a server that follows nothing itself.
const NOT_SYNCHRONIZED: u32 = 3;

/// Strata of servers that follow something.
const STRATA: std::ops::RangeInclusive<u32> = 1..=15;

#[derive(Deserialize)]
struct Answer {
    data: (Properties,),
}

#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "PollIntervalUSec")]
    poll_interval: Variant<u64>,
    #[serde(rename = "NTPMessage")]
    message: Variant<Message>,
}

#[derive(Deserialize)]
struct Variant<T> {
    data: T,
}

/// The last answer of a server, and the times of the exchange; microseconds, but for the precision.
#[derive(Deserialize)]
struct Message(
    u32,
    #[expect(dead_code, reason = "NTP's version")] u32,
    #[expect(dead_code, reason = "NTP's mode: timesyncd takes answers only")] u32,
    u32,
    #[expect(dead_code, reason = "the server's precision, a power of two")] i32,
    u64,
    u64,
    #[expect(dead_code, reason = "who the server follows")] Vec<u8>,
    u64,
    u64,
    u64,
    u64,
    #[expect(dead_code, reason = "was it passed over as a spike? It counts here")] bool,
    u64,
    u64,
);

/// Is there a timesyncd to ask? Asking starts a program and wakes the bus.
pub fn runs() -> bool {
    Path::new(RUNS).is_dir()
}

/// Asks. `now` gives the age of its server's last answer.
pub async fn ask(now: Wall) -> Result<SourceReport, ProgramError> {
    parse(&program::run(Path::new("busctl"), &QUESTION).await?, now)
}

/// Reads what busctl prints of the answer.
pub fn parse(text: &str, now: Wall) -> Result<SourceReport, ProgramError> {
    let answer: Answer = serde_json::from_str(text)
        .map_err(|error| ProgramError::Nonsense(format!("timesyncd's answer: {error}")))?;
    let (Properties {
        poll_interval,
        message,
    },) = answer.data;
    let update_interval_s = Some(poll_interval.data as f64 * 1e-6);
    let message = message.data;
    // Nobody has answered yet.
    if message.13 == 0 {
        return Ok(SourceReport {
            source: ClockSource::Timesyncd,
            follows: false,
            offset_s: 0.0,
            root_delay_s: 0.0,
            root_dispersion_s: 0.0,
            reference_age_s: None,
            update_interval_s,
            reachable: None,
        });
    }
    heard(&message, now)
        .map(|report| SourceReport {
            update_interval_s,
            ..report
        })
        .ok_or_else(|| ProgramError::Nonsense("the times that timesyncd names can't be".to_owned()))
}

/// What follows from an answer; `None` where its times can't be.
fn heard(message: &Message, now: Wall) -> Option<SourceReport> {
    let Message(leap, _, _, stratum, _, root_delay, root_dispersion, ..) = *message;
    let Message(.., sent, received, answered, arrived, _, _, jitter) = *message;
    let minus = |a: u64, b: u64| i64::try_from(i128::from(a) - i128::from(b)).ok();
    let there = minus(received, sent)?;
    let back = minus(answered, arrived)?;
    let round_trip = minus(arrived, sent)?.checked_sub(minus(answered, received)?)?;
    if leap > NOT_SYNCHRONIZED || round_trip < 0 {
        return None;
    }
    let now_us = u64::try_from(now.0).ok()?.checked_mul(1_000)?;
    // A clock that was set back since then knows of no age.
    let age_s = now_us.saturating_sub(arrived) as f64 * 1e-6;
    let of = |us: u64| us as f64 * 1e-6;
    Some(SourceReport {
        source: ClockSource::Timesyncd,
        follows: leap != NOT_SYNCHRONIZED && STRATA.contains(&stratum),
        // What the server is ahead by: then this clock is behind.
        offset_s: -(there.checked_add(back)? as f64) / 2.0 * 1e-6,
        root_delay_s: of(root_delay) + round_trip as f64 * 1e-6,
        root_dispersion_s: of(root_dispersion) + of(jitter) + age_s * DRIFT,
        reference_age_s: Some(age_s),
        update_interval_s: None,
        reachable: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What busctl 252 printed of a timesyncd 252, some properties left out.
    const GOOD: &str = r#"{"type":"a{sv}","data":[{"SystemNTPServers":{"type":"as","data":["10.9.9.1"]},"ServerAddress":{"type":"(iay)","data":[2,[10,9,9,1]]},"PollIntervalUSec":{"type":"t","data":64000000},"NTPMessage":{"type":"(uuuuittayttttbtt)","data":[0,4,4,4,-25,15,45,[10,9,9,1],1795291996335855,1795291996335871,1795291996335971,1795291996335979,false,1,0]},"Frequency":{"type":"x","data":0}}]}"#;

    /// Some 100 s after that answer.
    const NOW: Wall = Wall(1_795_292_096_336);

    #[test]
    fn a_report_is_read() {
        let report = parse(GOOD, NOW).unwrap();
        assert!(report.follows);
        // 16 us there and 8 us back: 4 us ahead, in a round trip of 24.
        assert!((report.offset_s + 4e-6).abs() < 1e-9, "{report:?}");
        assert!(
            (report.root_delay_s - 39e-6).abs() < 1e-9,
            "15 and 24: {report:?}"
        );
        assert!((report.root_dispersion_s - 0.001_545).abs() < 1e-6);
        assert_eq!(report.update_interval_s, Some(64.0));
        let age = report.reference_age_s.unwrap();
        assert!((age - 100.0).abs() < 0.001, "{age}");
    }

    #[test]
    fn a_clock_behind_its_server_is_behind() {
        // The server's two times, half a second later.
        let behind = GOOD
            .replace("1795291996335871", "1795291996835871")
            .replace("1795291996335971", "1795291996835971");
        let report = parse(&behind, NOW).unwrap();
        assert!((report.offset_s + 0.500_004).abs() < 1e-9, "{report:?}");
    }

    #[test]
    fn what_has_heard_of_nobody_follows_nobody() {
        for (from, to) in [
            ("false,1,0]", "false,0,0]"),
            ("[0,4,4,4,", "[3,4,4,4,"),
            ("[0,4,4,4,", "[0,4,4,0,"),
            ("[0,4,4,4,", "[0,4,4,16,"),
        ] {
            assert!(GOOD.contains(from));
            assert!(!parse(&GOOD.replace(from, to), NOW).unwrap().follows);
        }
    }

    #[test]
    fn truncated_and_hostile_output_is_an_error() {
        for end in 0..GOOD.len() {
            assert!(parse(&GOOD[..end], NOW).is_err(), "{:?}", &GOOD[..end]);
        }
        for (from, to) in [
            ("[0,4,4,4,", "[4,4,4,4,"),
            ("[0,4,4,4,", "[0,4,4,"),
            // The answer took longer than the whole exchange.
            ("1795291996335971", "1795291997335971"),
            ("1795291996335855", "18446744073709551615"),
            ("1795291996335855", "-1"),
            ("64000000", "\"soon\""),
            ("NTPMessage", "NTPMassage"),
        ] {
            assert!(GOOD.contains(from));
            assert!(
                parse(&GOOD.replace(from, to), NOW).is_err(),
                "{to} was taken"
            );
        }
    }
}
