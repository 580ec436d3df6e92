//! The matrix of clocks: rows have measured, columns were measured; and what each node's own
//! source of time says.

use super::{Align, Page, Table, Tint, status, words};
use pgaa_core::clock::{ClockSource, ClockVerdict};
use pgaa_core::ids::NodeId;
use pgaa_core::status::{ClockRow, Finding, MemberReport, StatusReport};
use std::collections::BTreeMap;

/// The narrowest a column of the matrix gets, with its gap, so that no number is cut.
const COLUMN_MIN: usize = 18;

/// Writes all that is known of the clocks.
pub fn write(page: &mut Page, report: &StatusReport) {
    page.heading("CLOCKS", &summary(report));
    if report.members.len() > 1 {
        let text = "how far each column's clock is ahead of the row's, as the row's node measured";
        let text = page.tinted(Tint::Faint, text);
        page.line(&text);
        matrix(page, report);
    }
    page.heading(
        "SOURCES",
        "what each node's own source of time says of its clock",
    );
    sources(page, report);
    let findings: Vec<&Finding> = findings(report).collect();
    status::write_findings(page, &findings);
}

/// The findings that concern clocks.
pub fn findings(report: &StatusReport) -> impl Iterator<Item = &Finding> {
    let findings = report.findings.iter();
    findings.filter(|finding| finding.code == "clock" || finding.code.starts_with("clock_"))
}

fn name(report: &StatusReport, node: NodeId) -> String {
    let member = report.members.iter().find(|member| member.node == node);
    member.map_or_else(|| node.short(), |member| member.name.clone())
}

/// "all agree", "node-3 is the odd one out", "some differ".
fn summary(report: &StatusReport) -> String {
    let odd = &report.clock.odd;
    let names: Vec<String> = odd.iter().map(|node| name(report, *node)).collect();
    let expected = report.members.len() * report.members.len().saturating_sub(1);
    match names.as_slice() {
        [] if report.clock.rows.iter().any(differs) => {
            "some differ, and no majority says which is wrong".to_owned()
        }
        [] if report.clock.rows.len() < expected => "not all are compared yet".to_owned(),
        [] => "all agree".to_owned(),
        [one] => format!("{one} is the odd one out"),
        many => format!("{} differ from the others", many.join(", ")),
    }
}

/// Is the pair too far apart for certain?
fn differs(row: &ClockRow) -> bool {
    row.offset_us.unsigned_abs() > row.tolerance_us.saturating_add(row.error_us)
}

fn matrix(page: &mut Page, report: &StatusReport) {
    let rows: BTreeMap<(NodeId, NodeId), &ClockRow> = report
        .clock
        .rows
        .iter()
        .map(|row| ((row.from, row.to), row))
        .collect();
    let names = report.members.iter().map(|m| m.name.chars().count());
    let label = names.max().unwrap_or(0).max(4);
    let room = page.columns().saturating_sub(label + 8);
    let columns = (room / COLUMN_MIN).max(1);
    for measured in report.members.chunks(columns) {
        page.gap();
        let mut headings = vec![("", Align::Left)];
        headings.extend(measured.iter().map(|m| (m.name.as_str(), Align::Right)));
        headings.push(("AGE", Align::Right));
        let mut table = Table::new(&headings);
        for from in &report.members {
            let mut cells = vec![(from.name.clone(), Tint::Plain)];
            cells.extend(measured.iter().map(|to| match from.node == to.node {
                true => ("-".to_owned(), Tint::Faint),
                false => cell(rows.get(&(from.node, to.node))),
            }));
            cells.push((age(&rows, from, measured), Tint::Faint));
            table.row(cells);
        }
        table.write(page);
    }
}

fn cell(row: Option<&&ClockRow>) -> (String, Tint) {
    let Some(row) = row else {
        return ("?".to_owned(), Tint::Odd);
    };
    let tint = match (differs(row), row.error_us > row.tolerance_us) {
        (true, _) => Tint::Bad,
        (false, true) => Tint::Odd,
        (false, false) => Tint::Plain,
    };
    (words::offset(row.offset_us, row.error_us), tint)
}

fn age(
    rows: &BTreeMap<(NodeId, NodeId), &ClockRow>,
    from: &MemberReport,
    measured: &[MemberReport],
) -> String {
    let own = measured
        .iter()
        .filter_map(|to| rows.get(&(from.node, to.node)));
    own.map(|row| row.age_ms)
        .max()
        .map_or_else(|| "-".to_owned(), words::age)
}

fn sources(page: &mut Page, report: &StatusReport) {
    use Align::Left;
    let headings = [
        ("NODE", Left),
        ("SOURCE", Left),
        ("VERDICT", Left),
        ("OFFSET", Left),
    ];
    let mut table = Table::new(&headings);
    for member in &report.members {
        let clock = &member.clock;
        let good = clock.verdict == ClockVerdict::Synchronized;
        let tint = if good { Tint::Plain } else { Tint::Odd };
        let source = if clock.source == ClockSource::None {
            "-"
        } else {
            clock.source.word()
        };
        let follows = good || clock.verdict == ClockVerdict::Drifting;
        let offset = clock
            .error_us
            .filter(|_| follows)
            .map(|error| words::offset(clock.offset_us, error));
        table.row(vec![
            (member.name.clone(), Tint::Plain),
            (source.to_owned(), Tint::Plain),
            (words::verdict(clock.verdict).to_owned(), tint),
            (offset.unwrap_or_else(|| "-".to_owned()), Tint::Plain),
        ]);
    }
    table.write(page);
}
