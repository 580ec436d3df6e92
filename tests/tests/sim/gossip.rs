//! Gossip in virtual time: how fast nodes meet, how fast the dead are noticed, that the living
//! are not declared dead, and that what was cut comes together again.

mod world;

use pgaa_agent::gossip::member::Liveness;
use std::time::Duration;
use world::{Net, World};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Runs a scenario over several seeds and prints what came out, sorted.
fn measure(what: &str, seeds: u64, limit: Duration, run: impl Fn(u64) -> Option<Duration>) {
    let mut times = Vec::new();
    for seed in 0..seeds {
        let time = run(seed);
        assert!(time.is_some(), "{what}: not within the limit, seed {seed}");
        times.extend(time);
    }
    times.sort_unstable();
    let [median, worst] = [times.len() / 2, times.len() - 1].map(|i| times[i].as_secs_f64());
    println!("{what}: median {median:.2} s, worst {worst:.2} s of {seeds} seeds");
    assert!(
        worst <= limit.as_secs_f64(),
        "{what}: {worst:.2} s is over {limit:?}"
    );
}

/// All boot within 100 ms and know one seed.
fn cold_start(count: usize, net: Net, seed: u64) -> World {
    let mut world = World::new(count, net, seed);
    world.start(0, &[]);
    for index in 1..count {
        world.run_for(ms(100) / count as u32);
        world.start(index, &[0]);
    }
    world
}

/// Everybody knows everybody, and the news of it has died down.
fn settled(count: usize, net: Net, seed: u64) -> World {
    let mut world = cold_start(count, net, seed);
    let met = world.run_until(secs(60), ms(100), |world| world.unknown_pairs() == 0);
    assert!(
        met.is_some(),
        "seed {seed}: {} pairs never met",
        world.unknown_pairs()
    );
    world.run_for(secs(20));
    world
}

fn time_to_meet(count: usize, net: Net, seed: u64) -> Option<Duration> {
    let mut world = cold_start(count, net, seed);
    let start = Duration::from_micros(world.now_us);
    let met = world.run_until(secs(20), ms(10), |world| world.unknown_pairs() == 0);
    met.map(|met| met + start)
}

#[test]
fn a_hundred_nodes_meet_in_about_a_second() {
    measure("cold start, 100 nodes, LAN", 5, ms(870), |seed| {
        time_to_meet(100, Net::lan(0.0), seed)
    });
    measure(
        "cold start, 100 nodes, LAN, 5 % loss",
        5,
        ms(2_000),
        |seed| time_to_meet(100, Net::lan(0.05), seed),
    );
    measure("cold start, 100 nodes, WAN", 5, ms(2_200), |seed| {
        time_to_meet(100, Net::wan(0.0), seed)
    });
    measure("cold start, 5 nodes, LAN", 50, ms(500), |seed| {
        time_to_meet(5, Net::lan(0.0), seed)
    });
}

fn time_to_notice(count: usize, net: Net, seed: u64) -> Option<Duration> {
    let mut world = settled(count, net, seed);
    world.kill(1);
    world.run_until(secs(60), ms(10), |world| {
        let down = |by| by == 1 || world.sees(by, 1) == Some(Liveness::Down);
        (0..count).all(down)
    })
}

#[test]
fn a_dead_node_is_noticed_by_all() {
    for count in [2, 3, 5, 20] {
        let what = format!("detection, {count} nodes, LAN");
        measure(&what, 50, ms(5_000), |seed| {
            time_to_notice(count, Net::lan(0.0), seed)
        });
    }
    measure("detection, 100 nodes, LAN", 3, ms(5_000), |seed| {
        time_to_notice(100, Net::lan(0.0), seed)
    });
    measure("detection, 5 nodes, WAN", 20, ms(17_000), |seed| {
        time_to_notice(5, Net::wan(0.0), seed)
    });
}

/// Hours of virtual time without a fault but lost datagrams and stopped processes.
fn sim_hours() -> u64 {
    std::env::var("SIM_HOURS").map_or(2, |hours| hours.parse().expect("SIM_HOURS is a number"))
}

/// Whom somebody has declared down.
fn downs(world: &World) -> Vec<String> {
    let downs = world.said.iter().filter(|said| !said.up);
    let line = |said: &world::Said| {
        let at = Duration::from_micros(said.at_us).as_secs_f64();
        format!("{} by {} at {at:.1} s", said.about, said.by)
    };
    downs.map(line).collect()
}

#[test]
fn the_living_are_not_declared_down() {
    let hours = sim_hours();
    for (what, count, net) in [("LAN", 5, Net::lan(0.05)), ("WAN", 5, Net::wan(0.05))] {
        let mut world = settled(count, net, 7);
        world.run_for(secs(hours * 3600));
        println!(
            "{hours} h, {count} nodes, 5 % loss, {what}: {} down, {} renewed, {:.1} datagrams/s a node",
            downs(&world).len(),
            world.rejoins,
            world.datagrams as f64
                / count as f64
                / Duration::from_micros(world.now_us).as_secs_f64()
        );
        assert_eq!(downs(&world), Vec::<String>::new());
        assert_eq!(world.rejoins, 0);
    }
}

#[test]
fn a_process_that_was_stopped_declares_nobody_down() {
    let mut world = settled(5, Net::lan(0.05), 8);
    for round in 0..sim_hours() * 60 {
        world.run_for(secs(60));
        world.pause(round as usize % 5, ms(2_000));
    }
    println!(
        "a stop of 2 s a minute: {} down, {} renewed",
        downs(&world).len(),
        world.rejoins
    );
    assert_eq!(downs(&world), Vec::<String>::new());
    let mut world = settled(5, Net::lan(0.05), 9);
    for _ in 0..20 {
        world.run_for(secs(60));
        world.pause(2, secs(10));
    }
    let wrong = world
        .said
        .iter()
        .filter(|said| !said.up && said.by == 2)
        .count();
    println!(
        "a stop of 10 s a minute: {} down, {wrong} by the stopped node",
        downs(&world).len()
    );
    assert!(
        !downs(&world).is_empty(),
        "the others must notice a stop of 10 s"
    );
    assert_eq!(wrong, 0);
}

/// Cuts a settled cluster, heals it after a minute, and measures until all see all again.
fn time_to_heal(
    count: usize,
    net: Net,
    seed: u64,
    side_of: fn(usize) -> usize,
) -> Option<Duration> {
    let mut world = settled(count, net, seed);
    world.partition(side_of);
    world.run_for(secs(60));
    for by in 0..count {
        for about in (0..count).filter(|about| side_of(*about) != side_of(by)) {
            assert_eq!(world.sees(by, about), Some(Liveness::Down), "seed {seed}");
        }
    }
    world.heal();
    let healed = world.run_until(secs(60), ms(10), |world| world.unknown_pairs() == 0)?;
    world.run_for(secs(30));
    assert_eq!(
        world.unknown_pairs(),
        0,
        "seed {seed}: the heal did not last"
    );
    Some(healed)
}

#[test]
fn a_healed_partition_comes_together() {
    measure("heal, 2 nodes, 1|1, LAN", 20, ms(3_000), |seed| {
        time_to_heal(2, Net::lan(0.0), seed, |i| i)
    });
    measure("heal, 5 nodes, 1|4, LAN", 20, ms(3_000), |seed| {
        time_to_heal(5, Net::lan(0.0), seed, |i| i.min(1))
    });
    measure("heal, 6 nodes, 3|3, 5 % loss, LAN", 20, ms(4_000), |seed| {
        time_to_heal(6, Net::lan(0.05), seed, |i| i % 2)
    });
    measure("heal, 20 nodes, 10|10, LAN", 5, ms(4_000), |seed| {
        time_to_heal(20, Net::lan(0.0), seed, |i| i % 2)
    });
    measure("heal, 6 nodes, 3|3, WAN", 10, ms(6_000), |seed| {
        time_to_heal(6, Net::wan(0.0), seed, |i| i % 2)
    });
}

#[test]
fn a_one_way_cut_heals_too() {
    measure(
        "heal, 4 nodes, 2 -> 2 cut one way, LAN",
        20,
        ms(4_000),
        |seed| {
            let mut world = settled(4, Net::lan(0.0), seed);
            world.partition(|i| i % 2);
            world.cut_one_way(0, 1);
            world.run_for(secs(60));
            world.heal();
            world.run_until(secs(60), ms(10), |world| world.unknown_pairs() == 0)
        },
    );
}

#[test]
fn a_restarted_node_is_known_by_its_new_generation() {
    measure("restart, 5 nodes, 5 % loss, LAN", 20, ms(2_000), |seed| {
        let mut world = settled(5, Net::lan(0.05), seed);
        world.kill(3);
        world.run_for(ms(500));
        world.start(3, &[0]);
        world.run_until(secs(30), ms(10), |world| {
            (0..5).all(|by| by == 3 || world.generation_seen(by, 3) == Some(2))
                && world.unknown_pairs() == 0
        })
    });
}

/// Node 4 is made anew under the address of node 3, whose agent had started five times.
fn time_to_replace(wait: Duration, forget: bool, seed: u64) -> Option<Duration> {
    let mut world = World::new(5, Net::lan(0.02), seed);
    for index in 0..4 {
        world.start(index, &[0]);
    }
    for _ in 0..4 {
        world.run_for(secs(1));
        world.kill(3);
        world.start(3, &[0]);
    }
    world.run_for(secs(30));
    world.kill(3);
    world.move_to_address_of(4, 3);
    world.run_for(wait);
    if forget {
        world.forget(3);
    }
    world.start(4, &[0]);
    let met = world.run_until(secs(60), ms(10), |world| world.unknown_pairs() == 0)?;
    world.run_for(secs(60));
    assert_eq!(
        world.unknown_pairs(),
        0,
        "seed {seed}: the newcomer was lost again"
    );
    Some(met)
}

#[test]
fn an_address_that_changed_hands_is_the_new_holders() {
    measure(
        "replaced under its address after 60 s",
        10,
        ms(2_000),
        |seed| time_to_replace(secs(60), false, seed),
    );
    measure(
        "replaced under its address at once",
        10,
        ms(12_000),
        |seed| time_to_replace(ms(200), false, seed),
    );
    measure(
        "replaced under its address, forgotten",
        10,
        ms(2_000),
        |seed| time_to_replace(secs(60), true, seed),
    );
}

#[test]
fn who_leaves_is_gone_at_once_and_stays_away() {
    measure("leave, 5 nodes, 5 % loss, LAN", 20, ms(1_500), |seed| {
        let mut world = settled(5, Net::lan(0.05), seed);
        world.leave(2);
        let all_see =
            |world: &World| (0..5).all(|by| by == 2 || world.sees(by, 2) == Some(Liveness::Down));
        let gone = world.run_until(secs(10), ms(10), all_see);
        world.run_for(secs(60));
        assert!(all_see(&world), "seed {seed}: it came back");
        gone
    });
}

#[test]
fn a_seed_that_starts_late_is_found() {
    measure("seed 60 s late, 5 nodes, LAN", 10, ms(1_000), |seed| {
        let mut world = World::new(5, Net::lan(0.0), seed);
        for index in 1..5 {
            world.start(index, &[0]);
        }
        world.run_for(secs(60));
        world.start(0, &[]);
        world.run_until(secs(30), ms(10), |world| world.unknown_pairs() == 0)
    });
}

#[test]
fn a_hint_reaches_everybody() {
    measure("hint, 100 nodes, 5 % loss, LAN", 3, ms(1_000), |seed| {
        let mut world = settled(100, Net::lan(0.05), seed);
        let version = world.write_record(42);
        world.run_until(secs(10), ms(10), |world| {
            (0..world.count()).all(|by| by == 42 || world.hinted(by, 42) == version)
        })
    });
}
