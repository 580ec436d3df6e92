//! Three bare servers become a mesh, and one of them comes back after a crash.

use super::{Mesh, play};
use anyhow::{Result, ensure};
use pgaa_core::join::Forward;
use pgaa_core::observed::PostgresFacts;
use std::time::Duration;
use tokio::try_join;

const NODES: usize = 3;

#[test]
fn three_servers_become_a_mesh_and_one_comes_back() -> Result<()> {
    play(NODES, async |mesh| {
        let before = super::facts(&mesh.servers.all[0].postgres, mesh.clocks.mono()).await?;
        ensure!(
            before.epoch.is_none() && before.pglogical.is_none(),
            "prepared before it was"
        );
        mesh.prepare().await?;
        prepared_once(mesh).await?;
        form(mesh).await?;
        all_hear_all(mesh).await?;
        at_rest(mesh).await?;
        tables_replicate(mesh).await?;
        back_after_a_crash(mesh).await
    })
}

/// A second preparation changes nothing; another node is refused.
async fn prepared_once(mesh: &Mesh) -> Result<()> {
    let again = mesh.postgres(0).prepare(mesh.who[0].0).await?;
    ensure!(
        (again.node, again.epoch) == mesh.who[0],
        "another epoch was minted"
    );
    let refused = mesh.postgres(0).prepare(mesh.who[1].0).await;
    ensure!(refused.is_err(), "a database was given to two nodes");
    let owner =
        "select pg_get_userbyid(datdba) from pg_database where datname = current_database()";
    ensure!(
        mesh.server(0).shop(owner)? == "app",
        "the owner isn't the one in the settings"
    );
    Ok(())
}

/// The order of a founding: slots everywhere, then subscriptions, then workers.
async fn form(mesh: &Mesh) -> Result<()> {
    let started = mesh.ms();
    try_join!(mesh.provide(0), mesh.provide(1), mesh.provide(2))?;
    let slots = mesh.ms();
    try_join!(subscribe(mesh, 0), subscribe(mesh, 1), subscribe(mesh, 2))?;
    let subscribed = mesh.ms();
    try_join!(enable(mesh, 0), enable(mesh, 1), enable(mesh, 2))?;
    let running = mesh.ms();
    try_join!(mesh.beat(0), mesh.beat(1), mesh.beat(2))?;
    try_join!(
        hears_others(mesh, 0),
        hears_others(mesh, 1),
        hears_others(mesh, 2)
    )?;
    println!(
        "formation of {NODES}: slots {} ms, subscriptions {} ms, workers {} ms, heard {} ms, \
         together {} ms",
        slots - started,
        subscribed - slots,
        running - subscribed,
        mesh.ms() - running,
        mesh.ms() - started
    );
    // Whoever resumes after a crash does it all again, and nothing changes.
    let positions = mesh.look(0).await?.slots;
    mesh.provide(0).await?;
    subscribe(mesh, 0).await?;
    ensure!(
        mesh.look(0).await?.slots.keys().eq(positions.keys()),
        "slots were made twice"
    );
    Ok(())
}

async fn subscribe(mesh: &Mesh, subscriber: usize) -> Result<()> {
    for provider in (0..NODES).filter(|other| *other != subscriber) {
        let name = mesh.subscription(subscriber, provider);
        let dsn = mesh.servers.conninfo(subscriber, provider)?;
        let postgres = mesh.postgres(subscriber);
        let made = postgres.create_subscription_disabled(&name, &dsn, Forward::Nothing);
        let slot = made.await?.slot;
        let facts = mesh.look(provider).await?;
        ensure!(
            facts.slots.contains_key(&slot),
            "the provider has another slot than {slot}"
        );
    }
    Ok(())
}

/// Waits until every other node's heartbeat has come to `to`.
async fn hears_others(mesh: &Mesh, to: usize) -> Result<()> {
    for _ in 0..1_500 {
        if mesh.look(to).await?.heartbeats.len() == NODES {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("node {to} doesn't hear everybody")
}

async fn enable(mesh: &Mesh, subscriber: usize) -> Result<()> {
    let names = mesh.subscriptions(subscriber);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    mesh.postgres(subscriber).enable(&names).await?;
    let missing = mesh
        .postgres(subscriber)
        .start_workers(&names, Duration::from_secs(10))
        .await?;
    ensure!(missing.is_empty(), "no workers for {missing:?}");
    Ok(())
}

/// Heartbeats arrive on every edge, stamped on arrival, and edges look as they should.
async fn all_hear_all(mesh: &Mesh) -> Result<()> {
    for to in 0..NODES {
        for from in (0..NODES).filter(|other| *other != to) {
            let lag = mesh.hears(to, from).await?;
            ensure!(
                (0..5_000).contains(&lag),
                "a lag of {lag} ms between two processes"
            );
        }
        let facts = mesh.look(to).await?;
        ensure!(facts.subscriptions.len() == NODES - 1 && facts.slots.len() == NODES - 1);
        for (name, edge) in &facts.subscriptions {
            let sound = edge.enabled && edge.worker && edge.origin && edge.forwards_nothing;
            ensure!(sound && edge.sync_status == Some('r'), "{name}: {edge:?}");
        }
        ensure!(
            facts.tables.is_empty(),
            "our own tables count as the user's"
        );
        ensure!(facts.local_node.is_some() && facts.epoch == Some(mesh.who[to].1));
    }
    let unstamped = "select count(*) from pgaa.heartbeat where received_at is null";
    mesh.answers(0, unstamped, "1").await
}

/// Looking is cheap once nothing changes.
async fn at_rest(mesh: &Mesh) -> Result<()> {
    mesh.look(0).await?;
    let started = mesh.ms();
    for _ in 0..100 {
        mesh.look(0).await?;
    }
    println!("a look at rest takes {} us", (mesh.ms() - started) * 10);
    Ok(())
}

/// A look at tables that were made a moment ago: structure is read twice a second at most.
async fn tables_seen(mesh: &Mesh, node: usize) -> Result<PostgresFacts> {
    for _ in 0..500 {
        let facts = mesh.look(node).await?;
        if !facts.tables.is_empty() {
            return Ok(facts);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("node {node} doesn't see its tables")
}

async fn tables_replicate(mesh: &Mesh) -> Result<()> {
    for node in 0..NODES {
        mesh.server(node).shop(
            "create table public.\"T x\" (id uuid primary key default gen_random_uuid(), \
             n int, twice int generated always as (n * 2) stored); \
             create table keyless (a int); create unlogged table quick (a int primary key); \
             create schema scratch; create table scratch.s (a int primary key)",
        )?;
        mesh.server(node)
            .shop(&format!("insert into \"T x\"(n) values ({node})"))?;
    }
    let looks = try_join!(tables_seen(mesh, 0), tables_seen(mesh, 1))?;
    ensure!(
        looks.0.catalog == looks.1.catalog && looks.0.catalog != 0,
        "equal tables differ"
    );
    let names: Vec<&str> = looks
        .0
        .tables
        .iter()
        .map(|table| table.name.as_str())
        .collect();
    ensure!(
        names == ["public.\"T x\"", "public.keyless", "public.quick"],
        "{names:?}"
    );
    let flags: Vec<_> = looks
        .0
        .tables
        .iter()
        .map(|t| (t.primary_key, t.replicable))
        .collect();
    ensure!(
        flags == [(true, true), (false, true), (true, false)],
        "{flags:?}"
    );
    ensure!(looks.0.has_rows, "a row was overlooked");
    for node in 0..NODES {
        mesh.postgres(node)
            .add_table("public.\"T x\"", true)
            .await?;
        ensure!(
            !mesh
                .postgres(node)
                .add_table("public.\"T x\"", true)
                .await?,
            "added twice"
        );
        mesh.server(node)
            .shop(&format!("insert into \"T x\"(n) values (10 + {node})"))?;
    }
    let all = "select string_agg(n || ':' || twice, ',' order by n) from \"T x\"";
    for node in 0..NODES {
        mesh.answers(node, all, "0:0,1:2,2:4,10:20,11:22,12:24")
            .await?;
        ensure!(
            mesh.look(node).await?.tables[0].replicated,
            "not seen as replicated"
        );
    }
    mesh.server(1)
        .shop("alter table keyless alter a type bigint")?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let parted = try_join!(mesh.look(0), mesh.look(1))?;
    ensure!(
        parted.0.catalog != parted.1.catalog,
        "a change of type was overlooked"
    );
    Ok(())
}

async fn back_after_a_crash(mesh: &mut Mesh) -> Result<()> {
    let edges: Vec<String> = (0..2).map(|node| mesh.subscription(node, 2)).collect();
    mesh.servers.all[2].kill9()?;
    for (node, edge) in edges.iter().enumerate() {
        mesh.server(node)
            .shop(&format!("insert into \"T x\"(n) values (20 + {node})"))?;
        down(mesh, node, edge).await?;
    }
    mesh.servers.all[2].start()?;
    let started = mesh.ms();
    for (node, edge) in edges.iter().enumerate() {
        mesh.postgres(node).kick(edge).await?;
    }
    let own = mesh.subscriptions(2);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    mesh.postgres(2)
        .start_workers(&own, Duration::from_secs(10))
        .await?;
    mesh.hears(0, 2).await?;
    mesh.hears(1, 2).await?;
    println!("back after {} ms", mesh.ms() - started);
    mesh.answers(2, "select count(*) from \"T x\" where n >= 20", "2")
        .await?;
    mesh.server(2).shop("insert into \"T x\"(n) values (22)")?;
    mesh.answers(0, "select count(*) from \"T x\" where n >= 20", "3")
        .await
}

/// Waits until the edge has no worker, as pglogical waits before it tries again.
async fn down(mesh: &Mesh, node: usize, edge: &str) -> Result<()> {
    for _ in 0..500 {
        if !mesh.look(node).await?.subscriptions[edge].worker {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the worker of a dead provider still runs on node {node}")
}
