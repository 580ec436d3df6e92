//! What members ask one another to compare rows.

use super::{TEXT_BYTES_MAX, Taken, bad, counted, node, node_out, required, structure};
use crate::peer::types::{CompareAnswer, CompareAsk, Refusal};
use pgaa_core::verify::{Digest, Key, Orphans, Range};
use pgaa_proto::v1 as wire;
use wire::compare_reply::Reply;
use wire::compare_request::Ask;

/// Longest text of one column of a key, in bytes: an entry of an index has 2,704 at most.
const KEY_BYTES_MAX: usize = 16 * 1024;
/// Most columns of a key: those of an index.
const KEY_COLUMNS_MAX: usize = 32;
/// Longest name of a table with its schema, both quoted, in bytes.
pub(super) const TABLE_BYTES_MAX: usize = 300;

pub(super) fn key(key: wire::RowKey) -> Taken<Key> {
    if key.columns.is_empty() || key.columns.len() > KEY_COLUMNS_MAX {
        return bad("compare.key", "has no columns, or too many");
    }
    if key.columns.iter().any(|text| text.len() > KEY_BYTES_MAX) {
        return bad("compare.key", "is too long");
    }
    Ok(key.columns)
}

pub(super) fn key_out(key: &Key) -> wire::RowKey {
    wire::RowKey {
        columns: key.clone(),
    }
}

fn range(range: wire::KeyRange) -> Taken<Range> {
    Ok(Range {
        after: range.after.map(key).transpose()?,
        upto: range.upto.map(key).transpose()?,
    })
}

fn range_out(range: &Range) -> wire::KeyRange {
    wire::KeyRange {
        after: range.after.as_ref().map(key_out),
        upto: range.upto.as_ref().map(key_out),
    }
}

/// The field of a question that is not known here.
const ASK: &str = "compare.ask";

/// Does a member refuse a question because it knows no such question?
pub(in crate::peer) fn asks_nothing(refusal: &Refusal) -> bool {
    let missing = format!("{ASK} is missing");
    refusal.code == "malformed" && refusal.message.contains(&missing)
}

/// A question about rows.
pub(in crate::peer) fn compare_ask(request: wire::CompareRequest) -> Taken<(String, CompareAsk)> {
    if request.table.len() > TABLE_BYTES_MAX {
        return bad("compare.table", "is too long");
    }
    let ask = match required(ASK, request.ask)? {
        Ask::Digest(asked) => CompareAsk::Digest(range(asked)?),
        Ask::Rows(asked) => CompareAsk::Rows(range(asked)?),
        Ask::Bound(wire::BoundAsk { range: asked, step }) => {
            CompareAsk::Bound(range(required("compare.range", asked)?)?, step)
        }
        Ask::Look(wire::KeysAsk { keys }) => {
            let keys = counted("compare.keys", keys)?;
            CompareAsk::Look(keys.into_iter().map(key).collect::<Taken<_>>()?)
        }
        Ask::Beat(wire::FenceAsk {}) => CompareAsk::Beat,
        Ask::Heartbeats(wire::FenceAsk {}) => CompareAsk::Heartbeats,
        Ask::Pieces(asked) => structure::pieces_ask(asked)?,
        Ask::Definitions(asked) => structure::definitions_ask(asked)?,
        Ask::Orphans(asked) => CompareAsk::Orphans(range(asked)?),
        Ask::OrphansAmong(wire::KeysAsk { keys }) => {
            let keys = counted("compare.keys", keys)?;
            CompareAsk::OrphansAmong(keys.into_iter().map(key).collect::<Taken<_>>()?)
        }
    };
    Ok((request.table, ask))
}

/// A question about rows for the wire.
pub(in crate::peer) fn compare_ask_out(table: &str, ask: &CompareAsk) -> wire::CompareRequest {
    let ask = match ask {
        CompareAsk::Digest(asked) => Ask::Digest(range_out(asked)),
        CompareAsk::Rows(asked) => Ask::Rows(range_out(asked)),
        CompareAsk::Bound(asked, step) => Ask::Bound(wire::BoundAsk {
            range: Some(range_out(asked)),
            step: *step,
        }),
        CompareAsk::Look(keys) => Ask::Look(wire::KeysAsk {
            keys: keys.iter().map(key_out).collect(),
        }),
        CompareAsk::Beat => Ask::Beat(wire::FenceAsk {}),
        CompareAsk::Heartbeats => Ask::Heartbeats(wire::FenceAsk {}),
        CompareAsk::Pieces(tables, after) => Ask::Pieces(wire::PiecesAsk {
            tables: tables.clone(),
            after: after.as_ref().map(structure::name_out),
        }),
        CompareAsk::Definitions(pieces, characters) => Ask::Definitions(wire::DefinitionsAsk {
            pieces: pieces.iter().map(structure::name_out).collect(),
            characters: *characters,
        }),
        CompareAsk::Orphans(asked) => Ask::Orphans(range_out(asked)),
        CompareAsk::OrphansAmong(keys) => Ask::OrphansAmong(wire::KeysAsk {
            keys: keys.iter().map(key_out).collect(),
        }),
    };
    wire::CompareRequest {
        table: table.to_owned(),
        ask: Some(ask),
    }
}

fn orphans(found: wire::Orphans) -> Taken<Orphans> {
    let names = [&found.constraint, &found.table, &found.parent];
    if names.iter().any(|name| name.len() > TEXT_BYTES_MAX) {
        return bad("compare.orphans", "has a name that is too long");
    }
    let keys = counted("compare.orphans.keys", found.keys)?;
    Ok(Orphans {
        constraint: found.constraint,
        table: found.table,
        parent: found.parent,
        keys: keys.into_iter().map(key).collect::<Taken<_>>()?,
    })
}

fn orphans_out(found: &Orphans) -> wire::Orphans {
    wire::Orphans {
        constraint: found.constraint.clone(),
        table: found.table.clone(),
        parent: found.parent.clone(),
        keys: found.keys.iter().map(key_out).collect(),
    }
}

/// The answer to it.
pub(in crate::peer) fn compare_answer(reply: wire::CompareReply) -> Taken<CompareAnswer> {
    Ok(match required("compare.reply", reply.reply)? {
        Reply::Digest(digest) => {
            let hash = [digest.first, digest.second];
            let rows = digest.rows;
            CompareAnswer::Digest(digest.shape, Digest { rows, hash })
        }
        Reply::Bound(bound) => CompareAnswer::Bound(bound.key.map(key).transpose()?),
        Reply::Rows(wire::HashedRows { rows }) => {
            let rows = counted("compare.rows", rows)?;
            let one = |row: wire::HashedRow| {
                let hash = [row.first, row.second];
                Ok((key(required("compare.row.key", row.key)?)?, hash))
            };
            CompareAnswer::Rows(rows.into_iter().map(one).collect::<Taken<_>>()?)
        }
        Reply::Beat(number) => CompareAnswer::Beat(number),
        Reply::Heartbeats(wire::ArrivedHeartbeats { heartbeats }) => {
            let heartbeats = counted("compare.heartbeats", heartbeats)?;
            let one = |beat: wire::NewestBeat| Ok((node("compare.node", &beat.node)?, beat.number));
            CompareAnswer::Heartbeats(heartbeats.into_iter().map(one).collect::<Taken<_>>()?)
        }
        Reply::Pieces(pieces) => CompareAnswer::Pieces(structure::pieces(pieces)?),
        Reply::Definitions(answer) => CompareAnswer::Definitions(structure::definitions(answer)?),
        Reply::Orphans(wire::AllOrphans { keys }) => {
            let keys = counted("compare.orphans", keys)?;
            CompareAnswer::Orphans(keys.into_iter().map(orphans).collect::<Taken<_>>()?)
        }
    })
}

/// The answer to it for the wire.
pub(in crate::peer) fn compare_answer_out(answer: &CompareAnswer) -> wire::CompareReply {
    let reply = match answer {
        CompareAnswer::Digest(shape, Digest { rows, hash }) => Reply::Digest(wire::RangeDigest {
            shape: *shape,
            rows: *rows,
            first: hash[0],
            second: hash[1],
        }),
        CompareAnswer::Bound(bound) => Reply::Bound(wire::BoundReply {
            key: bound.as_ref().map(key_out),
        }),
        CompareAnswer::Rows(rows) => {
            let one = |(key, hash): (&Key, &[i64; 2])| wire::HashedRow {
                key: Some(key_out(key)),
                first: hash[0],
                second: hash[1],
            };
            let rows = rows.iter().map(one).collect();
            Reply::Rows(wire::HashedRows { rows })
        }
        CompareAnswer::Beat(number) => Reply::Beat(*number),
        CompareAnswer::Heartbeats(heartbeats) => {
            let heartbeats = heartbeats.iter().map(|(node, number)| wire::NewestBeat {
                node: node_out(*node),
                number: *number,
            });
            Reply::Heartbeats(wire::ArrivedHeartbeats {
                heartbeats: heartbeats.collect(),
            })
        }
        CompareAnswer::Pieces(pieces) => Reply::Pieces(structure::pieces_out(pieces)),
        CompareAnswer::Definitions(answer) => {
            Reply::Definitions(structure::definitions_out(answer))
        }
        CompareAnswer::Orphans(found) => Reply::Orphans(wire::AllOrphans {
            keys: found.iter().map(orphans_out).collect(),
        }),
    };
    wire::CompareReply { reply: Some(reply) }
}
