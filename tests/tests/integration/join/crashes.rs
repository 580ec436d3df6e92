//! `kill -9` of an agent, of a postmaster and of both, on the joiner, its source and a bystander, at
//! each step of the join. It ends well without an operator, and all rows are equal.

use super::{JOIN_MAX, join, mesh, ready};
use crate::seconds;
use anyhow::{Context, Result, bail, ensure};
use pgaa_core::join::POINTS;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::load::{Load, Rate, Workload, await_equality};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play_unstarted;
use std::thread::sleep;
use std::time::Duration;

/// How long the victim stays dead.
pub(crate) const DEAD_FOR: Duration = Duration::from_millis(700);

/// How hard the members are written to meanwhile.
const RATE: Rate = Rate::PerSecond(30);

/// How many nodes join one after another in one cluster, before the next is made.
const JOINERS: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Joiner,
    Source,
    Bystander,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Agent,
    Postmaster,
    Both,
}

type Crash = (&'static str, Role, Victim);

const ROLES: [Role; 3] = [Role::Joiner, Role::Source, Role::Bystander];
pub(crate) const VICTIMS: [Victim; 3] = [Victim::Agent, Victim::Postmaster, Victim::Both];

/// Which part of everything, of how many, `JOIN_CRASHES` asks for: "all", or "2/9"; nothing where
/// it is not set.
pub(crate) fn part(variable: Option<&str>) -> Result<Option<(usize, usize)>> {
    let Some(text) = variable else {
        return Ok(None);
    };
    if text == "all" {
        return Ok(Some((1, 1)));
    }
    let bad = || format!("{text:?} is neither \"all\" nor a part like \"2/9\"");
    let (part, of) = text.split_once('/').with_context(bad)?;
    let (part, of) = (
        part.parse().with_context(bad)?,
        of.parse().with_context(bad)?,
    );
    ensure!((1..=of).contains(&part), bad());
    Ok(Some((part, of)))
}

/// Each point with one role and one victim, so that each pair of those comes up; or everything at
/// every point, or a part of that.
fn crashes(asked: Option<(usize, usize)>) -> Vec<Crash> {
    let mut chosen = Vec::new();
    for (place, point) in POINTS.iter().enumerate() {
        for (r, role) in ROLES.iter().enumerate() {
            for (v, victim) in VICTIMS.iter().enumerate() {
                let usual = (place + r) % 3 == 0 && (place / 3 + v + r) % 3 == 0;
                if asked.is_some() || usual {
                    chosen.push((*point, *role, *victim));
                }
            }
        }
    }
    let Some((part, of)) = asked else {
        return chosen;
    };
    let count = chosen.len();
    chosen
        .drain(count * (part - 1) / of..count * part / of)
        .collect()
}

#[test]
fn parts_make_the_whole() -> Result<()> {
    let parts = (1..=5).flat_map(|part| crashes(Some((part, 5))));
    assert_eq!(parts.collect::<Vec<_>>(), crashes(Some((1, 1))));
    assert_eq!(crashes(Some((1, 1))).len(), POINTS.len() * 9);
    assert_eq!(part(None)?, None);
    assert_eq!(part(Some("all"))?, Some((1, 1)));
    assert_eq!(part(Some("2/9"))?, Some((2, 9)));
    for bad in ["", "0/3", "4/3", "1/0", "some"] {
        assert!(part(Some(bad)).is_err(), "{bad:?} was taken");
    }
    Ok(())
}

#[test]
fn the_choice_has_every_point_and_every_pair() {
    let chosen = crashes(None);
    for point in POINTS {
        assert!(chosen.iter().any(|crash| crash.0 == point), "{point}");
    }
    for role in ROLES {
        for victim in VICTIMS {
            let found = chosen
                .iter()
                .any(|crash| (crash.1, crash.2) == (role, victim));
            assert!(found, "{role:?} {victim:?}");
        }
    }
}

#[test]
fn a_join_survives_every_crash() -> Result<()> {
    let asked = std::env::var("JOIN_CRASHES").ok();
    let chosen = crashes(part(asked.as_deref())?);
    for some in chosen.chunks(JOINERS) {
        play_unstarted(2 + some.len(), |cluster| {
            let founders = mesh(cluster, 2)?;
            for (crash, joiner) in some.iter().zip(&cluster.nodes()[2..]) {
                eprintln!("======== {crash:?}, {} joins", joiner.name());
                interrupted(cluster, &founders, joiner, *crash)
                    .with_context(|| format!("{crash:?}, {} joined", joiner.name()))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn interrupted(
    cluster: &Cluster,
    founders: &[&Node],
    joiner: &Node,
    (point, role, victim): Crash,
) -> Result<()> {
    let (source, bystander) = source_first(founders)?;
    let node = match role {
        Role::Joiner => joiner,
        Role::Source => source,
        Role::Bystander => bystander,
    };
    let mut load = Load::start(founders, Workload::Own, RATE)?;
    joiner.hold(point)?;
    cluster.boot(&[joiner])?;
    cluster.eventually(JOIN_MAX, &format!("the join has come to {point}"), |_| {
        ensure!(joiner.is_held(point), "not yet");
        Ok(())
    })?;
    kill(node, victim)?;
    joiner.let_go(point)?;
    sleep(DEAD_FOR);
    start(node, victim)?;
    if role != Role::Joiner && victim != Victim::Agent {
        cluster.eventually(seconds(30), "the server answers again", |_| {
            node.sql("select 1").map(drop)
        })?;
        load.add(node, Workload::Own, RATE)?;
    }
    ready(cluster, joiner)?;
    load.add(joiner, Workload::Own, RATE)?;
    sleep(Duration::from_secs(1));
    load.stop()?;
    let nodes = [source, bystander, joiner];
    await_equality(cluster, &nodes)?;
    cluster.eventually(seconds(60), "the mesh is whole", |c| {
        c.assembled_among(&nodes)
    })?;
    let what = "each has what it needs, and nothing beside";
    cluster.eventually(seconds(30), what, |_| nothing_is_left_over(&nodes))?;
    leave(cluster, joiner, founders)
}

/// The joiner copies from the member with the lowest UUID that answers.
fn source_first<'a>(founders: &[&'a Node]) -> Result<(&'a Node, &'a Node)> {
    let [one, two] = founders else {
        bail!("two founders are expected");
    };
    let lower = one.status()?.answered_by.node < two.status()?.answered_by.node;
    Ok(if lower { (one, two) } else { (two, one) })
}

pub(crate) fn kill(node: &Node, victim: Victim) -> Result<()> {
    if victim != Victim::Postmaster {
        node.kill9_agent()?;
    }
    if victim != Victim::Agent {
        node.kill9_postmaster()?;
    }
    Ok(())
}

pub(crate) fn start(node: &Node, victim: Victim) -> Result<()> {
    if victim != Victim::Agent {
        node.start_postgres()?;
    }
    if victim != Victim::Postmaster {
        node.start_agent()?;
    }
    Ok(())
}

/// Each node has a slot and a subscription for each other, and none beside.
fn nothing_is_left_over(nodes: &[&Node]) -> Result<()> {
    let others = nodes.len() - 1;
    for node in nodes {
        let slots = node
            .sql("select count(*) from pg_replication_slots where plugin = 'pglogical_output'")?;
        let subscriptions = node.sql("select count(*) from pglogical.subscription")?;
        ensure!(
            slots == others.to_string() && subscriptions == others.to_string(),
            "{} has {slots} slots and {subscriptions} subscriptions for {others} others",
            node.name()
        );
    }
    Ok(())
}

/// The node leaves, so that the next joins a mesh of two again.
fn leave(cluster: &Cluster, joiner: &Node, founders: &[&Node]) -> Result<()> {
    joiner.order(&["leave"])?;
    cluster.eventually(seconds(60), "it has left", |c| c.assembled_among(founders))?;
    joiner.stop_agent()?;
    joiner.stop_postgres()?;
    let what = "nothing of it is left over";
    cluster.eventually(seconds(60), what, |_| nothing_is_left_over(founders))?;
    Ok(())
}

#[test]
fn two_nodes_join_at_once() -> Result<()> {
    play_unstarted(4, |cluster| {
        let founders = mesh(cluster, 2)?;
        let load = Load::start(&founders, Workload::Own, RATE)?;
        let [_, _, c, d] = cluster.each()?;
        cluster.boot(&[c])?;
        join(cluster, d)?;
        ready(cluster, c)?;
        load.stop()?;
        let nodes: Vec<&Node> = cluster.nodes().iter().collect();
        await_equality(cluster, &nodes)?;
        let what = "each has what it needs, and nothing beside";
        cluster.eventually(seconds(30), what, |_| nothing_is_left_over(&nodes))?;
        Ok(())
    })
}
