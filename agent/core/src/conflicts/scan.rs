//! Reading text piece by piece, and PostgreSQL's timestamps.

use super::Stamp;

/// What is left to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan<'a>(pub &'a [u8]);

impl<'a> Scan<'a> {
    /// Passes over a word that has to be next.
    pub fn word(&mut self, word: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(word.as_bytes())?;
        Some(())
    }

    /// Everything before the next such byte, which stays.
    pub fn until(&mut self, stop: u8) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == stop)?;
        let (before, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(before)
    }

    /// Decimal digits.
    pub fn number(&mut self) -> Option<u32> {
        self.digits(10)
    }

    /// Hexadecimal digits.
    pub fn hex(&mut self) -> Option<u32> {
        self.digits(16)
    }

    fn digits(&mut self, radix: u32) -> Option<u32> {
        let mut value: u64 = 0;
        let mut count = 0;
        for byte in self.0 {
            let Some(digit) = char::from(*byte).to_digit(radix) else {
                break;
            };
            value = value * u64::from(radix) + u64::from(digit);
            count += 1;
            if count > 10 {
                return None;
            }
        }
        self.0 = self.0.get(count..)?;
        (count > 0).then(|| u32::try_from(value).ok()).flatten()
    }

    /// A name, quoted where PostgreSQL's `quote_identifier` quotes.
    pub fn name(&mut self) -> Option<String> {
        let mut name = Vec::new();
        if self.word("\"").is_none() {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
            let end = self.0.iter().position(|byte| !plain(byte));
            let (before, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
            self.0 = rest;
            name.extend_from_slice(before);
        } else {
            loop {
                name.extend_from_slice(self.until(b'"')?);
                self.word("\"")?;
                if self.word("\"").is_none() {
                    break;
                }
                name.push(b'"');
            }
        }
        let name = String::from_utf8(name).ok()?;
        (!name.is_empty()).then_some(name)
    }

    /// A time like "2026-11-21 20:05:51.25+00": any offset, no time zone's name.
    pub fn stamp(&mut self) -> Option<Stamp> {
        let local = self.local_time()?;
        let west = match (self.word("+"), self.word("-")) {
            (Some(()), _) => false,
            (None, Some(())) => true,
            (None, None) => return None,
        };
        let mut seconds = i64::from(self.number()?) * 3600;
        for unit in [60, 1] {
            if self.word(":").is_none() {
                break;
            }
            seconds += i64::from(self.number()?) * unit;
        }
        let ahead = if west { -seconds } else { seconds };
        Some(Stamp(local.checked_sub(ahead.checked_mul(1_000_000)?)?))
    }

    /// A time without a zone, "2026-11-21 20:05:51.25": microseconds since 1970 there.
    pub fn local_time(&mut self) -> Option<i64> {
        let year = self.number()?;
        self.word("-")?;
        let month = self.number().filter(|month| (1..=12).contains(month))?;
        self.word("-")?;
        let day = self.number().filter(|day| (1..=31).contains(day))?;
        self.word(" ")?;
        let hour = self.number().filter(|hour| *hour <= 24)?;
        self.word(":")?;
        let minute = self.number().filter(|minute| *minute < 60)?;
        self.word(":")?;
        let second = self.number().filter(|second| *second <= 60)?;
        let micros = match self.word(".") {
            Some(()) => self.fraction()?,
            None => 0,
        };
        let seconds = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
        let days = days_since_1970(year, month, day);
        Some((days * 86_400 + seconds) * 1_000_000 + micros)
    }

    /// The digits behind the point, as microseconds.
    fn fraction(&mut self) -> Option<i64> {
        let before = self.0.len();
        let value = i64::from(self.number()?);
        let digits = u32::try_from(before - self.0.len()).ok()?;
        let missing = 6_u32.checked_sub(digits)?;
        Some(value * 10_i64.pow(missing))
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days_since_1970(year: u32, month: u32, day: u32) -> i64 {
    // The year begins in March, so that the leap day is its last one.
    let year = i64::from(year) - i64::from(month <= 2);
    let month = i64::from((month + 9) % 12);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + i64::from(day) - 1;
    let day = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + day - 719_468
}
