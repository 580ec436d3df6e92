//! The clock as a verdict for its consumers, after AWS ClockBound: the time, and how wrong it
//! may be. Last-update-wins needs clocks that agree with one another.
//!
//! Two things are known of a clock: what its own source of time says of it ([`verdict`]), and how
//! far it is from the clocks of the other nodes ([`pair`], [`consensus`]). Neither can do without
//! the other: a source can be wrong, and a majority can be wrong together.

pub mod consensus;
pub mod distrust;
pub mod interval;
pub mod jolt;
pub mod pair;
pub mod verdict;

pub use pair::PairReading;
pub use verdict::{Settling, SourceReport, judge};

use crate::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

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

/// Why the verdict isn't better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ClockCause {
    /// There is nothing to explain, or nothing is known.
    #[default]
    None,
    /// No source of time is followed.
    NoSource,
    /// None of the servers has answered lately.
    Unreachable,
    /// The last word of a server is too old.
    Stale,
    /// The error bound is too large.
    Error,
}

/// Where a reading comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ClockSource {
    /// No source could be asked.
    #[default]
    None,
    /// `chronyc -c`.
    Chrony,
    /// `adjtimex(2)` with modes = 0.
    Kernel,
    /// systemd-timesyncd.
    Timesyncd,
    /// ntpd-rs.
    NtpdRs,
}

impl ClockSource {
    /// Its name for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            ClockSource::None => "none",
            ClockSource::Chrony => "chrony",
            ClockSource::Kernel => "kernel",
            ClockSource::Timesyncd => "timesyncd",
            ClockSource::NtpdRs => "ntpd-rs",
        }
    }

    /// The command that shows its servers.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            ClockSource::Chrony => "chronyc -n sources",
            ClockSource::Timesyncd => "timedatectl timesync-status",
            ClockSource::NtpdRs => "ntp-ctl status",
            ClockSource::None | ClockSource::Kernel => "apt-get install chrony; chronyc -n sources",
        }
    }
}

/// One reading of the local clock's quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct ClockReading {
    /// The verdict.
    pub verdict: ClockVerdict,
    /// Why it isn't better.
    #[serde(default)]
    pub cause: ClockCause,
    /// Who said so.
    pub source: ClockSource,
    /// Estimated offset from true time, microseconds; positive when this clock is ahead.
    pub offset_us: i64,
    /// |offset| + root dispersion + root delay / 2, microseconds; `None` when unknown.
    pub error_us: Option<u64>,
}

/// The tolerance where the configuration names none. An update that knows of another node's
/// change comes later than that change by its way through replication (some milliseconds within a
/// site, a round trip between sites) and by the time its author took; clocks that agree within
/// this keep such pairs in order. NTP keeps machines of one site within 1 ms and machines far
/// apart within 10: beyond 50 something is wrong with a clock, not with the network.
pub const OFFSET_MAX_DEFAULT: Duration = Duration::from_millis(50);

/// A pair that was not measured for so long says nothing.
pub const PAIR_AGE_MAX: Duration = Duration::from_secs(60);

/// What clocks must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockPolicy {
    /// The largest error bound that counts as synchronized.
    pub error_max: Duration,
    /// How far two clocks may be apart; `None`: [`OFFSET_MAX_DEFAULT`], or the round trip between
    /// the two nodes where that is longer.
    pub offset_max: Option<Duration>,
    /// Is readiness withheld from a node whose clock can't be trusted?
    pub strict: bool,
}

impl Default for ClockPolicy {
    fn default() -> ClockPolicy {
        ClockPolicy {
            error_max: Duration::from_millis(100),
            offset_max: None,
            strict: false,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl ClockPolicy {
    /// How far two clocks may be apart, with this round trip between them.
    #[must_use]
    pub fn tolerance_us(&self, round_trip_us: u64) -> u64 {
        match self.offset_max {
            Some(offset) => micros(offset),
            None => micros(OFFSET_MAX_DEFAULT).max(round_trip_us),
        }
    }

    /// [`ClockPolicy::error_max`] in microseconds.
    #[must_use]
    pub fn error_us_max(&self) -> u64 {
        micros(self.error_max)
    }
}

/// What is known of this node's clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClockView {
    /// What its own source says.
    pub local: ClockReading,
    /// How far the clocks of the others are ahead of it.
    pub pairs: BTreeMap<NodeId, PairReading>,
}

impl ClockView {
    /// Clocks that are exactly together.
    #[must_use]
    pub fn exact(nodes: impl IntoIterator<Item = NodeId>) -> ClockView {
        let together = PairReading {
            offset_us: 0,
            error_us: 0,
            round_trip_us: 0,
            age_ms: 0,
        };
        ClockView {
            local: ClockReading::default(),
            pairs: nodes.into_iter().map(|node| (node, together)).collect(),
        }
    }

    /// The pair with `node`, if it was measured lately.
    #[must_use]
    pub fn fresh(&self, node: NodeId) -> Option<&PairReading> {
        let fresh = |pair: &&PairReading| u128::from(pair.age_ms) <= PAIR_AGE_MAX.as_millis();
        self.pairs.get(&node).filter(fresh)
    }
}
