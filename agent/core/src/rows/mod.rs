//! Rows that may not be the same on all nodes: who is right about them, and mending the others.
//!
//! pglogical keeps no order between streams: whenever they are unequally behind, an update or a
//! delete overtakes its insert and is skipped. The rows it may have happened to are *suspects*:
//! those that a conflict named, and those that a node has deleted itself. They are compared on all
//! nodes behind a fence and, where they differ, made equal by one rule (`rule`).
//!
//! Must not know how a row is read or written.

mod check;
mod decoded;
mod referrers;
mod rivals;
mod rule;
#[cfg(test)]
mod tests;

pub use check::{Failure, Mend, Mended, Repair, Round, RowValues, Rows, check};
pub use decoded::{Change, Written, decode, written};
pub use referrers::{Kept, Referrers, kept};
pub use rivals::{Arriving, Incoming, key_of, outlives};
pub use rule::{Reason, Ruling, judge};

use crate::ids::NodeId;
use crate::verify::{Key, RowHash};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which version of a row it is: its commit time and the node that committed it, in the order of
/// last-update-wins. Origin numbers differ between nodes; this doesn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Microseconds since 1970-01-01 UTC, by the author's clock.
    pub at_us: i64,
    /// The node whose transaction it was.
    pub author: NodeId,
}

/// A version of a row as one node holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// `None` where the server doesn't know any more: frozen long ago, or copied by a join.
    pub stamp: Option<Stamp>,
    /// What it contains.
    pub hash: RowHash,
    /// The transaction that wrote it on that node (`xmin`): a repair changes only what was seen.
    pub token: u32,
    /// Was it put there by a repair? Then it is no witness of what its author did.
    pub mended: bool,
}

/// What one node knows of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// The row, if there is one.
    pub row: Option<Version>,
    /// When this node itself deleted it last, as far as that is known; microseconds.
    pub deleted_us: Option<i64>,
    /// Own deletes before this time are unknown; `None`: this node has known them all.
    pub deletes_since_us: Option<i64>,
    /// Has this node ordered repairs of it that may still be on their way?
    pub ordered: bool,
}

/// Why a row goes that another one has the unique value of; for the list of repairs.
pub const OLDER_RIVAL: &str = "an older row with the same unique value";

/// Why a row makes way for another one for a moment: it has let go of the unique value since, and its
/// newest version follows. By that the two may not be compared: the one that arrives is in nobody's
/// way. So two rows that have swapped their values come through, too.
pub const STALE_RIVAL: &str =
    "an outdated row with the same unique value: its newest version follows";

/// When a repair that was ordered is carried out at the latest, by the clock of the node that does
/// it: after that it is refused. A repair that was on its way for longer may bring back a row that
/// was deleted meanwhile.
pub const ORDER_MAX: Duration = Duration::from_secs(5);

/// When nobody waits for a repair any more that was ordered: [`ORDER_MAX`], a lock that is waited
/// for, and some reserve.
pub const ORDERED_FOR: Duration = Duration::from_secs(10);

/// What becomes of a name in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is looked at again.
    Stays,
    /// It stays, and this node's orders are over.
    OrdersOver,
    /// It goes, and with it the time of this node's own delete.
    Goes,
}

/// What becomes of a row that was seen to be the same on all nodes. `ordered` is how long ago this
/// node has ordered repairs of it, `awaited` whether another node's may still be on their way:
/// until they are over the own delete is remembered, because it decides against them.
#[must_use]
pub fn fate(ordered: Option<Duration>, awaited: bool) -> Fate {
    match ordered {
        Some(age) if age < ORDERED_FOR => Fate::Stays,
        Some(_) => Fate::OrdersOver,
        None if awaited => Fate::Stays,
        None => Fate::Goes,
    }
}

/// How the check stands on one node, for its status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsView {
    /// Rows, and whole tables, that this node has named and that were not seen to be equal yet.
    pub waiting: u64,
    /// Was the list empty once since the agent started?
    pub checked: bool,
    /// Rows that this node's checks have mended since its agent started.
    pub mended: u64,
    /// Why nothing can be checked now, in words.
    pub blocked: Option<String>,
    /// Rows that can't be mended, and why.
    pub problems: Vec<String>,
}

/// Rows that can't be mended are told one by one up to this many.
const PROBLEMS_MAX: usize = 20;

impl RowsView {
    /// Takes how many are waiting. Has anything changed?
    pub fn set_waiting(&mut self, waiting: u64) -> bool {
        let checked = self.checked || waiting == 0;
        let changed = (self.waiting, self.checked) != (waiting, checked);
        (self.waiting, self.checked) = (waiting, checked);
        changed
    }

    /// Is everything that was named known to be the same on all nodes?
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.checked && self.waiting == 0
    }

    /// Takes why nothing can be checked. Has anything changed?
    pub fn set_blocked(&mut self, blocked: Option<String>) -> bool {
        let changed = self.blocked != blocked;
        self.blocked = blocked;
        changed
    }

    /// Takes what a round has brought. Has anything changed?
    pub fn conclude(&mut self, mended: usize, mut problems: Vec<String>) -> bool {
        problems.truncate(PROBLEMS_MAX);
        let changed = mended > 0 || problems != self.problems;
        self.mended = self.mended.saturating_add(mended as u64);
        self.problems = problems;
        changed
    }
}

/// When a node looked, by its own clock: what it is told to do about it is no longer valid some
/// time after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// Random for each start of its agent.
    pub run: u64,
    /// Milliseconds of that agent's monotonic clock.
    pub at_ms: u64,
}

impl Moment {
    /// How long an order that rests on this look is still valid; `None` when it isn't any more.
    #[must_use]
    pub fn valid_for(self, now: Moment) -> Option<Duration> {
        let age = Duration::from_millis(now.at_ms.checked_sub(self.at_ms)?);
        match self.run == now.run {
            true => ORDER_MAX.checked_sub(age),
            false => None,
        }
    }
}

/// Why a row is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedBy {
    /// A conflict that the server logged.
    Conflict,
    /// This node deleted it.
    Delete,
    /// A comparison of whole tables found it different.
    Verify,
    /// It was mended, and is looked at once more.
    Repair,
}

impl NamedBy {
    /// As it stands in the list.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            NamedBy::Conflict => "conflict",
            NamedBy::Delete => "delete",
            NamedBy::Verify => "verify",
            NamedBy::Repair => "repair",
        }
    }
}

/// A row that may not be the same on all nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Suspect {
    /// schema.table, quoted where needed.
    pub table: String,
    /// Its primary key: the text of each column, in the order of the key's index.
    pub key: Key,
    /// Are these only the beginnings of the values? All rows that begin so are meant; without any
    /// values the whole table.
    pub cut: bool,
    /// Why.
    pub by: NamedBy,
    /// When this node deleted it itself; microseconds since 1970-01-01 UTC.
    pub deleted_us: Option<i64>,
}

impl Suspect {
    /// All rows of a table: it is compared as a whole.
    #[must_use]
    pub fn whole(table: &str, by: NamedBy) -> Suspect {
        Suspect {
            table: table.to_owned(),
            key: Key::new(),
            cut: true,
            by,
            deleted_us: None,
        }
    }
}
