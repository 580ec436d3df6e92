//! The conflicts that a node has met.

use super::{Align, Page, Table, Tint, words};
use pgaa_core::conflicts::report::{ConflictsReport, Counts, Hot, Report, Shown};

/// Tables, keys and pairs that are shown at most.
const HOT_SHOWN: usize = 5;

/// Writes the answer.
pub fn write(page: &mut Page, report: &Report) {
    let since = words::age_of(report.since, report.at);
    let remark = format!(
        "that {} met in the last {since}; every node meets those of the changes that come to it",
        report.node
    );
    page.heading("CONFLICTS", &remark);
    page.paragraph("  ", Tint::Plain, &sum(&report.counts));
    if let Some(off) = &report.off {
        page.paragraph("  not read: ", Tint::Bad, off);
    }
    hot(page, "TABLES", &report.tables);
    hot(page, "KEYS", &report.keys);
    hot(page, "PAIRS", &report.pairs);
    single(page, &report.conflicts);
    for advice in &report.advice {
        page.gap();
        page.paragraph("  -> ", Tint::Plain, advice);
    }
}

fn sum(counts: &Counts) -> String {
    let mut text = format!(
        "{} conflicts; {} ordinary updates of a row that another node had written last",
        counts.conflicts, counts.ordinary
    );
    if counts.unsure > 0 {
        text += &format!("; {} of which nobody can tell", counts.unsure);
    }
    if counts.untrusted_clock > 0 {
        text += &format!("; {} decided by an untrusted clock", counts.untrusted_clock);
    }
    text
}

fn hot(page: &mut Page, what: &str, list: &[Hot]) {
    if list.is_empty() {
        return;
    }
    page.heading(what, "with the most");
    let mut table = Table::new(&[("CONFLICTS", Align::Right), ("", Align::Left)]);
    for hot in list.iter().take(HOT_SHOWN) {
        table.row(vec![
            (hot.conflicts.to_string(), Tint::Plain),
            (hot.name.clone(), Tint::Plain),
        ]);
    }
    table.write(page);
}

fn single(page: &mut Page, conflicts: &[Shown]) {
    if conflicts.is_empty() {
        return;
    }
    page.heading(
        "NEWEST",
        "rows and all that is known: -o json, or pgaa.conflict_history",
    );
    let mut table = Table::new(&[
        ("TIME", Align::Left),
        ("TABLE", Align::Left),
        ("KEY", Align::Left),
        ("WHAT", Align::Left),
        ("FROM", Align::Left),
        ("AGAINST", Align::Left),
        ("OUTCOME", Align::Left),
    ]);
    for shown in conflicts {
        let outcome = match (shown.clock_trusted, shown.concurrent) {
            (false, _) => format!("{}, by an untrusted clock", shown.conflict_resolution),
            (true, Some(false)) => format!("{}, out of order", shown.conflict_resolution),
            (true, _) => shown.conflict_resolution.clone(),
        };
        let tint = if shown.clock_trusted {
            Tint::Plain
        } else {
            Tint::Odd
        };
        let table_name = format!("{}.{}", shown.object_schema, shown.object_name);
        let cells = [
            words::time(shown.local_conflict_time, &page.zone),
            table_name,
            shown.object_key.clone().unwrap_or_else(|| "?".to_owned()),
            shown.conflict_type.clone(),
            shown.remote_node.clone(),
            shown
                .local_tuple_origin
                .clone()
                .unwrap_or_else(|| "-".to_owned()),
        ];
        let mut row: Vec<_> = cells.into_iter().map(|cell| (cell, Tint::Plain)).collect();
        row.push((outcome, tint));
        table.row(row);
    }
    table.write(page);
}

/// Writes what the status says of them: nothing where there was nothing.
pub fn brief(page: &mut Page, report: &ConflictsReport) {
    if report.day.lines == 0 {
        return;
    }
    let remark = format!(
        "{} in the last hour, {} in the last day",
        report.hour.conflicts, report.day.conflicts
    );
    page.heading("CONFLICTS", &remark);
    page.paragraph("  last day: ", Tint::Plain, &sum(&report.day));
    if report.behind_bytes > 0 {
        let text = format!(
            "{} of the log are still to be read",
            words::bytes(report.behind_bytes)
        );
        page.paragraph("  ", Tint::Odd, &text);
    }
    if report.day.conflicts > 0 {
        page.paragraph("  -> ", Tint::Plain, "pgaa-agent conflicts");
    }
}
