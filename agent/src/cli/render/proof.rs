//! The proof of a backup.

use super::{Align, Page, Table, Tint, words};
use pgaa_core::restore::proof::{Proof, Proofs};

/// Writes the outcome of one attempt.
pub fn write(page: &mut Page, proof: &Proof) {
    let moment = words::time(proof.moment, &page.zone);
    page.heading(
        "PROOF",
        &format!("backup {}, restored to {moment}", proof.backup),
    );
    let mut tables = Table::new(&[
        ("TABLE", Align::Left),
        ("ROWS", Align::Right),
        ("OUTCOME", Align::Left),
    ]);
    for table in &proof.tables {
        let (outcome, tint) = match &table.problem {
            None => ("equal".to_owned(), Tint::Good),
            Some(problem) => (problem.clone(), Tint::Bad),
        };
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
    page.gap();
    page.line(&format!(
        "copied in {}, WAL replayed in {}",
        words::lag(signed(proof.copy_ms)),
        words::lag(signed(proof.replay_ms))
    ));
    match &proof.damage {
        None => page.line("pages and indexes are sound (pg_amcheck)"),
        Some(damage) => page.paragraph("damaged  ", Tint::Bad, damage),
    }
    if !proof.holds() {
        page.paragraph(
            "critical  ",
            Tint::Bad,
            "this backup is not what it should be: take a full one, and prove that. Keep this one \
             until then. Is the live server sound? pg_amcheck",
        );
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// What is remembered, in a line or two.
pub fn remembered(page: &mut Page, proofs: &Proofs) {
    if let Some(proof) = &proofs.held {
        let text = format!(
            "as of {}: {} rows in {} tables equal, restored in {}",
            words::time(proof.moment, &page.zone),
            proof.rows(),
            proof.tables.len(),
            words::lag(signed(proof.recovery_ms()))
        );
        page.paragraph("proven    ", Tint::Good, &text);
    }
    if let Some((at, why)) = &proofs.failed {
        let at = words::time(*at, &page.zone);
        page.paragraph("unproven  ", Tint::Bad, &format!("at {at}: {why}"));
    }
}
