//! The backups: who owns them, from when to when can be restored, what the repository holds.

use super::{Align, Page, Table, Tint, words};
use pgaa_core::backup::repository::{Gap, StanzaContents, Window};
use pgaa_core::ids::NodeId;
use pgaa_core::status::{BackupOwner, BackupReport, StatusReport};
use serde::Deserialize;

/// What `backup list` was answered.
#[derive(Debug, Deserialize)]
pub struct Listing {
    stanzas: Vec<StanzaContents>,
    windows: Vec<Window>,
    gaps: Vec<Gap>,
}

impl Listing {
    /// What such an answer says of these.
    #[cfg(test)]
    pub(super) fn of(stanzas: Vec<StanzaContents>) -> Listing {
        let windows = pgaa_core::backup::repository::windows(&stanzas);
        Listing {
            gaps: pgaa_core::backup::repository::gaps(&windows),
            windows,
            stanzas,
        }
    }

    /// Is there no backup at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stanzas
            .iter()
            .all(|contents| contents.backups.is_empty())
    }
}

/// Writes the section of the status.
pub fn write(page: &mut Page, backup: &BackupReport, report: &StatusReport) {
    page.heading("BACKUPS", &backup.repository);
    let now = report.answered_by.at;
    for (number, owner) in backup.owners.iter().enumerate() {
        let tint = if number == 0 && owner.reachable {
            Tint::Plain
        } else {
            Tint::Odd
        };
        page.paragraph("  owner     ", tint, &owner_text(page, number, owner));
    }
    if backup.owners.is_empty() {
        page.paragraph("  owner     ", Tint::Odd, "none yet");
    }
    if let Some(running) = &backup.running {
        let since = words::age_of(running.since, now);
        let text = format!(
            "{}, {} %, begun {since} ago",
            running.kind.word(),
            running.percent
        );
        page.paragraph("  running   ", Tint::Plain, &text);
    }
    match &backup.last {
        Some(last) => {
            let text = format!(
                "{} of {}, {} ({} ago), {}",
                last.kind.word(),
                named(&last.node_name, None),
                words::time(last.stopped_at, &page.zone),
                words::age_of(last.stopped_at, now),
                words::bytes(last.stored_bytes)
            );
            page.paragraph("  last      ", Tint::Plain, &text);
        }
        None if backup.unread.is_some() => {}
        None => page.paragraph("  last      ", Tint::Odd, "none yet"),
    }
    if let Some((kind, at)) = &backup.next {
        let text = format!("{}, {}", kind.word(), words::time(*at, &page.zone));
        page.paragraph("  next      ", Tint::Plain, &text);
    }
    // What isn't read is not known: that says "unread".
    if backup.unread.is_none() || !backup.windows.is_empty() {
        spans(page, &backup.windows, &backup.gaps);
    }
    waiting(page, backup, report);
    if let Some(why) = &backup.unread {
        page.paragraph("  unread    ", Tint::Odd, why);
    }
    if let Some(why) = &backup.unable {
        page.paragraph(
            "  here      ",
            Tint::Odd,
            &format!("can't own the backups: {why}"),
        );
    }
}

fn owner_text(page: &Page, number: usize, owner: &BackupOwner) -> String {
    let since = words::time(owner.since, &page.zone);
    let mut text = format!("{} since {since} (epoch {})", owner.name, owner.epoch);
    if number > 0 {
        text.push_str(", and gives it up when it hears of the other");
    }
    if !owner.reachable {
        text.push_str(", does not answer");
    }
    if !owner.covered {
        text.push_str(", no full backup yet");
    }
    text
}

fn waiting(page: &mut Page, backup: &BackupReport, report: &StatusReport) {
    if backup.waiting_bytes == 0 {
        return;
    }
    let since = backup
        .waiting_since
        .map(|since| words::age_of(since, report.answered_by.at));
    let since = since.map_or_else(String::new, |since| format!(", the oldest for {since}"));
    let most = backup.waiting_bytes_max.map(words::bytes);
    let most = most.map_or_else(String::new, |most| format!(" of {most} that may"));
    let text = format!(
        "{}{most} wait to be archived{since}",
        words::bytes(backup.waiting_bytes)
    );
    page.paragraph("  WAL       ", Tint::Plain, &text);
}

fn spans(page: &mut Page, windows: &[Window], gaps: &[Gap]) {
    if windows.is_empty() {
        page.paragraph("  restore   ", Tint::Odd, "nothing can be restored yet");
    }
    for window in windows {
        let text = format!(
            "{} to {}, from {}",
            words::time(window.from, &page.zone),
            words::time(window.until, &page.zone),
            named(
                &window.node_name,
                window.stanza.parts().map(|(node, _)| node)
            )
        );
        page.paragraph("  restore   ", Tint::Plain, &text);
    }
    for gap in gaps {
        let text = format!(
            "{} to {}: nothing can be restored",
            words::time(gap.from, &page.zone),
            words::time(gap.until, &page.zone)
        );
        page.paragraph("  gap       ", Tint::Odd, &text);
    }
}

fn named(name: &str, node: Option<NodeId>) -> String {
    match (name, node) {
        ("", Some(node)) => node.short(),
        ("", None) => "a node".to_owned(),
        (name, _) => name.to_owned(),
    }
}

/// Writes what the repository holds.
pub fn list(page: &mut Page, listing: &Listing) {
    page.heading("BACKUPS", "the oldest first");
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("BACKUP", Align::Left),
        ("KIND", Align::Left),
        ("COMPLETE", Align::Left),
        ("DATABASE", Align::Right),
        ("STORED", Align::Right),
    ]);
    let stanzas = listing.stanzas.iter();
    let mut all: Vec<_> = stanzas
        .flat_map(|contents| {
            contents
                .backups
                .iter()
                .map(move |backup| (contents, backup))
        })
        .collect();
    all.sort_by_key(|(_, backup)| backup.stopped_at);
    for (contents, backup) in all {
        let tint = if backup.damaged_pages {
            Tint::Bad
        } else {
            Tint::Plain
        };
        let node = contents.stanza.parts().map(|(node, _)| node);
        table.row(vec![
            (named(&backup.node_name, node), Tint::Plain),
            (backup.label.clone(), Tint::Plain),
            (backup.kind.word().to_owned(), Tint::Plain),
            (words::time(backup.stopped_at, &page.zone), Tint::Plain),
            (words::bytes(backup.size_bytes), Tint::Plain),
            (words::bytes(backup.stored_bytes), tint),
        ]);
    }
    table.write(page);
    page.gap();
    spans(page, &listing.windows, &listing.gaps);
    for contents in &listing.stanzas {
        if let Some(problem) = &contents.problem {
            page.paragraph(
                "  problem   ",
                Tint::Odd,
                &format!("{}: {problem}", contents.stanza),
            );
        }
    }
}
