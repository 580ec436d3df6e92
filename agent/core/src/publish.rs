//! This node's own record: made from what was just seen, and given a new version when it says
//! something new.

use crate::backup::claim::BackupWord;
use crate::beats;
use crate::ids::{Lsn, Name, NodeId};
use crate::observed::PostgresFacts;
use crate::plan::{Inputs, recorded_edges, slots_for, state_of};
use crate::record::{EdgeState, Endpoints, NodeRecord, Versions};
use crate::time::Now;
use std::time::Duration;

/// What the record needs beside the inputs of the plan.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// Its place; empty when not named.
    pub site: String,
    /// How often its agent has started.
    pub generation: u64,
    /// The agent's version.
    pub agent_version: String,
}

/// Numbers that change all the time (lag, heartbeat, WAL position, clock) are refreshed this
/// often when nothing else changes.
pub const REFRESH_PERIOD: Duration = Duration::from_secs(5);

/// What becomes of the record after a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// It says nothing new.
    Unchanged,
    /// Only its numbers are refreshed; others learn of it when they ask.
    Refreshed(NodeRecord),
    /// Others should hear of it now.
    Changed(NodeRecord),
}

/// Makes the new record, with the version one above `previous`'s; a shell that persists a counter
/// raises it to that. `None` while PostgreSQL has never been seen: there is nothing to say yet.
#[must_use]
pub fn publish(
    publisher: &Publisher,
    inputs: &Inputs<'_>,
    seen: Seen,
    previous: Option<&NodeRecord>,
) -> Option<Publication> {
    let record = make(publisher, inputs, &seen, previous)?;
    let Some(previous) = previous else {
        return Some(Publication::Changed(record));
    };
    if !says_the_same(&record, previous) {
        return Some(Publication::Changed(record));
    }
    let age_ms = record.written_at.0.saturating_sub(previous.written_at.0);
    // A step of the wall clock backwards makes the age negative; then it is refreshed as well.
    if age_ms < 0 || u128::from(age_ms.unsigned_abs()) >= REFRESH_PERIOD.as_millis() {
        return Some(Publication::Refreshed(record));
    }
    Some(Publication::Unchanged)
}

/// What the shell has seen that isn't part of the plan's inputs.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The time.
    pub now: Now,
    /// Where this node is reached; `None` while its own address isn't known.
    pub endpoints: Option<Endpoints>,
    /// What this node says of the backups.
    pub backup: BackupWord,
}

fn make(
    publisher: &Publisher,
    inputs: &Inputs<'_>,
    seen: &Seen,
    previous: Option<&NodeRecord>,
) -> Option<NodeRecord> {
    let postgres = inputs.observed.postgres.known();
    // While PostgreSQL can't be seen the last word about it stands, but for the state.
    let epoch = postgres
        .and_then(|p| p.epoch)
        .or(previous.map(|r| r.epoch))?;
    let (state, phase, _) = state_of(inputs);
    let version = previous.map_or(1, |r| r.version.saturating_add(1));
    let facts = |pick: &dyn Fn(&PostgresFacts) -> u64, last: fn(&NodeRecord) -> u64| {
        postgres
            .map(pick)
            .or(previous.map(last))
            .unwrap_or_default()
    };
    let versions = postgres.map(|p| Versions {
        agent: publisher.agent_version.clone(),
        postgres: p.version_num,
        pglogical: p.pglogical.clone().unwrap_or_default(),
    });
    Some(NodeRecord {
        node: publisher.node,
        version,
        generation: publisher.generation,
        name: publisher.name.clone(),
        site: publisher.site.clone(),
        ordinal: inputs.life.ordinal,
        endpoints: seen.endpoints.or(previous.map(|r| r.endpoints))?,
        epoch,
        system_identifier: facts(&|p| p.system_identifier, |r| r.system_identifier),
        versions: versions
            .or_else(|| previous.map(|r| r.versions.clone()))
            .unwrap_or_default(),
        state,
        phase,
        gate_open: postgres
            .map(|p| p.gate_open)
            .or(previous.map(|r| r.gate_open))?,
        slots_for: slots_for(inputs)
            .or_else(|| previous.map(|r| r.slots_for.clone()))
            .unwrap_or_default(),
        edges: recorded_edges(inputs),
        catalog: facts(&|p| p.catalog, |r| r.catalog),
        heartbeat: newest_heartbeat(inputs, postgres, previous),
        // The last word may be an old one, from before the agent was restarted: no word then.
        wal: Lsn(facts(&|p| p.wal.0, |_| 0)),
        clock: inputs.observed.clock.local,
        clock_pairs: inputs.observed.clock.pairs.clone(),
        backup: seen.backup.clone(),
        written_at: seen.now.wall,
    })
}

/// The newest own heartbeat; the floor of a new series after the first look of this agent, and when
/// a slot is gone that the last record spoke of.
fn newest_heartbeat(
    inputs: &Inputs<'_>,
    postgres: Option<&PostgresFacts>,
    previous: Option<&NodeRecord>,
) -> u64 {
    let said = previous.map_or(0, |r| r.heartbeat);
    // Without an epoch there is no mesh to look at yet.
    let Some(postgres) = postgres.filter(|seen| seen.epoch.is_some()) else {
        return said;
    };
    let written = postgres.heartbeats.get(&inputs.me);
    let newest = written.map_or(0, |beat| beat.number).max(said);
    let series = match inputs.memory.series {
        Some(series) if !loses(inputs, previous) => series,
        Some(_) | None => beats::series(newest) + 1,
    };
    newest.max(beats::floor(series))
}

/// Is a slot gone that the last record spoke of, whose member is still there?
fn loses(inputs: &Inputs<'_>, previous: Option<&NodeRecord>) -> bool {
    let (Some(roster), Some(slots)) = (inputs.roster, slots_for(inputs)) else {
        return false;
    };
    let mut said = previous.iter().flat_map(|record| &record.slots_for);
    said.any(|member| roster.records.contains_key(member) && !slots.contains(member))
}

/// Do two records differ in nothing but the numbers that change all the time?
#[must_use]
pub fn says_the_same(one: &NodeRecord, other: &NodeRecord) -> bool {
    settled(one) == settled(other)
}

/// The record without the numbers that change all the time.
fn settled(record: &NodeRecord) -> NodeRecord {
    let mut settled = record.clone();
    settled.version = 0;
    // A new series is what others wait for.
    settled.heartbeat = beats::series(record.heartbeat);
    settled.wal = Lsn(0);
    settled.written_at = crate::time::Wall(0);
    settled.clock.offset_us = 0;
    settled.clock.error_us = None;
    settled.clock_pairs.clear();
    settled.backup.archived_until = settled.backup.archived_until.map(|_| crate::time::Wall(0));
    for edge in settled.edges.values_mut() {
        edge.lag_ms = None;
        edge.heartbeat = 0;
        // Without a worker it stands still, and is what a provider that comes back has to hear:
        // one that shows less was rolled back.
        if edge.state != EdgeState::Down {
            edge.position = Lsn(0);
        }
    }
    settled
}
