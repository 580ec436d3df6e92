//! Leaving: what the node alone has or knows is settled before it goes.

use crate::resync::{drop_slot, slot};
use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::record::EdgeState;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{create_orders, hold_orders, write_orders};

/// The row's key.
const ID: &str = "5b0c2a6e-0000-4000-8000-000000000001";

fn value(node: &Node, expected: &str) -> Result<()> {
    let found = node.sql("select coalesce(min(node), 'none') from public.orders")?;
    ensure!(found == expected, "{} has {found}", node.name());
    Ok(())
}

/// Two nodes that are apart write one row, the third deletes it last, and the two get each other's
/// version after the delete. Only the third knows that neither may stay.
#[test]
fn a_node_that_leaves_settles_what_it_deleted() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        cluster.net.cut("a", "b")?;
        let insert = |node: &Node, note: &str| {
            node.sql(&format!(
                "insert into public.orders values ('{ID}', '{note}', 1)"
            ))
        };
        insert(b, "first")?;
        cluster.eventually(seconds(30), "c has the first", |_| value(c, "first"))?;
        insert(a, "second")?;
        cluster.eventually(seconds(30), "c has the second", |_| value(c, "second"))?;
        c.sql("delete from public.orders")?;
        cluster.eventually(seconds(30), "the row is gone", |_| {
            value(a, "none")?;
            value(b, "none")
        })?;
        c.order(&["leave"])?;
        cluster.eventually(seconds(30), "c says what it waits for", |_| {
            let waiting = c.status()?.waiting_on;
            let told = waiting.iter().any(|on| on.kind == "rows");
            ensure!(told, "{waiting:?}");
            Ok(())
        })?;
        cluster.net.heal()?;
        c.order(&["wait", "--for=left", "--timeout=60s"])?;
        cluster.eventually(seconds(60), "c is gone, and the row", |cluster| {
            cluster.assembled_among(&[a, b])?;
            value(a, "none")?;
            value(b, "none")
        })?;
        Ok(())
    })
}

/// Does the node see that `subscriber` lacks changes of `provider`?
fn lacks(node: &Node, subscriber: &Node, provider: &Node) -> Result<()> {
    let report = node.status()?;
    let id = |of: &Node| {
        let mut members = report.members.iter();
        let found = members.find(|member| member.name == of.name());
        found.map(|member| member.node)
    };
    let (subscriber, provider) = (id(subscriber), id(provider));
    let mut edges = report.edges.iter();
    let edge = edges
        .find(|edge| Some(edge.subscriber) == subscriber && Some(edge.provider) == provider)
        .context("no such edge")?;
    ensure!(edge.state == EdgeState::NeedsResync, "{edge:?}");
    Ok(())
}

/// Two have lost their slots on each other. The one is not let go while the other lacks what it wrote;
/// by force it goes, and the other gets that from the third, without a command.
#[test]
fn what_a_member_lacks_holds_a_node_back() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        let slots = [(a, slot(a, b)?), (b, slot(b, a)?)];
        cluster.net.cut("a", "b")?;
        // Before anything is written that would be on its way.
        for (provider, slot) in &slots {
            drop_slot(provider, slot)?;
        }
        write_orders(a, 10)?;
        write_orders(b, 10)?;
        cluster.eventually(seconds(30), "c has what both wrote", |_| hold_orders(c, 20))?;
        cluster.net.heal()?;
        cluster.eventually(seconds(60), "all know that both lack changes", |_| {
            for node in [a, b] {
                lacks(node, b, a)?;
                lacks(node, a, b)?;
            }
            Ok(())
        })?;
        let refused = a.ask(&["leave"])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            !refused.status.success() && said.contains("lacks changes of this node"),
            "{said}"
        );
        hold_orders(b, 10)?;
        a.order(&["leave", "--force"])?;
        a.order(&["wait", "--for=left", "--timeout=60s"])?;
        cluster
            .eventually(seconds(60), "b has what a wrote", |cluster| {
                cluster.assembled_among(&[b, c])?;
                hold_orders(b, 20)?;
                hold_orders(c, 20)
            })
            .map(drop)
    })
}
