//! Times as people write them.

use super::super::args::read_duration;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Microseconds since 1970 UTC. A time without an offset is one of `zone`; what lies ahead of `now`
/// can't be restored.
pub fn read(text: &str, now: Timestamp, zone: &TimeZone) -> Result<i64, String> {
    let text = text.trim();
    let time = match text.strip_suffix("ago") {
        Some(span) => ago(span.trim(), now)?,
        None => moment(text, zone)?,
    };
    if time > now {
        return Err(format!("{text:?} lies ahead; name a time that has passed"));
    }
    Ok(time.as_microsecond())
}

fn ago(span: &str, now: Timestamp) -> Result<Timestamp, String> {
    let span = read_duration(span)?;
    let ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let too_long = |_| format!("{span:?} ago is before all times; name a shorter one");
    now.checked_sub(SignedDuration::from_millis(ms))
        .map_err(too_long)
}

fn moment(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    let bad = || {
        format!("{text:?} is no time; write 2026-11-21 20:10:00, 2026-11-21T20:10:00Z, or 20m ago")
    };
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // "2026-11-21 20:10:00 UTC", as the status prints it.
    if let Some(utc) = text.strip_suffix("UTC") {
        let civil: DateTime = utc.trim().parse().map_err(|_| bad())?;
        return civil
            .to_zoned(TimeZone::UTC)
            .map(|z| z.timestamp())
            .map_err(|_| bad());
    }
    let civil: DateTime = text.parse().map_err(|_| bad())?;
    // An hour that the clocks show twice could mean either: the offset has to be said.
    let ambiguous = |_| {
        format!("{text:?} is shown by the clocks twice or never; add the offset, as in {text}+01")
    };
    let zoned = zone.to_ambiguous_zoned(civil).unambiguous();
    zoned.map(|zoned| zoned.timestamp()).map_err(ambiguous)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_servers_write_them() {
        let now: Timestamp = "2026-11-21T21:00:00Z".parse().unwrap();
        let berlin = TimeZone::fixed(jiff::tz::offset(1));
        let read = |text| read(text, now, &berlin).map(|us| us / 1_000_000);
        let evening = 1_795_291_800;
        for same in [
            "2026-11-21T20:10:00Z",
            "2026-11-21 20:10:00+00",
            "2026-11-21 21:10:00",
            "2026-11-21 20:10:00 UTC",
            "50m ago",
            "3000s ago",
        ] {
            assert_eq!(read(same), Ok(evening), "{same}");
        }
        assert_eq!(
            super::read("2026-11-21 20:10:24.016725+00", now, &berlin),
            Ok(1_795_291_824_016_725)
        );
        for bad in [
            "",
            "yesterday",
            "ago",
            "x ago",
            "2026-13-01",
            "2026-11-22 00:00:00Z",
            "99999999d ago",
        ] {
            assert!(read(bad).is_err(), "{bad} was taken");
        }
    }
}
