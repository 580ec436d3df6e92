//! A node is away for a minute and comes back. pglogical alone backs off for up to three minutes.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{await_convergence, create_orders, write_orders};
use std::thread::sleep;
use std::time::Duration;

/// The promise is 2 s; the bound leaves room for a machine that does other things as well. The
/// time it took is printed.
const RETURN_MAX: Duration = Duration::from_secs(5);

#[test]
fn a_node_replicates_soon_after_a_minute_without_network() -> Result<()> {
    play(3, |cluster| {
        let [a, _, c] = cluster.each()?;
        prepare(cluster)?;
        cluster.net.isolate(c.name())?;
        write_orders(a, 20)?;
        write_orders(c, 20)?;
        sleep(seconds(60));
        ensure!(
            c.status()?.node.gate_open,
            "a node that is cut off has to go on taking writes"
        );
        cluster.net.heal()?;
        came_back(cluster, a, c)?;
        await_convergence(cluster, 40)?;
        cluster.eventually(
            RECOVERY_MAX,
            "status says that all is well",
            Cluster::assembled,
        )?;
        Ok(())
    })
}

#[test]
fn a_node_replicates_soon_after_it_was_frozen() -> Result<()> {
    play(3, |cluster| {
        let [a, _, c] = cluster.each()?;
        prepare(cluster)?;
        c.freeze()?;
        write_orders(a, 20)?;
        sleep(seconds(20));
        c.thaw()?;
        came_back(cluster, a, c)?;
        write_orders(c, 20)?;
        await_convergence(cluster, 40)?;
        cluster.eventually(
            RECOVERY_MAX,
            "status says that all is well",
            Cluster::assembled,
        )?;
        Ok(())
    })
}

fn prepare(cluster: &Cluster) -> Result<()> {
    cluster.await_assembly(ASSEMBLY_MAX)?;
    create_orders(cluster)
}

/// Rows written while the node was away have arrived on it, and its own elsewhere: what
/// "replicating" means to an application.
fn came_back(cluster: &Cluster, other: &Node, returned: &Node) -> Result<()> {
    let rows = |node: &Node, of: &Node| {
        let filter = format!(
            "select count(*) from public.orders where node = '{}'",
            of.name()
        );
        node.sql(&filter)
    };
    let took = cluster.eventually(
        RECOVERY_MAX,
        "rows flow to and from the returned node",
        |_| {
            for of in [other, returned] {
                let (there, here) = (rows(other, of)?, rows(returned, of)?);
                ensure!(
                    there == here,
                    "{} rows of {} on one side, {} on the other",
                    there,
                    of.name(),
                    here
                );
            }
            Ok(())
        },
    )?;
    ensure!(
        took <= RETURN_MAX,
        "it took {took:?} until rows flowed, not {RETURN_MAX:?}"
    );
    Ok(())
}
