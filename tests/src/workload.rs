//! Rows that tell what happened to them: who wrote them, and how often they arrived.

use crate::cluster::Cluster;
use crate::node::{APPLICATION, Node};
use anyhow::{Result, ensure};
use std::time::Duration;

/// How long rows may take to be the same everywhere. Generous: it is a bound for "never".
const CONVERGE_MAX: Duration = Duration::from_secs(60);

/// A table, and a list of what arrived in it: the trigger fires for rows of the application as
/// for rows that replication applies, in the same transaction, so that the list holds after a
/// crash as well. Its schema is excluded from replication.
const ORDERS: &str = "
    create table public.orders (id uuid primary key, node text not null, amount int not null);
    create schema harness;
    create table harness.arrivals (id uuid not null);
    create function harness.note_arrival() returns trigger language plpgsql as
        $$ begin insert into harness.arrivals values (new.id); return null; end $$;
    create trigger note_arrival after insert or update on public.orders
        for each row execute function harness.note_arrival();
    alter table public.orders enable always trigger note_arrival;
";

/// A join token, the same for all who ask with the same number.
#[must_use]
pub fn token(number: u8) -> String {
    format!(
        "pgaa1.{}.{}",
        "0".repeat(16),
        format!("{number:02x}").repeat(32)
    )
}

/// Makes the role that applications use, on every node.
pub fn create_application(cluster: &Cluster) -> Result<()> {
    cluster.everywhere(&format!(
        "create role {APPLICATION} login password '{APPLICATION}';
         grant all on schema public to {APPLICATION};"
    ))
}

/// Makes the table `public.orders` on every node and waits until every node replicates it.
pub fn create_orders(cluster: &Cluster) -> Result<()> {
    cluster.everywhere(ORDERS)?;
    let what = "public.orders is replicated by all";
    cluster.eventually(Duration::from_secs(30), what, |c| {
        c.replicates(&["public.orders"])
    })?;
    Ok(())
}

/// Has the node so many of them?
pub fn hold_orders(node: &Node, expected: usize) -> Result<()> {
    let found = node.sql("select count(*) from public.orders")?;
    ensure!(
        found == expected.to_string(),
        "{} has {found} rows",
        node.name()
    );
    Ok(())
}

/// Writes rows on one node, each in a transaction of its own.
pub fn write_orders(node: &Node, count: usize) -> Result<()> {
    node.sql_in(
        crate::node::DATABASE,
        &format!(
            "do $$ begin for i in 1..{count} loop
                 insert into public.orders values (gen_random_uuid(), '{}', i); commit;
             end loop; end $$",
            node.name()
        ),
    )
    .map(drop)
}

/// All nodes hold the same rows, as many as expected, and each arrived exactly once.
pub fn converged(cluster: &Cluster, rows: usize) -> Result<()> {
    const DIGEST: &str = "select count(*) || ' rows ' ||
        coalesce(md5(string_agg(o::text, E'\\n' order by id)), '') from public.orders o";
    let mut first = None;
    for node in cluster.nodes() {
        let digest = node.sql(DIGEST)?;
        let counted = digest.split(' ').next().unwrap_or_default();
        ensure!(
            counted == rows.to_string(),
            "{} has {digest}, not {rows}",
            node.name()
        );
        let reference = first.get_or_insert_with(|| digest.clone()).clone();
        ensure!(
            digest == reference,
            "{} has {digest}, not {reference}",
            node.name()
        );
        let arrivals = node.sql("select count(*) from harness.arrivals")?;
        ensure!(
            arrivals == rows.to_string(),
            "{}: {arrivals} arrivals of {rows} rows",
            node.name()
        );
    }
    Ok(())
}

/// Waits for [`converged`].
pub fn await_convergence(cluster: &Cluster, rows: usize) -> Result<Duration> {
    let what = format!("{rows} rows are on every node, each arrived once");
    cluster.eventually(CONVERGE_MAX, &what, |c| converged(c, rows))
}
