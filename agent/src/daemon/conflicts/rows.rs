//! Conflicts as rows of `pgaa.conflict_history`.

use crate::postgres::conflicts::{ConflictRow, TallyRow};
use pgaa_core::conflicts::digest::{Digest, Kept, Tally, TallyKey};
use pgaa_core::conflicts::judge::Verdict;
use pgaa_core::conflicts::tuple::{self, KeyPart, Shape, Unclear, Value};
use pgaa_core::conflicts::{Conflict, Failure, Relation};
use pgaa_core::ids::NodeId;
use pgaa_core::rows::{NamedBy, Suspect};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A longer row is kept as the beginning of the log's text, bytes: so many conflicts never take
/// more than so much room.
const TUPLE_BYTES_MAX: usize = 8 << 10;

/// What tables' rows look like, by schema and name.
pub type Shapes = BTreeMap<(String, String), Shape>;

/// What a table is found by.
#[must_use]
pub fn name(relation: &Relation) -> (String, String) {
    (relation.schema.clone(), relation.table.clone())
}

/// Can the rows of a conflict be read by the columns that are known?
#[must_use]
pub fn fits(conflict: &Conflict<'_>, shapes: &Shapes) -> bool {
    let fits = |shape: &Shape| {
        let read = |text: &[u8]| tuple::read(text, &shape.columns) != Err(Unclear::None);
        let local = conflict.local.as_ref();
        read(&conflict.remote) && local.is_none_or(|local| read(&local.tuple))
    };
    shapes.get(&name(&conflict.relation)).is_none_or(fits)
}

/// A row that was read.
struct Tuple {
    shown: Json,
    key: Option<Vec<KeyPart>>,
}

fn read(text: &[u8], shape: Option<&Shape>) -> Tuple {
    let values = shape
        .filter(|_| text.len() <= TUPLE_BYTES_MAX)
        .and_then(|shape| Some((shape, tuple::read(text, &shape.columns).ok()?)));
    let Some((shape, values)) = values else {
        let text = text.get(..TUPLE_BYTES_MAX).unwrap_or(text);
        return Tuple {
            shown: Json::String(String::from_utf8_lossy(text).into_owned()),
            key: None,
        };
    };
    let mut shown = Map::new();
    for (column, value) in shape.columns.iter().zip(&values) {
        let value = match value {
            Value::Null => Json::Null,
            Value::Whole(text) => Json::String(text.clone()),
            Value::Cut(text) => Json::String(format!("{text}...")),
            Value::Hidden => Json::String("(not shown)".to_owned()),
        };
        shown.insert(column.name.clone(), value);
    }
    Tuple {
        shown: Json::Object(shown),
        key: tuple::key(shape, &values),
    }
}

/// "id=5, part=x..."
fn key_text(key: &[KeyPart]) -> String {
    let part = |part: &KeyPart| {
        let dots = if part.cut { "..." } else { "" };
        format!("{}={}{dots}", part.column, part.text)
    };
    key.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// The row of one conflict. `names` tells what nodes are called.
#[must_use]
pub fn row(kept: &Kept, shapes: &Shapes, names: &dyn Fn(NodeId) -> String) -> ConflictRow {
    let conflict = &kept.conflict;
    let shape = shapes.get(&name(&conflict.relation));
    let remote = read(&conflict.remote, shape);
    let here = conflict.local.as_ref();
    let local = here.map(|local| read(&local.tuple, shape));
    let key = local.as_ref().and_then(|local| local.key.as_ref());
    let key = key.or(remote.key.as_ref());
    ConflictRow {
        apply_xid: Some(conflict.apply_xid.to_string()),
        logged_us: conflict.logged,
        schema: Some(conflict.relation.schema.clone()),
        table: Some(conflict.relation.table.clone()),
        index: Some(conflict.index.clone()),
        key: key.map(|key| key_text(key)),
        remote_node: kept.remote,
        remote_name: kept.remote.map(names),
        remote_xid: Some(conflict.commit.xid.to_string()),
        remote_us: Some(conflict.commit.at.0),
        remote_lsn: Some(conflict.commit.lsn),
        kind: conflict.kind.word(),
        resolution: conflict.resolution.word(),
        local_tuple: local.map(|local| local.shown),
        remote_tuple: Some(remote.shown),
        local_xid: here.map(|local| local.xid.to_string()),
        local_node: kept.local,
        local_name: kept.local.map(names),
        local_us: here.and_then(|local| local.at).map(|at| at.0),
        concurrent: match kept.verdict {
            Verdict::Concurrent => Some(true),
            Verdict::Ordered => Some(false),
            Verdict::Unknown => None,
        },
        clock_trusted: kept.clock_trusted,
        ..ConflictRow::default()
    }
}

/// The rows that a conflict says may differ now: those with the keys of both tuples. The whole table,
/// where its keys can't be read in one way only.
#[must_use]
pub fn suspects(kept: &Kept, shapes: &Shapes) -> Vec<Suspect> {
    if !kept.suspect {
        return Vec::new();
    }
    let (conflict, by) = (&kept.conflict, NamedBy::Conflict);
    let table = &conflict.relation.quoted;
    // A table that isn't here any more has no rows.
    let Some(shape) = shapes.get(&name(&conflict.relation)) else {
        return Vec::new();
    };
    let local = conflict.local.as_ref().map(|local| local.tuple.as_ref());
    let texts = [Some(conflict.remote.as_ref()), local];
    let mut suspects = Vec::new();
    for text in texts.into_iter().flatten() {
        let values = tuple::read(text, &shape.columns);
        let Some(key) = values.ok().and_then(|values| tuple::key(shape, &values)) else {
            return vec![Suspect::whole(table, by)];
        };
        let suspect = Suspect {
            table: table.clone(),
            cut: key.iter().any(|part| part.cut),
            key: key.into_iter().map(|part| part.text).collect(),
            by,
            deleted_us: None,
        };
        if !suspects.contains(&suspect) {
            suspects.push(suspect);
        }
    }
    suspects
}

/// The row of an apply worker that gave up.
#[must_use]
pub fn failure_row(
    failure: &Failure,
    remote: Option<NodeId>,
    names: &dyn Fn(NodeId) -> String,
) -> ConflictRow {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    ConflictRow {
        logged_us: failure.logged,
        table: failure.relation.clone(),
        remote_node: remote,
        remote_name: remote.map(names),
        remote_xid: failure.commit.map(|commit| commit.xid.to_string()),
        remote_us: failure.commit.map(|commit| commit.at.0),
        remote_lsn: failure.commit.map(|commit| commit.lsn),
        kind: "apply_error",
        resolution: "none",
        clock_trusted: true,
        message: text(&failure.message),
        sqlstate: text(&failure.sqlstate),
        detail: text(&failure.detail),
        ..ConflictRow::default()
    }
}

/// The counts.
#[must_use]
pub fn tallies(digest: &Digest) -> Vec<TallyRow> {
    let row = |(key, tally): (&TallyKey, &Tally)| TallyRow {
        logged_us: key.since,
        schema: key.relation.schema.clone(),
        table: key.relation.table.clone(),
        remote_node: key.remote.map_or(Uuid::nil(), |node| node.0),
        local_node: key.local.map_or(Uuid::nil(), |node| node.0),
        kind: key.kind.word(),
        resolution: key.resolution.word(),
        lines: tally.lines,
        conflicts: tally.conflicts,
        unsure: tally.unsure,
    };
    digest.tallies.iter().map(row).collect()
}
