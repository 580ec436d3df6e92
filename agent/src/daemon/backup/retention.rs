//! What goes from the repository: the owner's retention, for the stanzas of those before it as well.

use super::archive::of;
use crate::backup::PgBackRest;
use crate::config::Keep;
use log::{info, warn};
use pgaa_core::backup::repository::{StanzaContents, windows};
use pgaa_core::backup::{BackupKind, Stanza};
use pgaa_core::ids::NodeId;
use pgaa_core::time::Wall;

/// Stanzas of nodes that have owned the backups and archive no more.
pub(super) fn former(
    contents: &[StanzaContents],
    own: &Stanza,
    archiving: &[NodeId],
) -> Vec<Stanza> {
    let others = contents.iter().map(|contents| &contents.stanza);
    let idle = others.filter(|stanza| {
        let owner = stanza.parts().map(|(node, _)| node);
        *stanza != own && owner.is_some_and(|owner| !archiving.contains(&owner))
    });
    idle.cloned().collect()
}

/// The first moment that has to stay possible to restore, where what this node has alone reaches
/// back so far; `None` while what others have is still part of it.
pub(super) fn kept_from(
    contents: &[StanzaContents],
    own: &Stanza,
    keep: Keep,
    now: Wall,
) -> Option<Wall> {
    const DAY_MS: i64 = 24 * 3_600 * 1_000;
    let own = of(contents, own)?;
    let full = own.backups.iter().filter(|b| b.kind == BackupKind::Full);
    let mut full: Vec<Wall> = full.map(|backup| backup.stopped_at).collect();
    full.sort_unstable_by_key(|stopped_at| std::cmp::Reverse(*stopped_at));
    match keep.days {
        _ if full.is_empty() => None,
        Some(days) => Some(Wall(now.0.saturating_sub(i64::from(days) * DAY_MS))),
        // The oldest of those that are kept: there may be more for a moment.
        None => full.get(usize::from(keep.full).saturating_sub(1)).copied(),
    }
}

/// Former owners' stanzas go by the same retention. pgBackRest always keeps the last full backup
/// of a stanza: one that ends before all that the retention keeps is removed whole.
pub(super) async fn expire(
    tool: &PgBackRest,
    contents: &[StanzaContents],
    former: &[Stanza],
    from: Option<Wall>,
) {
    for stanza in former {
        let all = windows(contents);
        let until = all
            .iter()
            .filter(|w| w.stanza == *stanza)
            .map(|w| w.until)
            .max();
        let outlived = from.is_some_and(|from| until.is_some_and(|until| until < from));
        let gone = match outlived {
            true => tool.remove_stanza(stanza).await,
            false => tool.expire(stanza).await,
        };
        match gone {
            Ok(()) if outlived => {
                info!("{stanza} was removed: all in it is older than what is kept")
            }
            Ok(()) => {}
            Err(error) => warn!("what is too old in {stanza} can't be removed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgaa_core::backup::repository::BackupSet;
    use pgaa_core::ids::{Lsn, NodeId};
    use uuid::Uuid;

    fn stanza(node: u128) -> Stanza {
        Stanza::new(NodeId(Uuid::from_u128(node)), 1)
    }

    fn contents(node: u128, days: &[i64]) -> StanzaContents {
        let at = |day: &i64| Wall(day * 24 * 3_600 * 1_000);
        let backups = days.iter().map(|day| BackupSet {
            label: String::new(),
            kind: BackupKind::Full,
            started_at: at(day),
            stopped_at: at(day),
            wal_start: Lsn(0),
            wal_stop: Lsn(0),
            size_bytes: 0,
            stored_bytes: 0,
            damaged_pages: false,
            node_name: String::new(),
            gap_since: None,
        });
        StanzaContents {
            stanza: stanza(node),
            backups: backups.collect(),
            wal_last: None,
            archived_at: None,
            problem: None,
            running: false,
        }
    }

    #[test]
    fn what_others_have_counts_until_the_owner_has_enough_itself() {
        let now = contents(1, &[30]).backups[0].stopped_at;
        let from = |days: &[i64], keep| {
            let from = kept_from(&[contents(1, days)], &stanza(1), keep, now);
            from.map(|from| from.0 / (24 * 3_600 * 1_000))
        };
        let by_count = Keep {
            full: 2,
            days: None,
            differential: None,
        };
        assert_eq!(from(&[20], by_count), None);
        assert_eq!(from(&[20, 27], by_count), Some(20));
        assert_eq!(from(&[13, 27, 20], by_count), Some(20));
        let by_days = Keep {
            days: Some(14),
            ..by_count
        };
        assert_eq!(from(&[20, 27], by_days), Some(16));
        assert_eq!(from(&[], by_days), None);
    }

    #[test]
    fn only_stanzas_of_others_that_archive_no_more_are_former_ones() {
        let all = [contents(1, &[1]), contents(2, &[1]), contents(3, &[1])];
        let archiving = [NodeId(Uuid::from_u128(2))];
        assert_eq!(former(&all, &stanza(1), &archiving), [stanza(3)]);
    }
}
