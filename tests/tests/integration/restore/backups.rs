//! A repository that the nodes of a test share, and backups in it.
//!
//! They are taken by hand, at moments of the test's choosing: no node may own them.

use crate::seconds;
use anyhow::{Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{as_server, run, server_directory};
use pgaa_tests::node::{DATABASE, Node, SERVER_BIN};
use std::path::Path;

/// Configures one posix repository, in the first node's directory, for these nodes; they must not
/// run yet.
pub fn repository_for(first: &Node, nodes: &[&Node]) -> Result<()> {
    let repository = first.file("repository");
    server_directory(&repository, 0o700)?;
    for node in nodes {
        // Little is restored, and the disks of those who test are full enough.
        node.amend_agent(&format!(
            "[slots]\nreserve_percent = 2\n[backup]\nrepository = \"posix\"\npath = {:?}\n\
             exclude_nodes = [\"a\", \"b\", \"c\"]\n",
            repository.display().to_string()
        ))?;
    }
    Ok(())
}

/// The backups of one node.
#[derive(Debug)]
pub struct Backups {
    config: String,
    stanza: String,
    data: String,
}

impl Backups {
    /// Has a node archive into the repository.
    pub fn on(cluster: &Cluster, node: &Node) -> Result<Backups> {
        // Writes pgBackRest's configuration.
        drop(crate::restore::backup(
            node,
            &["restore", "--to", "/nowhere/else"],
        )?);
        let id = node.status()?.answered_by.node.to_string().replace('-', "");
        let system: u64 = node
            .sql("select system_identifier from pg_control_system()")?
            .parse()?;
        let backups = Backups {
            config: node
                .file("state/backup/pgbackrest.conf")
                .display()
                .to_string(),
            stanza: format!("pgaa-{id}-{system:016x}"),
            data: node.data_directory().display().to_string(),
        };
        backups.run(node, &["stanza-create"])?;
        node.sql(&format!(
            "alter system set archive_command = 'pgbackrest --config={} --stanza={} --pg1-path={} archive-push %p'",
            backups.config, backups.stanza, backups.data
        ))?;
        node.sql("select pg_reload_conf()")?;
        backups.run(node, &["backup", "--type=full", "--start-fast"])?;
        cluster.eventually(seconds(20), "WAL is archived", |_| {
            node.sql("select pg_switch_wal()")?;
            let archived = node.sql("select archived_count from pg_stat_archiver")?;
            ensure!(archived != "0", "{archived}");
            Ok(())
        })?;
        Ok(backups)
    }

    /// Takes another, which removes all before it.
    pub fn replace(&self, node: &Node) -> Result<()> {
        let full = ["backup", "--type=full", "--start-fast"];
        let alone = "--repo1-retention-full=1";
        self.run(node, &[&full[..], &[alone]].concat()).map(drop)
    }

    fn run(&self, node: &Node, arguments: &[&str]) -> Result<String> {
        let mut command = as_server("pgbackrest");
        command
            .arg(format!("--config={}", self.config))
            .arg(format!("--stanza={}", self.stanza))
            .arg(format!("--pg1-path={}", self.data))
            .arg(format!(
                "--pg1-socket-path={}",
                node.socket_directory().display()
            ))
            .args(arguments);
        run(&mut command)
    }
}

/// Runs SQL on a restored copy.
pub(crate) fn sql_at(socket: &Path, statement: &str) -> Result<String> {
    let mut command = as_server(format!("{SERVER_BIN}/psql"));
    command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]);
    command.arg(socket).args(["-d", DATABASE, "-c", statement]);
    run(&mut command)
}
