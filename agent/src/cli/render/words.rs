//! Numbers as people read them: ages, times, bytes, the error of a clock.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgaa_core::clock::{ClockReading, ClockVerdict};
use pgaa_core::time::Wall;

/// "now", "12 s", "5 min", "3 h", "2 d".
#[must_use]
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => "now".to_owned(),
        1..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The age of `then`, seen at `now`; a time that lies ahead is now.
#[must_use]
pub fn age_of(then: Wall, now: Wall) -> String {
    age(u64::try_from(now.0.saturating_sub(then.0)).unwrap_or(0))
}

/// "2026-11-21 00:38:09 UTC".
#[must_use]
pub fn time(at: Wall, zone: &TimeZone) -> String {
    match Timestamp::from_millisecond(at.0) {
        Ok(instant) => instant
            .to_zoned(zone.clone())
            .strftime("%Y-%m-%d %H:%M:%S %Z")
            .to_string(),
        Err(_) => format!("{} ms", at.0),
    }
}

/// "512 B", "1.5 GB", in powers of 1000.
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for next in units {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A lag in ms: "12 ms", "3.4 s", "5 min". A negative one comes from clocks that differ.
#[must_use]
pub fn lag(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{:.1} s", ms as f64 / 1000.0),
        100_000.. => age(ms.unsigned_abs()),
    }
}

/// Microseconds as "0.2 ms" or "1.3 s".
#[must_use]
pub fn short_time(us: f64) -> String {
    if us.abs() < 999_950.0 {
        format!("{:.1} ms", us / 1e3)
    } else {
        format!("{:.1} s", us / 1e6)
    }
}

/// "+0.2 ms ± 6.2 ms", or the verdict where nothing was measured or the verdict is bad.
#[must_use]
pub fn clock(reading: &ClockReading) -> String {
    let word = match reading.verdict {
        ClockVerdict::Unknown => return "unknown".to_owned(),
        ClockVerdict::Synchronized => "",
        ClockVerdict::Drifting => "drifting ",
        ClockVerdict::Unsynchronized => return "no source".to_owned(),
    };
    match reading.error_us {
        Some(error) => format!("{word}{}", offset(reading.offset_us, error)),
        None => format!("{word}{}", ahead(reading.offset_us)),
    }
}

/// "+0.2 ms".
fn ahead(us: i64) -> String {
    let sign = if us < 0 { "" } else { "+" };
    format!("{sign}{}", short_time(us as f64))
}

/// "+0.2 ms ± 6.2 ms".
#[must_use]
pub fn offset(offset_us: i64, error_us: u64) -> String {
    format!("{} ± {}", ahead(offset_us), short_time(error_us as f64))
}

/// The verdict as a word.
#[must_use]
pub fn verdict(verdict: ClockVerdict) -> &'static str {
    match verdict {
        ClockVerdict::Unknown => "unknown",
        ClockVerdict::Synchronized => "synchronized",
        ClockVerdict::Drifting => "drifting",
        ClockVerdict::Unsynchronized => "without a source",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well_at_their_edges() {
        assert_eq!(
            [age(999), age(1000), age(119_999), age(120_000)],
            ["now", "1 s", "119 s", "2 min"]
        );
        assert_eq!([age(7_199_000), age(7_200_000)], ["119 min", "2 h"]);
        assert_eq!(age(u64::MAX), "213503982334 d");
        assert_eq!(
            [bytes(999), bytes(1000), bytes(999_949)],
            ["999 B", "1.0 kB", "999.9 kB"]
        );
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
        assert_eq!(
            [lag(-5), lag(999), lag(1_500), lag(200_000)],
            ["-5 ms", "999 ms", "1.5 s", "3 min"]
        );
        assert_eq!(lag(i64::MIN), "-9223372036854775808 ms");
        assert_eq!(
            time(Wall(i64::MAX), &TimeZone::UTC),
            "9223372036854775807 ms"
        );
    }
}
