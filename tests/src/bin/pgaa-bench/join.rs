//! Joining: the copy against pglogical's own synchronisation, in the open and over the same TLS, and
//! against pg_dump | pg_restore; an empty node's way from its admission to ready; and what streams
//! without an order between them leave unequal until the row check mends it.

use crate::{NEVER, cpu, median, report, script};
use anyhow::{Context, Result, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_core::state::NodeState;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{as_server, run};
use pgaa_tests::load::{Load, Rate, Workload, create_tables, difference};
use pgaa_tests::node::{DATABASE, Node, SERVER_BIN};
use std::thread::sleep;
use std::time::Duration;

/// Rounds of each kind of copy; the middle one counts.
const ROUNDS: usize = 3;

/// What was begun before has ended by then.
const RESTED: Duration = Duration::from_secs(5);

/// 0.9 GB with the index.
const ROWS: u32 = 3_300_000;

/// The table that is copied.
pub const BULK: &str = "create table public.bulk (id bigint primary key, a text, b int)";

/// The statement that fills it.
pub fn fill(rows: u32) -> String {
    format!(
        "insert into public.bulk select i, repeat(md5(i::text), 7), i % 1000 \
         from generate_series(1, {rows}) as i"
    )
}

/// The copy of one large table, four ways, from one source.
pub fn compare_copies() -> Result<()> {
    // The source, a node for each of our rounds, and a server without an agent.
    let cluster = Cluster::prepare(2 + ROUNDS)?;
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    let (plain, agents) = nodes.split_last().context("no nodes")?;
    for node in agents {
        node.configure_agent(&cluster.config(1))?;
    }
    let (source, joiners) = agents.split_first().context("no nodes")?;
    cluster.boot(&[source])?;
    ready(&cluster, source)?;
    source.amend("pg_hba.conf", "host all postgres 10.77.0.0/24 trust\n")?;
    source.sql(BULK)?;
    source.sql("select pg_reload_conf()")?;
    cluster.eventually(NEVER, "the table is replicated", |_| {
        let replicated = source.status()?.tables.replicated;
        ensure!(
            replicated.iter().any(|t| t == "public.bulk"),
            "{replicated:?}"
        );
        Ok(())
    })?;
    source.sql_patiently(&fill(ROWS))?;
    source.sql_patiently("vacuum analyze public.bulk")?;
    source.sql_patiently("checkpoint")?;
    script::start_server(plain)?;
    cluster.eventually(NEVER, "the plain server answers", |_| {
        plain.sql_in("postgres", "select 1").map(drop)
    })?;
    script::create_node(plain)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut secured, mut dumped) = (Vec::new(), Vec::new());
    for joiner in joiners {
        ours.push(by_join(&cluster, joiner)?);
        theirs.push(by_pglogical(&cluster, plain, &script::dsn(source))?);
        secured.push(by_pglogical(&cluster, plain, &secured_dsn(source)?)?);
        dumped.push(by_dump(plain, source)?);
    }
    let size = source.sql("select pg_size_pretty(pg_total_relation_size('public.bulk'))")?;
    let ours = median(&mut ours);
    let line = |whose: &str, times: &mut [f64], goal: &str| {
        let other = median(times);
        let value = format!("{ours:.1} s / {other:.1} s = {:.2}", ours / other);
        report(&format!("copy of {size}, join / {whose}"), &value, goal);
    };
    line("pglogical", &mut theirs, "0.70");
    line("pglogical over TLS", &mut secured, "0.70");
    line("pg_dump | pg_restore", &mut dumped, "-");
    Ok(())
}

/// How another server reaches this one as members do: encrypted, and sure of whom it speaks to.
fn secured_dsn(node: &Node) -> Result<String> {
    let name = node.status()?.answered_by.node;
    let authority = node.file("state/tls/ca.crt");
    let dsn = format!(
        "'host={name}.pgaa hostaddr={} port=5432 user=postgres dbname={DATABASE} \
         sslmode=verify-full sslrootcert={}'",
        node.address(),
        authority.display()
    );
    Ok(dsn)
}

/// Waits until a node is ready.
pub fn ready(cluster: &Cluster, node: &Node) -> Result<()> {
    cluster.eventually(NEVER, &format!("{} is ready", node.name()), |_| {
        let state = node.status()?.node.state;
        ensure!(state == NodeState::Ready, "{}", state.word());
        Ok(())
    })?;
    Ok(())
}

/// Seconds of the day of the first line of a node's log with these words.
fn logged_at(node: &Node, words: &str) -> Result<f64> {
    let log = node.agent_log();
    let line = log.lines().find(|line| line.contains(words));
    let line = line.with_context(|| format!("{} never logged {words:?}", node.name()))?;
    // 2026-11-21T13:42:05.459Z
    let part = |range: std::ops::Range<usize>| -> Result<f64> {
        Ok(line.get(range).context("a line without a time")?.parse()?)
    };
    Ok(part(11..13)? * 3600.0 + part(14..16)? * 60.0 + part(17..23)?)
}

fn between(node: &Node, first: &str, then: &str) -> Result<f64> {
    let took = logged_at(node, then)? - logged_at(node, first)?;
    Ok(took.rem_euclid(86_400.0))
}

/// From the lease to the end of the copy, indexes and statistics included.
fn by_join(cluster: &Cluster, joiner: &Node) -> Result<f64> {
    cluster.boot(&[joiner])?;
    ready(cluster, joiner)?;
    between(joiner, "joining: copying", "joining: catching_up")
}

fn by_pglogical(cluster: &Cluster, plain: &Node, dsn: &str) -> Result<f64> {
    plain.sql(BULK)?;
    let clocks = Clocks::start();
    plain.sql(&format!(
        "select pglogical.create_subscription('from_source', {dsn}, '{{default}}', false, true)"
    ))?;
    const SYNCED: &str = "select count(*) from pglogical.local_sync_status
        where sync_nspname is not null and sync_status = 'r'";
    cluster.eventually(NEVER, "pglogical has copied the table", |_| {
        ensure!(plain.sql(SYNCED)? == "1", "not yet");
        Ok(())
    })?;
    plain.sql_patiently("analyze public.bulk")?;
    let took = clocks.mono().0 as f64 / 1000.0;
    plain.sql("select pglogical.drop_subscription('from_source')")?;
    plain.sql("drop table public.bulk")?;
    Ok(took)
}

fn by_dump(plain: &Node, source: &Node) -> Result<f64> {
    let clocks = Clocks::start();
    let dump = format!(
        "set -o pipefail; {SERVER_BIN}/pg_dump -Fc -Z0 -t public.bulk -h {} -U postgres {DATABASE} | \
         {SERVER_BIN}/pg_restore -h {} -U postgres -d {DATABASE}",
        source.socket_directory().display(),
        plain.socket_directory().display(),
    );
    run(as_server("bash").args(["-c", &dump]))?;
    plain.sql_patiently("analyze public.bulk")?;
    let took = clocks.mono().0 as f64 / 1000.0;
    plain.sql("drop table public.bulk")?;
    Ok(took)
}

/// Empty nodes join three empty members, one after the other: from the roster in its hands to ready.
/// All servers and agents share this machine's processors, so what an admission costs them is told
/// as well: below that, divided by their number, it can't be.
pub fn admission() -> Result<()> {
    let cluster = Cluster::prepare(3 + ROUNDS)?;
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    for node in &nodes {
        node.configure_agent(&cluster.config(3))?;
    }
    let (members, late) = nodes.split_at(3);
    cluster.boot(members)?;
    cluster.eventually(NEVER, "three nodes are a mesh", |c| {
        c.assembled_among(members)
    })?;
    let mut admissions = Vec::new();
    for node in late {
        sleep(RESTED);
        admissions.push(admit(&cluster, node)?);
        // The next one joins three members as well.
        node.order(&["leave"])?;
        node.order(&["wait", "--for=left", "--timeout=60s"])?;
        cluster.eventually(NEVER, &format!("{} is gone", node.name()), |c| {
            c.assembled_among(members)
        })?;
        node.stop_agent()?;
        node.stop_postgres()?;
    }
    let (mut took, mut used): (Vec<f64>, Vec<f64>) = admissions.into_iter().unzip();
    report(
        "an empty node, from its admission to ready",
        &format!("{:.2} s", median(&mut took)),
        "0.70 s",
    );
    report(
        "processors' time that it takes, of all servers and agents",
        &format!("{:.2} s", median(&mut used)),
        "-",
    );
    Ok(())
}

/// Seconds from the admission to ready, and of the processors.
fn admit(cluster: &Cluster, node: &Node) -> Result<(f64, f64)> {
    cluster.provision(&[node])?;
    node.start_postgres()?;
    cluster.eventually(NEVER, "its server answers", |_| {
        node.sql_in("postgres", "select 1").map(drop)
    })?;
    sleep(RESTED);
    node.start_agent()?;
    // Asking the agent would take a processor's time.
    logs(node, "-> joining")?;
    let before = cpu::machine()?;
    logs(node, "-> ready")?;
    let used = cpu::machine()? - before;
    let log = node.agent_log();
    let steps = log.lines().skip_while(|line| !line.contains("-> joining"));
    for line in steps.take_while(|line| !line.contains("-> ready")) {
        eprintln!("{line}");
    }
    Ok((between(node, "-> joining", "-> ready")?, used))
}

/// Waits until a node has logged these words.
fn logs(node: &Node, words: &str) -> Result<()> {
    let clocks = Clocks::start();
    while !node.agent_log().contains(words) {
        ensure!(
            u128::from(clocks.mono().0) < NEVER.as_millis(),
            "{} never logged {words:?}",
            node.name()
        );
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Rows that are changed by other nodes right after their insert, during a join.
pub fn crossed() -> Result<()> {
    let cluster = Cluster::prepare(3)?;
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    for node in &nodes {
        node.configure_agent(&cluster.config(2))?;
    }
    cluster.boot(&nodes[..2])?;
    cluster.eventually(NEVER, "two nodes are a mesh", |c| {
        c.assembled_among(&nodes[..2])
    })?;
    create_tables(&cluster, &nodes[..2])?;
    let load = Load::start(&nodes[..2], Workload::Crossed, Rate::PerSecond(100))?;
    sleep(Duration::from_secs(4));
    cluster.boot(&[nodes[2]])?;
    ready(&cluster, nodes[2])?;
    sleep(Duration::from_secs(2));
    load.stop()?;
    sleep(Duration::from_secs(3));
    let found = difference(nodes[0], nodes[2], ("crossed", "id"))?;
    let rows = nodes[0].sql("select count(*) from public.crossed")?;
    report(
        &format!("crossed rows after a join, of {rows}"),
        &format!(
            "{} lost, {} extra, {} stale",
            found.lost, found.extra, found.stale
        ),
        "0 (the row check's)",
    );
    Ok(())
}
