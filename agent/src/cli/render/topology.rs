//! The matrix of edges: rows are subscribers, columns providers.

use super::{Align, Page, Table, Tint, words};
use pgaa_core::ids::NodeId;
use pgaa_core::record::EdgeState;
use pgaa_core::status::{EdgeRow, MemberReport, StatusReport};
use std::collections::BTreeMap;

/// The narrowest a column of the matrix gets, with its gap, so that no state is cut.
const COLUMN_MIN: usize = 10;

type Edges<'a> = BTreeMap<(NodeId, NodeId), &'a EdgeRow>;

fn index(report: &StatusReport) -> Edges<'_> {
    report
        .edges
        .iter()
        .map(|edge| ((edge.subscriber, edge.provider), edge))
        .collect()
}

/// The state of an edge as a word for people.
#[must_use]
pub fn word(state: EdgeState) -> &'static str {
    match state {
        EdgeState::Unknown => "unknown",
        EdgeState::Missing => "missing",
        EdgeState::Disabled => "disabled",
        EdgeState::Down => "down",
        EdgeState::Connecting => "connecting",
        EdgeState::Replicating => "replicating",
        EdgeState::NeedsResync => "needs resync",
    }
}

fn cell(edge: Option<&&EdgeRow>) -> (String, Tint) {
    let Some(edge) = edge else {
        return ("?".to_owned(), Tint::Odd);
    };
    let tint = match (edge.state == edge.desired, edge.state) {
        (true, EdgeState::Replicating) => Tint::Good,
        (true, _) => Tint::Faint,
        (false, EdgeState::Down | EdgeState::NeedsResync) => Tint::Bad,
        (false, _) => Tint::Odd,
    };
    let text = match (edge.state, edge.lag_ms) {
        (EdgeState::Replicating, Some(lag)) => words::lag(lag),
        (EdgeState::Replicating, None) => "ok".to_owned(),
        (EdgeState::Unknown, _) => "?".to_owned(),
        (EdgeState::Connecting, _) => "starting".to_owned(),
        (EdgeState::NeedsResync, _) => "resync!".to_owned(),
        (EdgeState::Missing | EdgeState::Disabled | EdgeState::Down, _) => {
            word(edge.state).to_owned()
        }
    };
    (text, tint)
}

fn row_age(report: &StatusReport, edges: &Edges<'_>, subscriber: &MemberReport) -> String {
    let own = report
        .members
        .iter()
        .filter_map(|m| edges.get(&(subscriber.node, m.node)));
    own.map(|edge| edge.age_ms)
        .max()
        .map_or_else(|| "-".to_owned(), words::age)
}

/// Writes the matrix, in as many blocks of columns as the page needs.
pub fn write(page: &mut Page, report: &StatusReport) {
    let edges = index(report);
    let names = report
        .members
        .iter()
        .map(|member| member.name.chars().count());
    let label = names.max().unwrap_or(0).max(4);
    let room = page.columns().saturating_sub(label + 10);
    let columns = (room / COLUMN_MIN).max(1);
    for providers in report.members.chunks(columns) {
        page.gap();
        let mut headings = vec![("", Align::Left)];
        headings.extend(providers.iter().map(|p| (p.name.as_str(), Align::Right)));
        headings.push(("AGE", Align::Right));
        let mut table = Table::new(&headings);
        for subscriber in &report.members {
            let mut row = vec![(subscriber.name.clone(), Tint::Plain)];
            for provider in providers {
                row.push(match subscriber.node == provider.node {
                    true => ("-".to_owned(), Tint::Faint),
                    false => cell(edges.get(&(subscriber.node, provider.node))),
                });
            }
            row.push((row_age(report, &edges, subscriber), Tint::Faint));
            table.row(row);
        }
        table.write(page);
    }
}

/// "5 of 6 replicating, slowest 12 ms".
#[must_use]
pub fn summary(report: &StatusReport) -> String {
    let replicating: Vec<&EdgeRow> = report
        .edges
        .iter()
        .filter(|edge| edge.state == EdgeState::Replicating)
        .collect();
    let slowest = replicating.iter().filter_map(|edge| edge.lag_ms).max();
    let slowest = slowest
        .map(|lag| format!(", slowest {}", words::lag(lag)))
        .unwrap_or_default();
    format!(
        "{} of {} replicating{slowest}",
        replicating.len(),
        report.edges.len()
    )
}

/// Each edge that isn't what it should be, in words: "node-1 <- node-3 is down, should be
/// replicating: connection refused".
#[must_use]
pub fn differing(report: &StatusReport) -> Vec<String> {
    let name = |node: NodeId| {
        let member = report.members.iter().find(|member| member.node == node);
        member.map_or_else(|| node.short(), |member| member.name.clone())
    };
    let differing = report
        .edges
        .iter()
        .filter(|edge| edge.state != edge.desired);
    differing
        .map(|edge| {
            let detail = if edge.detail.is_empty() { "" } else { ": " };
            format!(
                "{} <- {} is {}, should be {}{detail}{}",
                name(edge.subscriber),
                name(edge.provider),
                word(edge.state),
                word(edge.desired),
                edge.detail
            )
        })
        .collect()
}

/// "5.3 GB of 9.0 GB for node-3 (disk full in 90 min)".
fn held(edge: &EdgeRow, name: &str) -> String {
    let of = edge
        .budget_bytes
        .map(|budget| format!(" of {}", words::bytes(budget)));
    let full = edge.full_in_s.map(|seconds| {
        let within = words::age(seconds.max(1).saturating_mul(1_000));
        format!(" (disk full in {within})")
    });
    format!(
        "{}{} for {name}{}",
        words::bytes(edge.retained_bytes.unwrap_or_default()),
        of.unwrap_or_default(),
        full.unwrap_or_default()
    )
}

/// Bytes retained for each subscriber, where this node is the provider, when it is worth saying.
#[must_use]
pub fn retained(report: &StatusReport) -> Option<String> {
    // Below this a slot retains what any busy server does between two checkpoints.
    const WORTH_SAYING_BYTES: u64 = 256 * 1024 * 1024;
    let name = |node: NodeId| {
        report
            .members
            .iter()
            .find(|m| m.node == node)
            .map_or("?", |m| m.name.as_str())
    };
    let held: Vec<String> = report
        .edges
        .iter()
        .filter(|edge| {
            edge.retained_bytes
                .is_some_and(|bytes| bytes >= WORTH_SAYING_BYTES)
        })
        .map(|edge| held(edge, name(edge.subscriber)))
        .collect();
    (!held.is_empty()).then(|| held.join(", "))
}
