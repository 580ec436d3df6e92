//! What the slot guard does and says, given disks and slots.

use super::fixture::{NOW, World, epoch, node, pglogical_name};
use crate::action::Action;
use crate::check::{Flaw, check};
use crate::ids::subscription_name;
use crate::life::Stage;
use crate::observed::{DiskFacts, Fact, Reach, SlotFacts};
use crate::plan::Plan;
use crate::time::Mono;

const GB: u64 = 1_000_000_000;

impl World {
    fn slot_mut(&mut self, subscriber: u128) -> &mut SlotFacts {
        let me = (node(1), epoch(1));
        let subscription = subscription_name((node(subscriber), epoch(subscriber)), me);
        let name = format!("pgl_shop_{}_{subscription}", pglogical_name(1));
        self.postgres_mut().slots.get_mut(&name).unwrap()
    }

    fn disk(&mut self, total: u64, free: u64) {
        self.observed.wal_disk = Fact::Known(DiskFacts {
            total_bytes: total * GB,
            free_bytes: free * GB,
            wal_bytes: 0,
        });
    }

    /// A disk of 100 GB, and what the slot of node 2 holds back.
    fn with_held(free: u64, held: u64) -> World {
        let mut world = World::converged();
        world.disk(100, free);
        world.slot_mut(2).retained_bytes = held * GB;
        world
    }
}

#[test]
fn a_slot_that_holds_back_much_is_warned_of_and_kept() {
    assert_eq!(World::with_held(60, 20).text(), "");
    assert_eq!(World::with_held(35, 45).text(), "Degraded slot_retains\n");
    let mut alarm = World::with_held(15, 60);
    assert_eq!(alarm.text(), "Critical slot_alarm\n");
    let command = |world: &World| world.plan().findings[0].command.clone();
    assert!(command(&alarm).contains("pgaa-agent status, on n2"));
    alarm.observed.peers.insert(node(2), Reach::Down);
    assert!(command(&alarm).contains("pgaa-agent forget n2"));
}

#[test]
fn when_the_disk_is_about_to_fill_the_slot_that_holds_back_most_goes() {
    let mut world = World::with_held(10, 60);
    world.slot_mut(3).retained_bytes = 20 * GB;
    let text = world.text();
    assert!(text.starts_with("do give up slot"), "{text}");
    let because = "it held back 60.0 GB for n2 of 60.0 GB it may, and the disk of the WAL has \
                   10.0 GB of 100.0 GB left";
    assert!(text.contains(because), "{text}");
    assert_eq!(text.matches("do ").count(), 1, "one at a time: {text}");
    // Dead or alive makes no difference.
    world.observed.peers.insert(node(2), Reach::Down);
    world.slot_mut(2).active = false;
    assert!(world.text().starts_with("do give up slot"));
}

#[test]
fn a_checkpoint_follows_before_anything_else_is_given_up() {
    let mut world = World::with_held(10, 60);
    world.memory.gave_up = Some(Mono(NOW.0 - 100));
    let does = |world: &World| -> Vec<Action> { world.plan().actions };
    assert_eq!(does(&world), [Action::Checkpoint]);
    world.memory.checkpointed = Some(Mono(NOW.0 - 50));
    assert_eq!(does(&world), [], "the disk shows late what is free");
    world.memory.checkpointed = Some(Mono(NOW.0 - 5_000));
    world.memory.gave_up = Some(Mono(NOW.0 - 6_000));
    assert!(matches!(does(&world)[..], [Action::GiveUpSlot { .. }]));
}

#[test]
fn a_full_disk_is_told_of_even_when_postgresql_has_ended_by_it() {
    let mut world = World::converged();
    world.disk(100, 2);
    assert_eq!(world.text(), "");
    world.disk(100, 1);
    assert_eq!(world.text(), "Critical disk_full\n");
    world.observed.postgres = Fact::Unknown("the connection was refused".to_owned());
    let text = world.text();
    assert!(text.ends_with("Critical disk_full\n"), "{text}");
    world.disk(1, 0);
    assert!(world.text().ends_with("Critical disk_full\n"));
}

#[test]
fn nothing_is_given_up_on_what_is_not_known() {
    let mut world = World::with_held(10, 60);
    world.observed.wal_disk = Fact::Unknown("no such file".to_owned());
    assert_eq!(world.text(), "Degraded wal_disk_unknown\n");
    let mut joining = World::with_held(10, 60);
    joining.life.stage = Stage::Founding;
    assert!(!joining.text().contains("give up"));
}

#[test]
fn a_disk_that_others_have_filled_costs_no_peer_its_slot() {
    let text = World::with_held(3, 1).text();
    assert!(!text.contains("give up"), "{text}");
    assert!(World::with_held(1, 3).text().contains("do give up slot"));
}

#[test]
fn a_plan_that_gives_up_a_slot_needs_the_guards_evidence() {
    let world = World::with_held(10, 60);
    let proven = world.plan();
    let mut calm = World::with_held(60, 20);
    calm.with_inputs(|inputs| {
        assert!(matches!(
            check(&proven, inputs),
            Err(Flaw::GivesUpUnproven(_))
        ));
    });
    let mut other = World::with_held(10, 60);
    other.slot_mut(3).retained_bytes = 70 * GB;
    other.with_inputs(|inputs| assert!(check(&proven, inputs).is_err(), "another holds more"));
    calm.disk(100, 10);
    calm.slot_mut(2).retained_bytes = 60 * GB;
    calm.with_inputs(|inputs| assert_eq!(check(&proven, inputs), Ok(())));
    assert!(proven.actions.iter().all(Action::destructive));
    assert_ne!(proven, Plan::default());
}

#[test]
fn the_limit_of_postgresql_follows_the_disk() {
    let mut world = World::with_held(60, 0);
    world.postgres_mut().backstop_bytes = Some(55 * GB);
    assert_eq!(world.text(), "");
    world.disk(200, 160);
    assert_eq!(world.text(), "do write the settings\n");
    world.memory.settings_written = Some(Mono(NOW.0 - 60_000));
    assert_eq!(world.text(), "", "somebody overrides it");
    world.memory.settings_written = None;
    world.postgres_mut().backstop_bytes = None;
    assert_eq!(world.text(), "", "it is not ours");
}
