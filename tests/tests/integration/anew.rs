//! `kill -9` of an agent, of a postmaster and of both, on a node that is synchronised anew and on
//! the others, before it is a joiner again. It ends well without an operator, and nothing that an
//! application was told is stored is lost.

use crate::join::crashes::{DEAD_FOR, VICTIMS, Victim, kill, part, start};
use crate::resync::{drop_slot, slot, write_notes};
use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Context, Result, bail, ensure};
use pgaa_core::join::POINTS_ANEW;
use pgaa_core::record::EdgeState;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::load::{Load, Rate, Workload, await_equality, create_tables};
use pgaa_tests::node::{APPLICATION, Node};
use pgaa_tests::scenario::play;
use pgaa_tests::workload::create_application;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

/// How hard the other nodes are written to meanwhile.
const RATE: Rate = Rate::PerSecond(30);

/// How long a node may take to be a member again. A bound for "never": two attempts are 20 s apart.
const ANEW_MAX: Duration = Duration::from_secs(120);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The node that lacks changes.
    Itself,
    /// The one that lost its slot.
    Provider,
    /// The third.
    Bystander,
}

type Crash = (&'static str, Role, Victim);

const ROLES: [Role; 3] = [Role::Itself, Role::Provider, Role::Bystander];

/// The node itself at each point, and another at one; or, as `ANEW_CRASHES` asks, everything at every
/// point, or a part of that.
fn crashes() -> Result<Vec<Crash>> {
    let asked = std::env::var("ANEW_CRASHES").ok();
    let Some((part, of)) = part(asked.as_deref())? else {
        return Ok(vec![
            ("resyncing", Role::Itself, Victim::Agent),
            ("drained", Role::Itself, Victim::Both),
            ("exported", Role::Itself, Victim::Postmaster),
            ("resyncing", Role::Provider, Victim::Both),
        ]);
    };
    let every = POINTS_ANEW.iter().flat_map(|point| {
        let roles = ROLES.iter();
        roles.flat_map(|role| VICTIMS.map(|victim| (*point, *role, victim)))
    });
    let mut every: Vec<Crash> = every.collect();
    let count = every.len();
    Ok(every
        .drain(count * (part - 1) / of..count * part / of)
        .collect())
}

#[test]
fn being_synchronised_anew_survives_every_crash() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_application(cluster)?;
        create_tables(cluster, &[a, b, c])?;
        cluster.everywhere(&format!(
            "create table public.notes (id uuid primary key);
             grant all on public.notes to {APPLICATION}"
        ))?;
        cluster.eventually(seconds(30), "public.notes is replicated", |cluster| {
            cluster.replicates(&["public.notes"])
        })?;
        let over = AtomicBool::new(false);
        let (played, stored) = thread::scope(|scope| {
            let writer = scope.spawn(|| write_notes(c, &over));
            let played = crashes().and_then(|crashes| {
                crashes.into_iter().try_for_each(|crash| {
                    eprintln!("======== {crash:?}");
                    interrupted(cluster, [a, b, c], crash).with_context(|| format!("{crash:?}"))
                })
            });
            over.store(true, Ordering::Relaxed);
            (played, writer.join())
        });
        played?;
        let Ok(stored) = stored else {
            bail!("the application that writes on c has panicked");
        };
        nothing_is_lost(cluster, &stored)
    })
}

fn interrupted(
    cluster: &Cluster,
    [a, b, c]: [&Node; 3],
    (point, role, victim): Crash,
) -> Result<()> {
    let node = match role {
        Role::Itself => c,
        Role::Provider => a,
        Role::Bystander => b,
    };
    let mut load = Load::start(&[a, b], Workload::Own, RATE)?;
    c.hold(point)?;
    drop_slot(a, &slot(a, c)?)?;
    cluster.eventually(ANEW_MAX, &format!("c has come to {point}"), |_| {
        ensure!(c.is_held(point), "{:?}", c.status()?.findings);
        Ok(())
    })?;
    kill(node, victim)?;
    c.let_go(point)?;
    sleep(DEAD_FOR);
    start(node, victim)?;
    cluster.eventually(seconds(30), "the server answers again", |_| {
        node.sql("select 1").map(drop)
    })?;
    if role != Role::Itself && victim != Victim::Agent {
        load.add(node, Workload::Own, RATE)?;
    }
    cluster.eventually(ANEW_MAX, "c is a member again", |cluster| {
        cluster.assembled()
    })?;
    follows(c, a)?;
    sleep(seconds(1));
    load.stop()?;
    await_equality(cluster, &[a, b, c])?;
    cluster.eventually(seconds(30), "nobody has a slot too many", |_| {
        for node in [a, b, c] {
            let slots = node.sql(
                "select count(*) from pg_replication_slots where plugin = 'pglogical_output'",
            )?;
            ensure!(slots == "2", "{} has {slots} slots", node.name());
        }
        Ok(())
    })?;
    Ok(())
}

fn follows(subscriber: &Node, provider: &Node) -> Result<()> {
    let status = subscriber.status()?;
    let member = status.members.iter().find(|m| m.name == provider.name());
    let provider = member.context("no such member")?.node;
    let mut edges = status.edges.iter();
    let edge = edges
        .find(|edge| edge.provider == provider && edge.subscriber == status.answered_by.node)
        .context("no such edge")?;
    ensure!(
        edge.state == EdgeState::Replicating,
        "it is {:?}",
        edge.state
    );
    Ok(())
}

fn nothing_is_lost(cluster: &Cluster, stored: &BTreeSet<String>) -> Result<()> {
    eprintln!("          {} notes of an application on c", stored.len());
    ensure!(!stored.is_empty(), "the application never got in");
    cluster.eventually(RECOVERY_MAX, "no note is lost", |cluster| {
        for node in cluster.nodes() {
            let rows = node.sql("select id from public.notes")?;
            let there: BTreeSet<String> = rows.lines().map(str::to_owned).collect();
            let lost = stored.difference(&there).count();
            ensure!(lost == 0, "{lost} of {} on {}", stored.len(), node.name());
        }
        Ok(())
    })?;
    Ok(())
}
