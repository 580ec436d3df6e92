//! The slot guard: how much WAL a slot may hold back before the disk is about to fill, whatever
//! became of its reader. A stuck one holds back as much as a dead one.
//!
//! A slot is spent byte by byte, never by time alone: dropping it makes its subscriber lack
//! changes. So its budget is what the disk can give: all that is free and all that the slot holds
//! already, less a reserve; an operator can set a smaller one. Only arithmetic; which slot is
//! whose, and what is done, is the plan's business.

use crate::observed::DiskFacts;
use crate::policy::SlotPolicy;
use crate::time::Mono;
use std::collections::VecDeque;
use std::time::Duration;

/// Over this time growth is measured: longer than the pauses between two looks and between two
/// steps of a healthy slot, shorter than what a disk takes to fill.
const GROWTH_WINDOW: Duration = Duration::from_secs(30);

/// Below this span the growth is not known.
const GROWTH_SPAN_MIN: Duration = Duration::from_secs(5);

/// Full within this time at the present growth: worth a warning.
const WARN_WITHIN: Duration = Duration::from_secs(3_600);

/// Full within this time: somebody has to do something now.
const ALARM_WITHIN: Duration = Duration::from_secs(600);

/// How serious it is with one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing to say.
    Fine,
    /// Worth a look.
    Warn,
    /// Somebody has to do something.
    Alarm,
    /// The disk is about to fill: the slot that holds back most has to go.
    GiveUp,
}

/// What one slot holds back, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// How serious.
    pub level: Level,
    /// WAL it holds back, bytes.
    pub held_bytes: u64,
    /// What it may hold back now, bytes.
    pub budget_bytes: u64,
    /// When the disk would be full if the slot went on holding back as it does; `None` when it
    /// doesn't grow, or isn't known to.
    pub full_within: Option<Duration>,
}

/// What a slot held back at some moments, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Growth {
    samples: VecDeque<(Mono, u64)>,
}

impl Growth {
    /// Adds what a look has found.
    pub fn note(&mut self, held_bytes: u64, now: Mono) {
        self.samples.push_back((now, held_bytes));
        // The oldest that is kept lies at the window's far end, or just beyond it.
        while self.samples.len() > 2
            && self
                .samples
                .get(1)
                .is_some_and(|(at, _)| now.since(*at) >= GROWTH_WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Bytes a second, when it grows and that is known.
    #[must_use]
    pub fn bytes_per_s(&self) -> Option<u64> {
        let ((first_at, first), (last_at, last)) = (self.samples.front()?, self.samples.back()?);
        let span = last_at.since(*first_at);
        let grown = last.checked_sub(*first)?;
        let span_ms = u64::try_from(span.as_millis()).ok()?;
        (span >= GROWTH_SPAN_MIN).then(|| grown.saturating_mul(1_000) / span_ms)
    }
}

/// What has to stay free on the disk, bytes.
#[must_use]
pub fn reserve(policy: &SlotPolicy, disk: &DiskFacts) -> u64 {
    percent(disk.total_bytes, policy.reserve_percent)
}

/// A slot that holds back less can't be what fills the disk, bytes: dropping it would cost a
/// synchronisation and win nothing. It keeps a disk that the user's own data has filled from
/// costing every peer its slot.
#[must_use]
pub fn least(policy: &SlotPolicy, disk: &DiskFacts) -> u64 {
    reserve(policy, disk) / 4
}

/// What a slot that holds back `held_bytes` may hold back in all, bytes.
#[must_use]
pub fn budget(policy: &SlotPolicy, disk: &DiskFacts, held_bytes: u64) -> u64 {
    let room = disk.free_bytes.saturating_add(held_bytes);
    let possible = room.saturating_sub(reserve(policy, disk));
    let wanted = policy.budget_bytes.unwrap_or(u64::MAX);
    possible.max(least(policy, disk)).min(wanted)
}

/// Judges one slot.
#[must_use]
pub fn judge(
    policy: &SlotPolicy,
    disk: &DiskFacts,
    held_bytes: u64,
    bytes_per_s: Option<u64>,
) -> Judged {
    let budget_bytes = budget(policy, disk, held_bytes);
    let within = |bytes: u64| {
        let rate = bytes_per_s.filter(|rate| *rate > 0)?;
        Some(Duration::from_secs(bytes / rate))
    };
    let full_within = within(disk.free_bytes);
    let matters = held_bytes >= least(policy, disk).min(budget_bytes) / 2;
    let soon = |limit: Duration| matters && full_within.is_some_and(|within| within <= limit);
    let beyond = |share: u8| held_bytes > percent(budget_bytes, share);
    let spent_soon = within(budget_bytes.saturating_sub(held_bytes))
        .is_some_and(|within| within < policy.give_up_within);
    let level = if held_bytes >= budget_bytes || (beyond(policy.alarm_percent) && spent_soon) {
        Level::GiveUp
    } else if matters && beyond(policy.alarm_percent) || soon(ALARM_WITHIN) {
        Level::Alarm
    } else if matters && beyond(policy.warn_percent) || soon(WARN_WITHIN) {
        Level::Warn
    } else {
        Level::Fine
    };
    Judged {
        level,
        held_bytes,
        budget_bytes,
        full_within,
    }
}

/// `max_slot_wal_keep_size`, bytes: where PostgreSQL itself gives up a slot. It lies above the
/// guard by half the reserve, for the time in which no agent runs, and moves with the disk.
#[must_use]
pub fn backstop(policy: &SlotPolicy, disk: &DiskFacts) -> u64 {
    let room = disk.free_bytes.saturating_add(disk.wal_bytes);
    let above = room.saturating_sub(reserve(policy, disk) / 2);
    // On a disk that other data has filled the reserve is more than the room.
    above
        .max(room / 4 * 3)
        .min(percent(disk.total_bytes, policy.backstop_percent_max))
}

/// Has the disk changed so much that the backstop should be written anew?
#[must_use]
pub fn misplaced(backstop_bytes: u64, wanted_bytes: u64) -> bool {
    backstop_bytes.abs_diff(wanted_bytes) > wanted_bytes / 8
}

fn percent(bytes: u64, percent: u8) -> u64 {
    // Divided first: what is lost is below 100 bytes, and nothing overflows.
    (bytes / 100).saturating_mul(u64::from(percent))
}

/// "5.3 GB", in powers of 1000.
#[must_use]
pub fn in_words(bytes: u64) -> String {
    let units = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    let unit = units.iter().find(|(size, _)| bytes >= *size);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(size, unit)| {
            let tenths = u128::from(bytes) * 10 / u128::from(*size);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn policy() -> SlotPolicy {
        SlotPolicy::default()
    }

    fn disk(total: u64, free: u64) -> DiskFacts {
        DiskFacts {
            total_bytes: total * GB,
            free_bytes: free * GB,
            wal_bytes: 0,
        }
    }

    fn level(total: u64, free: u64, held: u64, rate: Option<u64>) -> Level {
        judge(&policy(), &disk(total, free), held * GB, rate).level
    }

    #[test]
    fn a_budget_is_what_the_disk_can_give() {
        let budget = |total, free, held| budget(&policy(), &disk(total, free), held * GB) / GB;
        assert_eq!(budget(100, 60, 0), 50, "all that is free, less the reserve");
        assert_eq!(budget(100, 30, 30), 50, "and all that it holds already");
        assert_eq!(budget(100, 5, 1), 2, "a disk that others have filled");
        let mut smaller = policy();
        smaller.budget_bytes = Some(7 * GB);
        let held = judge(&smaller, &disk(100, 60), 7 * GB, None);
        assert_eq!((held.budget_bytes, held.level), (7 * GB, Level::GiveUp));
    }

    #[test]
    fn levels_rise_with_the_bytes() {
        assert_eq!(level(100, 60, 20, None), Level::Fine);
        assert_eq!(level(100, 35, 45, None), Level::Warn, "45 of 70");
        assert_eq!(level(100, 15, 60, None), Level::Alarm, "60 of 65");
        assert_eq!(level(100, 10, 60, None), Level::GiveUp);
        assert_eq!(level(100, 3, 0, None), Level::Fine, "it holds nothing");
        assert_eq!(level(100, 3, 2, None), Level::Warn, "2 of 2.5");
    }

    #[test]
    fn growth_makes_it_sooner_but_spends_no_slot_that_holds_little() {
        assert_eq!(level(100, 60, 1, Some(GB)), Level::Fine);
        assert_eq!(level(100, 60, 5, Some(GB / 50)), Level::Warn, "50 min");
        assert_eq!(level(100, 60, 5, Some(GB)), Level::Alarm, "1 min");
        // 5 GB of 65 left, at 0.1 GB a second: the budget is spent within 50 s.
        assert_eq!(level(100, 15, 60, Some(GB / 10)), Level::GiveUp);
        assert_eq!(level(100, 15, 60, Some(GB / 20)), Level::Alarm);
    }

    #[test]
    fn growth_needs_a_span_and_forgets_what_is_old() {
        let mut growth = Growth::default();
        for second in 0..5 {
            growth.note(second * 10, Mono(second * 1_000));
        }
        assert_eq!(growth.bytes_per_s(), None, "4 s are too short");
        growth.note(50, Mono(5_000));
        assert_eq!(growth.bytes_per_s(), Some(10));
        for second in 6..60 {
            growth.note(50, Mono(second * 1_000));
        }
        assert_eq!(growth.bytes_per_s(), Some(0), "it has stood still for long");
        assert!(growth.samples.len() < 40);
        growth.note(10, Mono(60_000));
        assert_eq!(growth.bytes_per_s(), None, "it shrinks");
    }

    #[test]
    fn the_backstop_lies_above_the_guard() {
        for (total, free, held) in [
            (100, 98, 0),
            (100, 15, 70),
            (100, 8, 0),
            (100, 12, 1),
            (1, 1, 0),
        ] {
            let mut disk = disk(total, free);
            disk.wal_bytes = held * GB;
            let backstop = backstop(&policy(), &disk);
            let guard = budget(&policy(), &disk, held * GB);
            assert!(
                backstop > guard,
                "{total} {free} {held}: {backstop} {guard}"
            );
            assert!(backstop < (free + held) * GB, "the disk would be full");
        }
        assert!(misplaced(50 * GB, 60 * GB) && !misplaced(50 * GB, 54 * GB));
    }

    #[test]
    fn bytes_are_said_in_words() {
        let texts = [0, 999, 1_000, 5_340_000_000].map(in_words);
        assert_eq!(texts, ["0 B", "999 B", "1.0 kB", "5.3 GB"]);
    }
}
