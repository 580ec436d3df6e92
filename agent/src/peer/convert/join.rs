//! What a joiner and a member say to one another: leases and steps.

use super::roster::{roster, roster_out};
use super::{
    TEXT_BYTES_MAX, Taken, bad, counted, node, node_out, optional_node, required, text, text_out,
};
use pgaa_core::ids::Lsn;
use pgaa_core::join::{
    LeaseAnswer, LeaseAsk, LeaseKind, LeaseVerdict, ServerFacts, Step, StepAnswer, StepAsk,
};
use pgaa_proto::v1 as wire;
use std::time::Duration;
use wire::join_step_reply::Reply;
use wire::join_step_request::Step as WireStep;
use wire::lease_request::Kind;

/// Longest name of a subscription, slot or origin, in bytes (NAMEDATALEN - 1).
const NAME_BYTES_MAX: usize = 63;

/// A question for a lease.
pub(in crate::peer) fn lease_ask(request: wire::LeaseRequest) -> Taken<LeaseAsk> {
    let kind = match Kind::try_from(request.kind) {
        Ok(Kind::Acquire) => LeaseKind::Acquire,
        Ok(Kind::AcquireAnew) => LeaseKind::AcquireAnew,
        Ok(Kind::Renew) => LeaseKind::Renew,
        Ok(Kind::Release) => LeaseKind::Release,
        Err(_) => return bad("lease.kind", "is not a number this version knows"),
    };
    Ok(LeaseAsk {
        joiner: node("lease.joiner", &request.joiner)?,
        epoch: request.epoch,
        kind,
        ttl: Duration::from_secs(u64::from(request.ttl_s)),
    })
}

/// A question for a lease for the wire.
pub(in crate::peer) fn lease_ask_out(ask: &LeaseAsk) -> wire::LeaseRequest {
    let kind = match ask.kind {
        LeaseKind::Acquire => Kind::Acquire,
        LeaseKind::AcquireAnew => Kind::AcquireAnew,
        LeaseKind::Renew => Kind::Renew,
        LeaseKind::Release => Kind::Release,
    };
    wire::LeaseRequest {
        joiner: node_out(ask.joiner),
        epoch: ask.epoch,
        ttl_s: u32::try_from(ask.ttl.as_secs()).unwrap_or(u32::MAX),
        kind: kind.into(),
    }
}

/// The answer to it.
pub(in crate::peer) fn lease_answer(reply: wire::LeaseReply) -> Taken<LeaseAnswer> {
    let verdict = if reply.granted {
        LeaseVerdict::Granted
    } else {
        LeaseVerdict::Denied {
            holder: optional_node("lease.holder", &reply.holder)?,
            reason: text("lease.reason", reply.reason, TEXT_BYTES_MAX)?,
        }
    };
    Ok(LeaseAnswer {
        verdict,
        epoch: reply.epoch,
        roster: roster(reply.roster)?,
    })
}

/// The answer to it for the wire.
pub(in crate::peer) fn lease_answer_out(answer: &LeaseAnswer) -> wire::LeaseReply {
    let (granted, holder, reason) = match &answer.verdict {
        LeaseVerdict::Granted => (true, None, ""),
        LeaseVerdict::Denied { holder, reason } => (false, *holder, reason.as_str()),
    };
    wire::LeaseReply {
        granted,
        epoch: answer.epoch,
        holder: holder.map(node_out).unwrap_or_default(),
        roster: Some(roster_out(&answer.roster)),
        reason: text_out(reason, TEXT_BYTES_MAX),
    }
}

/// A step of a join.
pub(in crate::peer) fn step_ask(request: wire::JoinStepRequest) -> Taken<StepAsk> {
    let step = match required("step", request.step)? {
        WireStep::CreateSlot(create) => Step::CreateSlot {
            subscription: object_name("step.subscription", create.subscription)?,
        },
        WireStep::DropSlots(_) => Step::DropSlots,
        WireStep::Beat(_) => Step::Beat,
        WireStep::Arrived(_) => Step::Arrived,
        WireStep::InsertPosition(_) => Step::InsertPosition,
        WireStep::OriginPositions(asked) => Step::OriginPositions {
            since: Lsn(asked.since),
            until: Lsn(asked.until),
        },
        WireStep::Commit(_) => Step::Commit,
        WireStep::Facts(_) => Step::Facts,
        WireStep::FindSlot(find) => Step::FindSlot {
            subscription: object_name("step.subscription", find.subscription)?,
        },
    };
    Ok(StepAsk {
        joiner: node("step.joiner", &request.joiner)?,
        epoch: request.epoch,
        sequence: request.sequence,
        step,
    })
}

/// A step of a join for the wire.
pub(in crate::peer) fn step_ask_out(ask: &StepAsk) -> wire::JoinStepRequest {
    let step = match &ask.step {
        Step::CreateSlot { subscription } => WireStep::CreateSlot(wire::CreateSlot {
            subscription: subscription.clone(),
        }),
        Step::DropSlots => WireStep::DropSlots(wire::DropSlots {}),
        Step::Beat => WireStep::Beat(wire::Beat {}),
        Step::Arrived => WireStep::Arrived(wire::Arrived {}),
        Step::InsertPosition => WireStep::InsertPosition(wire::InsertPosition {}),
        Step::OriginPositions { since, until } => {
            WireStep::OriginPositions(wire::OriginPositions {
                since: since.0,
                until: until.0,
            })
        }
        Step::Commit => WireStep::Commit(wire::CommitJoin {}),
        Step::Facts => WireStep::Facts(wire::FactsRequest {}),
        Step::FindSlot { subscription } => WireStep::FindSlot(wire::FindSlot {
            subscription: subscription.clone(),
        }),
    };
    wire::JoinStepRequest {
        joiner: node_out(ask.joiner),
        epoch: ask.epoch,
        sequence: ask.sequence,
        step: Some(step),
    }
}

/// What came of a step.
pub(in crate::peer) fn step_answer(reply: wire::JoinStepReply) -> Taken<StepAnswer> {
    Ok(match required("step.reply", reply.reply)? {
        Reply::Done(_) => StepAnswer::Done,
        Reply::Absent(_) => StepAnswer::Absent,
        Reply::Facts(told) => StepAnswer::Facts(Box::new(facts(told)?)),
        Reply::Position(position) => StepAnswer::Position(Lsn(position)),
        Reply::Heartbeat(number) => StepAnswer::Heartbeat(number),
        Reply::Origins(origins) => {
            let origins = counted("step.origins", origins.origins)?.into_iter();
            let origins = origins.map(|origin| {
                Ok((
                    object_name("origin.provider", origin.provider)?,
                    Lsn(origin.position),
                ))
            });
            StepAnswer::Origins(origins.collect::<Taken<_>>()?)
        }
    })
}

/// What came of a step, for the wire.
pub(in crate::peer) fn step_answer_out(answer: &StepAnswer) -> wire::JoinStepReply {
    let reply = match answer {
        StepAnswer::Done => Reply::Done(wire::StepDone {}),
        StepAnswer::Absent => Reply::Absent(wire::StepDone {}),
        StepAnswer::Facts(told) => Reply::Facts(facts_out(told)),
        StepAnswer::Position(position) => Reply::Position(position.0),
        StepAnswer::Heartbeat(number) => Reply::Heartbeat(*number),
        StepAnswer::Origins(origins) => {
            let origins = origins
                .iter()
                .map(|(provider, position)| wire::OriginPosition {
                    provider: provider.clone(),
                    position: position.0,
                });
            Reply::Origins(wire::Origins {
                origins: origins.collect(),
            })
        }
    };
    wire::JoinStepReply { reply: Some(reply) }
}

/// The name of a subscription, slot or origin: never anything that would need quoting.
fn object_name(field: &'static str, name: String) -> Taken<String> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(name)
    } else {
        bad(field, "is not a name that this program makes")
    }
}

fn words<T: FromIterator<String>>(field: &'static str, list: Vec<String>) -> Taken<T> {
    let list = counted(field, list)?.into_iter();
    list.map(|word| text(field, word, TEXT_BYTES_MAX)).collect()
}

/// What a server is like.
fn facts(told: wire::ServerFacts) -> Taken<ServerFacts> {
    Ok(ServerFacts {
        version_num: told.version_num,
        locale: text("facts.locale", told.locale, TEXT_BYTES_MAX)?,
        collation_version: text("facts.collation", told.collation_version, TEXT_BYTES_MAX)?,
        database_bytes: told.database_bytes,
        free_bytes: told.free_bytes,
        slots_free: told.slots_free,
        senders_free: told.senders_free,
        workers_free: told.workers_free,
        wal_can_be_read: told.wal_can_be_read,
        replicated: words("facts.replicated", told.replicated)?,
        blockers: words("facts.blockers", told.blockers)?,
        prepared: words("facts.prepared", told.prepared)?,
        extensions: words("facts.extensions", told.extensions)?,
        collation_recorded: text(
            "facts.collation_recorded",
            told.collation_recorded,
            TEXT_BYTES_MAX,
        )?,
    })
}

fn facts_out(facts: &ServerFacts) -> wire::ServerFacts {
    let said = |text: &String| text_out(text, TEXT_BYTES_MAX);
    wire::ServerFacts {
        version_num: facts.version_num,
        locale: said(&facts.locale),
        collation_version: said(&facts.collation_version),
        database_bytes: facts.database_bytes,
        free_bytes: facts.free_bytes,
        slots_free: facts.slots_free,
        senders_free: facts.senders_free,
        workers_free: facts.workers_free,
        wal_can_be_read: facts.wal_can_be_read,
        replicated: facts.replicated.iter().map(said).collect(),
        blockers: facts.blockers.iter().map(said).collect(),
        prepared: facts.prepared.iter().map(said).collect(),
        extensions: facts.extensions.iter().map(said).collect(),
        collation_recorded: said(&facts.collation_recorded),
    }
}
