//! One edge's life: an exact start, a new address, its end; sequences; a server that hangs.

use super::servers::DATABASE;
use super::{Mesh, play};
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgaa_core::ids::Ordinal;
use pgaa_core::join::Forward;
use pgaa_core::observed::Fact;
use pgaa_tests::command::{as_server, run};
use std::time::Duration;

#[test]
fn an_edge_starts_exactly_moves_and_ends() -> Result<()> {
    play(2, async |mesh| {
        mesh.prepare().await?;
        starts_where_the_slot_starts(mesh).await?;
        moves(mesh).await?;
        ends(mesh).await?;
        sequences(mesh).await?;
        applications_are_ended(mesh).await?;
        hangs(mesh).await
    })
}

/// What is written between the slot and the subscription arrives: pglogical alone would make the
/// slot anew and lose it. What a position given by hand lies after does not arrive.
async fn starts_where_the_slot_starts(mesh: &Mesh) -> Result<()> {
    for node in 0..2 {
        mesh.server(node)
            .shop("create table t (id int primary key)")?;
    }
    mesh.provide(1).await?;
    let [slot] = &mesh.provide(0).await?[..] else {
        anyhow::bail!("one slot was expected")
    };
    mesh.postgres(0).add_table("public.t", false).await?;
    mesh.server(0).shop("insert into t values (1)")?;
    let position = mesh.look(0).await?.wal;
    ensure!(position > *slot, "the slot starts in the future");
    mesh.server(0).shop("insert into t values (2)")?;
    let dsn = mesh.servers.conninfo(1, 0)?;
    connects(mesh, &dsn)?;
    let name = mesh.subscription(1, 0);
    let reader = mesh.postgres(1);
    reader
        .create_subscription_disabled(&name, &dsn, Forward::All)
        .await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(
        !mesh.look(1).await?.subscriptions[&name].worker,
        "a disabled edge has a worker"
    );
    reader.enable_at(&name, position).await?;
    let missing = reader
        .start_workers(&[&name], Duration::from_secs(10))
        .await?;
    ensure!(missing.is_empty(), "no worker");
    mesh.server(0).shop("insert into t values (3)")?;
    mesh.answers(
        1,
        "select string_agg(id::text, ',' order by id) from t",
        "2,3",
    )
    .await?;
    ensure!(
        !mesh.look(1).await?.subscriptions[&name].forwards_nothing,
        "forwarding unseen"
    );
    Ok(())
}

/// libpq itself reads what we write.
fn connects(mesh: &Mesh, dsn: &str) -> Result<()> {
    let mut psql = as_server("psql");
    psql.args(["-XAtq", "-d", dsn, "-c"]);
    psql.arg(
        "select current_database() || '|' || current_user || '|' || ssl_client_dn \
              from pg_stat_ssl where pid = pg_backend_pid()"
            .replace("ssl_client_dn", "client_dn"),
    );
    let expected = format!("{DATABASE}|pgaa|/CN={}", mesh.who[1].0);
    let found = run(&mut psql)?;
    ensure!(found == expected, "{found}");
    Ok(())
}

async fn moves(mesh: &Mesh) -> Result<()> {
    let name = mesh.subscription(1, 0);
    let old = mesh.servers.conninfo(1, 0)?;
    let new = format!("{old} keepalives='1'");
    for dsn in [&new, &new, &old] {
        mesh.postgres(1).redirect_subscription(&name, dsn).await?;
        ensure!(
            mesh.look(1).await?.subscriptions[&name].dsn == *dsn,
            "not redirected"
        );
        mesh.postgres(1)
            .start_workers(&[&name], Duration::from_secs(10))
            .await?;
        mesh.hears(1, 0).await?;
    }
    let interfaces = mesh.server(1).shop(
        "select count(*) from pglogical.node_interface i join pglogical.subscription s \
         on s.sub_origin = i.if_nodeid",
    )?;
    ensure!(
        interfaces == "2",
        "{interfaces} interfaces for two addresses"
    );
    Ok(())
}

/// The origin's number is not given to the next node.
async fn ends(mesh: &Mesh) -> Result<()> {
    let name = mesh.subscription(1, 0);
    let facts = mesh.look(1).await?;
    let slot = facts.subscriptions[&name].slot.clone();
    ensure!(
        mesh.postgres(0).drop_slot(&slot, false).await.is_err(),
        "an active slot was dropped"
    );
    mesh.postgres(1).disable(&[&name]).await?;
    let origin = mesh.postgres(1).drop_subscription(&name).await?;
    let number = origin.map(|origin| origin.number);
    let next = mesh
        .server(1)
        .shop("select pg_replication_origin_create('next')")?;
    ensure!(
        number.is_some() && number != next.parse().ok(),
        "number {next} was given again"
    );
    ensure!(
        mesh.postgres(1).drop_subscription(&name).await?.is_none(),
        "dropped twice"
    );
    mesh.postgres(0).drop_slot(&slot, true).await?;
    mesh.postgres(0).drop_slot(&slot, true).await?;
    ensure!(
        mesh.look(0).await?.slots.is_empty(),
        "the slot is still there"
    );
    ensure!(
        mesh.postgres(0).remove_table("public.t").await?,
        "t was not in the set"
    );
    Ok(())
}

async fn sequences(mesh: &Mesh) -> Result<()> {
    for node in 0..2 {
        mesh.server(node).shop(
            "create table a (id serial primary key, v int); \
             create table b (k bigint generated by default as identity primary key); \
             create sequence s; create table c (x bigint default nextval('s') primary key); \
             insert into a(v) select 1 from generate_series(1, 5); insert into a values (700)",
        )?;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    let plain = |facts: &pgaa_core::observed::PostgresFacts| -> Vec<(String, bool)> {
        let found = facts.tables.iter().flat_map(|table| &table.plain_sequences);
        found
            .map(|sequence| (sequence.name.clone(), sequence.narrow))
            .collect()
    };
    let found = plain(&mesh.look(0).await?);
    let expected = [
        ("public.a_id_seq", true),
        ("public.b_k_seq", false),
        ("public.s", false),
    ];
    ensure!(
        found == expected.map(|(name, narrow)| (name.to_owned(), narrow)),
        "{found:?}"
    );
    let dry = mesh
        .postgres(0)
        .fix_sequences(Ordinal(1), &[], true)
        .await?;
    ensure!(
        plain(&mesh.look(0).await?).len() == 3,
        "a dry run changed something"
    );
    for (node, ordinal) in [(0, 1), (1, 2)] {
        let fixed = mesh
            .postgres(node)
            .fix_sequences(Ordinal(ordinal), &[], false)
            .await?;
        if node == 0 {
            ensure!(
                fixed == dry,
                "the dry run showed {dry:?}, done was {fixed:?}"
            );
        }
        let again = mesh
            .postgres(node)
            .fix_sequences(Ordinal(ordinal), &[], false)
            .await?;
        ensure!(
            again.iter().all(|fix| fix.sql.is_empty()),
            "not recognised: {again:?}"
        );
    }
    ensure!(
        plain(&mesh.look(0).await?).is_empty(),
        "fixed sequences are still reported"
    );
    let give = "insert into a(v) values (2), (2) returning id";
    let (one, two) = (mesh.server(0).shop(give)?, mesh.server(1).shop(give)?);
    // 700 is the highest key: 769 and 770 are the next ones with remainder 1 and 2 by 128.
    ensure!(
        (one.as_str(), two.as_str()) == ("769\n897", "770\n898"),
        "{one} {two}"
    );
    Ok(())
}

async fn applications_are_ended(mesh: &Mesh) -> Result<()> {
    let server = mesh.server(0);
    let mut psql = as_server("psql");
    let place = mesh
        .postgres(0)
        .local_conninfo()?
        .replace("user='postgres'", "user='app'");
    psql.args(["-XAtq", "-d", &place, "-c", "select pg_sleep(30)"]);
    let mut application = psql.spawn()?;
    mesh.answers(
        0,
        "select count(*) from pg_stat_activity where usename = 'app'",
        "1",
    )
    .await?;
    let ended = server.postgres.end_application_sessions().await?;
    let status = application.wait()?;
    ensure!(ended == 1 && !status.success(), "{ended} ended, {status}");
    Ok(())
}

/// A server that hangs is unknown, in bounded time, and seen again afterwards.
async fn hangs(mesh: &Mesh) -> Result<()> {
    let backends = mesh.server(0).sql(
        "postgres",
        "select pid from pg_stat_activity where application_name = 'pgaa-agent'",
    )?;
    let pids: Vec<Pid> = backends
        .lines()
        .map(|pid| Ok(Pid::from_raw(pid.parse()?)))
        .collect::<Result<_>>()?;
    let postmaster = Pid::from_raw(i32::try_from(mesh.server(0).pid()?)?);
    for pid in pids.iter().chain([&postmaster]) {
        kill(*pid, Signal::SIGSTOP)?;
    }
    let started = mesh.ms();
    let seen = mesh.postgres(0).observe(mesh.clocks.mono(), None).await;
    let again = mesh.postgres(0).observe(mesh.clocks.mono(), None).await;
    let took = mesh.ms() - started;
    for pid in pids.iter().chain([&postmaster]) {
        kill(*pid, Signal::SIGCONT)?;
    }
    println!("a hanging server was given up twice in {took} ms");
    for fact in [seen, again] {
        ensure!(
            matches!(fact, Fact::Unknown(why) if why.contains("within")),
            "it was seen"
        );
    }
    ensure!(took < 15_000, "giving up took {took} ms");
    mesh.look(0).await.map(drop)
}
