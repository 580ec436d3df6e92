//! The outcome of a comparison of all nodes.

use super::{Align, Page, Table, Tint, words};
use pgaa_core::verify::{Finding, Report, TableReport};

/// Rows of one table that are shown at most; `-o json` has them all.
const ROWS_SHOWN: usize = 20;

/// Writes the outcome.
pub fn write(page: &mut Page, report: &Report) {
    let took = words::age(report.took_ms);
    let remark = format!("{} compared in {took}", report.nodes.join(", "));
    page.heading("TABLES", &remark);
    let mut tables = Table::new(&[
        ("TABLE", Align::Left),
        ("ROWS", Align::Right),
        ("OUTCOME", Align::Left),
    ]);
    for table in &report.tables {
        let (outcome, tint) = outcome(table);
        tables.row(vec![
            (table.table.clone(), Tint::Plain),
            (table.rows.to_string(), Tint::Plain),
            (outcome, tint),
        ]);
    }
    match tables.is_empty() {
        true => page.line("no table is replicated"),
        false => tables.write(page),
    }
    for table in &report.tables {
        details(page, report, table);
    }
    for text in &report.left_out {
        page.gap();
        page.paragraph("not compared  ", Tint::Odd, text);
    }
    if report.finding() == Finding::Different {
        advise(page);
    }
}

fn outcome(table: &TableReport) -> (String, Tint) {
    let differ = table.different.len();
    match (table.finding(), &table.problem) {
        (_, Some(_)) => ("could not be compared".to_owned(), Tint::Odd),
        (Finding::Equal, None) => ("equal".to_owned(), Tint::Good),
        (Finding::Open, None) => {
            let count = table.undecided.len();
            (format!("{count} rows changed at every look"), Tint::Odd)
        }
        (Finding::Different, None) if table.cut_short => (
            format!("at least {differ} rows differ; ended there"),
            Tint::Bad,
        ),
        (Finding::Different, None) => (format!("{differ} rows differ"), Tint::Bad),
    }
}

fn details(page: &mut Page, report: &Report, table: &TableReport) {
    if let Some(problem) = &table.problem {
        page.gap();
        page.paragraph(&format!("{}  ", table.table), Tint::Odd, problem);
    }
    if table.different.is_empty() {
        return;
    }
    page.heading(
        &table.table,
        "equal letters are equal rows; - where a node has none",
    );
    let nodes = report.nodes.iter().map(|name| (name.as_str(), Align::Left));
    let headings: Vec<(&str, Align)> = [("KEY", Align::Left)].into_iter().chain(nodes).collect();
    let mut rows = Table::new(&headings);
    for row in table.different.iter().take(ROWS_SHOWN) {
        let held = row.held.iter().map(|letter| match letter {
            Some(letter) => (letter.to_string(), Tint::Plain),
            None => ("-".to_owned(), Tint::Bad),
        });
        let key = (row.key.join(", "), Tint::Plain);
        rows.row([key].into_iter().chain(held).collect());
    }
    rows.write(page);
    let more = table.different.len().saturating_sub(ROWS_SHOWN);
    if more > 0 {
        let text = format!(
            "{more} more; all of them: pgaa-agent verify {} -o json",
            table.table
        );
        page.paragraph("", Tint::Plain, &text);
    }
}

/// The agent does not repair rows. What does is ordinary SQL.
fn advise(page: &mut Page) {
    page.gap();
    page.paragraph(
        "critical  ",
        Tint::Bad,
        "the nodes hold different rows. On the node that has the right one, delete the row and \
         insert it again in one transaction: both are replicated, and all nodes have it. Where \
         the row should not be, insert it where it is missing and then delete it. Then compare \
         again:",
    );
    page.paragraph("       -> ", Tint::Plain, "pgaa-agent verify");
}
