//! How fast conflicts in the server's log are read, and what of it is the agent's own work.

use crate::{NEVER, cpu, report};
use anyhow::{Context, Result, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_tests::command::server_file;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use std::fmt::Write;

/// Lines of the file.
const LINES: u32 = 200_000;

/// One in so many is more than an ordinary update, and gets a row of its own.
const NAMED: u32 = 20;

/// Measures and reports.
pub fn measure() -> Result<()> {
    play(2, |cluster| {
        cluster.await_assembly(NEVER)?;
        cluster.everywhere("create table public.items (id int primary key, note text)")?;
        cluster.eventually(NEVER, "the table is replicated", |c| {
            c.replicates(&["public.items"])
        })?;
        let node = cluster.nodes().first().context("no nodes")?;
        let text = log(node)?;
        let path = node
            .data_directory()
            .join("log/postgresql-2026-01-01_000000.json");
        let (clocks, before) = (Clocks::start(), cpu::seconds(node.agent_pid()?)?);
        server_file(&path, &text, 0o600)?;
        cluster.eventually(NEVER, "every line is counted", |_| {
            let counted = node.sql("select coalesce(sum(lines), 0) from pgaa.conflict_tally")?;
            ensure!(counted == LINES.to_string(), "{counted} of {LINES}");
            Ok(())
        })?;
        let passed = clocks.mono().0 as f64 / 1000.0;
        let used = cpu::seconds(node.agent_pid()?)? - before;
        let rows = node.sql("select count(*) from pgaa.conflict_history")?;
        ensure!(rows == (LINES / NAMED).to_string(), "{rows} rows");
        report(
            "conflict lines read, per second of one core",
            &format!("{:.0}", f64::from(LINES) / used),
            "50000",
        );
        report(
            "the same per second, with the server's share",
            &format!("{:.0}", f64::from(LINES) / passed),
            "-",
        );
        Ok(())
    })
}

/// A log like that of a node whose rows others update.
fn log(node: &Node) -> Result<String> {
    let numbers = node.sql(
        "select d.oid, s.sub_id, o.roident from pg_database as d, pglogical.subscription as s
           join pg_replication_origin as o on o.roname = s.sub_slot_name
          where d.datname = current_database()",
    )?;
    let [database, subscription, origin] = numbers
        .split('|')
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| anyhow::anyhow!("no subscription: {numbers}"))?;
    let mut text = String::new();
    for number in 0..LINES {
        let key = number % 1000;
        let (index, resolution) = match number % NAMED {
            0 => ("(local index items_pkey)", "keep_local"),
            _ => ("(local index items_pkey)", "apply_remote"),
        };
        let note = "a value of about forty bytes, as seen";
        writeln!(
            text,
            "{{\"timestamp\":\"2026-11-21 20:05:51.260 UTC\",\"pid\":4711,\"session_id\":\
             \"6921c0de.1267\",\"line_num\":{number},\"session_start\":\"2026-11-21 20:00:00 UTC\",\
             \"vxid\":\"7/{number}\",\"txid\":{number},\"error_severity\":\"LOG\",\"state_code\":\
             \"23000\",\"message\":\"CONFLICT: remote UPDATE on relation public.items {index}. \
             Resolution: {resolution}.\",\"detail\":\"existing local tuple {{id[int4]:{key} \
             note[text]:{note}}} xid=901,origin=0,timestamp=2026-11-21 20:00:00.2+00; remote tuple \
             {{id[int4]:{key} note[text]:{note}}} in xact origin={origin},timestamp=2026-11-21 \
             20:05:51.25+00,commit_lsn=0/1A2B3C8\",\"context\":\"apply UPDATE from remote relation \
             public.items in commit before 0/1A2B3C8, xid 744 committed at 2026-11-21 \
             20:05:51.25+00 (action #2) from node replorigin {origin}\",\"application_name\":\
             \"pglogical apply {database}:{subscription}\",\"backend_type\":\"pglogical apply \
             {database}:{subscription}\",\"query_id\":0}}"
        )?;
    }
    Ok(text)
}
