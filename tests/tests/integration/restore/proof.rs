//! The proof: a backup is restored and compared with the live rows of one exact moment.

use super::backups::{Backups, repository_for};
use super::{backup, succeed};
use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::restore::proof::Proof;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::load::{Load, Rate, Workload, create_tables};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play_unstarted;
use std::fs;
use std::process::Stdio;

/// What a row holds, and what it is made to hold.
const TRUE: &str = "a title that is true";
const FALSE: &str = "a title that's false";

#[test]
fn a_backup_is_proven_under_load_and_a_false_one_is_not() -> Result<()> {
    play_unstarted(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, c] = nodes;
        repository_for(a, &nodes)?;
        cluster.boot(&nodes)?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        // Nobody else writes to its page: an image of it in the WAL would carry the falsehood along.
        cluster.everywhere("create table public.still (key text primary key, title text)")?;
        cluster.eventually(seconds(30), "the table is replicated", |cl| {
            cl.replicates(&["public.still"])
        })?;
        a.sql(&format!(
            "insert into public.still values ('one', '{TRUE}')"
        ))?;
        let backups = Backups::on(cluster, a)?;
        let load = Load::start(&nodes, Workload::Same, Rate::PerSecond(60))?;
        let own = Load::start(&nodes, Workload::Own, Rate::PerSecond(60))?;
        // Nothing of what is written meanwhile makes a difference: three times in a row.
        for _ in 0..3 {
            let proof = prove(a)?;
            ensure!(proof.holds(), "{proof:?}");
            ensure!(proof.tables.len() >= 8, "{proof:?}");
            ensure!(proof.rows() > 500, "{proof:?}");
            ensure!(
                proof.recovered_to.is_some() && proof.recovery_ms() > 0,
                "{proof:?}"
            );
        }
        load.stop()?;
        own.stop()?;
        remembered(cluster, a)?;
        proven_though_its_backup_goes(cluster, a, &backups)?;
        cluster.eventually(seconds(30), "the row is everywhere", |_| {
            let title = c.sql("select title from public.still where key = 'one'")?;
            ensure!(title == TRUE, "{title}");
            Ok(())
        })?;
        // Only the node whose backups they are can say what should be in them.
        let elsewhere = backup(b, &["verify", "--restore"])?;
        let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
        ensure!(
            elsewhere.status.code() == Some(1) && said.contains("owns the backups"),
            "{said}"
        );
        // On all nodes alike: rows that differ between nodes would be mended.
        for node in nodes {
            falsify(node)?;
        }
        cluster.eventually(seconds(30), "the servers answer again", |_| {
            for node in nodes {
                let title = node.sql("select title from public.still where key = 'one'")?;
                ensure!(title == FALSE, "{}: {title}", node.name());
            }
            Ok(())
        })?;
        let output = backup(a, &["verify", "--restore", "-o", "json"])?;
        ensure!(output.status.code() == Some(2), "{}", output.status);
        let proof: Proof = serde_json::from_slice(&output.stdout)?;
        let flaw = proof.flaw().context("a false backup was proven")?;
        ensure!(flaw.contains("public.still"), "{flaw}");
        cluster.eventually(seconds(20), "status is critical", |_| {
            let report = a.status()?;
            let found = report
                .findings
                .iter()
                .any(|of| of.code == "backup_unproven");
            ensure!(
                found && report.proofs.is_some_and(|of| of.held.is_some()),
                "it isn't"
            );
            Ok(())
        })?;
        Ok(())
    })
}

fn prove(node: &Node) -> Result<Proof> {
    let text = succeed(node, &["verify", "--restore", "-o", "json"])?;
    serde_json::from_str(&text).context(text)
}

/// Retention removes the backup while it is being proven: the one that is there instead is proven.
fn proven_though_its_backup_goes(cluster: &Cluster, a: &Node, backups: &Backups) -> Result<()> {
    let point = "restore_made";
    a.hold(point)?;
    let mut command = a.agent_command(&["backup", "verify", "--restore", "-o", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let proving = command.spawn()?;
    cluster.eventually(seconds(60), "a backup was chosen", |_| {
        ensure!(a.is_held(point), "it is not held");
        Ok(())
    })?;
    backups.replace(a)?;
    a.let_go(point)?;
    let output = proving.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && said.contains("removed meanwhile"),
        "{said}"
    );
    let proof: Proof = serde_json::from_slice(&output.stdout)?;
    ensure!(proof.holds(), "{proof:?}");
    remembered(cluster, a)
}

fn remembered(cluster: &Cluster, a: &Node) -> Result<()> {
    cluster.eventually(seconds(20), "status says what was proven", |_| {
        let proofs = a.status()?.proofs.context("nothing is remembered")?;
        let held = proofs.held.context("nothing was proven")?;
        ensure!(held.holds() && proofs.failed.is_none(), "{held:?}");
        Ok(())
    })?;
    let text = a.ask(&["status"])?.stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(text.contains("tables equal, restored in"), "{text}");
    Ok(())
}

/// A disk that changes a row behind the server's back: no WAL tells of it.
fn falsify(node: &Node) -> Result<()> {
    let file = node.sql("select pg_relation_filepath('public.still')")?;
    let file = node.data_directory().join(file);
    node.sql("checkpoint")?;
    node.stop_postgres()?;
    let mut bytes = fs::read(&file)?;
    let place = bytes
        .windows(TRUE.len())
        .position(|at| at == TRUE.as_bytes());
    let place = place.context("the row isn't in its file")?;
    let there = bytes
        .get_mut(place..place + TRUE.len())
        .context("the row's place")?;
    there.copy_from_slice(FALSE.as_bytes());
    fs::write(&file, bytes)?;
    node.start_postgres()
}
