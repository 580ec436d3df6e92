//! The whole status on a page.

use super::{Page, Tint, backup, conflicts, members, proof, topology, words};
use pgaa_core::status::{Finding, Health, LocalReport, Progress, StatusReport};

/// With more nodes than this the matrix would crowd out everything else; `topology` has it.
const MATRIX_NODES_MAX: usize = 7;

/// With more tables than this only the number is shown.
const TABLES_SHOWN_MAX: usize = 10;

/// Writes the report.
pub fn write(page: &mut Page, report: &StatusReport) {
    head(page, report);
    local(page, report);
    founding(page, report);
    waiting(page, report);
    if !report.members.is_empty() {
        let own = "each row as its node last said it; AGE is how old that is";
        page.heading("NODES", own);
        members::write(page, report);
    }
    edges(page, report);
    if let Some(backups) = &report.backup {
        backup::write(page, backups, report);
    }
    if let Some(proofs) = &report.proofs {
        page.heading("PROOF", "of this node's backups");
        proof::remembered(page, proofs);
    }
    tables(page, report);
    conflicts::brief(page, &report.conflicts);
    differences(page, report);
    findings(page, report);
}

fn health(health: Health) -> (&'static str, Tint) {
    match health {
        Health::Ok => ("ok", Tint::Good),
        Health::Degraded => ("degraded", Tint::Odd),
        Health::Critical => ("CRITICAL", Tint::Bad),
    }
}

fn head(page: &mut Page, report: &StatusReport) {
    let (word, tint) = health(report.health);
    let health = page.tinted(tint, word);
    let line = match &report.cluster {
        Some(cluster) => format!(
            "{}: {health}, {} of {} nodes ready, database {}",
            page.tinted(Tint::Strong, &page.clean(&cluster.name)),
            cluster.ready,
            cluster.members,
            page.clean(&cluster.database),
        ),
        None => format!("{}: {health}", page.tinted(Tint::Strong, "no cluster yet")),
    };
    page.line(&line);
    let answered = &report.answered_by;
    let text = format!(
        "answered by {}, {} (pgaa-agent {}, pid {})",
        answered.name,
        words::time(answered.at, &page.zone),
        answered.version,
        answered.pid
    );
    let text = page.tinted(Tint::Faint, &page.clean(&text));
    page.line(&text);
}

fn local(page: &mut Page, report: &StatusReport) {
    page.gap();
    let node = &report.node;
    let phase = node
        .phase
        .map(|phase| format!(" ({})", phase.word()))
        .unwrap_or_default();
    let because = if node.because.is_empty() { "" } else { ": " };
    let state = format!("{}{phase}", node.state.word());
    let since = words::age_of(node.since, report.answered_by.at);
    let since = if since == "now" {
        "since just now".to_owned()
    } else {
        format!("for {since}")
    };
    let text = format!(
        "is {} {since}{because}{}",
        page.tinted(members::tint_of(node.state), &state),
        page.clean(&node.because)
    );
    // The label is bold; what follows holds colour already, so it isn't cleaned once more.
    let name = page.clean(&report.answered_by.name);
    let name = page.tinted(Tint::Strong, &name);
    page.line(&format!("{name} {text}"));
    if let Some(progress) = &node.progress {
        page.paragraph("  ", Tint::Plain, &progress_text(progress));
        for part in parts_shown(progress) {
            page.paragraph("    ", Tint::Faint, &part);
        }
    }
    page.paragraph("  ", Tint::Plain, &standing(report, node));
    if let Some(withheld) = &node.withheld {
        let text =
            format!("readiness is withheld, so that load balancers avoid this node: {withheld}");
        page.paragraph("  ", Tint::Odd, &text);
    }
    if let Some(error) = &node.postgres_error {
        page.paragraph(
            "  ",
            Tint::Plain,
            &format!("PostgreSQL doesn't answer: {error}"),
        );
    }
    for action in &report.doing {
        page.paragraph("  doing: ", Tint::Faint, action);
    }
}

fn progress_text(progress: &Progress) -> String {
    let left = progress.seconds_left();
    let left = left.map(|s| format!(", {} left", words::age(s.saturating_mul(1000).max(1000))));
    format!(
        "{} {}: {} of {}, {}/s{}",
        bar(progress.percent()),
        progress.what,
        words::bytes(progress.bytes_done),
        words::bytes(progress.bytes_total),
        words::bytes(progress.bytes_per_s),
        left.unwrap_or_default()
    )
}

/// "[#####...............]  25 %", without anything a log or a screen reader can't show.
fn bar(percent: u64) -> String {
    const WIDTH: usize = 20;
    let percent = usize::try_from(percent.min(100)).unwrap_or(100);
    let filled = percent * WIDTH / 100;
    format!(
        "[{}{}] {percent:>3} %",
        "#".repeat(filled),
        ".".repeat(WIDTH - filled)
    )
}

/// The parts under way and those to come that matter most, then how many are left out.
fn parts_shown(progress: &Progress) -> Vec<String> {
    const SHOWN_MAX: usize = 5;
    let open: Vec<_> = progress.parts.iter().filter(|part| !part.done).collect();
    let mut lines: Vec<String> = open
        .iter()
        .take(SHOWN_MAX)
        .map(|part| {
            let (done, total) = (
                words::bytes(part.bytes_done),
                words::bytes(part.bytes_total),
            );
            format!("{}: {done} of {total}", part.name)
        })
        .collect();
    let done = progress.parts.len() - open.len();
    let rest = open.len().saturating_sub(SHOWN_MAX);
    if !progress.parts.is_empty() {
        let rest = match rest {
            0 => String::new(),
            rest => format!(", {rest} more to come"),
        };
        lines.push(format!("{done} of {} done{rest}", progress.parts.len()));
    }
    lines
}

fn standing(report: &StatusReport, node: &LocalReport) -> String {
    let gate = match node.gate_open {
        true => "applications can write here",
        false => "applications can't write here yet",
    };
    let ordinal = node
        .ordinal
        .map(|o| format!("; ordinal {o}"))
        .unwrap_or_default();
    let clock = format!("; clock {}", words::verdict(node.clock.verdict));
    let expires = node.certificate_expires.map(|expires| {
        let left = words::age_of(report.answered_by.at, expires);
        format!("; certificate good for {left}")
    });
    format!("{gate}{ordinal}{clock}{}", expires.unwrap_or_default())
}

fn founding(page: &mut Page, report: &StatusReport) {
    let Some(founding) = &report.founding else {
        return;
    };
    let since = words::age_of(founding.since, report.answered_by.at);
    let remark = format!(
        "{} of {} nodes are there; tried for {since}",
        founding.present.len(),
        founding.expect
    );
    page.heading("FOUNDING", &remark);
    page.paragraph("  present   ", Tint::Good, &founding.present.join(", "));
    if !founding.missing.is_empty() {
        page.paragraph("  missing   ", Tint::Bad, &founding.missing.join(", "));
    }
    if let Some(candidate) = founding.promised_to {
        page.paragraph("  promised  ", Tint::Plain, &format!("to {candidate}"));
    }
}

fn waiting(page: &mut Page, report: &StatusReport) {
    if report.waiting_on.is_empty() {
        return;
    }
    page.heading("WAITING ON", "");
    for waiting in &report.waiting_on {
        let label = format!("  {:<9} ", page.clean(&waiting.kind));
        page.paragraph(&label, Tint::Odd, &waiting.text);
    }
}

fn edges(page: &mut Page, report: &StatusReport) {
    if report.edges.is_empty() {
        return;
    }
    page.heading("EDGES", &topology::summary(report));
    if report.members.len() <= MATRIX_NODES_MAX {
        legend(page);
        topology::write(page, report);
    } else {
        page.paragraph("  ", Tint::Plain, "the matrix: pgaa-agent topology");
    }
}

/// What the matrix shows.
pub fn legend(page: &mut Page) {
    let text = "rows subscribe to columns; the time is from a commit there to its arrival here";
    let text = page.tinted(Tint::Faint, text);
    page.line(&text);
}

fn tables(page: &mut Page, report: &StatusReport) {
    let tables = &report.tables;
    if tables.replicated.is_empty() && tables.waiting.is_empty() {
        return;
    }
    let remark = format!(
        "{} replicated, {} waiting",
        tables.replicated.len(),
        tables.waiting.len()
    );
    page.heading("TABLES", &remark);
    rows(page, report);
    for waiting in tables.waiting.iter().take(TABLES_SHOWN_MAX) {
        page.paragraph(
            &format!("  {}  ", page.clean(&waiting.table)),
            Tint::Odd,
            &waiting.because,
        );
    }
    let more = tables.waiting.len().saturating_sub(TABLES_SHOWN_MAX);
    if more > 0 {
        page.paragraph(
            "  ",
            Tint::Plain,
            &format!("and {more} more: pgaa-agent status -o json"),
        );
    }
}

/// What the row check does, when it does something.
fn rows(page: &mut Page, report: &StatusReport) {
    let rows = &report.rows;
    if rows.waiting > 0 {
        let text = format!(
            "{} rows or tables are being compared with the other nodes",
            rows.waiting
        );
        page.paragraph("  ", Tint::Plain, &text);
    }
    if rows.mended > 0 {
        let text = format!(
            "{} rows were not the same on all nodes and were mended since the agent started: \
             select * from pgaa.repairs",
            rows.mended
        );
        page.paragraph("  ", Tint::Plain, &text);
    }
}

fn differences(page: &mut Page, report: &StatusReport) {
    let mut texts = topology::differing(report);
    for drift in &report.node.drifts {
        let restart = if drift.needs_restart {
            ", after a restart"
        } else {
            ""
        };
        texts.push(format!(
            "{} is {} ({}), should be {}{restart}",
            drift.name, drift.value, drift.source, drift.needed
        ));
    }
    if !report.node.restart_pending.is_empty() {
        let names = report.node.restart_pending.join(", ");
        texts.push(format!(
            "{names}: set, and in force after: pgaa-agent restart"
        ));
    }
    if let Some(held) = topology::retained(report) {
        texts.push(format!("WAL is retained: {held}"));
    }
    if texts.is_empty() {
        return;
    }
    page.heading("IS AND SHOULD BE", "");
    for text in texts {
        page.paragraph("  ", Tint::Plain, &text);
    }
}

fn findings(page: &mut Page, report: &StatusReport) {
    write_findings(page, &report.findings.iter().collect::<Vec<_>>());
}

/// Writes findings, the worst first, each with the command that helps.
pub fn write_findings(page: &mut Page, findings: &[&Finding]) {
    if findings.is_empty() {
        return;
    }
    page.heading("WARNINGS", "");
    let mut sorted: Vec<&Finding> = findings.to_vec();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in sorted {
        let (word, tint) = match finding.severity {
            Health::Ok => ("remark", Tint::Faint),
            Health::Degraded => ("warning", Tint::Odd),
            Health::Critical => ("CRITICAL", Tint::Bad),
        };
        page.paragraph(&format!("  {word:<9} "), tint, &finding.text);
        page.paragraph("         -> ", Tint::Plain, &finding.command);
    }
}
