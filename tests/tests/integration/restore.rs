//! Going back in time with real pgBackRest: what somebody deleted by accident is found in a backup
//! and written back through the mesh, and a restored copy stays apart from everything.

mod anew;
pub(crate) mod backups;
mod killed;
mod proof;

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use backups::{Backups, repository_for, sql_at};
use pgaa_core::restore::lost::{LostReport, LostTable};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::output;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play_unstarted;
use std::path::Path;
use std::process::Output;

/// The shop, in which a customer's orders go with the customer.
const SHOP: &str = "
    create table public.customers (
        id int primary key,
        name text not null unique,
        since timestamptz not null default now(),
        letters int generated always as (length(name)) stored);
    create table public.orders (
        customer int not null references public.customers on delete cascade,
        number int not null,
        goods jsonb,
        price numeric not null,
        primary key (customer, number));
    create table public.audit (id uuid primary key default gen_random_uuid(), what text);
    create function public.note() returns trigger language plpgsql as
        $$begin insert into audit (what) values (tg_op || ' ' || new.name); return new; end$$;
    create trigger note after insert on public.customers for each row execute function public.note()";

/// What all nodes must agree on.
const SUM: &str = "
    select md5((select coalesce(string_agg(c::text, ',' order by id), '') from public.customers c)
        || (select coalesce(string_agg(o::text, ',' order by customer, number), '')
            from public.orders o))";

/// `pgaa-agent backup ...` on a node.
fn backup(node: &Node, arguments: &[&str]) -> Result<Output> {
    let mut all = vec!["backup"];
    all.extend(arguments);
    output(&mut node.agent_command(&all))
}

fn succeed(node: &Node, arguments: &[&str]) -> Result<String> {
    let output = backup(node, arguments)?;
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{arguments:?}: {said}\n{complained}"
    );
    Ok(said.into_owned())
}

fn report(output: &Output) -> Result<LostReport> {
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).context(complained)
}

fn table<'a>(report: &'a LostReport, name: &str) -> Result<&'a LostTable> {
    let found = report.tables.iter().find(|table| table.table == name);
    found.with_context(|| format!("{name} is not in {report:?}"))
}

fn equal(nodes: &[&Node], expected: &str) -> Result<()> {
    for node in nodes {
        let sum = node.sql(SUM)?;
        ensure!(sum == expected, "{} has other rows", node.name());
    }
    Ok(())
}

/// The server's clock, as a person would note it.
fn now(node: &Node) -> Result<String> {
    node.sql("select clock_timestamp()")
}

/// Boots three nodes with a repository, fills the shop, and takes a backup on the first.
fn open_shop(cluster: &Cluster) -> Result<Backups> {
    let nodes: [&Node; 3] = cluster.each()?;
    let [a, ..] = nodes;
    repository_for(a, &nodes)?;
    cluster.boot(&nodes)?;
    cluster.await_assembly(ASSEMBLY_MAX)?;
    cluster.everywhere(SHOP)?;
    cluster.eventually(seconds(30), "the shop is replicated", |c| {
        c.replicates(&["public.customers", "public.orders", "public.audit"])
    })?;
    a.sql("insert into public.customers (id, name) select i, 'customer ' || i from generate_series(1, 3000) as i")?;
    let backups = Backups::on(cluster, a)?;
    a.sql(
        "insert into public.orders
         select i, n, jsonb_build_object('wheels', n, 'note', 'it''s \"blue\"'), i * 1.50
           from generate_series(1, 3000) as i, generate_series(1, 2) as n",
    )?;
    let expected = a.sql(SUM)?;
    cluster.eventually(seconds(30), "all nodes have the shop", |_| {
        equal(&nodes, &expected)
    })?;
    Ok(backups)
}

#[test]
fn an_accidental_delete_is_found_in_the_backup_and_written_back_through_the_mesh() -> Result<()> {
    play_unstarted(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, c] = nodes;
        let _backups = open_shop(cluster)?;
        let before = now(a)?;

        // Somebody on b forgets half of the condition. A second later the rows are gone from
        // every node, with all their orders.
        b.sql("delete from public.customers where id <= 1200")?;
        cluster.eventually(seconds(30), "the rows are gone everywhere", |_| {
            for node in nodes {
                let left = node.sql("select count(*) from public.orders where customer <= 1200")?;
                ensure!(left == "0", "{} still has {left}", node.name());
            }
            Ok(())
        })?;
        // Business goes on meanwhile: a new customer, a new price, a name that is given again.
        c.sql("insert into public.customers (id, name) values (5000, 'new one'), (5001, 'customer 7')")?;
        c.sql("update public.orders set price = 9.99 where customer = 2000 and number = 1")?;
        cluster.eventually(seconds(30), "business has reached a", |_| {
            let price =
                a.sql("select price from public.orders where customer = 2000 and number = 1")?;
            ensure!(price == "9.99", "{price}");
            let there = a.sql("select count(*) from public.customers where id > 4999")?;
            ensure!(there == "2", "{there}");
            Ok(())
        })?;

        seen_and_untouched(a, &before)?;
        written_back(cluster, &nodes, &before)
    })
}

/// `backup diff` shows what was lost, and writes nothing.
fn seen_and_untouched(a: &Node, before: &str) -> Result<()> {
    let sum = a.sql(SUM)?;
    let output = backup(a, &["diff", "--target-time", before, "-o", "json"])?;
    let found = report(&output)?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    let customers = table(&found, "public.customers")?;
    ensure!(
        (
            customers.rows_then,
            customers.deleted,
            customers.changed,
            customers.new
        ) == (3000, 1200, 0, 2),
        "{customers:?}"
    );
    let orders = table(&found, "public.orders")?;
    ensure!(
        (orders.rows_then, orders.deleted, orders.changed, orders.new) == (6000, 2400, 1, 0),
        "{orders:?}"
    );
    let lost = customers.rows.first().context("no row is shown")?;
    ensure!(
        lost.now.is_none() && lost.then.contains_key("name"),
        "{lost:?}"
    );
    let audit = table(&found, "public.audit")?;
    ensure!(audit.deleted == 0 && audit.new == 2, "{audit:?}");
    // Parents come before what refers to them.
    let place = |name| found.tables.iter().position(|table| table.table == name);
    ensure!(
        place("public.customers") < place("public.orders"),
        "{found:?}"
    );
    let text = backup(a, &["diff", "orders", "--target-time", before])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for expected in ["2400", "gone", "Nothing was written", "--write-back"] {
        ensure!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    ensure!(a.sql(SUM)? == sum, "a comparison has written something");
    // Nobody can be asked here, and nobody has said --yes.
    let refused = backup(a, &["diff", "--target-time", before, "--write-back"])?;
    ensure!(refused.status.code() == Some(64), "{}", refused.status);
    ensure!(a.sql(SUM)? == sum, "rows were written without a yes");
    nothing_is_left(a)
}

/// Restores for one command are gone after it.
fn nothing_is_left(node: &Node) -> Result<()> {
    let left = std::fs::read_dir(node.file("state/restore"))?.count();
    ensure!(left == 0, "{left} directories are left");
    Ok(())
}

fn written_back(cluster: &Cluster, nodes: &[&Node; 3], before: &str) -> Result<()> {
    let [a, ..] = nodes;
    let arguments = [
        "diff",
        "--target-time",
        before,
        "--write-back",
        "--yes",
        "-o",
        "json",
    ];
    let output = backup(a, &arguments)?;
    let found = report(&output)?;
    let customers = table(&found, "public.customers")?;
    let back = customers.written.context("nothing was written")?;
    // The name of customer 7 belongs to another one now: that one stays.
    ensure!(
        (back.inserted, back.updated, back.left) == (1199, 0, 1),
        "{back:?}"
    );
    // Two orders have nobody to belong to, and the batch they are in is refused as a whole.
    let orders = table(&found, "public.orders")?;
    let problem = orders.problem.as_deref().context("orphans were written")?;
    ensure!(problem.contains("foreign key"), "{problem}");
    ensure!(output.status.code() == Some(1), "{}", output.status);

    // An operator gives the name back, and asks again. What was written is passed over.
    a.sql("update public.customers set name = 'another 7' where id = 5001")?;
    let arguments = [
        "diff",
        "customers",
        "orders",
        "--target-time",
        before,
        "--write-back",
        "--changed",
        "--yes",
        "-o",
        "json",
    ];
    let output = backup(a, &arguments)?;
    let found = report(&output)?;
    ensure!(
        output.status.code() == Some(0),
        "{}: {found:?}",
        output.status
    );
    let orders = table(&found, "public.orders")?
        .written
        .context("nothing was written")?;
    ensure!((orders.updated, orders.left) == (1, 0), "{orders:?}");
    a.sql("delete from public.customers where id >= 5000")?;
    let arguments = ["diff", "customers", "orders", "--target-time", before];
    let text = succeed(a, &arguments).context("something is still missing")?;
    ensure!(!text.contains("--write-back"), "{text}");

    // Ordinary writes: every node has them, and the application's trigger has seen them once.
    let expected = a.sql(SUM)?;
    cluster.eventually(seconds(60), "every node has what was lost", |_| {
        equal(nodes, &expected)
    })?;
    let noted = a.sql("select count(*) from public.audit where what = 'INSERT customer 12'")?;
    ensure!(noted == "2", "the trigger has noted it {noted} times");
    nothing_is_left(a)
}

#[test]
fn a_restored_copy_is_apart_from_everything_and_only_it_is_removed() -> Result<()> {
    play_unstarted(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, _] = nodes;
        let _backups = open_shop(cluster)?;
        let before = now(a)?;
        b.sql("truncate public.orders")?;
        let copy = a.file("copy");
        let to = copy.display().to_string();

        refusals(a, &to, &before)?;
        let said = succeed(a, &["restore", "--to", &to, "--target-time", &before])?;
        ensure!(said.contains(&format!("psql -h {to}/sock")), "{said}");
        let there = |statement: &str| sql_at(&copy.join("sock"), statement);
        ensure!(
            there("select count(*) from public.orders")? == "6000",
            "not what it was"
        );
        apart(&there)?;
        // Asking for the same again is no error, and does nothing twice.
        succeed(a, &["restore", "--to", &to, "--target-time", &before])?;
        let other = backup(a, &["restore", "--to", &to])?;
        ensure!(!other.status.success(), "a copy was replaced by another");
        compared_with(a, &to)?;

        std::fs::write(copy.join("mine.sql"), "select 1")?;
        let said = succeed(a, &["discard", &to])?;
        ensure!(said.contains("stays"), "{said}");
        ensure!(copy.join("mine.sql").exists() && !copy.join("data").exists());
        ensure!(a.sql("select 1")? == "1", "the live server was stopped");
        cluster.assembled()
    })
}

fn refusals(a: &Node, to: &str, before: &str) -> Result<()> {
    let refused = |arguments: &[&str], because: &str| -> Result<()> {
        let output = backup(a, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && said.contains(because),
            "{arguments:?}: {said}"
        );
        Ok(())
    };
    refused(
        &["restore", "--to", to, "--target-time", "2020-01-01"],
        "name a later time",
    )?;
    refused(
        &["restore", "--to", to, "--target-time", "3020-01-01"],
        "lies ahead",
    )?;
    refused(&["restore", "--to", to, "--stanza", "x"], "has no stanza")?;
    ensure!(
        !Path::new(to).exists(),
        "a refused restore has left a directory"
    );
    let data = a.data_directory().display().to_string();
    refused(
        &["restore", "--to", &data, "--target-time", before],
        "not empty",
    )?;
    refused(&["discard", &data], "nothing was removed")
}

/// Nothing in the copy can write, reach out, or be reached from outside.
fn apart(there: &dyn Fn(&str) -> Result<String>) -> Result<()> {
    let setting = |name: &str| there(&format!("select current_setting('{name}')"));
    ensure!(setting("listen_addresses")?.is_empty());
    ensure!(setting("shared_preload_libraries")?.is_empty());
    ensure!(setting("archive_mode")? == "off");
    ensure!(
        there("insert into public.audit (what) values ('x')").is_err(),
        "it was written to"
    );
    let workers = there(
        "select count(*) from pg_stat_activity where backend_type ~ 'pglogical|logical|walsender|archiver'",
    )?;
    ensure!(workers == "0", "{workers} workers run");
    // The subscriptions are in it, and nobody acts on them.
    ensure!(there("select count(*) from pglogical.subscription")? == "2");
    ensure!(there("select count(*) from pg_replication_slots")? == "0");
    Ok(())
}

fn compared_with(a: &Node, to: &str) -> Result<()> {
    let output = backup(
        a,
        &["diff", "orders", "--from", to, "--rows", "3", "-o", "json"],
    )?;
    let found = report(&output)?;
    let orders = table(&found, "public.orders")?;
    ensure!(
        (orders.deleted, orders.rows.len()) == (6000, 3),
        "{orders:?}"
    );
    ensure!(Path::new(to).join("data").exists(), "the copy was removed");
    Ok(())
}
