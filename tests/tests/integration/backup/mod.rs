//! Backups by the real pgBackRest: one node owns them, another takes over, and a repository that
//! fails in whatever way stops no database.

mod owners;
mod s3;
mod trouble;

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::backup::repository::Window;
use pgaa_core::status::{BackupReport, Health};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::server_directory;
use pgaa_tests::load::{Load, Rate, Workload, create_tables};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play_unstarted;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A full backup of a small database, on a machine that does other things as well: it gets what they
/// leave.
pub(crate) const BACKUP_MAX: Duration = Duration::from_secs(300);

/// The directory that all nodes share, in the place of NFS.
pub(crate) fn shared(node: &Node) -> PathBuf {
    let own = node.file("x");
    let run = own.parent().and_then(Path::parent).unwrap_or(&own);
    run.join("repository")
}

/// `[backup]` for a directory, with a hand-over that tests can wait for.
pub(crate) fn posix(path: &Path) -> String {
    format!(
        "[backup]\nrepository = \"posix\"\npath = {:?}\nhand_over_s = 10\narchive_timeout_s = 5\n",
        path.display().to_string()
    )
}

/// What a node says of the backups.
pub(crate) fn report(node: &Node) -> Result<BackupReport> {
    node.status()?
        .backup
        .context("status says nothing of backups")
}

/// All these nodes name the same owner, and no other; returns it.
fn owner<'a>(nodes: &[&'a Node]) -> Result<&'a Node> {
    let mut found = None;
    for node in nodes {
        let report = report(node)?;
        let [owner] = report.owners.as_slice() else {
            anyhow::bail!("{} sees the owners {:?}", node.name(), report.owners)
        };
        let owner = nodes.iter().find(|n| n.name() == owner.name);
        let owner = owner.with_context(|| format!("{} sees another owner", node.name()))?;
        ensure!(
            found.is_none_or(|found: &Node| found.name() == owner.name()),
            "{} and others don't agree",
            node.name()
        );
        found = Some(*owner);
    }
    found.context("there is no node")
}

/// The owner has taken a full backup since it owns them.
pub(crate) fn covered(node: &Node) -> Result<()> {
    let report = report(node)?;
    let own = report.owners.iter().find(|owner| owner.name == node.name());
    let own = own.with_context(|| format!("{} owns nothing: {report:?}", node.name()))?;
    ensure!(
        own.covered,
        "no full backup yet: {report:?}\n{}",
        node.agent_log()
    );
    Ok(())
}

/// One finding of the backups says all of this, and a command that helps.
fn says(node: &Node, severity: Health, code: &str, words: &[&str]) -> Result<()> {
    let findings = node.status()?.findings;
    let found = findings.iter().find(|finding| finding.code == code);
    let found = found.with_context(|| format!("{}: no {code} in {findings:?}", node.name()))?;
    for word in words {
        ensure!(found.text.contains(word), "no {word:?} in {found:?}");
    }
    ensure!(found.severity == severity, "{found:?}");
    ensure!(found.command.starts_with("pgaa-agent backup"), "{found:?}");
    Ok(())
}

/// Nothing is wrong with the backups, as this node sees them.
fn well(node: &Node) -> Result<()> {
    let findings = node.status()?.findings;
    let of_backups = ["backup", "archive", "wal_let_go"];
    let bad = findings.iter().find(|finding| {
        finding.severity > Health::Ok && of_backups.iter().any(|c| finding.code.starts_with(c))
    });
    ensure!(bad.is_none(), "{}: {bad:?}", node.name());
    Ok(())
}

fn from<'a>(windows: &'a [Window], node: &Node) -> Option<&'a Window> {
    windows
        .iter()
        .find(|window| window.node_name == node.name())
}

#[test]
fn one_node_keeps_the_backups_and_another_takes_over() -> Result<()> {
    play_unstarted(3, |cluster| {
        let nodes = cluster.each::<3>()?;
        let repository = shared(nodes[0]);
        server_directory(&repository, 0o750)?;
        for node in nodes {
            let settings = posix(&repository);
            node.amend_agent(&format!(
                "[slots]\nreserve_percent = 2\n{settings}keep_full = 1\nprove = \"* * * * *\"\n"
            ))?;
        }
        cluster.boot(&nodes)?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        owners::create_table(cluster)?;
        let load = Load::start(&nodes, Workload::Own, Rate::PerSecond(20))?;
        let first = first_backup(cluster, &nodes)?;
        let others: Vec<&Node> = nodes
            .into_iter()
            .filter(|node| node.name() != first.name())
            .collect();
        let of_first = owners::tell(cluster, first, &others)?;
        let second = taken_over(cluster, first, &others)?;
        let of_second = owners::tell(cluster, second, &others)?;
        owners::restored(second, &[of_first, of_second])?;
        comes_back(cluster, &nodes, first, second)?;
        moved(cluster, &nodes, first)?;
        outlived(cluster, first, second, &repository)?;
        proven_by_schedule(cluster, &nodes)?;
        load.stop()?;
        no_secrets_and_one_archiver(&nodes)
    })
}

fn first_backup<'a>(cluster: &Cluster, nodes: &[&'a Node]) -> Result<&'a Node> {
    cluster.eventually(seconds(60), "one node owns the backups", |_| {
        owner(nodes).map(drop)
    })?;
    let first = owner(nodes)?;
    cluster.eventually(BACKUP_MAX, "it has taken a full backup", |_| covered(first))?;
    cluster.eventually(seconds(30), "its WAL is archived", |_| {
        let windows = report(first)?.windows;
        let window = from(&windows, first).context("nothing can be restored")?;
        ensure!(window.until.0 - window.from.0 > 5_000, "{window:?}");
        Ok(())
    })?;
    let listed = nodes[0].order(&["backup", "list"])?;
    ensure!(
        listed.contains("full") && listed.contains(first.name()),
        "{listed}"
    );
    Ok(first)
}

fn taken_over<'a>(cluster: &Cluster, first: &Node, others: &[&'a Node]) -> Result<&'a Node> {
    first.kill9_agent()?;
    first.kill9_postmaster()?;
    let took = cluster.eventually(seconds(90), "another node owns the backups", |_| {
        let names = others.iter().map(|node| {
            let owners = report(node)?.owners;
            let owner = owners.first().context("nobody")?;
            ensure!(owner.name != first.name(), "still {}", owner.name);
            Ok(owner.name.clone())
        });
        let names: Result<Vec<String>> = names.collect();
        let names = names?;
        ensure!(names.iter().all(|name| *name == names[0]), "{names:?}");
        Ok(())
    })?;
    ensure!(took > seconds(8), "the hand-over's time was not waited for");
    let name = report(others[0])?.owners[0].name.clone();
    let second = others.iter().find(|node| node.name() == name);
    let second = *second.context("an owner that isn't there")?;
    cluster.eventually(BACKUP_MAX, "it has taken a full backup", |_| {
        covered(second)
    })?;
    let report = report(second)?;
    ensure!(
        from(&report.windows, first).is_some() && from(&report.windows, second).is_some(),
        "both can be restored from: {report:?}"
    );
    ensure!(report.gaps.len() == 1, "the hand-over is a gap: {report:?}");
    Ok(second)
}

/// The one that was gone gives up its claim, and archives no more.
fn comes_back(cluster: &Cluster, nodes: &[&Node], first: &Node, second: &Node) -> Result<()> {
    first.start_postgres()?;
    first.start_agent()?;
    cluster.eventually(seconds(60), "all agree on the one that took over", |_| {
        let owner = owner(nodes)?;
        ensure!(owner.name() == second.name(), "it is {}", owner.name());
        Ok(())
    })?;
    cluster.eventually(seconds(30), "the first lets its WAL go", |_| {
        let command = first.sql("show archive_command")?;
        ensure!(command == "/bin/true", "{command}");
        Ok(())
    })?;
    Ok(())
}

/// By command it moves at once, and nothing is missing between.
fn moved(cluster: &Cluster, nodes: &[&Node], to: &Node) -> Result<()> {
    let gaps = report(to)?.gaps.len();
    let asked = nodes
        .iter()
        .find(|node| node.name() != to.name())
        .context("nobody to ask")?;
    // It has just been started, and says by its record when it can own them.
    cluster.eventually(seconds(60), "the backups can be moved", |_| {
        asked
            .order(&["backup", "owner", "--move-to", to.name()])
            .map(drop)
    })?;
    cluster.eventually(seconds(30), "the backups have moved", |_| {
        let owner = owner(nodes)?;
        ensure!(owner.name() == to.name(), "{} owns them", owner.name());
        Ok(())
    })?;
    cluster.eventually(BACKUP_MAX, "it has taken a full backup", |_| covered(to))?;
    cluster.eventually(seconds(60), "only one archives", |_| {
        only_archiver(nodes, to)
    })?;
    // How far the one before has archived comes round with its record.
    cluster.eventually(seconds(60), "a planned move makes no gap", |_| {
        let found = report(to)?.gaps;
        ensure!(found.len() <= gaps, "{found:?}");
        Ok(())
    })?;
    Ok(())
}

/// What a former owner has is kept for as long as its moments are wanted: with one full backup to be
/// kept, until the owner has one that ended after them.
fn outlived(cluster: &Cluster, owner: &Node, former: &Node, repository: &Path) -> Result<()> {
    let stanza = from(&report(owner)?.windows, former).map(|window| window.stanza.clone());
    let stanza = stanza.context("the former owner's backups are gone too early")?;
    let kept = ["archive", "backup"].map(|part| repository.join(part).join(stanza.as_str()));
    ensure!(kept.iter().all(|part| part.exists()), "no {kept:?}");
    // Before that the stanza might still be written to, and stays until the backup after the next.
    cluster.eventually(
        seconds(60),
        "the owner knows where the former one's end",
        |_| {
            let until = |of: &BackupReport| from(&of.windows, former).map(|window| window.until);
            let (seen, said) = (until(&report(owner)?), until(&report(former)?));
            ensure!(seen == said, "{seen:?}, not {said:?}");
            Ok(())
        },
    )?;
    owner.order(&["backup", "run", "full"])?;
    cluster.eventually(BACKUP_MAX, "the former owner's backups are gone", |_| {
        let report = report(owner)?;
        ensure!(from(&report.windows, former).is_none(), "{report:?}");
        ensure!(!kept.iter().any(|part| part.exists()), "{kept:?} are there");
        ensure!(from(&report.windows, owner).is_some(), "so are the owner's");
        Ok(())
    })?;
    Ok(())
}

/// Nobody has asked for it.
fn proven_by_schedule(cluster: &Cluster, nodes: &[&Node]) -> Result<()> {
    cluster.eventually(seconds(180), "the backups were proven", |_| {
        let reports: Result<Vec<_>> = nodes.iter().map(|node| node.status()).collect();
        let proofs = reports?.into_iter().filter_map(|report| report.proofs);
        let held: Vec<_> = proofs.filter_map(|proofs| proofs.held).collect();
        ensure!(
            held.iter().any(|proof| proof.holds() && proof.rows() > 0),
            "{held:?}"
        );
        Ok(())
    })?;
    Ok(())
}

fn only_archiver(nodes: &[&Node], owner: &Node) -> Result<()> {
    for node in nodes {
        let command = node.sql("show archive_command")?;
        let archives = command.contains("pgbackrest");
        ensure!(
            archives == (node.name() == owner.name()),
            "{} has archive_command {command}",
            node.name()
        );
    }
    Ok(())
}

fn no_secrets_and_one_archiver(nodes: &[&Node]) -> Result<()> {
    only_archiver(nodes, owner(nodes)?)?;
    for node in nodes {
        let text = node.order(&["backup", "status"])?;
        ensure!(text.contains("BACKUPS"), "{text}");
    }
    Ok(())
}
