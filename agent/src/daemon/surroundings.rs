//! What the report says beside the plan: founding, certificate, problems of the shell.

use super::node::Node;
use pgaa_core::founding::Standing;
use pgaa_core::guard::in_words;
use pgaa_core::ids::NodeId;
use pgaa_core::report::Surroundings;
use pgaa_core::state::NodeState;
use pgaa_core::status::{AnsweredBy, Finding, FoundingReport, Health, StatusReport, WaitingOn};
use pgaa_core::time::{Now, Wall};

/// Collects it.
#[must_use]
pub fn surroundings(node: &Node, now: Now, since: Wall) -> Surroundings {
    let member = node.knowledge.with_roster(|_| ()).is_some();
    let founding = (!member).then(|| founding(node, now, since));
    let mut founding_waiting = match (member, node.endpoints()) {
        (true, _) => Vec::new(),
        (false, Some(_)) => node.founding().waiting(now.mono),
        (false, None) => vec![WaitingOn::new(
            "address",
            "this node's own address is not known: no route leads to a seed, nor anywhere else; bring the \
             network up, or set network.advertise",
        )],
    };
    let problem = node.founding_problem.borrow().clone();
    let problem = problem.map(|problem| WaitingOn::new("founding", problem));
    founding_waiting.extend(problem.filter(|_| !member));
    Surroundings {
        answered_by: AnsweredBy {
            node: node.id(),
            name: node.settings.node.name.to_string(),
            at: now.wall,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
        },
        generation: node.identity.generation(),
        since,
        ages_ms: node.knowledge.ages(now.mono),
        certificate_expires: node
            .credentials
            .current()
            .enrolment
            .as_ref()
            .map(|e| e.not_after),
        founding,
        founding_waiting,
        findings: findings(node),
        rows: node.rows.borrow().clone(),
        progress: super::join::progress(node),
        proofs: node.proofs.borrow().clone(),
        backup: node.backups.report(),
        conflicts: node.conflicts.borrow().clone(),
    }
}

fn founding(node: &Node, now: Now, since: Wall) -> (FoundingReport, NodeState, String) {
    let machine = node.founding();
    let mut promised_to = None;
    let (state, because) = match machine.standing(now.mono) {
        Standing::Discovering => (NodeState::Discovering, "looking for peers".to_owned()),
        Standing::Forming => (
            NodeState::Forming,
            "founding with the peers found".to_owned(),
        ),
        Standing::Candidate { .. } => (
            NodeState::Forming,
            "asking the peers for their promises".to_owned(),
        ),
        Standing::Promised { to } => {
            promised_to = Some(to);
            (NodeState::Forming, format!("promised to {}", to.short()))
        }
        Standing::Founder(_)
        | Standing::Decreed(_)
        | Standing::ClusterFound { .. }
        | Standing::Member(_) => (
            NodeState::Enrolling,
            "fetching certificate and roster".to_owned(),
        ),
        Standing::Quarantined { reason } => (NodeState::Quarantined, reason),
    };
    let report = FoundingReport {
        expect: node.settings.policy.expect,
        present: machine.present(now.mono),
        missing: machine.missing().iter().map(ToString::to_string).collect(),
        since,
        promised_to,
    };
    (report, state, because)
}

fn findings(node: &Node) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(reason) = node.knowledge.parted() {
        findings.push(Finding {
            severity: Health::Critical,
            code: "parted".to_owned(),
            text: reason,
            command: "pgaa-agent nodes, on both sides".to_owned(),
        });
    }
    findings.extend(long_lived_token(node));
    findings.extend(unproven(node));
    findings.extend(node.backups.findings());
    findings.extend(unread_conflicts(node));
    findings.extend(stuck_edges(node));
    let problems = node.join_problems.borrow();
    findings.extend(problems.iter().map(|problem| Finding {
        severity: Health::Degraded,
        code: "join_problem".to_owned(),
        text: problem.text.clone(),
        command: problem.command.clone(),
    }));
    findings.extend(rows_findings(node));
    findings
}

/// Rows that can't be compared, or not be mended.
fn rows_findings(node: &Node) -> Vec<Finding> {
    let view = node.rows.borrow();
    let finding = |code: &str, text: String, command: &str| Finding {
        severity: Health::Degraded,
        code: code.to_owned(),
        text,
        command: command.to_owned(),
    };
    let mut findings = Vec::new();
    if let (Some(why), true) = (&view.blocked, view.waiting > 0) {
        let text = format!(
            "{} rows or tables wait to be compared with the other nodes: {why}",
            view.waiting
        );
        findings.push(finding("rows_unchecked", text, "pgaa-agent topology"));
    }
    let problems = view.problems.iter();
    findings.extend(problems.map(|why| {
        let text = format!("a row is not the same on all nodes and can't be mended: {why}");
        finding(
            "row_not_mended",
            text,
            "pgaa-agent verify --repair --dry-run",
        )
    }));
    findings
}

/// The last attempt to prove the backups has failed.
fn unproven(node: &Node) -> Option<Finding> {
    let proofs = node.proofs.borrow();
    let (_, why) = proofs.as_ref()?.failed.as_ref()?;
    Some(Finding {
        severity: Health::Critical,
        code: "backup_unproven".to_owned(),
        text: format!("the backups of this node could not be proven: {why}"),
        command: "pgaa-agent backup verify --restore".to_owned(),
    })
}

/// Changes of others that can't be applied here.
fn stuck_edges(node: &Node) -> Vec<Finding> {
    let stuck = node.stuck.borrow();
    let Some(roster) = node.knowledge.roster().filter(|_| !stuck.is_empty()) else {
        return Vec::new();
    };
    let facts = node.last_facts();
    let applied = |other| super::conflicts::applied(facts.as_deref()?, &roster, other);
    let held = |other: NodeId| {
        let wal = roster.records.get(&other)?.wal;
        let held = wal.0.checked_sub(applied(other)?.0)?;
        Some(in_words(held))
    };
    let names = |other| roster.name_of(other);
    stuck.findings(node.clocks.mono(), &names, &held)
}

/// Conflicts that nobody reads, or has read.
fn unread_conflicts(node: &Node) -> Vec<Finding> {
    let conflicts = node.conflicts.borrow();
    let finding = |code: &str, text: String, command: &str| Finding {
        severity: Health::Degraded,
        code: code.to_owned(),
        text,
        command: command.to_owned(),
    };
    let off = conflicts.off.as_ref().map(|why| {
        let text = format!("conflicts are not read: {why}");
        finding("conflict_log_off", text, "pgaa-agent provision")
    });
    let gap = conflicts.gap.as_ref().map(|why| {
        let text = format!("rows may differ unseen: {why}");
        finding("conflict_log_gap", text, "pgaa-agent verify")
    });
    off.into_iter().chain(gap).collect()
}

/// A token that is valid for longer than this is one that somebody wanted for later machines.
const LONG_MS: i64 = 48 * 3600 * 1000;

/// Where credentials are that systemd hands over: no other program can read them (systemd.exec).
const CREDENTIALS: &str = "/run/credentials";

/// A remark on a token that lies readable, here and in the user-data, and stays valid for long.
fn long_lived_token(node: &Node) -> Option<Finding> {
    let (id, path) = node.token_file.as_ref()?;
    node.knowledge.with_roster(|_| ())?;
    let now = node.clocks.wall();
    let listed = node.tokens.list(now).into_iter();
    let mut usable = listed.filter(|token| token.id == *id && token.refused.is_none());
    let left_ms = usable.next()?.expires_at?.0.saturating_sub(now.0);
    if left_ms < LONG_MS || path.starts_with(CREDENTIALS) {
        return None;
    }
    let days = left_ms / (24 * 3600 * 1000);
    Some(Finding {
        severity: Health::Ok,
        code: "token_long_lived".to_owned(),
        text: format!(
            "join token {} lies in {}, and in the user-data that wrote it: whoever reads it can \
             join the mesh for {days} days yet",
            id.as_str(),
            path.display()
        ),
        command: format!(
            "when no more machines come: pgaa-agent token revoke {}",
            id.as_str()
        ),
    })
}

/// The last action that failed, as a finding.
#[must_use]
pub fn failure_finding(failure: &str) -> Finding {
    Finding {
        severity: Health::Degraded,
        code: "action_failed".to_owned(),
        text: failure.to_owned(),
        command: "journalctl -u pgaa-agent".to_owned(),
    }
}

/// One line for `systemctl status`.
#[must_use]
pub fn status_line(report: &StatusReport) -> String {
    let state = report.node.state.word();
    let mesh = report.cluster.as_ref().map_or_else(String::new, |cluster| {
        format!("; {} of {} members ready", cluster.ready, cluster.members)
    });
    if let Some(progress) = &report.node.progress {
        return format!("{state}{mesh}; {}", progress.line());
    }
    let next = report
        .waiting_on
        .first()
        .map_or_else(String::new, |waiting| {
            format!("; waiting: {}", waiting.text)
        });
    format!("{state}{mesh}{next}")
}
