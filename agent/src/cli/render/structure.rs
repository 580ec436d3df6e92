//! How the structures of the nodes' databases differ.

use super::{Align, Page, Table, Tint};
use pgaa_core::verify::{DifferentPiece, StructureReport};

/// Pieces that are shown at most; `-o json` has them all.
const PIECES_SHOWN: usize = 20;

/// Lines of a definition that are shown at most.
const LINES_SHOWN: usize = 12;

/// Writes what differs, if anything does.
pub fn write(page: &mut Page, report: &StructureReport) {
    if !report.different.is_empty() {
        page.heading(
            "STRUCTURE",
            "equal letters are equal definitions; - where a node has none",
        );
        letters(page, report);
        for piece in report.different.iter().take(PIECES_SHOWN) {
            definitions(page, piece);
        }
        let shown = report.different.len().min(PIECES_SHOWN);
        let more = report.different.len() - shown + report.more;
        if more > 0 {
            page.gap();
            let text = format!("{more} more; with their definitions: pgaa-agent verify -o json");
            page.paragraph("", Tint::Plain, &text);
        }
    }
    for text in &report.left_out {
        page.gap();
        page.paragraph("structure not compared  ", Tint::Odd, text);
    }
}

fn letters(page: &mut Page, report: &StructureReport) {
    let nodes = report.nodes.iter().map(|name| (name.as_str(), Align::Left));
    let headings: Vec<(&str, Align)> = [("WHAT", Align::Left)].into_iter().chain(nodes).collect();
    let mut table = Table::new(&headings);
    for piece in report.different.iter().take(PIECES_SHOWN) {
        let held = piece.held.iter().map(|letter| match letter {
            Some(letter) => (letter.to_string(), Tint::Plain),
            None => ("-".to_owned(), Tint::Bad),
        });
        let name = (format!("{} {}", piece.kind, piece.name), Tint::Plain);
        table.row([name].into_iter().chain(held).collect());
    }
    table.write(page);
}

fn definitions(page: &mut Page, piece: &DifferentPiece) {
    page.gap();
    page.paragraph("", Tint::Plain, &format!("{} {}", piece.kind, piece.name));
    for (letter, definition) in ('A'..='Z').zip(&piece.definitions) {
        let mut label = format!("  {letter}  ");
        for line in definition.lines().take(LINES_SHOWN) {
            page.paragraph(&label, Tint::Plain, line);
            label = "     ".to_owned();
        }
        if definition.lines().count() > LINES_SHOWN {
            page.paragraph(&label, Tint::Plain, "...");
        }
    }
}

/// What makes the structures equal again.
pub fn advise(page: &mut Page, report: &StructureReport) {
    if report.different.is_empty() {
        return;
    }
    page.gap();
    let text = "the nodes' databases are made differently. DDL is not replicated: run on each node \
                what it lacks (psql there), then look again:";
    page.paragraph("degraded  ", Tint::Odd, text);
    page.paragraph("       -> ", Tint::Plain, "pgaa-agent verify");
}
