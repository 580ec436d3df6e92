//! `kill -9` of the ways back at each of their steps: asked for again they go on, and what is half
//! done is never taken for done.

use super::backups::sql_at;
use super::now;
use crate::backup::{BACKUP_MAX, covered, posix};
use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{output, run, server_directory};
use pgaa_tests::node::{Node, NodeConfig};
use pgaa_tests::process::Daemon;
use pgaa_tests::scenario::play_unstarted;
use pgaa_tests::workload::token;
use std::fs::{self, File};
use std::path::Path;

/// The rows of the moment that is restored.
const ROWS: &str = "1,2,3,4,5,6,7,8,9,10";
const QUERY: &str = "select string_agg(id::text, ',' order by id) from public.story";

#[test]
fn a_way_back_that_is_killed_at_any_step_goes_on() -> Result<()> {
    play_unstarted(1, |cluster| {
        let [node] = cluster.each()?;
        configure(cluster, node, 1)?;
        cluster.boot(&[node])?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        node.sql("create table public.story (id int primary key)")?;
        cluster.eventually(BACKUP_MAX, "there is a full backup", |_| covered(node))?;
        node.sql("insert into public.story select generate_series(1, 10)")?;
        let before = now(node)?;
        node.sql("insert into public.story select generate_series(11, 20)")?;
        a_copy(cluster, node, &before)?;
        the_mesh(cluster, node, &before)
    })
}

fn configure(cluster: &Cluster, node: &Node, secret: u8) -> Result<()> {
    let repository = node.file("repository");
    server_directory(&repository, 0o700)?;
    node.configure_agent(&NodeConfig {
        token: token(secret),
        ..cluster.config(1)
    })?;
    node.amend_agent(&format!(
        "[slots]\nreserve_percent = 2\n{}",
        posix(&repository)
    ))
}

/// Begins a command, and kills it, and nothing else, once it has come so far.
fn killed(
    cluster: &Cluster,
    node: &Node,
    arguments: &[&str],
    (what, so_far): (&str, &dyn Fn() -> bool),
) -> Result<()> {
    let log = node.file("killed.log");
    let _ = fs::remove_file(&log);
    let command = Daemon::spawn("the command", &mut node.agent_command(arguments), &log)?;
    cluster.eventually(seconds(180), &format!("it has come to: {what}"), |_| {
        let said = fs::read_to_string(&log).unwrap_or_default();
        ensure!(so_far(), "it is not there: {said}");
        Ok(())
    })?;
    command.kill9_alone()
}

fn killed_at(cluster: &Cluster, node: &Node, arguments: &[&str], point: &str) -> Result<()> {
    node.hold(point)?;
    killed(cluster, node, arguments, (point, &|| node.is_held(point)))?;
    node.let_go(point)
}

/// `backup restore`, killed again and again in one directory.
fn a_copy(cluster: &Cluster, node: &Node, before: &str) -> Result<()> {
    let copy = node.file("copy");
    let to = copy.display().to_string();
    let restore = ["backup", "restore", "--to", &to, "--target-time", before];
    let unfinished = || {
        let manifest = fs::read_to_string(copy.join("pgaa-restore.json"))?;
        ensure!(!manifest.contains("\"ready\""), "{manifest}");
        Ok(())
    };
    killed_at(cluster, node, &restore, "restore_made")?;
    unfinished()?;
    let copying = || copy.join("data/global").exists();
    killed(cluster, node, &restore, ("copying", &copying))?;
    unfinished()?;
    // What pgBackRest was doing may go on: then nobody else may write there.
    cluster.eventually(seconds(60), "nobody is at work there", |_| {
        let lock = File::open(copy.join("pgaa-restore.lock"))?;
        let locked = Flock::lock(lock, FlockArg::LockExclusiveNonblock);
        locked.map(drop).map_err(|(_, error)| error.into())
    })?;
    killed_at(cluster, node, &restore, "restore_copied")?;
    unfinished()?;
    killed_at(cluster, node, &restore, "restore_replayed")?;
    unfinished()?;
    run(&mut node.agent_command(&restore))?;
    let rows = || sql_at(&copy.join("sock"), QUERY);
    ensure!(rows()? == ROWS, "other rows: {}", rows()?);

    // The machine fails: the server is gone, and has left its files.
    let pid = fs::read_to_string(copy.join("data/postmaster.pid"))?;
    let pid = pid.lines().next().context("no process id")?.parse()?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    cluster.eventually(seconds(20), "the copy's server is gone", |_| {
        ensure!(rows().is_err(), "it answers");
        Ok(())
    })?;
    // Its children see that it is gone, and end; the kernel lets their memory go with the last.
    cluster.eventually(seconds(30), "the copy is started again", |_| {
        run(&mut node.agent_command(&restore)).map(drop)
    })?;
    ensure!(rows()? == ROWS, "other rows: {}", rows()?);
    run(&mut node.agent_command(&["backup", "discard", &to]))?;
    ensure!(!copy.exists(), "something is left of the copy");
    Ok(())
}

/// `backup found`, killed when a step is done and not noted yet.
fn the_mesh(cluster: &Cluster, node: &Node, before: &str) -> Result<()> {
    let cluster_id = |node: &Node| Ok::<_, anyhow::Error>(node.status()?.cluster.map(|c| c.id));
    let old = cluster_id(node)?;
    ensure!(old.is_some(), "it is in no cluster");
    node.stop_agent()?;
    node.stop_postgres()?;
    configure(cluster, node, 2)?;
    let begin = ["backup", "found", "--target-time", before, "--yes"];
    // What was said when it began counts.
    let go_on = ["backup", "found", "--target-time", "1s ago", "--yes"];
    killed_at(cluster, node, &begin, "found_restored")?;
    refuses_to_start(node)?;
    for point in [
        "found_stripped",
        "found_identity_aside",
        "found_database_aside",
        "found_in_place",
    ] {
        killed_at(cluster, node, &go_on, point).with_context(|| point)?;
        refuses_to_start(node)?;
    }
    run(&mut node.agent_command(&["backup", "found", "--yes"]))?;
    ensure!(
        !Path::new(&node.file("data.restored")).exists(),
        "not in its place"
    );
    cluster.boot(&[node])?;
    cluster.await_assembly(ASSEMBLY_MAX)?;
    ensure!(node.sql(QUERY)? == ROWS, "other rows: {}", node.sql(QUERY)?);
    let new = cluster_id(node)?;
    ensure!(new.is_some() && new != old, "it is the old mesh: {new:?}");
    Ok(())
}

/// With half of each mesh no agent speaks.
fn refuses_to_start(node: &Node) -> Result<()> {
    let tried = output(&mut node.agent_command(&["run"]))?;
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    ensure!(
        tried.status.code() == Some(78) && said.contains("pgaa-agent backup found --yes"),
        "{}: {said}",
        tried.status
    );
    Ok(())
}
