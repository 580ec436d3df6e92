//! Who is right about a row: one rule, the same on every node that applies it.
//!
//! The order is last-update-wins over all versions and deletes, as far as anything of them is
//! left. Where a version was overtaken somewhere, its own author is the witness: what is live
//! there was never deleted later, and what is gone there was deleted by somebody. By whom, and
//! whether before or after, is what each node's own deletes tell.

use super::{Seen, Stamp};
use crate::ids::NodeId;
use std::collections::BTreeMap;
use std::fmt;

/// What is to be done about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// The same everywhere: nothing.
    Equal,
    /// The version that the node at this place holds is everybody's.
    Stays(usize, Reason),
    /// Nobody has it.
    Goes(Reason),
}

/// Which part of the rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is live at its author: no later delete can exist.
    LiveAtAuthor,
    /// Several are, which takes wrong clocks: the oldest one's successors had not seen it, but its
    /// author had seen them.
    OldestLive,
    /// A node deleted it later than its newest version was written.
    DeletedLater,
    /// Only an older delete has hit it at its author.
    DeletedEarlier,
    /// Nobody knows who deleted it at its author, because the list of deletes has a gap.
    DeletesUnknown,
    /// Its author has left or was forgotten, and nobody has deleted it: what it wrote last may have
    /// reached some nodes only.
    AuthorGone,
    /// No version has a known author: most nodes decide.
    Majority,
}

impl Reason {
    /// For the list of repairs, and for status.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Reason::LiveAtAuthor => "live at its author",
            Reason::OldestLive => "oldest of several that are live",
            Reason::DeletedLater => "deleted later",
            Reason::DeletedEarlier => "deleted earlier",
            Reason::DeletesUnknown => "deletes unknown",
            Reason::AuthorGone => "its author is gone",
            Reason::Majority => "majority",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Judges a row by what each of the `nodes` holds and has deleted, in the same order.
///
/// It holds only when everything that was committed before has arrived everywhere.
#[must_use]
pub fn judge(nodes: &[NodeId], seen: &[Seen]) -> Ruling {
    let hashes = seen.iter().map(|one| one.row.map(|row| row.hash));
    let hashes: Vec<_> = hashes.collect();
    let equal = hashes.windows(2).all(|pair| pair[0] == pair[1]);
    // Of equal rows, too, one may go: it may have reached all others after the delete, and was gone
    // at its author alone.
    if let Some(ruling) = author_is_gone(nodes, seen)
        && (!equal || matches!(ruling, Ruling::Goes(_)))
    {
        return ruling;
    }
    if equal {
        return Ruling::Equal;
    }
    let known = survivors(nodes, seen);
    let live: Vec<&(Stamp, usize)> = known
        .iter()
        .filter(|(stamp, _)| at_author(nodes, seen, *stamp))
        .collect();
    let oldest = live.iter().min();
    if let Some((_, place)) = oldest {
        let reason = match distinct(&live) {
            true => Reason::OldestLive,
            false => Reason::LiveAtAuthor,
        };
        return Ruling::Stays(*place, reason);
    }
    match known.iter().max_by_key(|(stamp, _)| *stamp) {
        Some(newest) => none_is_live(nodes, seen, *newest),
        None => majority(nodes, &hashes),
    }
}

/// The versions whose author is known and still here, and where they are held.
fn survivors(nodes: &[NodeId], seen: &[Seen]) -> Vec<(Stamp, usize)> {
    let stamps = seen.iter().enumerate().filter_map(|(place, one)| {
        let stamp = one.row?.stamp?;
        nodes.contains(&stamp.author).then_some((stamp, place))
    });
    stamps.collect()
}

/// The newest version is of a node that is no member any more, which can't be asked whether it is
/// live there: then what survives stays, unless a member has deleted it later. `None` where this
/// isn't so, or where a gap in the lists of deletes leaves it open.
fn author_is_gone(nodes: &[NodeId], seen: &[Seen]) -> Option<Ruling> {
    let stamps = seen
        .iter()
        .enumerate()
        .filter_map(|(place, one)| Some((one.row?.stamp?, place)));
    let (newest, place) = stamps.max_by_key(|(stamp, _)| *stamp)?;
    if nodes.contains(&newest.author) {
        return None;
    }
    if deleted_later(nodes, seen, newest) {
        return Some(Ruling::Goes(Reason::DeletedLater));
    }
    let gap = seen.iter().any(|one| one.deletes_unknown_after(newest));
    (!gap).then_some(Ruling::Stays(place, Reason::AuthorGone))
}

/// Has a node deleted the row after this version was written?
fn deleted_later(nodes: &[NodeId], seen: &[Seen], version: Stamp) -> bool {
    nodes.iter().zip(seen).any(|(node, one)| {
        one.deleted_us
            .is_some_and(|at_us| (at_us, *node) > (version.at_us, version.author))
    })
}

impl Seen {
    /// May this node have deleted the row after this version was written, without knowing it any more?
    fn deletes_unknown_after(&self, version: Stamp) -> bool {
        self.deletes_since_us
            .is_some_and(|since| since > version.at_us)
    }
}

fn at_author(nodes: &[NodeId], seen: &[Seen], stamp: Stamp) -> bool {
    let mut held = nodes.iter().zip(seen);
    held.any(|(node, one)| {
        let native = one.row.filter(|row| !row.mended);
        *node == stamp.author && native.and_then(|row| row.stamp) == Some(stamp)
    })
}

fn distinct(live: &[&(Stamp, usize)]) -> bool {
    live.windows(2).any(|pair| pair[0].0 != pair[1].0)
}

/// The newest version was deleted at its author: by whom, and when?
fn none_is_live(nodes: &[NodeId], seen: &[Seen], (newest, place): (Stamp, usize)) -> Ruling {
    if deleted_later(nodes, seen, newest) {
        return Ruling::Goes(Reason::DeletedLater);
    }
    let mut held = nodes.iter().zip(seen);
    let gone_there = held.any(|(node, one)| *node == newest.author && one.row.is_none());
    if gone_there && seen.iter().any(|one| one.deletes_unknown_after(newest)) {
        return Ruling::Goes(Reason::DeletesUnknown);
    }
    Ruling::Stays(place, Reason::DeletedEarlier)
}

/// What most nodes hold; among equals, what the node with the lowest UUID holds.
fn majority(nodes: &[NodeId], hashes: &[Option<[i64; 2]>]) -> Ruling {
    let mut votes: BTreeMap<Option<[i64; 2]>, (usize, NodeId, usize)> = BTreeMap::new();
    for ((place, hash), node) in hashes.iter().enumerate().zip(nodes) {
        let vote = votes.entry(*hash).or_insert((0, *node, place));
        vote.0 += 1;
        if *node < vote.1 {
            (vote.1, vote.2) = (*node, place);
        }
    }
    let most = votes
        .iter()
        .max_by_key(|(_, (count, node, _))| (*count, std::cmp::Reverse(*node)));
    match most {
        Some((Some(_), (_, _, place))) => Ruling::Stays(*place, Reason::Majority),
        Some((None, _)) | None => Ruling::Goes(Reason::Majority),
    }
}
