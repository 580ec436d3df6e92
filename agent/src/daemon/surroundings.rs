//! What the report says beside the plan: founding, certificate, problems of the shell.

use super::node::Node;
use pgaa_core::clock::ClockReading;
use pgaa_core::founding::Standing;
use pgaa_core::report::Surroundings;
use pgaa_core::state::NodeState;
use pgaa_core::status::{AnsweredBy, Finding, FoundingReport, Health, StatusReport, WaitingOn};
use pgaa_core::time::{Now, Wall};

/// Collects it.
#[must_use]
pub fn surroundings(node: &Node, now: Now, since: Wall, clock: ClockReading) -> Surroundings {
    let member = node.knowledge.with_roster(|_| ()).is_some();
    let founding = (!member).then(|| founding(node, now, since));
    let founding_waiting = match (member, node.endpoints()) {
        (true, _) => Vec::new(),
        (false, Some(_)) => node.founding().waiting(now.mono),
        (false, None) => vec![WaitingOn::new(
            "address",
            "this node's own address is not known: no route leads to a seed, nor anywhere else; bring the \
             network up, or set network.advertise",
        )],
    };
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
        clock,
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
        progress: super::join::progress(node),
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
    let problems = node.join_problems.borrow();
    findings.extend(problems.iter().map(|problem| Finding {
        severity: Health::Degraded,
        code: "join_problem".to_owned(),
        text: problem.text.clone(),
        command: problem.command.clone(),
    }));
    findings
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
