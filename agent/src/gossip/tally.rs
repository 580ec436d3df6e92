//! Counts what goes wrong, and says so at a rate that a log can bear.
//!
//! Anybody can send anything to a UDP port, so a line for each would be a way to fill the disk.

use log::{Level, log};
use pgaa_core::time::Mono;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

/// How long one kind of trouble stays silent after it was logged.
const SILENCE: Duration = Duration::from_secs(30);

/// What went wrong so far, by kind.
#[derive(Debug, Default)]
pub struct Tally {
    kinds: BTreeMap<&'static str, Kind>,
}

#[derive(Debug, Default)]
struct Kind {
    total: u64,
    unsaid: u64,
    silent_until: Option<Mono>,
}

impl Tally {
    /// Counts one case of `kind`, and logs it unless the same was logged a short while ago.
    /// `text` says what happened and what to do.
    pub fn count(&mut self, now: Mono, level: Level, kind: &'static str, text: impl Display) {
        if let Some(unsaid) = self.add(now, kind) {
            log!(level, "gossip: {text}{}", Unsaid(unsaid));
        }
    }

    /// Counts one case; the number of cases since the last line, when it is time for the next.
    fn add(&mut self, now: Mono, kind: &'static str) -> Option<u64> {
        let kind = self.kinds.entry(kind).or_default();
        kind.total += 1;
        if kind.silent_until.is_some_and(|until| now < until) {
            kind.unsaid += 1;
            return None;
        }
        kind.silent_until = Some(now.plus(SILENCE));
        Some(std::mem::take(&mut kind.unsaid))
    }

    /// How often each kind was counted.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<&'static str, u64> {
        self.kinds
            .iter()
            .map(|(name, kind)| (*name, kind.total))
            .collect()
    }
}

struct Unsaid(u64);

impl Display for Unsaid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            times => write!(f, " ({times} more of the kind since the last such line)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_makes_one_line_in_a_while_and_everything_is_counted() {
        let mut tally = Tally::default();
        assert_eq!(tally.add(Mono(0), "forged"), Some(0));
        for at in 1..1000 {
            assert_eq!(tally.add(Mono(at), "forged"), None);
        }
        assert_eq!(tally.add(Mono(5), "short"), Some(0));
        assert_eq!(tally.add(Mono(30_000), "forged"), Some(999));
        assert_eq!(
            tally.totals(),
            BTreeMap::from([("forged", 1001), ("short", 1)])
        );
        assert_eq!(
            Unsaid(999).to_string(),
            " (999 more of the kind since the last such line)"
        );
    }
}
