//! The slots on this node against the disk: who holds back how much, what status says of it, and
//! which slot is given up when the disk is about to fill. The arithmetic is in [`crate::guard`].

use super::slots::slot_of;
use super::{Inputs, Plan, View};
use crate::action::Action;
use crate::guard::{self, Judged, Level, in_words};
use crate::ids::NodeId;
use crate::observed::{DiskFacts, Fact, Reach};
use crate::roster::Roster;
use crate::status::{Finding, Health};
use std::time::Duration;

/// After a slot was given up the next one waits this long: the disk shows late what is free.
const GIVE_UP_PAUSE: Duration = Duration::from_secs(5);

/// Settings that are not in force although they were written are not written again and again.
const WRITE_PAUSE: Duration = Duration::from_secs(600);

/// What the slot of one member holds back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The slot.
    pub slot: String,
    /// Whose it is.
    pub subscriber: NodeId,
    /// How much, and how serious it is.
    pub judged: Judged,
}

/// What the slots of all members hold back, the most first. Nothing while anything is unknown.
#[must_use]
pub fn held(inputs: &Inputs<'_>) -> Vec<Held> {
    let (Some(view), Fact::Known(disk)) = (View::of(inputs), &inputs.observed.wal_disk) else {
        return Vec::new();
    };
    let one = |subscriber: NodeId| {
        let epoch = view.roster.epoch(subscriber)?;
        let slot = slot_of(&view, (subscriber, epoch))?;
        let facts = view.postgres.slots.get(slot)?;
        let growth = inputs.memory.growth.get(slot);
        let rate = growth.and_then(guard::Growth::bytes_per_s);
        let judged = guard::judge(&inputs.policy.slots, disk, facts.retained_bytes, rate);
        Some(Held {
            slot: slot.clone(),
            subscriber,
            judged,
        })
    };
    let mut held: Vec<Held> = view.roster.members().into_iter().filter_map(one).collect();
    held.sort_by_key(|held| std::cmp::Reverse(held.judged.held_bytes));
    held
}

/// The slot that has to go now, and why, if one has to.
#[must_use]
pub fn to_give_up(inputs: &Inputs<'_>) -> Option<(Held, String)> {
    let Fact::Known(disk) = &inputs.observed.wal_disk else {
        return None;
    };
    let worst = held(inputs).into_iter().next()?;
    if worst.judged.level < Level::GiveUp || !inputs.life.stage.took_writes() {
        return None;
    }
    let because = reason(inputs.roster?, disk, &worst);
    Some((worst, because))
}

fn reason(roster: &Roster, disk: &DiskFacts, held: &Held) -> String {
    let full = held.judged.full_within.map_or_else(String::new, |within| {
        format!(" and would be full within {} s", within.as_secs())
    });
    format!(
        "it held back {} for {} of {} it may, and the disk of the WAL has {} of {} left{full}",
        in_words(held.judged.held_bytes),
        roster.name_of(held.subscriber),
        in_words(held.judged.budget_bytes),
        in_words(disk.free_bytes),
        in_words(disk.total_bytes),
    )
}

/// With less than this part of the disk left the next burst of writes may fail,
const FULL_PART: u64 = 50;

/// and with less than this many bytes, four segments of WAL, on any disk.
const FULL_BYTES: u64 = 64 << 20;

/// Says that the disk is full, whatever has filled it: also where PostgreSQL has ended by it.
pub(super) fn disk(inputs: &Inputs<'_>, plan: &mut Plan) {
    let Fact::Known(disk) = &inputs.observed.wal_disk else {
        return;
    };
    if disk.free_bytes >= (disk.total_bytes / FULL_PART).max(FULL_BYTES) {
        return;
    }
    plan.findings.push(Finding {
        severity: Health::Critical,
        code: "disk_full".to_owned(),
        text: format!(
            "the disk of the WAL has {} of {} left: PostgreSQL stops when that is used up",
            in_words(disk.free_bytes),
            in_words(disk.total_bytes)
        ),
        command:
            "df -h, then free some space or enlarge the disk; systemctl start postgresql if it \
                  has ended"
                .to_owned(),
    });
}

/// Plans what the guard has to do, and says what it sees.
pub(super) fn watch(view: &View<'_>, plan: &mut Plan) {
    let inputs = view.inputs;
    give_up(inputs, plan);
    backstop(view, plan);
    if !inputs.life.stage.took_writes() {
        return;
    }
    match &inputs.observed.wal_disk {
        Fact::Unknown(why) => plan.findings.push(Finding {
            severity: Health::Degraded,
            code: "wal_disk_unknown".to_owned(),
            text: format!("the disk of the WAL can't be looked at, so nothing guards it: {why}"),
            command: "df -h on the directory pg_wal".to_owned(),
        }),
        Fact::Known(_) => {
            let findings = held(inputs).into_iter();
            plan.findings
                .extend(findings.filter_map(|held| finding(view, &held)));
        }
    }
}

fn give_up(inputs: &Inputs<'_>, plan: &mut Plan) {
    let memory = inputs.memory;
    if let Some(at) = memory.gave_up {
        // Only a checkpoint removes what the slot held back, and shows what is free then.
        if memory.checkpointed.is_none_or(|done| done < at) {
            plan.actions.push(Action::Checkpoint);
            return;
        }
        let since = memory.checkpointed.unwrap_or(at);
        if inputs.now.since(since) < GIVE_UP_PAUSE {
            return;
        }
    }
    if let Some((held, because)) = to_give_up(inputs) {
        plan.actions.push(Action::GiveUpSlot {
            slot: held.slot,
            subscriber: held.subscriber,
            because,
        });
    }
}

/// PostgreSQL's own limit follows the disk.
fn backstop(view: &View<'_>, plan: &mut Plan) {
    let inputs = view.inputs;
    let (Some(have), Fact::Known(disk)) = (view.postgres.backstop_bytes, &inputs.observed.wal_disk)
    else {
        return;
    };
    let wanted = guard::backstop(&inputs.policy.slots, disk);
    let rested = |at| inputs.now.since(at) >= WRITE_PAUSE;
    if guard::misplaced(have, wanted) && inputs.memory.settings_written.is_none_or(rested) {
        plan.actions.push(Action::WriteSettings);
    }
}

fn finding(view: &View<'_>, held: &Held) -> Option<Finding> {
    let (severity, code) = match held.judged.level {
        Level::Fine => return None,
        Level::Warn => (Health::Degraded, "slot_retains"),
        Level::Alarm | Level::GiveUp => (Health::Critical, "slot_alarm"),
    };
    let name = view.roster.name_of(held.subscriber);
    let full = held.judged.full_within.map_or_else(String::new, |within| {
        format!(
            "; at this rate the disk is full within {} s",
            within.as_secs()
        )
    });
    let up = view.inputs.observed.peers.get(&held.subscriber) == Some(&Reach::Up);
    Some(Finding {
        severity,
        code: code.to_owned(),
        text: format!(
            "WAL is held back for {name}: {} of {} it may{full}; when that is spent its slot is \
             given up, and {name} lacks changes",
            in_words(held.judged.held_bytes),
            in_words(held.judged.budget_bytes)
        ),
        command: if up {
            format!("pgaa-agent status, on {name}: why doesn't it keep up?")
        } else {
            format!("bring {name} back, or if it is lost for ever: pgaa-agent forget {name}")
        },
    })
}
