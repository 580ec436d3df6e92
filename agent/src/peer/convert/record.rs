//! Node records.

use super::clock::{clock, clock_out, pair, pair_out};
use super::{
    SHORT_BYTES_MAX, TEXT_BYTES_MAX, Taken, counted, endpoints, endpoints_out, name, node,
    node_out, optional_ordinal, text, text_out, uuid, uuid_out, word,
};
use pgaa_core::backup::claim::{BackupWord, Claim, Wish};
use pgaa_core::ids::{DataEpoch, Lsn, NodeId};
use pgaa_core::record::{EdgeReport, NodeRecord, Versions};
use pgaa_core::time::Wall;
use pgaa_proto::v1 as wire;

pub(super) fn record(record: wire::NodeRecord) -> Taken<NodeRecord> {
    let phase = match record.phase.as_str() {
        "" => None,
        phase => Some(word("record.phase", phase)?),
    };
    let slots_for = counted("record.slots_for", record.slots_for)?;
    let edges = counted("record.edges", record.edges)?;
    let pairs = counted("record.clock_pairs", record.clock_pairs)?;
    Ok(NodeRecord {
        node: node("record.node", &record.node)?,
        version: record.version,
        generation: record.generation,
        name: name("record.name", &record.name)?,
        site: text("record.site", record.site, SHORT_BYTES_MAX)?,
        ordinal: optional_ordinal("record.ordinal", record.ordinal)?,
        endpoints: endpoints(record.endpoints)?,
        epoch: DataEpoch(uuid("record.epoch", &record.epoch)?),
        system_identifier: record.system_identifier,
        versions: Versions {
            agent: text(
                "record.agent_version",
                record.agent_version,
                SHORT_BYTES_MAX,
            )?,
            postgres: record.postgres_version,
            pglogical: text(
                "record.pglogical_version",
                record.pglogical_version,
                SHORT_BYTES_MAX,
            )?,
        },
        state: word("record.state", &record.state)?,
        phase,
        gate_open: record.gate_open,
        slots_for: slots_for
            .iter()
            .map(|bytes| node("record.slots_for", bytes))
            .collect::<Taken<_>>()?,
        edges: edges.into_iter().map(edge).collect::<Taken<_>>()?,
        catalog: record.catalog,
        heartbeat: record.heartbeat,
        wal: Lsn(record.wal),
        clock: clock(record.clock)?,
        clock_pairs: pairs.iter().map(pair).collect::<Taken<_>>()?,
        backup: backup(record.backup)?,
        written_at: Wall(record.written_at_ms),
    })
}

pub(super) fn record_out(record: &NodeRecord) -> wire::NodeRecord {
    wire::NodeRecord {
        node: node_out(record.node),
        version: record.version,
        generation: record.generation,
        name: record.name.to_string(),
        site: text_out(&record.site, SHORT_BYTES_MAX),
        ordinal: record.ordinal.map(|ordinal| u32::from(ordinal.0)),
        endpoints: endpoints_out(&record.endpoints),
        epoch: uuid_out(record.epoch.0),
        system_identifier: record.system_identifier,
        agent_version: text_out(&record.versions.agent, SHORT_BYTES_MAX),
        postgres_version: record.versions.postgres,
        pglogical_version: text_out(&record.versions.pglogical, SHORT_BYTES_MAX),
        state: record.state.word().to_owned(),
        phase: record
            .phase
            .map(|phase| phase.word().to_owned())
            .unwrap_or_default(),
        gate_open: record.gate_open,
        slots_for: record
            .slots_for
            .iter()
            .map(|node| node_out(*node))
            .collect(),
        edges: record
            .edges
            .iter()
            .map(|(provider, edge)| edge_out(*provider, edge))
            .collect(),
        catalog: record.catalog,
        heartbeat: record.heartbeat,
        wal: record.wal.0,
        clock: Some(clock_out(&record.clock)),
        clock_pairs: record
            .clock_pairs
            .iter()
            .map(|(node, seen)| pair_out(*node, seen))
            .collect(),
        backup: Some(backup_out(&record.backup)),
        written_at_ms: record.written_at.0,
    }
}

/// A node whose agent is older says nothing of them.
fn backup(word: Option<wire::BackupWord>) -> Taken<BackupWord> {
    let Some(word) = word else {
        return Ok(BackupWord::default());
    };
    let wish = |wish: wire::BackupWish| {
        Ok(Wish {
            target: node("record.backup.wish", &wish.target)?,
            epoch: wish.epoch,
        })
    };
    let claim = |claim: wire::BackupClaim| Claim {
        epoch: claim.epoch,
        since: Wall(claim.since_ms),
        covered: claim.covered,
    };
    Ok(BackupWord {
        able: word.able,
        claim: word.claim.map(claim),
        wish: word.wish.map(wish).transpose()?,
        archived_until: word.archived_until_ms.map(Wall),
        gap_since: word.gap_since_ms.map(Wall),
        problem: text("record.backup.problem", word.problem, TEXT_BYTES_MAX)?,
    })
}

fn backup_out(word: &BackupWord) -> wire::BackupWord {
    wire::BackupWord {
        able: word.able,
        claim: word.claim.map(|claim| wire::BackupClaim {
            epoch: claim.epoch,
            since_ms: claim.since.0,
            covered: claim.covered,
        }),
        wish: word.wish.map(|wish| wire::BackupWish {
            target: node_out(wish.target),
            epoch: wish.epoch,
        }),
        archived_until_ms: word.archived_until.map(|at| at.0),
        gap_since_ms: word.gap_since.map(|at| at.0),
        problem: text_out(&word.problem, TEXT_BYTES_MAX),
    }
}

fn edge(edge: wire::Edge) -> Taken<(NodeId, EdgeReport)> {
    let report = EdgeReport {
        state: word("edge.state", &edge.state)?,
        lag_ms: edge.lag_ms,
        heartbeat: edge.heartbeat,
        detail: text("edge.detail", edge.detail, TEXT_BYTES_MAX)?,
        position: Lsn(edge.position),
    };
    Ok((node("edge.provider", &edge.provider)?, report))
}

fn edge_out(provider: NodeId, edge: &EdgeReport) -> wire::Edge {
    wire::Edge {
        provider: node_out(provider),
        state: edge.state.word().to_owned(),
        lag_ms: edge.lag_ms,
        heartbeat: edge.heartbeat,
        detail: text_out(&edge.detail, TEXT_BYTES_MAX),
        position: edge.position.0,
    }
}
