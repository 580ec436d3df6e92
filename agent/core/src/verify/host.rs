//! What a comparison needs of the world.

use super::Progress;
use crate::ids::NodeId;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;

/// A primary key: the text of each of its columns, in the order of the key.
pub type Key = Vec<String>;

/// Two independent 64-bit hashes of a row.
pub type RowHash = [i64; 2];

/// Keys above `after` up to and including `upto`, in the order of the primary key's index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Range {
    /// The key below the first; `None` for the table's beginning.
    pub after: Option<Key>,
    /// The last key; `None` for the table's end.
    pub upto: Option<Key>,
}

/// What one node holds in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// How many rows.
    pub rows: u64,
    /// The exclusive or of their hashes. No two rows of a table are equal, since the key counts.
    pub hash: RowHash,
}

/// Why a table could not be compared, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The nodes whose tables are compared.
pub trait Tables: Sync {
    /// The node that compares: it sets the ranges.
    fn me(&self) -> NodeId;
    /// All nodes, `me` among them.
    fn nodes(&self) -> Vec<NodeId>;
    /// Hashes a range.
    fn digest(
        &self,
        node: NodeId,
        table: &str,
        range: &Range,
    ) -> impl Future<Output = Result<Digest, Failure>> + Send;
    /// The key of the row number `step` in a range; `None` when it has fewer rows.
    fn bound(
        &self,
        node: NodeId,
        table: &str,
        range: &Range,
        step: u64,
    ) -> impl Future<Output = Result<Option<Key>, Failure>> + Send;
    /// The rows of a small range.
    fn rows(
        &self,
        node: NodeId,
        table: &str,
        range: &Range,
    ) -> impl Future<Output = Result<BTreeMap<Key, RowHash>, Failure>> + Send;
    /// The rows with these keys.
    fn look(
        &self,
        node: NodeId,
        table: &str,
        keys: &[Key],
    ) -> impl Future<Output = Result<BTreeMap<Key, RowHash>, Failure>> + Send;
    /// Returns when everything that was committed on any node before the call has arrived on all.
    fn fence(&self) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Rests between two ranges, so that the nodes' applications don't notice.
    fn rest(&self) -> impl Future<Output = ()> + Send;
    /// The comparison of a table has come so far.
    fn compared(&self, table: &str, done: &Progress);
}
