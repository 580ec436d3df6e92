//! What members ask one another about rows that may differ.

use super::compare::{TABLE_BYTES_MAX, key, key_out};
use super::{
    SHORT_BYTES_MAX, TEXT_BYTES_MAX, Taken, bad, counted, node, node_out, required, text_out,
};
use crate::peer::types::{CheckAnswer, CheckAsk};
use pgaa_core::rows::{Mend, Mended, Moment, Referrers, Repair, RowValues, Seen, Stamp, Version};
use pgaa_core::verify::Key;
use pgaa_proto::v1 as wire;
use wire::check_reply::Reply;
use wire::check_request::Ask;

/// Most columns of a table.
const COLUMNS_MAX: usize = 1_600;

const RACED: u32 = 0;
const DONE: u32 = 1;
const REFUSED: u32 = 2;
const BLOCKED: u32 = 3;

fn keys(asked: wire::RowKeys) -> Taken<Vec<Key>> {
    let keys = counted("check.keys", asked.keys)?;
    keys.into_iter().map(key).collect()
}

fn keys_out<'a>(keys: impl Iterator<Item = &'a Key>) -> wire::RowKeys {
    let keys = keys.map(key_out).collect();
    wire::RowKeys { keys }
}

fn stamp(stamp: wire::RowStamp) -> Taken<Stamp> {
    Ok(Stamp {
        at_us: stamp.at_us,
        author: node("check.author", &stamp.author)?,
    })
}

fn stamp_out(stamp: Stamp) -> wire::RowStamp {
    wire::RowStamp {
        at_us: stamp.at_us,
        author: node_out(stamp.author),
    }
}

fn moment(moment: Option<wire::Moment>) -> Taken<Moment> {
    let wire::Moment { run, at_ms } = required("check.moment", moment)?;
    Ok(Moment { run, at_ms })
}

fn moment_out(moment: Moment) -> wire::Moment {
    wire::Moment {
        run: moment.run,
        at_ms: moment.at_ms,
    }
}

fn values(row: wire::Values) -> Taken<RowValues> {
    if row.values.len() > COLUMNS_MAX {
        return bad("check.values", "has too many columns");
    }
    let one = |value: wire::ColumnValue| (value.column, value.text);
    Ok(row.values.into_iter().map(one).collect())
}

fn values_out(row: &RowValues) -> wire::Values {
    let one = |(column, text): (&String, &Option<String>)| wire::ColumnValue {
        column: column.clone(),
        text: text.clone(),
    };
    wire::Values {
        values: row.iter().map(one).collect(),
    }
}

fn repair(repair: wire::Repair) -> Taken<Repair> {
    let right = |right: wire::Right| {
        Ok(Mend {
            stamp: right.stamp.map(stamp).transpose()?,
            values: values(required("check.repair.values", right.values)?)?,
        })
    };
    if repair.rule.len() > SHORT_BYTES_MAX {
        return bad("check.repair.rule", "is too long");
    }
    Ok(Repair {
        key: key(required("check.repair.key", repair.key)?)?,
        seen: repair.seen,
        right: repair.right.map(right).transpose()?,
        rule: repair.rule,
        looked: moment(repair.looked)?,
    })
}

fn repair_out(repair: &Repair) -> wire::Repair {
    wire::Repair {
        key: Some(key_out(&repair.key)),
        seen: repair.seen,
        right: repair.right.as_ref().map(|right| wire::Right {
            stamp: right.stamp.map(stamp_out),
            values: Some(values_out(&right.values)),
        }),
        rule: text_out(&repair.rule, SHORT_BYTES_MAX),
        looked: Some(moment_out(repair.looked)),
    }
}

/// A question about rows that may differ.
pub(in crate::peer) fn check_ask(request: wire::CheckRequest) -> Taken<(String, CheckAsk)> {
    if request.table.len() > TABLE_BYTES_MAX {
        return bad("check.table", "is too long");
    }
    let ask = match required("check.ask", request.ask)? {
        Ask::Look(asked) => CheckAsk::Look(keys(asked)?),
        Ask::Begins(asked) => CheckAsk::Begins(keys(asked)?),
        Ask::Values(wire::KeyVersions { versions }) => {
            let versions = counted("check.versions", versions)?;
            let one = |version: wire::KeyVersion| {
                let key = key(required("check.version.key", version.key)?)?;
                Ok((key, version.token))
            };
            CheckAsk::Values(versions.into_iter().map(one).collect::<Taken<_>>()?)
        }
        Ask::Mend(wire::Repairs { repairs }) => {
            let repairs = counted("check.repairs", repairs)?;
            CheckAsk::Mend(repairs.into_iter().map(repair).collect::<Taken<_>>()?)
        }
        Ask::Referrers(of) => CheckAsk::Referrers(key(of)?),
    };
    Ok((request.table, ask))
}

/// A question about rows for the wire.
pub(in crate::peer) fn check_ask_out(table: &str, ask: &CheckAsk) -> wire::CheckRequest {
    let ask = match ask {
        CheckAsk::Look(keys) => Ask::Look(keys_out(keys.iter())),
        CheckAsk::Begins(keys) => Ask::Begins(keys_out(keys.iter())),
        CheckAsk::Values(versions) => {
            let one = |(key, token): &(Key, u32)| wire::KeyVersion {
                key: Some(key_out(key)),
                token: *token,
            };
            let versions = versions.iter().map(one).collect();
            Ask::Values(wire::KeyVersions { versions })
        }
        CheckAsk::Mend(repairs) => {
            let repairs = repairs.iter().map(repair_out).collect();
            Ask::Mend(wire::Repairs { repairs })
        }
        CheckAsk::Referrers(of) => Ask::Referrers(key_out(of)),
    };
    wire::CheckRequest {
        table: table.to_owned(),
        ask: Some(ask),
    }
}

fn seen(row: wire::SeenRow) -> Taken<Seen> {
    let version = |row: wire::RowVersion| {
        Ok(Version {
            stamp: row.stamp.map(stamp).transpose()?,
            hash: [row.first, row.second],
            token: row.token,
            mended: row.mended,
        })
    };
    Ok(Seen {
        row: row.row.map(version).transpose()?,
        deleted_us: row.deleted_us,
        deletes_since_us: row.deletes_since_us,
        ordered: row.ordered,
    })
}

fn seen_out(seen: &Seen) -> wire::SeenRow {
    wire::SeenRow {
        row: seen.row.map(|row| wire::RowVersion {
            stamp: row.stamp.map(stamp_out),
            first: row.hash[0],
            second: row.hash[1],
            token: row.token,
            mended: row.mended,
        }),
        deleted_us: seen.deleted_us,
        deletes_since_us: seen.deletes_since_us,
        ordered: seen.ordered,
    }
}

fn mended(outcome: wire::RepairOutcome) -> Taken<Mended> {
    Ok(match outcome.outcome {
        RACED => Mended::Raced,
        DONE => Mended::Done,
        REFUSED if outcome.text.len() <= TEXT_BYTES_MAX => Mended::Refused(outcome.text),
        BLOCKED => Mended::Blocked(key(required("check.rival", outcome.rival)?)?),
        _ => return bad("check.outcome", "is unknown, or its text too long"),
    })
}

fn mended_out(outcome: &Mended) -> wire::RepairOutcome {
    let (outcome, text, rival) = match outcome {
        Mended::Raced => (RACED, String::new(), None),
        Mended::Done => (DONE, String::new(), None),
        Mended::Refused(why) => (REFUSED, text_out(why, TEXT_BYTES_MAX), None),
        Mended::Blocked(rival) => (BLOCKED, String::new(), Some(key_out(rival))),
    };
    wire::RepairOutcome {
        outcome,
        text,
        rival,
    }
}

fn referrers(found: wire::Referrers) -> Taken<Referrers> {
    let wire::Referrers {
        table,
        constraint,
        rows,
        command,
    } = found;
    if [&table, &constraint, &command]
        .map(String::len)
        .iter()
        .max()
        > Some(&TEXT_BYTES_MAX)
    {
        return bad("check.referrers", "has a text that is too long");
    }
    Ok(Referrers {
        table,
        constraint,
        rows,
        command,
    })
}

fn referrers_out(found: &Referrers) -> wire::Referrers {
    wire::Referrers {
        table: found.table.clone(),
        constraint: found.constraint.clone(),
        rows: found.rows,
        command: text_out(&found.command, TEXT_BYTES_MAX),
    }
}

/// The answer to it.
pub(in crate::peer) fn check_answer(reply: wire::CheckReply) -> Taken<CheckAnswer> {
    Ok(match required("check.reply", reply.reply)? {
        Reply::Seen(wire::SeenRows { rows, looked }) => {
            let rows = counted("check.seen", rows)?;
            let rows = rows.into_iter().map(seen).collect::<Taken<_>>()?;
            CheckAnswer::Seen(moment(looked)?, rows)
        }
        Reply::Keys(asked) => CheckAnswer::Keys(keys(asked)?.into_iter().collect()),
        Reply::Values(wire::AllValues { rows }) => {
            let rows = counted("check.rows", rows)?;
            let one = |row: wire::MaybeValues| row.values.map(values).transpose();
            CheckAnswer::Values(rows.into_iter().map(one).collect::<Taken<_>>()?)
        }
        Reply::Mended(wire::RepairOutcomes { outcomes }) => {
            let outcomes = counted("check.outcomes", outcomes)?;
            CheckAnswer::Mended(outcomes.into_iter().map(mended).collect::<Taken<_>>()?)
        }
        Reply::Referrers(wire::AllReferrers { keys }) => {
            let keys = counted("check.referrers", keys)?;
            CheckAnswer::Referrers(keys.into_iter().map(referrers).collect::<Taken<_>>()?)
        }
    })
}

/// The answer to it for the wire.
pub(in crate::peer) fn check_answer_out(answer: &CheckAnswer) -> wire::CheckReply {
    let reply = match answer {
        CheckAnswer::Seen(looked, rows) => Reply::Seen(wire::SeenRows {
            looked: Some(moment_out(*looked)),
            rows: rows.iter().map(seen_out).collect(),
        }),
        CheckAnswer::Keys(keys) => Reply::Keys(keys_out(keys.iter())),
        CheckAnswer::Values(rows) => {
            let one = |row: &Option<RowValues>| wire::MaybeValues {
                values: row.as_ref().map(values_out),
            };
            let rows = rows.iter().map(one).collect();
            Reply::Values(wire::AllValues { rows })
        }
        CheckAnswer::Mended(outcomes) => Reply::Mended(wire::RepairOutcomes {
            outcomes: outcomes.iter().map(mended_out).collect(),
        }),
        CheckAnswer::Referrers(found) => Reply::Referrers(wire::AllReferrers {
            keys: found.iter().map(referrers_out).collect(),
        }),
    };
    wire::CheckReply { reply: Some(reply) }
}
