//! Conflicts in the server's log become rows and counts, each exactly once.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::conflicts::report::Report;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

const ITEMS: &str = "create table public.items (id int primary key, note text not null,
                                                \"odd name\" text)";

/// Rows that both nodes write.
const ROWS: u32 = 500;

/// Longer than it takes to see that a heartbeat is late.
const OUTAGE: Duration = Duration::from_secs(4);

/// JSON files of a node's log.
fn logs(node: &Node) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(node.data_directory().join("log"))?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut json = paths
        .filter(|path| {
            path.as_ref()
                .is_ok_and(|p: &PathBuf| p.extension().is_some_and(|end| end == "json"))
        })
        .collect::<Result<Vec<_>>>()?;
    json.sort();
    Ok(json)
}

/// Lines about conflicts in all files, and those among them that must have a row.
fn lines(node: &Node) -> Result<(usize, usize)> {
    let (mut all, mut named) = (0, 0);
    for path in logs(node)? {
        let bytes = fs::read(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        // What stands behind the last line break is no line yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            // The agents' own table is nobody's data.
            let ours = line.contains(" on relation pgaa.");
            if line.contains("\"message\":\"CONFLICT: remote ") && !ours {
                all += 1;
                let plain = line.contains("CONFLICT: remote UPDATE")
                    && line.contains("Resolution: apply_remote.");
                named += usize::from(!plain);
            }
        }
    }
    Ok((all, named))
}

/// What the database says: lines that were counted, and rows that must be there.
fn stored(node: &Node) -> Result<(usize, usize)> {
    let text = node.sql(
        "select (select coalesce(sum(lines), 0) from pgaa.conflict_tally),
                (select count(*) from pgaa.conflict_history
                  where conflict_type <> 'apply_error'
                    and not (conflict_type = 'update_update'
                             and conflict_resolution = 'apply_remote'))",
    )?;
    let (all, named) = text.split_once('|').context("no counts")?;
    Ok((all.parse()?, named.parse()?))
}

fn all_stored(node: &Node) -> Result<()> {
    let (logged, stored) = (lines(node)?, stored(node)?);
    ensure!(
        logged == stored,
        "{}: {logged:?} lines in the log, {stored:?} in the database",
        node.name()
    );
    Ok(())
}

fn same_rows(cluster: &Cluster) -> Result<()> {
    let digest = |node: &Node| {
        node.sql(
            "select count(*), md5(string_agg(i::text, E'\\n' order by id)) from public.items i",
        )
    };
    let [a, b] = cluster.each()?;
    let (on_a, on_b) = (digest(a)?, digest(b)?);
    ensure!(on_a == on_b, "a has {on_a}, b has {on_b}");
    Ok(())
}

fn assemble(cluster: &Cluster) -> Result<()> {
    cluster.await_assembly(ASSEMBLY_MAX)?;
    cluster.everywhere(ITEMS)?;
    cluster.eventually(seconds(30), "public.items is replicated", |c| {
        c.replicates(&["public.items"])
    })?;
    let [a, _] = cluster.each()?;
    a.sql(&format!(
        "insert into public.items select i, 'first', '' from generate_series(1, {ROWS}) as i"
    ))?;
    cluster.eventually(seconds(30), "b has the rows", same_rows)?;
    Ok(())
}

#[test]
fn conflicts_are_told_once_and_true_ones_from_ordinary_updates() -> Result<()> {
    play(2, |cluster| {
        assemble(cluster)?;
        let [a, b] = cluster.each()?;
        ordinary_updates(cluster, [a, b])?;
        outage(cluster, [a, b])?;
        told(a)?;
        cluster.eventually(seconds(15), "status counts them", |_| {
            let conflicts = a.status()?.conflicts;
            let all = conflicts.reading && conflicts.hour.conflicts >= 22;
            ensure!(all, "{conflicts:?}");
            Ok(())
        })?;
        what_was_counted_lasts(cluster, [a, b])
    })
}

/// Each row is updated by the node that did not write it last, and has seen it.
fn ordinary_updates(cluster: &Cluster, [a, b]: [&Node; 2]) -> Result<()> {
    for (node, other) in [(b, a), (a, b), (b, a)] {
        // Longer than any change takes: whoever writes now has seen it.
        cluster.eventually(seconds(10), "the last write is old", |_| {
            let age = "select count(*) from public.items as i
                where pg_xact_commit_timestamp(i.xmin) > now() - interval '2 s'";
            let young = node.sql(age)?;
            ensure!(young == "0", "{young} rows are younger");
            Ok(())
        })?;
        node.sql(&format!(
            "update public.items set note = note || '{}'",
            node.name()
        ))?;
        cluster.eventually(seconds(30), "the updates have arrived", same_rows)?;
        cluster.eventually(seconds(30), "the lines are read", |_| all_stored(other))?;
    }
    let (on_a, _) = stored(a)?;
    ensure!(on_a >= 2 * ROWS as usize, "{on_a} lines of two rounds on a");
    let true_ones = a.sql(
        "select coalesce(string_agg(h::text, E'\\n'), '')
           from (select * from pgaa.conflict_history limit 5) as h",
    )?;
    ensure!(
        true_ones.is_empty(),
        "ordinary updates count as conflicts:\n{true_ones}"
    );
    Ok(())
}

/// Both nodes write the same rows while they can't see one another.
fn outage(cluster: &Cluster, [a, b]: [&Node; 2]) -> Result<()> {
    cluster.net.cut("a", "b")?;
    let long = "x".repeat(34);
    for node in [a, b] {
        let name = node.name();
        node.sql(&format!(
            "update public.items set note = '{name}' where id <= 20;
             insert into public.items values (9001, '{long}éé{name} \"odd name[text]:no', 'odd name[text]:');
             delete from public.items where id = 30"
        ))?;
    }
    b.sql("delete from public.items where id = 40")?;
    a.sql("update public.items set note = 'late' where id = 40")?;
    // Lags are sampled: only an outage that lasts is seen by the node that wrote first as well.
    sleep(OUTAGE);
    cluster.net.heal()?;
    cluster.eventually(RECOVERY_MAX, "the lines of the outage are read", |_| {
        for node in [a, b] {
            all_stored(node)?;
        }
        kinds(a, "insert_insert 1, update_update 20, delete_missing 1")?;
        kinds(
            b,
            "insert_insert 1, update_update 20, delete_missing 1, update_missing 1",
        )
    })?;
    let keys = a.sql(
        "select string_agg(distinct object_key, ',') from pgaa.conflict_history
          where conflict_type = 'insert_insert' and concurrent and clock_trusted
            and remote_node_name = 'b' and local_tuple_origin_name = 'a'
            and local_tuple ->> 'note' like 'xxxxxxxx%...'",
    )?;
    ensure!(keys == "id=9001", "the key of the two inserts is {keys:?}");
    Ok(())
}

fn kinds(node: &Node, expected: &str) -> Result<()> {
    let found = node.sql(
        "select string_agg(conflict_type || ' ' || n, ', ' order by
                           conflict_type = 'update_missing', conflict_type desc, n)
           from (select conflict_type, count(*) as n from pgaa.conflict_history
                  where concurrent group by 1) as t",
    )?;
    let sorted = |text: &str| {
        let mut parts: Vec<String> = text.split(", ").map(str::to_owned).collect();
        parts.sort();
        parts
    };
    ensure!(
        sorted(&found) == sorted(expected),
        "{}: {found}, not {expected}",
        node.name()
    );
    Ok(())
}

/// The command says what is in the table, filtered.
fn told(node: &Node) -> Result<()> {
    let ask = |arguments: &[&str]| -> Result<Report> {
        let all = [&["conflicts", "-o", "json"], arguments].concat();
        Ok(serde_json::from_str(&node.order(&all)?)?)
    };
    let all = ask(&["--limit", "1000"])?;
    ensure!(all.counts.conflicts >= 22, "{:?}", all.counts);
    ensure!(all.counts.ordinary >= 1000, "{:?}", all.counts);
    let table = all.tables.first().context("no table has conflicts")?;
    ensure!(table.name == "public.items", "{table:?}");
    let pair = all.pairs.first().context("no pair has conflicts")?;
    ensure!(pair.name == "a - b", "{pair:?}");
    ensure!(!all.advice.is_empty(), "no advice");
    let none = ask(&["--table", "public.other"])?;
    ensure!(
        none.conflicts.is_empty() && none.counts.lines == 0,
        "{none:?}"
    );
    let both = ask(&["--pair", "b,a", "--limit", "1000"])?;
    ensure!(both.conflicts.len() == all.conflicts.len(), "{both:?}");
    let text = node.order(&["conflicts"])?;
    ensure!(
        text.contains("public.items") && text.contains("id=9001"),
        "{text}"
    );
    Ok(())
}

/// Writes all rows, one after the other: a statement for all of them may meet one from the other node
/// that has locked some, and waits for others.
fn rewrite(node: &Node, note: &str) -> Result<()> {
    let each = format!(
        "do $$ begin for i in 1..{ROWS} loop
             update public.items set note = '{note}' where id = i; commit;
         end loop; end $$"
    );
    node.sql(&each).map(drop)
}

/// Rotation, kill -9 of the agent and of the server, while lines come in.
fn what_was_counted_lasts(cluster: &Cluster, [a, b]: [&Node; 2]) -> Result<()> {
    for round in 0..6 {
        for node in [b, a] {
            rewrite(node, &format!("{} {round}", node.name()))?;
        }
        match round {
            1 | 4 => {
                a.kill9_agent()?;
                a.start_agent()?;
            }
            2 => {
                a.kill9_agent()?;
                a.sql("select pg_rotate_logfile()")?;
                rewrite(b, "unseen")?;
                a.sql("select pg_rotate_logfile()")?;
                a.start_agent()?;
            }
            3 => {
                a.kill9_postmaster()?;
                a.start_postgres()?;
                cluster.eventually(seconds(30), "the server answers", |_| {
                    a.sql("select 1").map(drop)
                })?;
            }
            _ => {
                a.sql("select pg_rotate_logfile()")?;
            }
        }
    }
    cluster.eventually(RECOVERY_MAX, "the rows are the same", same_rows)?;
    cluster.eventually(RECOVERY_MAX, "every line counts once", |_| {
        all_stored(a)?;
        all_stored(b)
    })?;
    let files = logs(a)?.len();
    ensure!(files >= 3, "the log was rotated into {files} files only");
    let (all, named) = stored(a)?;
    println!("{all} lines in {files} files, {named} of them with a row of their own");
    Ok(())
}

#[test]
fn lines_that_nobody_read_are_told_and_all_tables_compared() -> Result<()> {
    play(2, |cluster| {
        assemble(cluster)?;
        let [a, b] = cluster.each()?;
        b.sql("update public.items set note = 'b'")?;
        cluster.eventually(seconds(30), "the lines are read", |_| {
            ensure!(stored(a)?.0 > 0, "nothing is counted");
            all_stored(a)
        })?;
        a.stop_agent()?;
        a.sql("update public.items set note = 'a'")?;
        cluster.eventually(seconds(30), "the rows are the same", same_rows)?;
        b.sql("update public.items set note = 'b again'")?;
        cluster.eventually(seconds(30), "the rows are the same", same_rows)?;
        let read = logs(a)?;
        a.sql("select pg_rotate_logfile()")?;
        cluster.eventually(seconds(10), "the log is rotated", |_| {
            ensure!(logs(a)?.len() > read.len(), "still {read:?}");
            Ok(())
        })?;
        for path in &read {
            fs::remove_file(path)?;
        }
        a.start_agent()?;
        cluster.eventually(RECOVERY_MAX, "a says that lines are gone", |_| {
            let events = a.order(&["events"])?;
            ensure!(events.contains("conflict_log_gap"), "{events}");
            Ok(())
        })?;
        cluster.eventually(RECOVERY_MAX, "the mesh is whole", Cluster::assembled)?;
        cluster.eventually(
            RECOVERY_MAX,
            "all tables were compared by themselves",
            |_| {
                let status = a.status()?;
                let told = status.findings.iter().any(|f| f.code == "conflict_log_gap");
                ensure!(!told && status.rows.is_clean(), "{:?}", status.findings);
                Ok(())
            },
        )?;
        same_rows(cluster)
    })
}
