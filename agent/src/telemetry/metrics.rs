//! The report as Prometheus text (exposition format 0.0.4).
//!
//! Each agent tells of itself and of the edges it owns; a whole mesh is scraped node by node, so
//! that no number arrives twice.

mod backup;

use pgaa_core::clock::ClockVerdict;
use pgaa_core::ids::NodeId;
use pgaa_core::observed::Reach;
use pgaa_core::record::EdgeState;
use pgaa_core::state::NodeState;
use pgaa_core::status::{EdgeRow, Health, StatusReport};
use std::fmt::Write;

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Text(String);

impl Text {
    fn metric(&mut self, name: &str, help: &str, samples: &[(String, f64)]) {
        if samples.is_empty() {
            return;
        }
        let _ = writeln!(
            self.0,
            "# HELP pgaa_{name} {help}\n# TYPE pgaa_{name} gauge"
        );
        for (labels, value) in samples {
            let _ = writeln!(self.0, "pgaa_{name}{labels} {value}");
        }
    }

    fn plain(&mut self, name: &str, help: &str, value: f64) {
        self.metric(name, help, &[(String::new(), value)]);
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| {
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// The metrics. `loop_age_ms` is the time since the agent's loop has turned.
#[must_use]
pub fn render(report: &StatusReport, loop_age_ms: u64) -> String {
    let mut text = Text(String::new());
    node(&mut text, report, loop_age_ms);
    clock(&mut text, report);
    clock_pairs(&mut text, report);
    members(&mut text, report);
    edges(&mut text, report);
    tables_and_findings(&mut text, report);
    let waiting = "Rows and tables named to be compared with the other nodes.";
    text.plain("rows_waiting", waiting, report.rows.waiting as f64);
    let mended = "Rows that were mended since the agent started.";
    text.plain("rows_mended", mended, report.rows.mended as f64);
    backup::backups(&mut text, report);
    text.0
}

fn node(text: &mut Text, report: &StatusReport, loop_age_ms: u64) {
    let answered = &report.answered_by;
    let cluster = report
        .cluster
        .as_ref()
        .map_or("", |cluster| cluster.name.as_str());
    let info = labels(&[
        ("cluster", cluster),
        ("name", &answered.name),
        ("node", &answered.node.to_string()),
        ("version", &answered.version),
    ]);
    text.metric("node_info", "Who this is; always 1.", &[(info, 1.0)]);
    let ready = flag(report.node.state == NodeState::Ready);
    text.plain(
        "node_ready",
        "Is this node in the mesh, and takes writes?",
        ready,
    );
    let state = labels(&[("state", report.node.state.word())]);
    text.metric(
        "node_state",
        "The state this node is in; always 1.",
        &[(state, 1.0)],
    );
    let health = match report.health {
        Health::Ok => 0.0,
        Health::Degraded => 1.0,
        Health::Critical => 2.0,
    };
    text.plain("health", "0 ok, 1 degraded, 2 critical.", health);
    text.plain(
        "gate_open",
        "Can applications write here?",
        flag(report.node.gate_open),
    );
    let up = flag(report.node.postgres_error.is_none());
    text.plain("postgres_up", "Does the local PostgreSQL answer?", up);
    let pending = report.node.restart_pending.len() as f64;
    text.plain(
        "restart_pending",
        "Settings that wait for a restart of PostgreSQL.",
        pending,
    );
    let age_s = loop_age_ms as f64 / 1000.0;
    text.plain(
        "loop_age_seconds",
        "Time since the agent's loop has turned.",
        age_s,
    );
    text.plain(
        "generation",
        "How often this agent has started.",
        report.node.generation as f64,
    );
    if let Some(expires) = report.node.certificate_expires {
        let seconds = expires.0 as f64 / 1000.0;
        text.plain(
            "certificate_expires_seconds",
            "When the certificate ends, Unix time.",
            seconds,
        );
    }
}

fn clock(text: &mut Text, report: &StatusReport) {
    let clock = &report.node.clock;
    let synchronized = flag(clock.verdict == ClockVerdict::Synchronized);
    text.plain(
        "clock_synchronized",
        "Is the clock's error bound small enough?",
        synchronized,
    );
    if let Some(error) = clock.error_us {
        let offset = clock.offset_us as f64;
        text.plain(
            "clock_offset_us",
            "Estimated offset from true time; ahead is positive.",
            offset,
        );
        text.plain(
            "clock_error_us",
            "The most the clock can be wrong by.",
            error as f64,
        );
    }
}

/// How far the others' clocks are from this node's, as it has measured.
fn clock_pairs(text: &mut Text, report: &StatusReport) {
    let own = report.answered_by.node;
    let name = |node: NodeId| {
        let member = report.members.iter().find(|member| member.node == node);
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    };
    let rows = report.clock.rows.iter().filter(|row| row.from == own);
    let (mut offsets, mut errors) = (Vec::new(), Vec::new());
    for row in rows {
        let labels = labels(&[("member", &name(row.to))]);
        offsets.push((labels.clone(), row.offset_us as f64));
        errors.push((labels, row.error_us as f64));
    }
    text.metric(
        "clock_member_offset_us",
        "How far this member's clock is ahead of this node's.",
        &offsets,
    );
    text.metric(
        "clock_member_error_us",
        "How much that offset can be wrong by.",
        &errors,
    );
    let odd: Vec<(String, f64)> = report
        .members
        .iter()
        .map(|member| {
            let odd = flag(report.clock.odd.contains(&member.node));
            (labels(&[("member", &member.name)]), odd)
        })
        .collect();
    text.metric(
        "clock_odd",
        "Does a majority contradict this member's clock?",
        &odd,
    );
}

fn members(text: &mut Text, report: &StatusReport) {
    let ready = report.cluster.as_ref().map_or(0, |cluster| cluster.ready);
    text.plain(
        "members",
        "Members of the cluster.",
        report.members.len() as f64,
    );
    text.plain("members_ready", "Members that are ready.", ready as f64);
    let reach: Vec<(String, f64)> = report
        .members
        .iter()
        .filter(|member| !member.local)
        .map(|member| {
            (
                labels(&[("member", &member.name)]),
                flag(member.reach == Reach::Up),
            )
        })
        .collect();
    text.metric("member_up", "Does this member answer this node?", &reach);
}

fn edges(text: &mut Text, report: &StatusReport) {
    let own = report.answered_by.node;
    let name = |edge: &EdgeRow, provider: bool| {
        let node = if provider {
            edge.provider
        } else {
            edge.subscriber
        };
        let member = report.members.iter().find(|member| member.node == node);
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    };
    let inbound: Vec<&EdgeRow> = report
        .edges
        .iter()
        .filter(|e| e.subscriber == own)
        .collect();
    let samples = |value: &dyn Fn(&EdgeRow) -> Option<f64>| -> Vec<(String, f64)> {
        let sample =
            |edge: &&EdgeRow| Some((labels(&[("provider", &name(edge, true))]), value(edge)?));
        inbound.iter().filter_map(sample).collect()
    };
    let replicating = samples(&|edge| Some(flag(edge.state == EdgeState::Replicating)));
    text.metric(
        "edge_replicating",
        "Do changes of this provider arrive here?",
        &replicating,
    );
    let states: Vec<(String, f64)> = inbound
        .iter()
        .map(|edge| {
            let provider = name(edge, true);
            (
                labels(&[("provider", &provider), ("state", edge.state.word())]),
                1.0,
            )
        })
        .collect();
    text.metric(
        "edge_state",
        "The state of the edge from this provider; always 1.",
        &states,
    );
    let lags = samples(&|edge| edge.lag_ms.map(|lag| lag as f64));
    text.metric(
        "edge_lag_ms",
        "From a commit on this provider to its arrival here.",
        &lags,
    );
    let retained: Vec<(String, f64)> = report
        .edges
        .iter()
        .filter(|edge| edge.provider == own)
        .filter_map(|edge| {
            let bytes = edge.retained_bytes? as f64;
            Some((labels(&[("subscriber", &name(edge, false))]), bytes))
        })
        .collect();
    text.metric(
        "slot_retained_bytes",
        "WAL retained here for this subscriber.",
        &retained,
    );
}

fn tables_and_findings(text: &mut Text, report: &StatusReport) {
    let tables = &report.tables;
    text.plain(
        "tables_replicated",
        "Tables that are replicated.",
        tables.replicated.len() as f64,
    );
    let waiting = tables.waiting.len() as f64;
    text.plain(
        "tables_waiting",
        "Tables that wait to be replicated.",
        waiting,
    );
    let found: Vec<(String, f64)> = [
        ("degraded", Health::Degraded),
        ("critical", Health::Critical),
    ]
    .into_iter()
    .map(|(word, severity)| {
        let count = report
            .findings
            .iter()
            .filter(|f| f.severity == severity)
            .count();
        (labels(&[("severity", word)]), count as f64)
    })
    .collect();
    text.metric(
        "findings",
        "What somebody should look at, by severity.",
        &found,
    );
    text.plain(
        "waiting_on",
        "Things that are waited for.",
        report.waiting_on.len() as f64,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::fixture;

    #[test]
    fn the_metrics_tell_of_this_node_and_its_edges() {
        let mut report = fixture::odd_clock();
        report.members[2].name = "a\"b\\c\nd".to_owned();
        let text = render(&report, 1_500);
        for line in [
            "pgaa_node_ready 1",
            "pgaa_health 2",
            "pgaa_loop_age_seconds 1.5",
            "pgaa_edge_lag_ms{provider=\"node-2\"} 22",
            "pgaa_edge_state{provider=\"a\\\"b\\\\c\\nd\",state=\"down\"} 1",
            "pgaa_edge_replicating{provider=\"node-2\"} 1",
            "pgaa_slot_retained_bytes{subscriber=\"a\\\"b\\\\c\\nd\"} 5300000000",
            "pgaa_clock_error_us 6200",
            "pgaa_clock_member_offset_us{member=\"node-2\"} 120",
            "pgaa_clock_odd{member=\"node-2\"} 0",
            "pgaa_clock_odd{member=\"a\\\"b\\\\c\\nd\"} 1",
            "pgaa_findings{severity=\"critical\"} 2",
        ] {
            assert!(
                text.lines().any(|there| there == line),
                "no line {line} in\n{text}"
            );
        }
        assert!(
            !text.contains("provider=\"node-1\""),
            "another node's edge is told of\n{text}"
        );
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
