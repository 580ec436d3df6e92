//! Single engines, step by step. What many of them do together is shown in the simulation.

use super::*;
use rand::{Rng, RngExt};
use uuid::Uuid;

fn member(n: u128, generation: u64) -> Member {
    let addr = SocketAddr::from(([10, 0, 0, n as u8], 7432));
    Member::new(addr, NodeId(Uuid::from_u128(n)), generation)
}

fn engine(me: Member) -> Engine {
    let rng = SmallRng::seed_from_u64(me.node.0.as_u128() as u64);
    Engine::new(me, NetworkProfile::Lan, rng, Mono(0))
}

fn outputs(engine: &mut Engine) -> Vec<Output> {
    std::iter::from_fn(|| engine.poll_output()).collect()
}

/// Carries packets to and fro, at once, until none is left.
fn carry(now: Mono, engines: &mut [Engine]) -> Vec<Output> {
    let mut said = Vec::new();
    loop {
        let all: Vec<Output> = engines.iter_mut().flat_map(outputs).collect();
        if all.is_empty() {
            return said;
        }
        for output in all {
            if let Output::Send { to, bytes } = output {
                if let Some(engine) = engines.iter_mut().find(|engine| engine.me().addr == to) {
                    engine.datagram(now, &bytes).unwrap();
                }
            } else {
                said.push(output);
            }
        }
    }
}

#[test]
fn random_and_bent_packets_are_errors_and_nothing_else() {
    let mut pair = [engine(member(1, 1)), engine(member(2, 1))];
    pair[0].announce(Mono(0), member(2, 1).addr).unwrap();
    let mut packets = Vec::new();
    for output in outputs(&mut pair[0]) {
        if let Output::Send { bytes, .. } = output {
            packets.push(bytes);
        }
    }
    assert!(!packets.is_empty());
    let mut rng = SmallRng::seed_from_u64(3);
    let mut refused = 0;
    for round in 0..50_000_u64 {
        let mut bytes = packets[0].clone();
        if round % 2 == 0 {
            bytes.resize(rng.random_range(0..1300), 0);
            rng.fill_bytes(&mut bytes);
        } else {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            bytes.extend((0..rng.random_range(0..60)).map(|_| rng.random::<u8>()));
        }
        refused += u64::from(pair[1].datagram(Mono(round), &bytes).is_err());
        pair[1].advance(Mono(round)).ok();
        outputs(&mut pair[1]);
    }
    assert!(refused > 25_000, "{refused} refused");
}

#[test]
fn an_address_is_announced_to_until_somebody_answers() {
    let mut alone = engine(member(1, 1));
    let seed = member(2, 1).addr;
    alone.announce(Mono(0), seed).unwrap();
    let mut sent = 0;
    while let Some(deadline) = alone.next_deadline().filter(|at| *at <= Mono(10_000)) {
        alone.advance(deadline).unwrap();
        let to_seed = |output: &Output| matches!(output, Output::Send { to, .. } if *to == seed);
        sent += outputs(&mut alone)
            .iter()
            .filter(|output| to_seed(output))
            .count();
    }
    assert!((40..=70).contains(&sent), "{sent} announcements in 10 s");
}

#[test]
fn nothing_is_said_to_oneself_or_to_nowhere() {
    let mut alone = engine(member(1, 1));
    alone.announce(Mono(0), member(1, 1).addr).unwrap();
    alone
        .announce(Mono(0), "0.0.0.0:7432".parse().unwrap())
        .unwrap();
    alone
        .announce(Mono(0), "10.0.0.9:0".parse().unwrap())
        .unwrap();
    alone
        .apply_known(Mono(0), [member(1, 1), member(1, 7)])
        .unwrap();
    alone.advance(Mono(5_000)).unwrap();
    assert!(outputs(&mut alone).is_empty());
    assert!(alone.members().is_empty());
}

#[test]
fn saved_members_count_as_alive_and_are_probed() {
    let mut engine = engine(member(1, 1));
    engine
        .apply_known(Mono(0), [member(2, 4), member(3, 1)])
        .unwrap();
    let up = |output: &Output| matches!(output, Output::Up { .. });
    assert_eq!(
        outputs(&mut engine)
            .iter()
            .filter(|output| up(output))
            .count(),
        2
    );
    let mut down = 0;
    while let Some(deadline) = engine.next_deadline().filter(|at| *at <= Mono(10_000)) {
        engine.advance(deadline).unwrap();
        let is_down = |output: &Output| matches!(output, Output::Down { .. });
        down += outputs(&mut engine)
            .iter()
            .filter(|output| is_down(output))
            .count();
    }
    assert_eq!(down, 2, "nobody answers");
    assert!(
        engine
            .members()
            .values()
            .all(|view| view.liveness == Liveness::Down)
    );
    engine.apply_known(Mono(10_000), [member(2, 4)]).unwrap();
    assert!(
        !outputs(&mut engine).iter().any(up),
        "the same generation is still down"
    );
    engine.apply_known(Mono(10_000), [member(2, 5)]).unwrap();
    assert!(outputs(&mut engine).iter().any(up), "a restart is news");
}

#[test]
fn a_restart_is_reported_once_and_not_as_a_loss() {
    let mut engines = [engine(member(1, 1)), engine(member(2, 1))];
    engines[0].announce(Mono(0), member(2, 1).addr).unwrap();
    carry(Mono(0), &mut engines);
    assert!(engines.iter().all(Engine::is_connected));
    engines[1] = engine(member(2, 2));
    engines[1].announce(Mono(100), member(1, 1).addr).unwrap();
    let said = carry(Mono(100), &mut engines);
    let two = member(2, 1).node;
    let about_two = |output: &&Output| matches!(output, Output::Up { member } | Output::Down { member } if member.node == two);
    let said: Vec<&Output> = said.iter().filter(about_two).collect();
    assert!(
        matches!(said[..], [Output::Up { member }] if member.generation == 2),
        "{said:?}"
    );
}

#[test]
fn who_has_left_is_deaf() {
    let mut engines = [engine(member(1, 1)), engine(member(2, 1))];
    engines[0].announce(Mono(0), member(2, 1).addr).unwrap();
    carry(Mono(0), &mut engines);
    engines[1].leave(Mono(10)).unwrap();
    let said = carry(Mono(10), &mut engines);
    assert!(said.iter().any(|output| matches!(output, Output::Defunct)));
    engines[0].announce(Mono(20), member(2, 1).addr).unwrap();
    let said = carry(Mono(20), &mut engines);
    assert!(said.is_empty(), "{said:?}");
    assert_eq!(engines[1].next_deadline(), None);
    let two = member(2, 1).node;
    assert_eq!(engines[0].members()[&two].liveness, Liveness::Down);
}

/// Advances from deadline to deadline until `until`; nobody answers.
fn run_alone(engine: &mut Engine, until: Mono) {
    while let Some(deadline) = engine.next_deadline().filter(|at| *at <= until) {
        engine.advance(deadline).unwrap();
        outputs(engine);
    }
}

#[test]
fn a_pause_of_this_process_condemns_nobody() {
    let mut engine = engine(member(1, 1));
    let two = member(2, 1).node;
    engine.apply_known(Mono(0), [member(2, 1)]).unwrap();
    run_alone(&mut engine, Mono(1_500));
    assert_eq!(engine.members()[&two].liveness, Liveness::Suspect);
    engine.advance(Mono(60_000)).unwrap();
    assert_eq!(engine.members()[&two].liveness, Liveness::Suspect);
    run_alone(&mut engine, Mono(65_000));
    assert_eq!(engine.members()[&two].liveness, Liveness::Down);
}

#[test]
fn a_machine_made_anew_is_heard_once_its_predecessor_is_down() {
    let mut engines = [engine(member(1, 1)), engine(member(2, 9))];
    engines[1].announce(Mono(0), member(1, 1).addr).unwrap();
    carry(Mono(0), &mut engines);
    let anew = Member {
        addr: member(2, 9).addr,
        ..member(3, 1)
    };
    engines[1] = engine(anew);
    engines[1].announce(Mono(100), member(1, 1).addr).unwrap();
    carry(Mono(100), &mut engines);
    assert!(
        !engines[0].members().contains_key(&anew.node),
        "the predecessor may still live"
    );
    run_alone(&mut engines[0], Mono(10_000));
    engines[1]
        .announce(Mono(10_000), member(1, 1).addr)
        .unwrap();
    carry(Mono(10_000), &mut engines);
    assert_eq!(engines[0].members()[&anew.node].liveness, Liveness::Alive);
    assert!(engines.iter().all(Engine::is_connected));
    assert_eq!(
        engines[1].me().claim,
        anew.claim,
        "it never had to give way"
    );
}

#[test]
fn two_that_have_nothing_to_say_wake_for_probes_alone() {
    let mut pair = [engine(member(1, 1)), engine(member(2, 1))];
    pair[0].announce(Mono(0), member(2, 1).addr).unwrap();
    carry(Mono(0), &mut pair);
    let mut wakes = 0;
    let mut now = Mono(0);
    while now < Mono(60_000) {
        let next = pair.iter().filter_map(Engine::next_deadline).min().unwrap();
        assert!(next >= now, "{next:?} was not seen to at {now:?}");
        now = next;
        for engine in &mut pair {
            engine.advance(now).unwrap();
        }
        carry(now, &mut pair);
        wakes += u32::from(now >= Mono(30_000));
    }
    // Two probes a second, each with its time-out, and the looks at who is missing, of both.
    // Rounds of gossip would be ten more a second.
    assert!(wakes < 30 * 12, "{wakes} wakes in 30 s");
    assert!(pair.iter().all(|engine| engine.is_connected()));
    // News wakes at once.
    pair[0].hint(now, 7).unwrap();
    let soon = now.plus(Duration::from_millis(200));
    assert!(pair[0].next_deadline().unwrap() <= soon);
}
