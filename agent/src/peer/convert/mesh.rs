//! The questions and answers between members, other than rosters.

use super::roster::{tombstone, tombstone_out};
use super::{
    TEXT_BYTES_MAX, Taken, bad, counted, endpoint, endpoint_out, node, node_out, required, text,
    text_out, uuid, uuid_out,
};
use crate::peer::{CatalogAnswer, CatalogTable, Claim, ForgetAnswer, ForgetProposal};
use pgaa_core::ids::{LineageId, NodeId};
use pgaa_proto::v1 as wire;
use std::collections::BTreeMap;

/// Longest qualified table name, in bytes: two identifiers of 63, quoted, and a dot make 257.
const TABLE_BYTES_MAX: usize = 320;
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

/// What a node says of the process that speaks for it, if it says anything.
pub(in crate::peer) fn claim(request: wire::VouchRequest) -> Taken<Option<Claim>> {
    let claim = request.claim.map(|claim| {
        Ok(Claim {
            run: claim.run,
            at: endpoint("claim.at", claim.at)?,
        })
    });
    claim.transpose()
}

/// The same for the wire.
pub(in crate::peer) fn claim_out(claim: Option<Claim>) -> wire::VouchRequest {
    let claim = claim.map(|claim| wire::Claim {
        run: claim.run,
        at: endpoint_out(claim.at),
    });
    wire::VouchRequest { claim }
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
