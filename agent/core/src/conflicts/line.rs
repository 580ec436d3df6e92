//! One line of the JSON log.
//!
//! Most lines are nobody's business, and told by their end without being read. A line may hold
//! invalid UTF-8: pglogical cuts values inside a character. Whatever an application manages to have
//! logged, it can't pose as an apply worker: within a JSON string every quote is escaped.

use super::detail::{self, Detail, Message};
use super::scan::Scan;
use super::{Conflict, Failure, Relation};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::borrow::Cow;
use std::fmt;

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read<'a> {
    /// Nobody's business.
    Other,
    /// A conflict.
    Conflict(Box<Conflict<'a>>),
    /// An apply worker gave up.
    Failure(Box<Failure>),
    /// An apply worker said something of a conflict that can't be read, or not in one way only.
    Unreadable(Unreadable),
}

/// A line that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The table, where that much is clear.
    pub relation: Option<Relation>,
    /// Why it can't be read.
    pub why: &'static str,
}

/// Text of the log: bytes, because it may be cut inside a character.
#[derive(Debug, Default)]
struct Text<'a>(Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Cow<'de, [u8]>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }
            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(bytes))
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Cow::Owned(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes).map(Text)
    }
}

/// The fields that matter. PostgreSQL leaves empty ones out.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    timestamp: Text<'a>,
    txid: u32,
    #[serde(borrow)]
    error_severity: Text<'a>,
    #[serde(borrow)]
    state_code: Text<'a>,
    #[serde(borrow)]
    message: Text<'a>,
    #[serde(borrow)]
    detail: Text<'a>,
    #[serde(borrow)]
    context: Text<'a>,
    #[serde(borrow)]
    backend_type: Text<'a>,
}

/// How an apply worker's line ends: the type of the process stands behind everything that is as
/// long as it likes.
const TAIL_BYTES: usize = 160;
const WORKER: &[u8] = b"\"backend_type\":\"pglogical apply ";

/// Could this line, or what there is of it, be one of an apply worker?
#[must_use]
pub fn may_matter(line: &[u8]) -> bool {
    let tail = line
        .get(line.len().saturating_sub(TAIL_BYTES)..)
        .unwrap_or(line);
    tail.windows(WORKER.len()).any(|window| window == WORKER)
}

/// Reads a line without its line break. `database` is the OID of the mesh's database: workers of
/// others, and of one that was here before it, are nobody's business.
#[must_use]
pub fn read(line: &[u8], database: u32) -> Read<'_> {
    if !may_matter(line) {
        return Read::Other;
    }
    let Ok(fields) = serde_json::from_slice::<Fields<'_>>(line) else {
        return unreadable(None, "it is not JSON");
    };
    let Some(subscription) = subscription(&fields.backend_type.0, database) else {
        return Read::Other;
    };
    if detail::is_conflict(&fields.message.0) {
        return conflict(fields);
    }
    match fields.error_severity.0.as_ref() {
        b"ERROR" | b"FATAL" | b"PANIC" => failure(&fields, subscription),
        _ => Read::Other,
    }
}

/// "pglogical apply 16385:3847234"
fn subscription(backend_type: &[u8], database: u32) -> Option<u32> {
    let mut scan = Scan(backend_type);
    scan.word("pglogical apply ")?;
    let of = scan.number()?;
    scan.word(":")?;
    let subscription = scan.number()?;
    (of == database && scan.0.is_empty()).then_some(subscription)
}

fn unreadable(relation: Option<Relation>, why: &'static str) -> Read<'static> {
    Read::Unreadable(Unreadable { relation, why })
}

fn conflict(fields: Fields<'_>) -> Read<'_> {
    let Some(Message {
        kind,
        relation,
        index,
        resolution,
    }) = detail::message(&fields.message.0)
    else {
        return unreadable(None, "its message is new to this agent");
    };
    let logged = Scan(&fields.timestamp.0).local_time();
    let commit = detail::context(&fields.context.0).and_then(|context| context.commit);
    let (Some(logged), Some(commit)) = (logged, commit) else {
        return unreadable(Some(relation), "its context is new to this agent");
    };
    let Some(Detail { local, remote }) = detail::detail(fields.detail.0) else {
        return unreadable(Some(relation), "its rows can't be told apart");
    };
    let there = matches!(kind, super::Kind::InsertInsert | super::Kind::UpdateUpdate);
    if there != local.is_some() {
        return unreadable(Some(relation), "its message and its rows contradict");
    }
    Read::Conflict(Box::new(Conflict {
        logged,
        apply_xid: fields.txid,
        kind,
        relation,
        index,
        resolution,
        local,
        remote,
        commit,
    }))
}

/// Applications' values may stand in an error; this much of one is enough.
const WORDS_MAX: usize = 500;

fn failure(fields: &Fields<'_>, subscription: u32) -> Read<'static> {
    let words = |text: &Text<'_>| -> String {
        let text = String::from_utf8_lossy(&text.0);
        text.chars().take(WORDS_MAX).collect()
    };
    let context = detail::context(&fields.context.0);
    let (action, relation, commit) = match context {
        Some(context) => (context.action, context.relation, context.commit),
        None => (None, None, None),
    };
    Read::Failure(Box::new(Failure {
        logged: Scan(&fields.timestamp.0).local_time().unwrap_or_default(),
        subscription,
        sqlstate: words(&fields.state_code),
        message: words(&fields.message),
        detail: words(&fields.detail),
        action,
        relation,
        commit,
    }))
}
