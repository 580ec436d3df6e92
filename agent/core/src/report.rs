//! The status report, made from the same inputs as the plan.

use crate::conflicts::report::ConflictsReport;
use crate::ids::NodeId;
use crate::life::Stage;
use crate::observed::{Fact, Reach};
use crate::plan::{Inputs, Plan, clock, desired_providers, held, state_of};
use crate::record::{EdgeState, NodeRecord};
use crate::restore::proof::Proofs;
use crate::roster::Roster;
use crate::rows::RowsView;
use crate::state::NodeState;
use crate::status::{
    AnsweredBy, BackupReport, ClockRow, ClocksReport, ClusterReport, EdgeRow, Finding,
    FoundingReport, Health, LocalReport, MemberReport, Progress, SCHEMA_VERSION, StatusReport,
    WaitingOn, health_of,
};
use crate::time::Wall;
use std::collections::BTreeMap;

/// What the report needs beside the plan and its inputs.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Who answers.
    pub answered_by: AnsweredBy,
    /// How often the agent has started.
    pub generation: u64,
    /// Since when the node is in its state.
    pub since: Wall,
    /// How long ago each record arrived, milliseconds.
    pub ages_ms: BTreeMap<NodeId, u64>,
    /// When the node's certificate expires.
    pub certificate_expires: Option<Wall>,
    /// The founding, while it is under way, and the state it stands for.
    pub founding: Option<(FoundingReport, NodeState, String)>,
    /// What the founding waits for.
    pub founding_waiting: Vec<WaitingOn>,
    /// Findings of the shell.
    pub findings: Vec<Finding>,
    /// How the row check stands.
    pub rows: RowsView,
    /// Progress of something long.
    pub progress: Option<Progress>,
    /// What is remembered of proofs of the backups, if any was tried.
    pub proofs: Option<Proofs>,
    /// The backups, where there is a repository.
    pub backup: Option<BackupReport>,
    /// What is known of conflicts.
    pub conflicts: ConflictsReport,
}

/// Makes the report.
#[must_use]
pub fn report(inputs: &Inputs<'_>, plan: &Plan, around: Surroundings) -> StatusReport {
    let members = inputs
        .roster
        .map_or_else(Vec::new, |r| member_rows(inputs, r, &around));
    let mut findings = plan.findings.clone();
    findings.extend(clock::findings(inputs));
    findings.extend(around.findings.iter().cloned());
    findings.extend(state_finding(inputs, &around));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut waiting_on = around.founding_waiting.clone();
    waiting_on.extend(plan.waiting.iter().cloned());
    StatusReport {
        schema_version: SCHEMA_VERSION,
        health: health_of(&findings),
        cluster: inputs
            .roster
            .map(|roster| cluster_row(inputs, roster, &members)),
        node: local_row(inputs, &around),
        edges: inputs
            .roster
            .map_or_else(Vec::new, |r| edge_rows(inputs, r, &around)),
        members,
        clock: clock_report(inputs, &around),
        tables: plan.tables.clone(),
        rows: around.rows,
        waiting_on,
        findings,
        doing: plan.actions.iter().map(ToString::to_string).collect(),
        conflicts: around.conflicts,
        founding: around.founding.map(|(founding, _, _)| founding),
        proofs: around.proofs,
        backup: around.backup,
        answered_by: around.answered_by,
    }
}

fn local_row(inputs: &Inputs<'_>, around: &Surroundings) -> LocalReport {
    let (mut state, phase, mut because) = state_of(inputs);
    if let (Some((_, founding, why)), NodeState::Discovering) = (&around.founding, state) {
        state = *founding;
        because.clone_from(why);
    }
    let postgres = inputs.observed.postgres.known();
    LocalReport {
        state,
        phase,
        progress: around.progress.clone(),
        because,
        since: around.since,
        gate_open: postgres.is_some_and(|p| p.gate_open),
        ordinal: inputs.life.ordinal,
        generation: around.generation,
        postgres_error: match &inputs.observed.postgres {
            Fact::Known(_) => None,
            Fact::Unknown(why) => Some(why.clone()),
        },
        drifts: postgres.map(|p| p.drifts.clone()).unwrap_or_default(),
        restart_pending: postgres
            .map(|p| p.restart_pending.clone())
            .unwrap_or_default(),
        clock: inputs.observed.clock.local,
        withheld: clock::withheld(inputs),
        certificate_expires: around.certificate_expires,
    }
}

fn cluster_row(inputs: &Inputs<'_>, roster: &Roster, members: &[MemberReport]) -> ClusterReport {
    ClusterReport {
        id: roster.decree.cluster,
        name: roster.decree.cluster_name.to_string(),
        database: inputs.policy.database.clone(),
        founder: roster.decree.founder,
        ready: members
            .iter()
            .filter(|m| m.state == Some(NodeState::Ready))
            .count(),
        members: members.len(),
        max_nodes: inputs.policy.max_nodes,
        conflict_resolution: inputs.policy.conflict_resolution.as_setting().to_owned(),
    }
}

fn member_rows(inputs: &Inputs<'_>, roster: &Roster, around: &Surroundings) -> Vec<MemberReport> {
    let mut rows: Vec<MemberReport> = roster
        .members()
        .into_iter()
        .map(|node| member_row(inputs, roster, around, node))
        .collect();
    rows.sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
    rows
}

fn member_row(
    inputs: &Inputs<'_>,
    roster: &Roster,
    around: &Surroundings,
    node: NodeId,
) -> MemberReport {
    let record = roster.records.get(&node);
    let local = node == inputs.me;
    let decreed = || roster.decree.member(node).map(|m| m.ordinal);
    let reach = inputs
        .observed
        .peers
        .get(&node)
        .copied()
        .unwrap_or(Reach::Unknown);
    MemberReport {
        node,
        name: roster.name_of(node),
        site: record.map(|r| r.site.clone()).unwrap_or_default(),
        ordinal: record.and_then(|r| r.ordinal).or_else(decreed),
        state: if local {
            Some(state_of(inputs).0)
        } else {
            record.map(|r| r.state)
        },
        phase: if local {
            state_of(inputs).1
        } else {
            record.and_then(|r| r.phase)
        },
        reach: if local { Reach::Up } else { reach },
        local,
        endpoints: record.map(|r| r.endpoints),
        versions: record.map(|r| r.versions.clone()).unwrap_or_default(),
        clock: if local {
            inputs.observed.clock.local
        } else {
            record.map(|r| r.clock).unwrap_or_default()
        },
        gate_open: record.is_some_and(|r| r.gate_open),
        wal: record.map(|r| r.wal).unwrap_or_default(),
        age_ms: if local {
            0
        } else {
            around.ages_ms.get(&node).copied().unwrap_or(0)
        },
    }
}

fn edge_rows(inputs: &Inputs<'_>, roster: &Roster, around: &Surroundings) -> Vec<EdgeRow> {
    let members = roster.members();
    let mut rows = Vec::new();
    for subscriber in &members {
        for provider in members.iter().filter(|provider| *provider != subscriber) {
            rows.push(edge_row(inputs, roster, around, (*subscriber, *provider)));
        }
    }
    for held in held(inputs) {
        let own =
            |row: &&mut EdgeRow| row.provider == inputs.me && row.subscriber == held.subscriber;
        if let Some(row) = rows.iter_mut().find(own) {
            row.retained_bytes = Some(held.judged.held_bytes);
            row.budget_bytes = Some(held.judged.budget_bytes);
            row.full_in_s = held.judged.full_within.map(|within| within.as_secs());
        }
    }
    rows
}

fn edge_row(
    inputs: &Inputs<'_>,
    roster: &Roster,
    around: &Surroundings,
    (subscriber, provider): (NodeId, NodeId),
) -> EdgeRow {
    let own = (subscriber == inputs.me).then(|| crate::plan::edge_reports(inputs));
    let reported = roster
        .records
        .get(&subscriber)
        .map(|r: &NodeRecord| &r.edges);
    let report = own
        .as_ref()
        .or(reported)
        .and_then(|edges| edges.get(&provider));
    EdgeRow {
        subscriber,
        provider,
        state: report.map_or(EdgeState::Unknown, |r| r.state),
        desired: desired(inputs, roster, (subscriber, provider)),
        lag_ms: report.and_then(|r| r.lag_ms),
        detail: report.map(|r| r.detail.clone()).unwrap_or_default(),
        age_ms: around
            .ages_ms
            .get(&subscriber)
            .copied()
            .filter(|_| own.is_none())
            .unwrap_or(0),
        retained_bytes: None,
        budget_bytes: None,
        full_in_s: None,
    }
}

/// What an edge should be: replicating between members that are ready or being made so.
fn desired(
    inputs: &Inputs<'_>,
    roster: &Roster,
    (subscriber, provider): (NodeId, NodeId),
) -> EdgeState {
    let stage = if subscriber == inputs.me {
        inputs.life.stage
    } else {
        match roster.records.get(&subscriber).map(|r| (r.state, r.phase)) {
            Some((NodeState::Joining, Some(crate::record::JoinPhase::Founding))) => Stage::Founding,
            Some((NodeState::Joining, Some(phase))) => Stage::Joining(phase),
            Some((NodeState::Left | NodeState::Leaving, _)) => Stage::Leaving,
            Some((NodeState::Resyncing, _)) => Stage::Resyncing,
            Some(_) => Stage::Ready,
            None => return EdgeState::Missing,
        }
    };
    let follows = desired_providers(subscriber, stage, roster).contains_key(&provider);
    if follows {
        EdgeState::Replicating
    } else {
        EdgeState::Missing
    }
}

/// The matrix of clocks: this node's row as just measured, the others' by their records.
fn clock_report(inputs: &Inputs<'_>, around: &Surroundings) -> ClocksReport {
    let policy = &inputs.policy.clock;
    let mut rows = Vec::new();
    if let Some(roster) = inputs.roster {
        let members = roster.members();
        for from in &members {
            let (pairs, age_ms) = match roster.records.get(from) {
                _ if *from == inputs.me => (&inputs.observed.clock.pairs, 0),
                Some(record) => (
                    &record.clock_pairs,
                    around.ages_ms.get(from).copied().unwrap_or(0),
                ),
                None => continue,
            };
            let known = pairs.iter().filter(|(to, _)| members.contains(to));
            rows.extend(known.map(|(to, pair)| ClockRow {
                from: *from,
                to: *to,
                offset_us: pair.offset_us,
                error_us: pair.error_us,
                round_trip_us: pair.round_trip_us,
                age_ms: pair.age_ms.saturating_add(age_ms),
                tolerance_us: policy.tolerance_us(pair.round_trip_us),
            }));
        }
    }
    ClocksReport {
        error_us_max: policy.error_us_max(),
        strict: policy.strict,
        odd: clock::odd_clocks(inputs),
        rows,
    }
}

/// A node that isn't ready is at least degraded, and a server that doesn't answer critical.
fn state_finding(inputs: &Inputs<'_>, around: &Surroundings) -> Option<Finding> {
    let row = local_row(inputs, around);
    let severity = match row.state {
        NodeState::Ready => return None,
        NodeState::Quarantined => Health::Critical,
        NodeState::Booting if inputs.life.stage.took_writes() => Health::Critical,
        NodeState::Booting
        | NodeState::Configuring
        | NodeState::Discovering
        | NodeState::Forming
        | NodeState::Enrolling
        | NodeState::WaitingForClock
        | NodeState::Joining
        | NodeState::Resyncing
        | NodeState::Leaving
        | NodeState::Left => Health::Degraded,
    };
    Some(Finding {
        severity,
        code: "not_ready".to_owned(),
        text: format!("this node is {}: {}", row.state.word(), row.because),
        command: if row.state == NodeState::Quarantined {
            way_back(inputs, around)
        } else {
            "pgaa-agent wait --for=ready".to_owned()
        },
    })
}

/// How a machine that is set apart becomes a node again: a new one.
fn way_back(inputs: &Inputs<'_>, around: &Surroundings) -> String {
    // The member itself is well, and must not be forgotten.
    if inputs.life.copied {
        return "systemctl stop pgaa-agent && pgaa-agent image seal && pg_dropcluster --stop 15 main && \
                reboot: the machine then joins as a node of its own"
            .to_owned();
    }
    // Nobody knows whose rows these are, so that no cluster could be joined again.
    if inputs.life.quarantined.is_none() {
        return "pg_dump what this database holds, if somebody misses it; then systemctl stop pgaa-agent && \
                pgaa-agent image seal && pg_dropcluster --stop 15 main && reboot: the machine then \
                joins empty"
            .to_owned();
    }
    format!(
        "pgaa-agent rejoin {}: exports what this database holds, empties it, and joins anew",
        around.answered_by.name
    )
}
