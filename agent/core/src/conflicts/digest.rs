//! Many lines of the log, made few: conflicts worth a row each, and counts of all.

use super::judge::{Lags, Verdict, Version, judge};
use super::line::{Read, Unreadable, read};
use super::{Conflict, Failure, Kind, Relation, Resolution, Stamp};
use crate::clock::distrust::Distrust;
use crate::ids::NodeId;
use crate::time::Wall;
use std::collections::BTreeMap;

/// Lines are counted by periods of this length, microseconds.
pub const PERIOD_US: i64 = 600_000_000;

/// What lines are judged by.
#[derive(Debug, Clone)]
pub struct Known {
    /// The OID of the mesh's database.
    pub database: u32,
    /// This node.
    pub me: NodeId,
    /// Whose changes come under which origin here.
    pub origins: BTreeMap<u32, NodeId>,
    /// How long changes took lately.
    pub lags: Lags,
    /// When clocks were too far apart.
    pub distrust: Distrust,
}

impl Known {
    fn node(&self, origin: u32) -> Option<NodeId> {
        match origin {
            0 => Some(self.me),
            other => self.origins.get(&other).copied(),
        }
    }
}

/// A conflict that is worth a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// As the log tells it.
    pub conflict: Conflict<'static>,
    /// Where the change that came was committed.
    pub remote: Option<NodeId>,
    /// Where the row that was here was committed.
    pub local: Option<NodeId>,
    /// Did neither know of the other?
    pub verdict: Verdict,
    /// Could the clocks that decided it be trusted?
    pub clock_trusted: bool,
    /// May the row differ between nodes now? Not where each of them takes the newer one.
    pub suspect: bool,
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TallyKey {
    /// Beginning of the period: microseconds since 1970 in the zone of the log.
    pub since: i64,
    /// The table.
    pub relation: Relation,
    /// Where the changes were committed.
    pub remote: Option<NodeId>,
    /// Where the rows were committed that were here; this node for rows that aren't here.
    pub local: Option<NodeId>,
    /// What happened.
    pub kind: Kind,
    /// What was done.
    pub resolution: Resolution,
}

/// Counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// All lines.
    pub lines: u64,
    /// Those that are conflicts.
    pub conflicts: u64,
    /// Those of which nobody can tell.
    pub unsure: u64,
}

/// What was found in many lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digest {
    /// Worth a row each, in the order of the log.
    pub kept: Vec<Kept>,
    /// Everything, counted.
    pub tallies: BTreeMap<TallyKey, Tally>,
    /// Apply workers that gave up.
    pub failures: Vec<Failure>,
    /// The first line that could not be read.
    pub unreadable: Option<Unreadable>,
}

impl Digest {
    /// Takes one line in, without its line break.
    pub fn take(&mut self, line: &[u8], known: &Known) {
        match read(line, known.database) {
            Read::Other => {}
            Read::Conflict(conflict) => self.conflict(*conflict, known),
            Read::Failure(failure) => self.failures.push(*failure),
            Read::Unreadable(unreadable) => {
                self.unreadable.get_or_insert(unreadable);
            }
        }
    }

    /// Does a line tell of an origin whose node isn't known?
    #[must_use]
    pub fn has_strangers(&self, known: &Known) -> bool {
        let failed = self.failures.iter().filter_map(|failure| failure.commit);
        self.tallies.keys().any(|key| key.remote.is_none())
            || failed
                .into_iter()
                .any(|commit| known.node(commit.origin).is_none())
    }

    fn conflict(&mut self, conflict: Conflict<'_>, known: &Known) {
        // Our own rows: each is written by its node alone, and what is missing is written anew.
        if conflict.relation.schema == "pgaa" {
            return;
        }
        let remote = known.node(conflict.commit.origin);
        let row = conflict.local.as_ref();
        let local = row.and_then(|row| known.node(row.origin?));
        let verdict = match conflict.kind {
            Kind::UpdateUpdate => {
                let local = Version {
                    node: local,
                    at: row.and_then(|row| row.at),
                };
                let remote = Version {
                    node: remote,
                    at: Some(conflict.commit.at),
                };
                judge(known.me, local, remote, &known.lags)
            }
            // Who had seen the row would not have inserted it, nor touched one that was gone.
            Kind::InsertInsert | Kind::UpdateMissing | Kind::DeleteMissing => Verdict::Concurrent,
        };
        let key = TallyKey {
            since: conflict.logged.div_euclid(PERIOD_US) * PERIOD_US,
            relation: conflict.relation.clone(),
            remote,
            local: if row.is_some() { local } else { Some(known.me) },
            kind: conflict.kind,
            resolution: conflict.resolution,
        };
        let tally = self.tallies.entry(key).or_default();
        tally.lines += 1;
        tally.conflicts += u64::from(verdict == Verdict::Concurrent);
        tally.unsure += u64::from(verdict == Verdict::Unknown);
        let plain = conflict.is_plain_update();
        if plain && verdict != Verdict::Concurrent {
            return;
        }
        let times = [Some(conflict.commit.at), row.and_then(|row| row.at)];
        let clock_trusted = trusted(known, (remote, local), times);
        self.kept.push(Kept {
            conflict: conflict.into_owned(),
            remote,
            local,
            verdict,
            clock_trusted,
            suspect: !plain,
        });
    }
}

/// Were the clocks of the two close enough at both times?
fn trusted(
    known: &Known,
    nodes: (Option<NodeId>, Option<NodeId>),
    times: [Option<Stamp>; 2],
) -> bool {
    let (Some(one), Some(other)) = nodes else {
        return true;
    };
    let apart = |at: Stamp| {
        known
            .distrust
            .covers(one, other, Wall(at.0.div_euclid(1000)))
    };
    !times.into_iter().flatten().any(apart)
}
