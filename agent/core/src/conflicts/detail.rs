//! Message, detail and context of one line.
//!
//! Values of users stand in the detail without quotes. What is read from it is anchored from its
//! two ends, and on a text in the middle that is longer than any value can be.

use super::scan::Scan;
use super::{Commit, Kind, LocalRow, Relation, Resolution, Stamp};
use crate::ids::Lsn;
use std::borrow::Cow;

/// What the message says.
pub(super) struct Message {
    pub kind: Kind,
    pub relation: Relation,
    pub index: String,
    pub resolution: Resolution,
}

const HEAD: &str = "CONFLICT: remote ";

/// Does the message tell of a conflict?
pub(super) fn is_conflict(message: &[u8]) -> bool {
    message.starts_with(HEAD.as_bytes())
}

/// Reads a message.
pub(super) fn message(text: &[u8]) -> Option<Message> {
    let mut scan = Scan(text);
    scan.word(HEAD)?;
    let verb = scan.until(b' ')?;
    scan.word(" on relation ")?;
    let relation = relation(&mut scan)?;
    let found = scan.word(" (local index ").is_some();
    if !found {
        scan.word(" replica identity index ")?;
    }
    let kind = match (verb, found) {
        (b"INSERT", true) => Kind::InsertInsert,
        (b"UPDATE", true) => Kind::UpdateUpdate,
        (b"UPDATE", false) => Kind::UpdateMissing,
        (b"DELETE", false) => Kind::DeleteMissing,
        _ => return None,
    };
    // The index's name is not quoted: it ends where the rest of the message begins.
    let (rest, resolution) = resolution(scan.0)?;
    let index = if found {
        rest.strip_suffix(b")")?
    } else {
        rest.strip_suffix(b" (tuple not found)")?
    };
    Some(Message {
        kind,
        relation,
        index: String::from_utf8_lossy(index).into_owned(),
        resolution,
    })
}

fn relation(scan: &mut Scan<'_>) -> Option<Relation> {
    let before = scan.0;
    let schema = scan.name()?;
    scan.word(".")?;
    let table = scan.name()?;
    let quoted = before.get(..before.len() - scan.0.len())?;
    Some(Relation {
        schema,
        table,
        quoted: String::from_utf8(quoted.to_vec()).ok()?,
    })
}

fn resolution(text: &[u8]) -> Option<(&[u8], Resolution)> {
    [
        Resolution::ApplyRemote,
        Resolution::KeepLocal,
        Resolution::Skip,
    ]
    .into_iter()
    .find_map(|resolution| {
        let rest = text.strip_suffix(b".")?;
        let rest = rest.strip_suffix(resolution.word().as_bytes())?;
        Some((rest.strip_suffix(b". Resolution: ")?, resolution))
    })
}

/// What the detail says: the row that was here, and the one that came.
pub(super) struct Detail<'a> {
    pub local: Option<LocalRow<'a>>,
    pub remote: Cow<'a, [u8]>,
}

/// Reads a detail. `None` when it can't be read in exactly one way.
pub(super) fn detail(text: Cow<'_, [u8]>) -> Option<Detail<'_>> {
    let end = remote_end(&text)?;
    let mut scan = Scan(text.get(..end)?);
    if scan.word("remote tuple {").is_some() {
        let from = end - scan.0.len();
        return Some(Detail {
            local: None,
            remote: part(&text, from, end)?,
        });
    }
    scan.word("existing local tuple {")?;
    let from = end - scan.0.len();
    let mut middles = (from..end).filter_map(|at| Some((at, middle(text.get(at..end)?)?)));
    let (until, middle) = middles.next()?;
    if middles.next().is_some() {
        return None;
    }
    let local = LocalRow {
        tuple: part(&text, from, until)?,
        xid: middle.xid,
        origin: middle.origin,
        at: middle.at,
    };
    Some(Detail {
        local: Some(local),
        remote: part(&text, until + middle.length, end)?,
    })
}

fn part<'a>(text: &Cow<'a, [u8]>, from: usize, to: usize) -> Option<Cow<'a, [u8]>> {
    Some(match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(from..to)?),
        Cow::Owned(text) => Cow::Owned(text.get(from..to)?.to_vec()),
    })
}

/// Where the row that came ends. Nothing of a user's stands behind it.
fn remote_end(text: &[u8]) -> Option<usize> {
    const TAIL: &[u8] = b" in xact origin=";
    let tail = text
        .windows(TAIL.len())
        .rposition(|window| window == TAIL)?;
    let before = text.get(..tail)?;
    // A star says that a trigger may have changed the row.
    let before = before.strip_suffix(b"*").unwrap_or(before);
    Some(before.strip_suffix(b"}")?.len())
}

struct Middle {
    xid: u32,
    origin: Option<u32>,
    at: Option<Stamp>,
    length: usize,
}

/// What stands between the two rows, if the text begins with it. It takes 43 bytes at least, and
/// a value 40 at most, so it is never found within one.
fn middle(text: &[u8]) -> Option<Middle> {
    if text.first() != Some(&b'}') {
        return None;
    }
    let mut scan = Scan(text);
    scan.word("} xid=")?;
    let xid = scan.number()?;
    scan.word(",origin=")?;
    let origin = match scan.word("-1") {
        Some(()) => None,
        None => Some(scan.number()?),
    };
    scan.word(",timestamp=")?;
    let stamp = scan.until(b';')?;
    scan.word("; remote tuple {")?;
    // Empty where PostgreSQL no longer knows the commit.
    let at = match stamp {
        [] => None,
        stamp => Some(Scan(stamp).stamp()?),
    };
    let length = text.len() - scan.0.len();
    let origin = origin.filter(|_| at.is_some());
    Some(Middle {
        xid,
        origin,
        at,
        length,
    })
}

/// What an apply worker was doing.
pub(super) struct Context {
    pub action: Option<String>,
    pub relation: Option<String>,
    pub commit: Option<Commit>,
}

/// Reads the context. Functions that were called stand in lines before pglogical's own, which is
/// the last.
pub(super) fn context(text: &[u8]) -> Option<Context> {
    let line = text.rsplit(|byte| *byte == b'\n').next()?;
    let rest = line.strip_prefix(b"apply ")?;
    const COMMIT: &[u8] = b" in commit before ";
    let at = rest
        .windows(COMMIT.len())
        .rposition(|window| window == COMMIT)?;
    let (what, behind) = rest.split_at(at);
    let what = String::from_utf8_lossy(what);
    let (action, relation) = match what.split_once(" from remote relation ") {
        Some((action, relation)) => (action, Some(relation.to_owned())),
        None => (what.as_ref(), None),
    };
    Some(Context {
        action: Some(action.to_owned()),
        relation,
        commit: commit(behind.get(COMMIT.len()..)?),
    })
}

fn commit(text: &[u8]) -> Option<Commit> {
    let mut scan = Scan(text);
    let lsn = lsn(&mut scan)?;
    scan.word(", xid ")?;
    let xid = scan.number()?;
    scan.word(" committed at ")?;
    let at = scan.stamp()?;
    scan.word(" (action #")?;
    let action = scan.number()?;
    scan.word(")")?;
    scan.word(" from node replorigin ")?;
    let mut origin = scan.number()?;
    if scan.word(" forwarded from commit ").is_some() {
        self::lsn(&mut scan)?;
        scan.word(" on node ")?;
        origin = scan.number()?;
    }
    scan.0.is_empty().then_some(Commit {
        lsn,
        xid,
        at,
        action,
        origin,
    })
}

fn lsn(scan: &mut Scan<'_>) -> Option<Lsn> {
    let high = scan.hex()?;
    scan.word("/")?;
    let low = scan.hex()?;
    Some(Lsn((u64::from(high) << 32) | u64::from(low)))
}
