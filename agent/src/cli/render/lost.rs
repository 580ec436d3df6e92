//! What was lost since some time.

use super::{Align, Page, Table, Tint};
use pgaa_core::restore::lost::{LostReport, LostRow, LostTable};

/// Rows of one table that are shown at most; `-o json` has more.
const ROWS_SHOWN: usize = 20;

/// Writes the outcome.
pub fn write(page: &mut Page, report: &LostReport) {
    let last = report
        .recovered_to
        .as_deref()
        .unwrap_or("the backup itself");
    let remark = format!("compared with backup {}, last commit {last}", report.backup);
    page.heading("LOST", &remark);
    let mut tables = Table::new(&[
        ("TABLE", Align::Left),
        ("ROWS THEN", Align::Right),
        ("GONE", Align::Right),
        ("CHANGED", Align::Right),
        ("NEW", Align::Right),
        ("WRITTEN BACK", Align::Left),
    ]);
    for table in &report.tables {
        tables.row(line(table));
    }
    match tables.is_empty() {
        true => page.line("no table is replicated"),
        false => tables.write(page),
    }
    for table in &report.tables {
        if let Some(problem) = &table.problem {
            page.gap();
            page.paragraph(&format!("{}  ", table.table), Tint::Bad, problem);
        }
        rows(page, table);
    }
}

fn line(table: &LostTable) -> Vec<(String, Tint)> {
    let count = |count: u64, tint| match count {
        0 => ("0".to_owned(), Tint::Plain),
        count => (count.to_string(), tint),
    };
    let written = match table.written {
        None => (String::new(), Tint::Plain),
        Some(back) => {
            let mut text = format!("{} inserted, {} set", back.inserted, back.updated);
            if back.left > 0 {
                text.push_str(&format!(", {} left alone", back.left));
            }
            (text, if back.left > 0 { Tint::Odd } else { Tint::Good })
        }
    };
    vec![
        (table.table.clone(), Tint::Plain),
        (table.rows_then.to_string(), Tint::Plain),
        count(table.deleted, Tint::Bad),
        count(table.changed, Tint::Odd),
        count(table.new, Tint::Plain),
        written,
    ]
}

fn rows(page: &mut Page, table: &LostTable) {
    if table.rows.is_empty() {
        return;
    }
    page.heading(&table.table, "");
    for row in table.rows.iter().take(ROWS_SHOWN) {
        let (label, tint, text) = in_words(row);
        page.paragraph(&format!("  {label}  {}  ", row.key.join(", ")), tint, &text);
    }
    let lost = usize::try_from(table.deleted + table.changed).unwrap_or(usize::MAX);
    let more = lost.saturating_sub(table.rows.len().min(ROWS_SHOWN));
    if more > 0 {
        let text = format!("{more} more; with their values: -o json --rows {lost}");
        page.paragraph("  ", Tint::Plain, &text);
    }
}

fn value(text: Option<&str>) -> &str {
    text.unwrap_or("NULL")
}

fn in_words(row: &LostRow) -> (&'static str, Tint, String) {
    if row.now.is_none() {
        let columns = row.then.iter();
        let columns: Vec<String> = columns
            .map(|(column, text)| format!("{column}={}", value(text.as_deref())))
            .collect();
        return ("gone", Tint::Bad, columns.join(" "));
    }
    let changes: Vec<String> = row
        .differing()
        .iter()
        .map(|(column, then, now)| format!("{column}: {} -> {}", value(*then), value(*now)))
        .collect();
    let when = row.changed_at.as_deref();
    let when = when.map_or(String::new(), |at| format!(" at {at}"));
    ("changed", Tint::Odd, changes.join(", ") + &when)
}

/// What can be done about it.
pub fn advise(page: &mut Page) {
    page.gap();
    page.paragraph(
        "",
        Tint::Plain,
        "Nothing was written. To insert the rows that are gone again, on this node and through it on \
         all: the same command with --write-back; with --changed as well, rows that were changed get \
         the values they had.",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use pgaa_core::restore::Target;
    use pgaa_core::restore::lost::{Values, Written};

    #[test]
    fn the_outcome_reads_well() {
        let values = |name: &str| {
            Values::from([
                ("id".to_owned(), Some("7".to_owned())),
                ("name".to_owned(), Some(name.to_owned())),
                ("note".to_owned(), None),
            ])
        };
        let row = |now| LostRow {
            key: vec!["7".to_owned()],
            then: values("Ada\x1b[2J"),
            now,
            changed_at: None,
        };
        let report = LostReport {
            schema_version: 1,
            target: Target::Latest,
            recovered_to: Some("2026-11-21 20:10:24+00".to_owned()),
            stanza: "s".to_owned(),
            backup: "20261121-201018F".to_owned(),
            tables: vec![LostTable {
                table: "public.customers".to_owned(),
                rows_then: 30,
                deleted: 21,
                changed: 1,
                rows: vec![row(None), row(Some(values("Bob")))],
                written: Some(Written {
                    inserted: 21,
                    ..Written::default()
                }),
                ..LostTable::default()
            }],
        };
        let mut page = Page::new(100, false, TimeZone::UTC);
        write(&mut page, &report);
        let text = page.into_text();
        for expected in [
            "last commit 2026-11-21 20:10:24+00",
            "gone  7  id=7 name=Ada?[2J note=NULL",
            "changed  7  name: Ada?[2J -> Bob",
            "21 inserted, 0 set",
            "20 more; with their values: -o json --rows 22",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
    }
}
