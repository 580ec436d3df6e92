//! Rows that refer to nothing.

use super::{Align, Page, Table, Tint};
use pgaa_core::verify::{OrphanRows, OrphansReport};

/// Keys of one foreign key that are shown at most; `-o json` has some more.
const KEYS_SHOWN: usize = 5;

/// Writes what was found, if anything was; `nodes` are those that were looked through.
pub fn write(page: &mut Page, report: &OrphansReport, nodes: &[String]) {
    if !report.found.is_empty() {
        page.heading(
            "ORPHANS",
            "rows that refer to nothing: how many on each node, and some keys",
        );
        let names = nodes.iter().map(|name| (name.as_str(), Align::Right));
        let headings: Vec<(&str, Align)> = [
            ("TABLE", Align::Left),
            ("FOREIGN KEY", Align::Left),
            ("REFERS TO", Align::Left),
        ]
        .into_iter()
        .chain(names)
        .chain([("KEYS", Align::Left)])
        .collect();
        let mut table = Table::new(&headings);
        for one in &report.found {
            table.row(row(one));
        }
        table.write(page);
    }
    for text in &report.left_out {
        page.gap();
        page.paragraph("foreign keys not looked at  ", Tint::Odd, text);
    }
}

fn row(one: &OrphanRows) -> Vec<(String, Tint)> {
    let names = [&one.table, &one.constraint, &one.parent];
    let names = names.into_iter().map(|name| (name.clone(), Tint::Plain));
    let most = one.rows.iter().max().filter(|_| one.more);
    let counts = one.rows.iter().map(|rows| match rows {
        0 => ("0".to_owned(), Tint::Plain),
        rows if Some(rows) == most => (format!("{rows}+"), Tint::Odd),
        rows => (rows.to_string(), Tint::Odd),
    });
    let mut keys: Vec<String> = one.keys.iter().map(|key| key.join(", ")).collect();
    if keys.len() > KEYS_SHOWN {
        keys.truncate(KEYS_SHOWN);
        keys.push("...".to_owned());
    }
    names
        .chain(counts)
        .chain([(keys.join("; "), Tint::Plain)])
        .collect()
}

/// What helps.
pub fn advise(page: &mut Page, report: &OrphansReport) {
    if report.found.is_empty() {
        return;
    }
    page.gap();
    let text = "rows refer to nothing: replication checks no foreign key, and only people know which \
                is right. Delete them, or insert what they refer to, on one node; then look again:";
    page.paragraph("degraded  ", Tint::Odd, text);
    page.paragraph("       -> ", Tint::Plain, "pgaa-agent verify");
}
