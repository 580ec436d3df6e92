//! What is measured of the backups. Every node tells what it sees of the repository; who owns the
//! backups tells of its WAL.

use super::{Text, flag, labels};
use pgaa_core::status::{BackupReport, StatusReport};
use pgaa_core::time::Wall;

pub(super) fn backups(text: &mut Text, report: &StatusReport) {
    if let Some(backup) = &report.backup {
        owner(text, report, backup);
        repository(text, backup);
    }
    let Some(proofs) = &report.proofs else {
        return;
    };
    if let Some(proof) = &proofs.held {
        let proven = "To when the newest proven backup was restored, Unix time.";
        text.plain("backup_proven_seconds", proven, seconds(proof.moment));
    }
    let failed = proofs.failed.is_some();
    text.plain(
        "backup_unproven",
        "Has the newest attempt to prove a backup failed?",
        flag(failed),
    );
}

fn owner(text: &mut Text, report: &StatusReport, backup: &BackupReport) {
    let own = report.answered_by.node;
    let owners: Vec<(String, f64)> = backup
        .owners
        .iter()
        .map(|owner| (labels(&[("member", &owner.name)]), flag(owner.reachable)))
        .collect();
    text.metric(
        "backup_owner",
        "Who owns the backups; 1 if it answers this node.",
        &owners,
    );
    let owns = backup.owners.first().is_some_and(|first| first.node == own);
    text.plain(
        "backup_owned_here",
        "Does this node own the backups?",
        flag(owns),
    );
    let troubled = backup.owners.iter().any(|owner| !owner.problem.is_empty());
    text.plain(
        "backup_problem",
        "Is something wrong with archiving or taking backups?",
        flag(troubled),
    );
    let waiting = "WAL of this node that waits for the repository.";
    text.plain("backup_waiting_bytes", waiting, backup.waiting_bytes as f64);
    if let Some(most) = backup.waiting_bytes_max {
        let may = "How much of it may wait before it is let go.";
        text.plain("backup_waiting_bytes_max", may, most as f64);
    }
    if let Some(running) = &backup.running {
        let kind = labels(&[("kind", running.kind.word())]);
        let percent = f64::from(running.percent);
        let help = "How much of the database the running backup has copied.";
        text.metric("backup_running_percent", help, &[(kind, percent)]);
    }
}

fn repository(text: &mut Text, backup: &BackupReport) {
    if let Some(last) = &backup.last {
        let kind = labels(&[("kind", last.kind.word())]);
        let help = "When the newest backup was complete, Unix time.";
        text.metric(
            "backup_last_seconds",
            help,
            &[(kind, seconds(last.stopped_at))],
        );
    }
    let from = backup.windows.iter().map(|window| window.from).min();
    let until = backup.windows.iter().map(|window| window.until).max();
    if let (Some(from), Some(until)) = (from, until) {
        let help = "The first moment that can be restored, Unix time.";
        text.plain("backup_restorable_from_seconds", help, seconds(from));
        let help = "The last one, as far as this node knows.";
        text.plain("backup_restorable_until_seconds", help, seconds(until));
    }
    let gaps = "Gaps between, in which nothing can be restored.";
    text.plain("backup_gaps", gaps, backup.gaps.len() as f64);
}

fn seconds(at: Wall) -> f64 {
    at.0 as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::render;
    use crate::cli::render::fixture;

    #[track_caller]
    fn tells(text: &str, lines: &[&str]) {
        for line in lines {
            let there = text.lines().any(|there| there == *line);
            assert!(there, "no line {line} in\n{text}");
        }
    }

    #[test]
    fn the_owner_the_window_and_the_gap_are_told() {
        let text = render(&fixture::backed_up(), 0);
        tells(
            &text,
            &[
                "pgaa_backup_owner{member=\"node-1\"} 1",
                "pgaa_backup_owned_here 1",
                "pgaa_backup_problem 0",
                "pgaa_backup_waiting_bytes 0",
                "pgaa_backup_waiting_bytes_max 20000000000",
                "pgaa_backup_running_percent{kind=\"differential\"} 42",
                "pgaa_backup_last_seconds{kind=\"differential\"} 1795135089",
                "pgaa_backup_restorable_from_seconds 1794875889",
                "pgaa_backup_restorable_until_seconds 1795221459",
                "pgaa_backup_gaps 1",
            ],
        );
    }

    #[test]
    fn trouble_is_told_and_what_is_not_known_is_not() {
        let text = render(&fixture::backups_in_trouble(), 0);
        tells(
            &text,
            &[
                "pgaa_backup_owner{member=\"node-3\"} 0",
                "pgaa_backup_problem 1",
                "pgaa_backup_waiting_bytes 1600000000",
                "pgaa_backup_gaps 0",
            ],
        );
        for name in ["last_seconds", "restorable", "running"] {
            assert!(!text.contains(&format!("pgaa_backup_{name}")), "{text}");
        }
        let off = render(&fixture::mesh(), 0);
        assert!(!off.contains("pgaa_backup"), "{off}");
    }
}
