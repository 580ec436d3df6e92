//! Golden pages at 80 and 100 columns.

use super::*;
use crate::cli::args::Cli;
use clap::CommandFactory;
use jiff::tz::TimeZone;

fn page(columns: usize, write: impl Fn(&mut Page)) -> String {
    let mut page = Page::new(columns, false, TimeZone::UTC);
    write(&mut page);
    page.into_text()
}

/// Compares with the golden file; what was rendered lies beside it when they differ.
#[track_caller]
fn assert_golden(name: &str, columns: usize, text: &str) {
    for line in text.lines() {
        assert!(
            line.chars().count() <= columns,
            "wider than {columns}: {line:?}"
        );
    }
    let path = format!(
        "{}/src/cli/render/golden/{name}-{columns}.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    if golden != text {
        std::fs::write(format!("{path}.new"), text).unwrap();
        panic!("{path} differs; what is rendered now lies in {path}.new:\n{text}");
    }
}

#[test]
fn the_status_of_a_mesh() {
    for columns in [80, 100] {
        let text = page(columns, |page| status::write(page, &fixture::mesh()));
        assert_golden("mesh", columns, &text);
    }
}

#[test]
fn the_status_while_forming() {
    for columns in [80, 100] {
        let text = page(columns, |page| status::write(page, &fixture::forming()));
        assert_golden("forming", columns, &text);
    }
}

#[test]
fn the_status_while_joining() {
    for columns in [80, 100] {
        let text = page(columns, |page| status::write(page, &fixture::joining()));
        assert_golden("joining", columns, &text);
    }
}

#[test]
fn the_clocks() {
    for columns in [80, 100] {
        let text = page(columns, |page| clock::write(page, &fixture::odd_clock()));
        assert_golden("clock", columns, &text);
    }
}

#[test]
fn the_backups() {
    for columns in [80, 100] {
        for (name, report) in [
            ("backups", fixture::backed_up()),
            ("backups-trouble", fixture::backups_in_trouble()),
        ] {
            let text = page(columns, |page| {
                backup::write(page, report.backup.as_ref().unwrap(), &report);
            });
            assert_golden(name, columns, &text);
        }
        let listing = backup::Listing::of(fixture::repository());
        let text = page(columns, |page| backup::list(page, &listing));
        assert_golden("backup-list", columns, &text);
    }
}

#[test]
fn the_nodes() {
    for columns in [80, 100] {
        let text = page(columns, |page| members::write_long(page, &fixture::mesh()));
        assert_golden("nodes", columns, &text);
    }
}

#[test]
fn a_matrix_too_wide_for_the_page_comes_in_blocks() {
    let mut report = fixture::mesh();
    for n in 4..=12 {
        let mut member = report.members[1].clone();
        member.node = fixture::node(n);
        member.name = format!("node-{n}");
        report.members.push(member);
    }
    for columns in [80, 100] {
        let text = page(columns, |page| topology::write(page, &report));
        assert_golden("topology", columns, &text);
    }
}

#[test]
fn every_warning_ends_in_its_command() {
    let text = page(80, |page| status::write(page, &fixture::mesh()));
    for finding in fixture::mesh().findings {
        assert!(text.contains(&format!("-> {}", finding.command)), "{text}");
    }
}

#[test]
fn without_colour_no_escape_reaches_the_terminal_and_with_it_only_ours() {
    let text = page(80, |page| status::write(page, &fixture::mesh()));
    assert!(!text.contains('\x1b'), "{text:?}");
    let mut coloured = Page::new(80, true, TimeZone::UTC);
    status::write(&mut coloured, &fixture::mesh());
    let coloured = coloured.into_text();
    assert!(
        coloured.contains("\x1b[32m") && !coloured.contains("\x1b[2J"),
        "{coloured:?}"
    );
}

#[test]
fn long_words_are_broken_and_nothing_is_lost() {
    let lines = page::wrap("a bb abcdefghij c", 4);
    assert_eq!(lines, ["a bb", "abcd", "efgh", "ij c"]);
    assert_eq!(page::wrap("", 4), [""]);
}

#[test]
fn a_comparison_that_found_something() {
    use pgaa_core::verify::{DifferentRow, Report, TableReport};
    let table = |name: &str, rows, different| TableReport {
        table: name.to_owned(),
        rows,
        different,
        undecided: Vec::new(),
        cut_short: false,
        problem: None,
    };
    let row = |key: &[&str], held| DifferentRow {
        ruling: None,
        mended: false,
        key: key.iter().map(|text| (*text).to_owned()).collect(),
        held,
    };
    let mut different = vec![
        row(&["4711"], vec![Some('A'), Some('A'), None]),
        row(
            &["4712", "b\u{1b}[2J"],
            vec![Some('A'), Some('B'), Some('A')],
        ),
    ];
    different[0].ruling = Some("as on a: live at its author".to_owned());
    different[0].mended = true;
    let why = "b: PostgreSQL refused comparing a table: canceling statement".to_owned();
    let report = Report {
        schema_version: 1,
        nodes: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
        left_out: vec!["d does not answer".to_owned()],
        tables: vec![
            table("public.customers", 1_204, Vec::new()),
            table("public.orders", 3_000_000, different),
            TableReport::failed("public.readings", why),
        ],
        took_ms: 7_300,
        structure: None,
        orphans: None,
        resumable: true,
    };
    for columns in [80, 100] {
        let text = page(columns, |page| verify::write(page, &report));
        assert_golden("verify", columns, &text);
    }
}

#[test]
fn a_comparison_of_databases_that_are_made_differently() {
    use pgaa_core::verify::{DifferentPiece, OrphanRows, OrphansReport, Report, StructureReport};
    let piece = |kind: &str, name: &str, held: &str, definitions: &[&str]| DifferentPiece {
        kind: kind.to_owned(),
        name: name.to_owned(),
        held: held.chars().map(|c| (c != '-').then_some(c)).collect(),
        definitions: definitions.iter().map(|text| (*text).to_owned()).collect(),
    };
    let body = format!("CREATE FUNCTION f()\n{}END", "line\u{1b}[2J\n".repeat(20));
    let structure = StructureReport {
        nodes: vec!["a".to_owned(), "b".to_owned()],
        left_out: vec![
            "c: 10.0.0.3:7432 runs an older version that doesn't know this question; upgrade \
             pgaa-agent there"
                .to_owned(),
        ],
        different: vec![
            piece(
                "function",
                "public.f()",
                "AB",
                &[&body, "CREATE FUNCTION f()\nEND"],
            ),
            piece(
                "column",
                "public.orders.note",
                "AB",
                &["text", "text DEFAULT 'none'"],
            ),
            piece(
                "index",
                "public.orders_by_customer",
                "A-",
                &["CREATE INDEX orders_by_customer ON public.orders USING btree (customer)"],
            ),
        ],
        more: 3,
    };
    let keys = (1..=7).map(|key| vec!["eu".to_owned(), key.to_string()]);
    let orphans = OrphansReport {
        found: vec![OrphanRows {
            table: "public.tenants".to_owned(),
            constraint: "tenants_house_fkey".to_owned(),
            parent: "public.houses".to_owned(),
            rows: vec![1_000, 0, 7],
            more: true,
            keys: keys.collect(),
        }],
        left_out: vec!["public.orders: c does not answer".to_owned()],
    };
    let report = Report {
        schema_version: 1,
        nodes: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
        left_out: Vec::new(),
        tables: Vec::new(),
        took_ms: 2_300,
        structure: Some(structure),
        orphans: Some(orphans),
        resumable: false,
    };
    for columns in [80, 100] {
        let text = page(columns, |page| verify::write(page, &report));
        assert_golden("structure", columns, &text);
    }
}

/// What it does can't be undone, so its page has to say what becomes of the rows.
#[test]
fn the_help_of_rejoin() {
    let mut program = Cli::command().term_width(80);
    program.build();
    let rejoin = program.find_subcommand("rejoin").unwrap().clone();
    // What the variables hold on this machine is no part of it.
    let mut rejoin = rejoin
        .term_width(80)
        .mut_args(|argument| argument.hide_env(true));
    assert_golden("rejoin-help", 80, &rejoin.render_long_help().to_string());
}
