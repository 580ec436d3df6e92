//! An apply worker that can't apply a transaction is named, and can be led past it.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::status::Finding;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const PEOPLE: &str = "
    create table public.people (
        id int primary key, mail text unique, note text, phone text unique, nick text);
    create unique index people_nick on public.people (lower(nick)) where phone is null;";

/// Each row that is met stops a stream anew, and pglogical may wait before it tries again.
const SETTLED_MAX: Duration = Duration::from_secs(180);

fn finding(node: &Node) -> Result<Option<Finding>> {
    let mut found = node.status()?.findings.into_iter();
    Ok(found.find(|f| f.code == "apply_stuck"))
}

#[test]
fn a_transaction_that_can_not_be_applied_is_named_exported_and_skipped() -> Result<()> {
    play(2, |cluster| {
        let [a, b] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        cluster.everywhere(PEOPLE)?;
        cluster.everywhere(
            "create table public.letters (id int primary key, person int references public.people)",
        )?;
        cluster.eventually(seconds(30), "the tables are replicated", |c| {
            c.replicates(&["public.people", "public.letters"])
        })?;
        a.sql("insert into public.people values (1, 'one'), (2, 'two')")?;
        // A row refers to the one that would have to go: nothing is taken away by itself.
        a.sql("insert into public.letters values (1, 1)")?;
        cluster.eventually(seconds(30), "b has the rows", |_| {
            let letters = b.sql("select count(*) from public.letters")?;
            ensure!(letters == "1", "{letters} letters");
            has(b, "1 one,2 two")
        })?;
        // Here alone a row has the value that an update brings.
        b.sql_unsent("update public.people set mail = 'new' where id = 1")?;
        a.sql("update public.people set mail = 'new', note = E'two\\nlines' where id = 2")?;
        let (transaction, lsn) = named(cluster, b)?;
        refusals(a, b, &transaction)?;
        let told = b.order(&["skip-transaction", "a", &lsn, "-o", "json"])?;
        exported(&told, &transaction)?;
        a.sql("insert into public.people values (3, 'three')")?;
        cluster.eventually(RECOVERY_MAX, "what follows arrives on b", |_| {
            has(b, "1 new,2 two,3 three")
        })?;
        cluster.eventually(RECOVERY_MAX, "the mesh is whole", |_| {
            ensure!(finding(b)?.is_none(), "it is still called stuck");
            Cluster::assembled(cluster)
        })?;
        let events = b.order(&["events"])?;
        for kind in ["transaction_skipped", "conflict_log_gap"] {
            ensure!(events.contains(kind), "no {kind} in {events}");
        }
        cluster.eventually(
            RECOVERY_MAX,
            "the rows that were skipped are mended",
            |_| {
                let all = "select string_agg(p::text, ';' order by id) from public.people as p";
                let (on_a, on_b) = (a.sql(all)?, b.sql(all)?);
                ensure!(on_a == on_b, "a has {on_a}, b has {on_b}");
                let status = b.status()?;
                let gap = status.findings.iter().any(|f| f.code == "conflict_log_gap");
                ensure!(!gap && status.rows.is_clean(), "{:?}", status.findings);
                Ok(())
            },
        )?;
        Ok(())
    })
}

#[test]
fn two_rows_with_one_unique_value_are_settled_alike_on_all_nodes() -> Result<()> {
    play(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, _] = nodes;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        cluster.everywhere(PEOPLE)?;
        cluster.everywhere(
            "create table public.letters (
                 id int primary key, person int references public.people on delete cascade);
             create table public.rooms (id int primary key, door text unique)",
        )?;
        cluster.eventually(seconds(30), "the tables are replicated", |c| {
            c.replicates(&["public.people", "public.letters", "public.rooms"])
        })?;
        // That tables refer to one another is in nobody's way: only rows are.
        a.sql(
            "insert into public.people select i, 'p' || i from generate_series(1, 20) as i;
             insert into public.letters values (1, 2), (2, 16);
             insert into public.rooms values (1, 'one'), (2, 'two')",
        )?;
        cluster.eventually(seconds(30), "all have the rows", |_| same(&nodes).map(drop))?;
        cluster.net.cut("a", "b")?;
        take_values(a, b)?;
        cluster.net.heal()?;
        cluster.eventually(SETTLED_MAX, "the mesh is whole, untouched by hand", |cl| {
            whole(cl, &nodes)
        })?;
        let left = a.sql(
            "select string_agg(concat_ws(' ', id, mail, phone), ',' order by id) from public.people
              where id < 14 or id > 18",
        )?;
        ensure!(
            left == "2 one,3 two,5 three,7 six,10 eight nine,11 ten,13 p13 eleven,20 p20",
            "the newer rows should stay: {left}"
        );
        let others = a.sql("select string_agg(note, '' order by id) from public.people")?;
        ensure!(others == "xy", "what came with them is lost: {others}");
        let rooms = a.sql("select string_agg(id || ' ' || door, ',') from public.rooms")?;
        ensure!(rooms == "2 three", "{rooms}");
        let told = nodes.iter().any(|node| {
            let events = node.order(&["events"]).unwrap_or_default();
            events.contains("unique_settled")
        });
        ensure!(told, "no node tells of it");
        kept_for_people(cluster, &nodes)
    })
}

/// Each takes the value for a row of its own: in one transaction with others, and alone.
fn take_values(a: &Node, b: &Node) -> Result<()> {
    a.sql(
        "begin; update public.people set note = 'x' where id = 15;
         update public.people set mail = 'one' where id = 1;
         update public.people set note = 'y' where id = 16; commit;
         update public.people set mail = 'two' where id = 4;
         begin; update public.people set mail = 'six' where id = 6;
         update public.rooms set door = 'three' where id = 1; commit;
         update public.people set mail = 'eight' where id = 8;
         update public.people set phone = 'nine' where id = 9;
         update public.people set mail = 'ten' where id = 11;
         update public.people set nick = 'Nick' where id = 19",
    )?;
    sleep(seconds(1));
    // Rows of two tables in one transaction; two rows here in the way of one there; one that is
    // older than another, and newer than a third; an index on an expression, and on a part.
    b.sql(
        "update public.people set mail = 'one' where id = 2;
         update public.people set mail = 'two' where id = 3;
         insert into public.people values (21, 'three');
         begin; update public.people set mail = 'six' where id = 7;
         update public.rooms set door = 'three' where id = 2; commit;
         update public.people set mail = 'eight', phone = 'nine' where id = 10;
         update public.people set mail = 'ten', phone = 'eleven' where id = 12;
         update public.people set nick = 'nICK' where id = 20",
    )?;
    sleep(seconds(1));
    a.sql(
        "update public.people set mail = 'three' where id = 5;
         update public.people set phone = 'eleven' where id = 13",
    )?;
    Ok(())
}

/// The older of two rows stays, and the stream stands, while rows refer to it on any node. What status says
/// helps.
fn kept_for_people(cluster: &Cluster, nodes: &[&Node; 3]) -> Result<()> {
    let [a, b, c] = *nodes;
    cluster.net.cut("a", "b")?;
    a.sql(
        "update public.people set mail = 'late' where id = 17;
         insert into public.letters values (3, 17)",
    )?;
    sleep(seconds(1));
    b.sql("update public.people set mail = 'late' where id = 18")?;
    cluster.net.heal()?;
    let help = "on a, c: DELETE FROM public.people WHERE id = '17'; then it goes by itself";
    cluster.eventually(RECOVERY_MAX, "every node says what helps", |_| {
        for node in nodes {
            let found = finding(node)?.with_context(|| format!("{}: not stuck", node.name()))?;
            let refer = found.text.contains("rows refer to 17, the older");
            ensure!(refer, "{}: {}", node.name(), found.text);
            ensure!(found.command.starts_with(help), "{}", found.command);
        }
        Ok(())
    })?;
    let value = "select string_agg(id::text, ' ') from public.people where mail = 'late'";
    for (node, id) in [(a, "17"), (b, "18"), (c, "17")] {
        let found = node.sql(value)?;
        ensure!(found == id, "{} has {found}", node.name());
    }
    for node in [a, c] {
        node.sql("delete from public.people where id = '17'")?;
    }
    cluster.eventually(SETTLED_MAX, "the rest goes by itself", |cl| {
        whole(cl, nodes)?;
        let found = a.sql(value)?;
        let letters = a.sql("select count(*) from public.letters where person = 17")?;
        ensure!(
            found == "18" && letters == "0",
            "{found}, {letters} letters"
        );
        Ok(())
    })?;
    Ok(())
}

fn whole(cluster: &Cluster, nodes: &[&Node; 3]) -> Result<()> {
    for node in nodes {
        ensure!(finding(node)?.is_none(), "{:?}", node.status()?.findings);
        let rows = node.status()?.rows;
        ensure!(rows.is_clean(), "{}: {rows:?}", node.name());
    }
    Cluster::assembled(cluster)?;
    same(nodes).map(drop)
}

/// The rows, if they are the same on all nodes.
fn same(nodes: &[&Node]) -> Result<String> {
    let all =
        "select concat_ws(' ', (select string_agg(p::text, ';' order by id) from people as p),
        (select string_agg(l::text, ';' order by id) from letters as l),
        (select string_agg(r::text, ';' order by id) from rooms as r))";
    let first = nodes[0].sql(all)?;
    for node in &nodes[1..] {
        let rows = node.sql(all)?;
        ensure!(rows == first, "{} has {rows}, not {first}", node.name());
    }
    Ok(first)
}

fn has(node: &Node, expected: &str) -> Result<()> {
    let found =
        node.sql("select string_agg(id || ' ' || mail, ',' order by id) from public.people")?;
    ensure!(found == expected, "{} has {found}", node.name());
    Ok(())
}

/// Returns the transaction's number and the LSN of its commit.
fn named(cluster: &Cluster, node: &Node) -> Result<(String, String)> {
    // pglogical may have met it just after the last look at the log.
    cluster.eventually(seconds(15), "status names the transaction", |_| {
        let found = finding(node)?.context("it isn't stuck")?;
        ensure!(found.text.contains("by itself"), "{}", found.text);
        Ok(())
    })?;
    let found = finding(node)?.context("it is no longer stuck")?;
    for part in [
        "changes of a ",
        "public.people",
        "people_mail_key",
        "(new)",
        "rows refer to 1, the older of two with one unique value: 1 of public.letters \
         (letters_person_fkey) on a, b",
    ] {
        ensure!(found.text.contains(part), "no {part} in {}", found.text);
    }
    let part = |after: &str, stop: char| {
        let rest = found.text.split_once(after)?.1;
        Some(rest.split_once(stop)?.0.to_owned())
    };
    let xid = part("of transaction ", ' ').context("no transaction")?;
    let lsn = part("(commit ", ')').context("no commit")?;
    let letters = "on a, b: UPDATE public.letters SET person = ... WHERE person = '1'";
    ensure!(found.command.starts_with(letters), "{}", found.command);
    ensure!(
        found
            .command
            .ends_with(&format!("skip-transaction a {lsn}")),
        "{}",
        found.command
    );
    let rows = node.sql(
        "select count(*) from pgaa.conflict_history
          where conflict_type = 'apply_error' and error_sqlstate = '23505'",
    )?;
    ensure!(rows == "1", "{rows} rows for one failure");
    Ok((xid, lsn))
}

/// Only what is stuck can be skipped.
fn refusals(a: &Node, b: &Node, transaction: &str) -> Result<()> {
    for (node, provider, which) in [
        (b, "a", "0/1"),
        (b, "a", "1"),
        (b, "nobody", transaction),
        (a, "b", transaction),
    ] {
        let output = node.ask(&["skip-transaction", provider, which])?;
        ensure!(
            !output.status.success(),
            "{} skipped {which} of {provider}",
            node.name()
        );
    }
    Ok(())
}

fn exported(told: &str, transaction: &str) -> Result<()> {
    let told: Value = serde_json::from_str(told)?;
    let file = told.get("export").and_then(Value::as_str);
    let text = fs::read_to_string(Path::new(file.context("no export is named")?))?;
    for part in [
        "table public.people: UPDATE: id[integer]:2 mail[text]:'new'",
        &format!("COMMIT {transaction}"),
    ] {
        ensure!(text.contains(part), "no {part} in\n{text}");
    }
    Ok(())
}
