//! The outcome of a comparison of all nodes.

use super::{Align, Page, Table, Tint, orphans, structure, words};
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
    if let Some(report) = &report.structure {
        structure::write(page, report);
    }
    if let Some(found) = &report.orphans {
        orphans::write(page, found, &report.nodes);
    }
    for text in &report.left_out {
        page.gap();
        page.paragraph("not compared  ", Tint::Odd, text);
    }
    if report.resumable {
        page.gap();
        let text = "some tables could not be compared. When what is in the way has passed, to go on \
                    with them where it was:";
        page.paragraph("degraded  ", Tint::Odd, text);
        page.paragraph("       -> ", Tint::Plain, "pgaa-agent verify --resume");
    }
    if let Some(report) = &report.structure {
        structure::advise(page, report);
    }
    if let Some(found) = &report.orphans {
        orphans::advise(page, found);
    }
    if report.finding() == Finding::Different {
        let told = report.tables.iter().flat_map(|table| &table.different);
        advise(page, told.into_iter().any(|row| row.ruling.is_some()));
    }
}

fn outcome(table: &TableReport) -> (String, Tint) {
    let differ = table.different.len();
    match (table.finding(), &table.problem) {
        (_, Some(_)) => ("could not be compared".to_owned(), Tint::Odd),
        (Finding::Equal, None) if differ > 0 => (
            format!("{differ} rows differed and were mended"),
            Tint::Good,
        ),
        (Finding::Equal, None) => ("equal".to_owned(), Tint::Good),
        (Finding::Open, None) => {
            let count = table.undecided.len();
            (format!("{count} rows changed at every look"), Tint::Odd)
        }
        (Finding::Different, None) if table.cut_short => (
            format!("at least {differ} rows differ; ended there"),
            Tint::Bad,
        ),
        (Finding::Different, None) => {
            let open = table.different.iter().filter(|row| !row.mended).count();
            let text = match open == differ {
                true => format!("{differ} rows differ"),
                false => format!("{differ} rows differed, {open} still do"),
            };
            (text, Tint::Bad)
        }
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
    let ruled = table.different.iter().any(|row| row.ruling.is_some());
    let ruling = ruled.then_some(("RIGHT IS", Align::Left));
    let headings: Vec<(&str, Align)> = [("KEY", Align::Left)]
        .into_iter()
        .chain(nodes)
        .chain(ruling)
        .collect();
    let mut rows = Table::new(&headings);
    for row in table.different.iter().take(ROWS_SHOWN) {
        let held = row.held.iter().map(|letter| match letter {
            Some(letter) => (letter.to_string(), Tint::Plain),
            None => ("-".to_owned(), Tint::Bad),
        });
        let key = (row.key.join(", "), Tint::Plain);
        let tint = match row.mended {
            true => Tint::Good,
            false => Tint::Plain,
        };
        let ruling = row.ruling.clone().unwrap_or_default();
        let ruling = ruled.then_some((ruling, tint));
        rows.row([key].into_iter().chain(held).chain(ruling).collect());
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

/// What mends them, and how to see beforehand what that does.
fn advise(page: &mut Page, told: bool) {
    page.gap();
    let (text, command) = match told {
        false => (
            "the nodes hold different rows. Which version is right, and why:",
            "pgaa-agent verify --repair --dry-run",
        ),
        true => (
            "the nodes hold different rows. To give all nodes the versions that are right; what was \
             there before is kept in pgaa.repairs:",
            "pgaa-agent verify --repair",
        ),
    };
    page.paragraph("critical  ", Tint::Bad, text);
    page.paragraph("       -> ", Tint::Plain, command);
}
