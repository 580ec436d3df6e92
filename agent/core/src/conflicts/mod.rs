//! What pglogical says of conflicts in the server's JSON log, and what that means.
//!
//! pglogical tells conflicts nowhere else. A line of the log becomes a [`Conflict`] or a
//! [`Failure`] of an apply worker ([`line`], [`detail`]); its tuples become columns, anchored on the
//! table's ordered column list, because nothing in them is quoted and long values are cut
//! ([`tuple`]); and the two commits are judged: did one know of the other ([`judge`])? [`digest`] makes few of many. A reading
//! that isn't the only possible one is no reading. Must not know files, SQL or nodes' names.
//!
//! The format is that of pglogical 2.4.2: `pglogical_conflict.c` and `pglogical_apply.c`.

mod detail;
pub mod digest;
pub mod judge;
pub mod line;
pub mod report;
mod scan;
pub mod stuck;
#[cfg(test)]
mod tests;
pub mod tuple;

use crate::ids::Lsn;
use std::borrow::Cow;

/// Microseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub i64);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A row came whose key is taken here.
    InsertInsert,
    /// An update came for a row that another node's write had changed.
    UpdateUpdate,
    /// An update came for a row that isn't here.
    UpdateMissing,
    /// A delete came for a row that isn't here.
    DeleteMissing,
}

impl Kind {
    /// The word in `pgaa.conflict_history.conflict_type`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::InsertInsert => "insert_insert",
            Kind::UpdateUpdate => "update_update",
            Kind::UpdateMissing => "update_missing",
            Kind::DeleteMissing => "delete_missing",
        }
    }
}

/// What pglogical did about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// The row that came replaced the one that was here.
    ApplyRemote,
    /// The row that was here stayed.
    KeepLocal,
    /// The change was dropped.
    Skip,
}

impl Resolution {
    /// pglogical's word for it, which is also the one in `pgaa.conflict_history`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Resolution::ApplyRemote => "apply_remote",
            Resolution::KeepLocal => "keep_local",
            Resolution::Skip => "skip",
        }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relation {
    /// Its schema, unquoted.
    pub schema: String,
    /// Its name, unquoted.
    pub table: String,
    /// Both, quoted where PostgreSQL does.
    pub quoted: String,
}

/// The transaction that was being applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where its commit record begins in its node's WAL.
    pub lsn: Lsn,
    /// Its number there.
    pub xid: u32,
    /// When it was committed there.
    pub at: Stamp,
    /// Which of its changes, counted from 1.
    pub action: u32,
    /// The number that its origin has here: the node it was forwarded from where it was.
    pub origin: u32,
}

/// The row that was here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRow<'a> {
    /// As pglogical prints it: see [`tuple::read`].
    pub tuple: Cow<'a, [u8]>,
    /// The transaction that wrote it here.
    pub xid: u32,
    /// The number that the origin of that transaction has here: 0 for this node itself; `None`
    /// where PostgreSQL no longer knows.
    pub origin: Option<u32>,
    /// When it was committed, by its origin's clock.
    pub at: Option<Stamp>,
}

/// One conflict, as the log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict<'a> {
    /// When it was logged: microseconds since 1970 in the zone of `log_timezone`.
    pub logged: i64,
    /// The transaction here in which it was met.
    pub apply_xid: u32,
    /// What happened.
    pub kind: Kind,
    /// Where.
    pub relation: Relation,
    /// The index by which the row was found, or was not.
    pub index: String,
    /// What was done.
    pub resolution: Resolution,
    /// The row that was here, if there was one.
    pub local: Option<LocalRow<'a>>,
    /// The row that came; of a delete only its key.
    pub remote: Cow<'a, [u8]>,
    /// The transaction that it came with.
    pub commit: Commit,
}

impl Conflict<'_> {
    /// The same, with texts of its own.
    #[must_use]
    pub fn into_owned(self) -> Conflict<'static> {
        let own = |text: Cow<'_, [u8]>| Cow::Owned(text.into_owned());
        Conflict {
            logged: self.logged,
            apply_xid: self.apply_xid,
            kind: self.kind,
            relation: self.relation,
            index: self.index,
            resolution: self.resolution,
            local: self.local.map(|local| LocalRow {
                tuple: own(local.tuple),
                xid: local.xid,
                origin: local.origin,
                at: local.at,
            }),
            remote: own(self.remote),
            commit: self.commit,
        }
    }

    /// Is it an update that took its place, as every update does of a row that another node has
    /// written last? Two commits of the same instant are none: each node keeps the other's.
    #[must_use]
    pub fn is_plain_update(&self) -> bool {
        let at = self.local.as_ref().and_then(|local| local.at);
        self.kind == Kind::UpdateUpdate
            && self.resolution == Resolution::ApplyRemote
            && at != Some(self.commit.at)
    }
}

/// An apply worker that gave up, and will try the same again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When it was logged: microseconds since 1970 in the zone of `log_timezone`.
    pub logged: i64,
    /// pglogical's number of the subscription.
    pub subscription: u32,
    /// SQLSTATE.
    pub sqlstate: String,
    /// The server's words.
    pub message: String,
    /// Its detail: "Key (email)=(x) already exists."
    pub detail: String,
    /// What was being applied ("INSERT"), where the context says so.
    pub action: Option<String>,
    /// The table, as its own node calls it and unquoted, where the context names one.
    pub relation: Option<String>,
    /// The transaction, where there was one.
    pub commit: Option<Commit>,
}
