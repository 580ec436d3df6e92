//! The plan: from what is wanted and what is seen to what is done next.
//!
//! Level-triggered and pure. Called after every look; a converged mesh has an empty plan. Every
//! early end says what it waits for, because that is what `status` prints.

pub mod clock;
mod edges;
mod guard;
mod history;
mod readiness;
mod resync;
mod slots;
#[cfg(test)]
mod tests;

pub use edges::{
    awaits_joiner, desired_providers, edge_reports, follower_of_the_gone, recorded_edges,
};
pub use guard::{Held, held, to_give_up};
pub use history::rolled_back;
pub use readiness::{slots_for, state_of};
pub use resync::resync_wanted;

use crate::action::Action;
use crate::ids::{DataEpoch, NodeId};
use crate::life::{Life, Stage};
use crate::memory::Memory;
use crate::observed::{Fact, Observed, PostgresFacts};
use crate::policy::Policy;
use crate::roster::Roster;
use crate::status::{Finding, Health, TablesReport, WaitingOn};
use crate::tables::{self, Catalog};
use crate::time::Mono;
use std::collections::BTreeMap;
use std::time::Duration;

/// Heartbeats go out once a second; an edge without one for this long isn't called replicating.
pub const HEARTBEAT_FRESH: Duration = Duration::from_secs(5);

/// Everything a plan rests on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The time.
    pub now: Mono,
    /// This node.
    pub me: NodeId,
    /// The operator's wishes.
    pub policy: &'a Policy,
    /// This node's life so far.
    pub life: &'a Life,
    /// The cluster, once this node is in one.
    pub roster: Option<&'a Roster>,
    /// What was just seen.
    pub observed: &'a Observed,
    /// What earlier looks have noticed.
    pub memory: &'a Memory,
    /// The tables of the other ready members.
    pub catalogs: &'a BTreeMap<NodeId, Fact<Catalog>>,
    /// The DSN by which this node's server reaches each member, as configured now.
    pub dsns: &'a BTreeMap<NodeId, String>,
}

/// What is done next, and what is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In this order; removals first.
    pub actions: Vec<Action>,
    /// Most important first.
    pub waiting: Vec<WaitingOn>,
    /// What somebody should know.
    pub findings: Vec<Finding>,
    /// The tables, for the report.
    pub tables: TablesReport,
}

/// What every part of the plan for a member looks at.
#[derive(Clone, Copy)]
struct View<'a> {
    inputs: &'a Inputs<'a>,
    roster: &'a Roster,
    postgres: &'a PostgresFacts,
    epoch: DataEpoch,
}

impl<'a> View<'a> {
    /// The view of a node that is in a cluster and whose database is prepared and seen.
    fn of(inputs: &'a Inputs<'a>) -> Option<View<'a>> {
        let postgres = inputs.observed.postgres.known()?;
        Some(View {
            inputs,
            roster: inputs.roster?,
            postgres,
            epoch: postgres.epoch?,
        })
    }

    fn me(&self) -> (NodeId, DataEpoch) {
        (self.inputs.me, self.epoch)
    }
}

/// Makes the plan.
#[must_use]
pub fn plan(inputs: &Inputs<'_>) -> Plan {
    let mut plan = Plan::default();
    guard::disk(inputs, &mut plan);
    let postgres = match &inputs.observed.postgres {
        Fact::Known(facts) => facts,
        Fact::Unknown(why) => {
            let text = format!("PostgreSQL does not answer: {why}");
            plan.waiting.push(WaitingOn::new("postgres", text));
            return plan;
        }
    };
    settings(inputs, postgres, &mut plan);
    if postgres.pglogical.is_none() || postgres.epoch.is_none() {
        if plan.actions.is_empty() {
            plan.actions.push(Action::Prepare);
        }
        plan.waiting
            .push(WaitingOn::new("prepare", "the database is being prepared"));
        return plan;
    }
    shut(inputs, postgres, &mut plan);
    if let Some(view) = View::of(inputs) {
        member(&view, &mut plan);
    }
    plan
}

/// Settings that are wrong, and restarts that wait.
fn settings(inputs: &Inputs<'_>, postgres: &PostgresFacts, plan: &mut Plan) {
    if postgres.in_recovery {
        plan.findings.push(Finding {
            severity: Health::Critical,
            code: "standby".to_owned(),
            text: "this server is a standby: a mesh node must take writes".to_owned(),
            command: "SELECT pg_promote()".to_owned(),
        });
    }
    for drift in &postgres.drifts {
        plan.findings.push(Finding {
            severity: if drift.needs_restart {
                Health::Critical
            } else {
                Health::Degraded
            },
            code: "setting_drift".to_owned(),
            text: format!(
                "{} is {} and should be {} (set in {})",
                drift.name, drift.value, drift.needed, drift.source
            ),
            command: if drift.needs_restart {
                "pgaa-agent restart, after correcting it there".to_owned()
            } else {
                format!(
                    "correct it in {}, then SELECT pg_reload_conf()",
                    drift.source
                )
            },
        });
    }
    if !postgres.restart_pending.is_empty() {
        if inputs.life.stage.took_writes() || postgres.has_rows {
            plan.findings.push(Finding {
                severity: Health::Degraded,
                code: "restart_pending".to_owned(),
                text: format!(
                    "restart pending for {}",
                    postgres.restart_pending.join(", ")
                ),
                command: "pgaa-agent restart".to_owned(),
            });
        } else {
            let settings = postgres.restart_pending.clone();
            plan.actions.push(Action::RestartPostgres { settings });
        }
    }
    for error in &postgres.hba_errors {
        plan.findings.push(Finding {
            severity: Health::Critical,
            code: "hba_error".to_owned(),
            text: format!("PostgreSQL can't read its access rules: {error}"),
            command: "SELECT * FROM pg_hba_file_rules WHERE error IS NOT NULL".to_owned(),
        });
    }
}

/// Until this node is ready its gate is shut; but never on a server that holds rows of its own,
/// which may become the founder and keeps serving.
fn shut(inputs: &Inputs<'_>, postgres: &PostgresFacts, plan: &mut Plan) {
    let serves = match inputs.life.stage {
        Stage::Single => postgres.has_rows,
        Stage::Founding | Stage::Joining(_) | Stage::Resyncing | Stage::Leaving => false,
        Stage::Ready => inputs.life.quarantined.is_none(),
        Stage::Left => true,
    };
    if postgres.gate_open && !serves {
        plan.actions.push(Action::ShutGate);
    }
}

/// The plan of a node that is in a cluster.
fn member(view: &View<'_>, plan: &mut Plan) {
    let stage = view.inputs.life.stage;
    if view.roster.tombstones.contains_key(&view.inputs.me) && stage != Stage::Left {
        plan.actions.push(Action::FinishLeaving);
        return;
    }
    if stage == Stage::Left || history::apart(view, plan) {
        return;
    }
    admit(view, plan);
    edges::remove_buried(view, plan);
    slots::remove_buried(view, plan);
    guard::watch(view, plan);
    local_node(view, plan);
    slots::create(view, plan);
    edges::create_and_keep(view, plan);
    slots::end_stale_senders(view, plan);
    tables_into_set(view, plan);
    readiness::advance(view, plan);
    edges::findings(view, plan);
    slots::findings(view, plan);
    resync::findings(view, plan);
}

/// pg_ident must name every member, and nobody else.
fn admit(view: &View<'_>, plan: &mut Plan) {
    let mut members = view.roster.members();
    members.remove(&view.inputs.me);
    if members != view.postgres.admitted {
        plan.actions.push(Action::AdmitMembers { members });
    }
}

fn local_node(view: &View<'_>, plan: &mut Plan) {
    let (me, epoch) = view.me();
    let name = crate::ids::pglogical_node_name(me, epoch);
    let dsn = view.inputs.dsns.get(&me);
    let right = match (&view.postgres.local_node, dsn) {
        (Some((have, have_dsn)), Some(want_dsn)) => *have == name && have_dsn == want_dsn,
        // The own address isn't known: what is there stays.
        (Some((have, _)), None) => *have == name,
        (None, _) => false,
    };
    if right {
        return;
    }
    if dsn.is_some() {
        plan.actions.push(Action::EnsureLocalNode);
    } else {
        let text = "this node's own address is not known yet; set network.advertise";
        plan.waiting.push(WaitingOn::new("address", text));
    }
}

fn tables_into_set(view: &View<'_>, plan: &mut Plan) {
    let verdict = tables::judge(&view.postgres.tables, view.inputs.catalogs, view.roster);
    plan.tables = verdict.report;
    plan.findings.extend(verdict.findings);
    if view.inputs.life.stage == Stage::Ready {
        let send_existing = !view.postgres.slots.is_empty();
        let add = verdict.add.into_iter();
        plan.actions.extend(add.map(|table| Action::AddTable {
            table,
            send_existing,
        }));
    }
}
