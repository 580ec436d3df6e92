//! The questions and answers between members, other than rosters.

use super::roster::{roster, roster_out, tombstone, tombstone_out};
use super::{
    TEXT_BYTES_MAX, Taken, bad, counted, node, node_out, optional_node, required, text, text_out,
    uuid, uuid_out,
};
use crate::peer::{
    CatalogAnswer, CatalogTable, ForgetAnswer, ForgetProposal, LeaseAnswer, LeaseAsk, LeaseKind,
    LeaseVerdict, Step, StepAnswer, StepAsk,
};
use pgaa_core::ids::{LineageId, Lsn, NodeId};
use pgaa_proto::v1 as wire;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::join_step_reply::Reply;
use wire::join_step_request::Step as WireStep;
use wire::lease_request::Kind;

/// Longest qualified table name, in bytes: two identifiers of 63, quoted, and a dot make 257.
const TABLE_BYTES_MAX: usize = 320;
/// Longest name of a subscription, slot or origin, in bytes (NAMEDATALEN - 1).
const NAME_BYTES_MAX: usize = 63;
/// Most tables of a catalogue.
const TABLES_MAX: usize = 32_768;

/// Record versions by node.
pub(in crate::peer) fn versions(list: Vec<wire::RecordVersion>) -> Taken<BTreeMap<NodeId, u64>> {
    let list = counted("have", list)?;
    list.into_iter()
        .map(|have| Ok((node("have.node", &have.node)?, have.version)))
        .collect()
}

/// Record versions for the wire.
pub(in crate::peer) fn versions_out(have: &BTreeMap<NodeId, u64>) -> Vec<wire::RecordVersion> {
    have.iter()
        .map(|(node, version)| wire::RecordVersion {
            node: node_out(*node),
            version: *version,
        })
        .collect()
}

/// A member's tables.
pub(in crate::peer) fn catalog(reply: wire::CatalogReply) -> Taken<CatalogAnswer> {
    if reply.tables.len() > TABLES_MAX {
        return bad("tables", "has too many entries");
    }
    let table = |table: wire::CatalogTable| {
        Ok(CatalogTable {
            name: text("table.name", table.name, TABLE_BYTES_MAX)?,
            structure: table.structure,
            primary_key: table.primary_key,
        })
    };
    let tables = reply.tables.into_iter().map(table).collect::<Taken<_>>()?;
    Ok(CatalogAnswer {
        digest: reply.catalog,
        tables,
    })
}

/// A member's tables for the wire.
pub(in crate::peer) fn catalog_out(catalog: &CatalogAnswer) -> wire::CatalogReply {
    let table_out = |table: &CatalogTable| wire::CatalogTable {
        name: text_out(&table.name, TABLE_BYTES_MAX),
        structure: table.structure,
        primary_key: table.primary_key,
    };
    wire::CatalogReply {
        catalog: catalog.digest,
        tables: catalog.tables.iter().map(table_out).collect(),
    }
}

/// A proposal to bury a member.
pub(in crate::peer) fn forget_proposal(request: wire::ForgetRequest) -> Taken<ForgetProposal> {
    let parent = match request.parent.as_slice() {
        [] => None,
        bytes => Some(LineageId(uuid("forget.parent", bytes)?)),
    };
    Ok(ForgetProposal {
        target: node("forget.target", &request.target)?,
        parent,
        link: LineageId(uuid("forget.link", &request.link)?),
        tombstone: tombstone(required("forget.tombstone", request.tombstone)?)?,
        commit: request.commit,
    })
}

/// A proposal for the wire.
pub(in crate::peer) fn forget_proposal_out(proposal: &ForgetProposal) -> wire::ForgetRequest {
    wire::ForgetRequest {
        target: node_out(proposal.target),
        parent: proposal
            .parent
            .map(|link| uuid_out(link.0))
            .unwrap_or_default(),
        link: uuid_out(proposal.link.0),
        tombstone: Some(tombstone_out(proposal.target, &proposal.tombstone)),
        commit: proposal.commit,
    }
}

/// The answer to a proposal.
pub(in crate::peer) fn forget_answer(reply: wire::ForgetReply) -> Taken<ForgetAnswer> {
    Ok(ForgetAnswer {
        consent: reply.consent,
        target_answers: reply.target_answers,
        reason: text("forget.reason", reply.reason, TEXT_BYTES_MAX)?,
    })
}

/// The answer to a proposal for the wire.
pub(in crate::peer) fn forget_answer_out(answer: &ForgetAnswer) -> wire::ForgetReply {
    wire::ForgetReply {
        consent: answer.consent,
        target_answers: answer.target_answers,
        reason: text_out(&answer.reason, TEXT_BYTES_MAX),
    }
}

/// A question for a lease.
pub(in crate::peer) fn lease_ask(request: wire::LeaseRequest) -> Taken<LeaseAsk> {
    let kind = match Kind::try_from(request.kind) {
        Ok(Kind::Acquire) => LeaseKind::Acquire,
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
        WireStep::InsertPosition(_) => Step::InsertPosition,
        WireStep::OriginPositions(asked) => Step::OriginPositions {
            since: Lsn(asked.since),
            until: Lsn(asked.until),
        },
        WireStep::Admit(_) => Step::Admit,
    };
    Ok(StepAsk {
        joiner: node("step.joiner", &request.joiner)?,
        epoch: request.epoch,
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
        Step::InsertPosition => WireStep::InsertPosition(wire::InsertPosition {}),
        Step::OriginPositions { since, until } => {
            WireStep::OriginPositions(wire::OriginPositions {
                since: since.0,
                until: until.0,
            })
        }
        Step::Admit => WireStep::Admit(wire::AdmitJoiner {}),
    };
    wire::JoinStepRequest {
        joiner: node_out(ask.joiner),
        epoch: ask.epoch,
        step: Some(step),
    }
}

/// What came of a step.
pub(in crate::peer) fn step_answer(reply: wire::JoinStepReply) -> Taken<StepAnswer> {
    Ok(match required("step.reply", reply.reply)? {
        Reply::Done(_) => StepAnswer::Done,
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
