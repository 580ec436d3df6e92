//! A slot is lost on one side, on both, or made anew by hand: who lacks changes is found out, and is
//! synchronised anew by itself when nothing is lost by it.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Context, Result, bail, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_core::record::EdgeState;
use pgaa_core::state::NodeState;
use pgaa_core::time::Mono;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::load::{Load, Rate, Workload, await_equality, create_tables};
use pgaa_tests::node::{APPLICATION, Node};
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{create_application, create_orders, write_orders};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How long a node may take to be synchronised anew. A bound for "never".
const ANEW_MAX: Duration = Duration::from_secs(120);

/// The name of the slot by which `subscriber` reads `provider`.
pub(crate) fn slot(provider: &Node, subscriber: &Node) -> Result<String> {
    let name = provider
        .sql("select node_name from pglogical.local_node join pglogical.node using (node_id)")?;
    subscriber.sql(&format!(
        "select sub_slot_name from pglogical.subscription
           join pglogical.node on node_id = sub_origin where node_name = '{name}'"
    ))
}

/// Drops a slot as somebody would by hand, however often its reader connects again.
pub(crate) fn drop_slot(provider: &Node, slot: &str) -> Result<()> {
    provider
        .sql(&format!(
            "do $$ begin loop
                 perform pg_terminate_backend(active_pid) from pg_replication_slots
                   where slot_name = '{slot}' and active;
                 begin
                     perform pg_drop_replication_slot('{slot}');
                     exit;
                 exception when object_in_use then null;
                 end;
             end loop; end $$"
        ))
        .map(drop)
}

/// An application that writes on a node whenever it gets in, until it is told to stop. Returns
/// what it was told is stored.
pub(crate) fn write_notes(node: &Node, over: &AtomicBool) -> BTreeSet<String> {
    let mut stored = BTreeSet::new();
    while !over.load(Ordering::Relaxed) {
        let insert = "insert into public.notes values (gen_random_uuid()) returning id";
        // Its gate is shut meanwhile, and its tables are gone for a moment.
        if let Ok(id) = node.application_sql(insert) {
            stored.insert(id);
        }
    }
    stored
}

pub(crate) fn event(node: &Node, what: &str) -> Result<bool> {
    Ok(node.order(&["events", "-o", "json"])?.contains(what))
}

/// The node says that it was emptied, and is a member again with every edge alive.
pub(crate) fn was_made_anew(cluster: &Cluster, node: &Node) -> Result<Duration> {
    let what = format!("{} was synchronised anew", node.name());
    cluster.eventually(ANEW_MAX, &what, |cluster| {
        let report = node.status()?;
        ensure!(
            event(node, "exported")? && report.node.state == NodeState::Ready,
            "{}: {:?} {:?}",
            report.node.state.word(),
            report.waiting_on,
            report.findings
        );
        cluster.assembled()
    })
}

/// What the node held is in a file that status names, and that can be read.
fn exported(node: &Node, table: &str) -> Result<()> {
    let findings = node.status()?.findings;
    let found = findings.iter().find(|finding| finding.code == "exported");
    let text = &found.context("no finding names the export")?.text;
    let file = text.rsplit(' ').next().unwrap_or_default();
    ensure!(Path::new(file).is_file(), "{text}");
    let listed =
        pgaa_tests::command::call("/usr/lib/postgresql/15/bin/pg_restore", &["--list", file])?;
    ensure!(listed.contains(table), "{table} is not in {file}: {listed}");
    Ok(())
}

#[test]
fn a_node_whose_slot_was_dropped_is_synchronised_anew() -> Result<()> {
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
        // Its sequences go on behind what it had given before.
        let tickets =
            "insert into public.tickets (node, text) select 3, 'c' from generate_series(1, 20)";
        c.sql(tickets)?;
        let load = Load::start(&[a, b], Workload::Own, Rate::PerSecond(50))?;
        let over = AtomicBool::new(false);
        let (played, stored) = thread::scope(|scope| {
            let writer = scope.spawn(|| write_notes(c, &over));
            let played = lose_and_heal(cluster, (a, c));
            over.store(true, Ordering::Relaxed);
            (played, writer.join())
        });
        load.stop()?;
        played?;
        let Ok(stored) = stored else {
            bail!("the application that writes on c has panicked");
        };
        exported(c, "notes")?;
        c.sql(tickets)?;
        await_equality(cluster, &[a, b, c])?;
        eprintln!("          {} notes of an application on c", stored.len());
        cluster.eventually(RECOVERY_MAX, "no note is lost", |_| {
            for node in [a, b, c] {
                let rows = node.sql("select id from public.notes")?;
                let there: BTreeSet<String> = rows.lines().map(str::to_owned).collect();
                let lost = stored.difference(&there).count();
                ensure!(lost == 0, "{lost} of {} on {}", stored.len(), node.name());
            }
            Ok(())
        })?;
        Ok(())
    })
}

fn lose_and_heal(cluster: &Cluster, (provider, subscriber): (&Node, &Node)) -> Result<()> {
    cluster.eventually(seconds(30), "the application has written", |_| {
        let notes = provider.sql("select count(*) from public.notes")?;
        ensure!(notes.parse::<u32>()? > 20, "{notes} notes");
        Ok(())
    })?;
    drop_slot(provider, &slot(provider, subscriber)?)?;
    was_made_anew(cluster, subscriber).map(drop)
}

/// Makes the slot by which c reads a anew, as somebody would by hand, while the agents of b and of
/// `unaware` are down. c, which had ten rows, lacks ten then, and has another.
fn make_slot_anew(cluster: &Cluster, unaware: &Node) -> Result<()> {
    let [a, b, c] = cluster.each()?;
    cluster.await_assembly(ASSEMBLY_MAX)?;
    create_orders(cluster)?;
    write_orders(c, 10)?;
    let slot = slot(a, c)?;
    // Until the others are back c can't be synchronised anew: the gap can be looked at.
    unaware.stop_agent()?;
    b.stop_agent()?;
    drop_slot(a, &slot)?;
    write_orders(a, 10)?;
    a.sql(&format!(
        "select pg_create_logical_replication_slot('{slot}', 'pglogical_output')"
    ))?;
    write_orders(a, 1)?;
    cluster.eventually(RECOVERY_MAX, "c reads again, and lacks rows", |_| {
        let rows = c.sql("select count(*) from public.orders")?;
        ensure!(rows == "11", "{rows} rows");
        Ok(())
    })?;
    Ok(())
}

/// What is between the two slots never arrives, and nothing but the agent says so.
#[test]
fn a_slot_that_was_made_anew_by_hand_is_found_out() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        make_slot_anew(cluster, c)?;
        c.start_agent()?;
        cluster.eventually(RECOVERY_MAX, "c says that it lacks changes", |_| {
            lacks_changes(c, a, "as soon as")
        })?;
        b.start_agent()?;
        was_made_anew(cluster, c)?;
        everything_is_everywhere(cluster)
    })
}

/// Its first heartbeat comes through the new slot, and could hide what is missing before it.
#[test]
fn a_slot_made_anew_while_no_agent_looked_hides_no_gap() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        make_slot_anew(cluster, a)?;
        cluster.eventually(RECOVERY_MAX, "the heartbeats of before are old", |_| {
            let state = edge(c, a)?;
            ensure!(state != EdgeState::Replicating, "the edge is {state:?}");
            Ok(())
        })?;
        a.start_agent()?;
        let (mut looks, clocks) = (0, Clocks::start());
        loop {
            let state = edge(c, a)?;
            if state == EdgeState::NeedsResync {
                break;
            }
            ensure!(
                state != EdgeState::Replicating,
                "over a gap, by look {looks}"
            );
            let over = clocks.mono().since(Mono(0)) > RECOVERY_MAX;
            ensure!(!over, "the edge is {state:?}");
            looks += 1;
        }
        eprintln!("          found out after {looks} looks");
        lacks_changes(c, a, "synchronised anew by itself")?;
        b.start_agent()?;
        was_made_anew(cluster, c)?;
        everything_is_everywhere(cluster)
    })
}

fn everything_is_everywhere(cluster: &Cluster) -> Result<()> {
    cluster.eventually(RECOVERY_MAX, "all rows are everywhere", |cluster| {
        let [a, b, c] = cluster.each()?;
        for node in [a, b, c] {
            let rows = node.sql("select count(*) from public.orders")?;
            ensure!(rows == "21", "{} has {rows} rows", node.name());
        }
        Ok(())
    })?;
    Ok(())
}

#[test]
fn lost_on_both_sides_nothing_is_emptied() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        let slots = [(a, slot(a, c)?), (c, slot(c, a)?)];
        a.stop_agent()?;
        c.stop_agent()?;
        for (provider, slot) in slots {
            drop_slot(provider, &slot)?;
            write_orders(provider, 10)?;
        }
        a.start_agent()?;
        c.start_agent()?;
        for (node, other) in [(a, c), (c, a)] {
            let what = format!("{} says what is to be done", node.name());
            cluster.eventually(RECOVERY_MAX, &what, |_| {
                lacks_changes(node, other, "neither is emptied")
            })?;
        }
        // They have gone on looking for as long as b takes to hear of rows written now.
        write_orders(a, 1)?;
        write_orders(c, 1)?;
        cluster.eventually(RECOVERY_MAX, "b has the rows of both", |_| {
            let rows = b.sql("select count(*) from public.orders")?;
            ensure!(rows == "22", "{rows} rows");
            Ok(())
        })?;
        for node in [a, c] {
            let own = format!(
                "select count(*) from public.orders where node = '{}'",
                node.name()
            );
            ensure!(node.sql(&own)? == "11", "{} has lost rows", node.name());
            ensure!(!event(node, "resyncing")?, "{} began to", node.name());
        }
        Ok(())
    })
}

/// What `subscriber` says of its edge from `provider`.
fn edge(subscriber: &Node, provider: &Node) -> Result<EdgeState> {
    let status = subscriber.status()?;
    let member = status.members.iter().find(|m| m.name == provider.name());
    let provider = member.context("no such member")?.node;
    let me = status.answered_by.node;
    let mut edges = status.edges.iter();
    let edge = edges.find(|edge| edge.provider == provider && edge.subscriber == me);
    Ok(edge.context("no such edge")?.state)
}

fn lacks_changes(subscriber: &Node, provider: &Node, says: &str) -> Result<()> {
    let state = edge(subscriber, provider)?;
    let status = subscriber.status()?;
    ensure!(state == EdgeState::NeedsResync, "the edge is {state:?}");
    let told = status.findings.iter().find(|f| f.code == "needs_resync");
    let text = &told.context("no finding says so")?.text;
    ensure!(text.contains(says), "{text}");
    Ok(())
}
