//! Leaving: what the node alone knows is settled before it goes.

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Result, ensure};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::create_orders;

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
