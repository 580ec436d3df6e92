//! A repository in a server of S3, over TLS, encrypted: archived, backed up and proven like any other;
//! with a key that isn't right, and out of reach.

use super::trouble::{SERVER_KEEPS_MB, WAITING_MAX_MB, complete_one, stays_bounded};
use super::{BACKUP_MAX, covered, report, says, well};
use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::restore::proof::Proof;
use pgaa_core::status::Health;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{as_server_in, clean, output, run, server_file};
use pgaa_tests::load::{Load, Rate, Workload, create_tables};
use pgaa_tests::node::Node;
use pgaa_tests::process::Daemon;
use pgaa_tests::scenario::play_unstarted;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where `.ci/s3-server` puts moto.
const PYTHON: &str = "/var/cache/pgaa-tests/s3/bin/python";

/// pgBackRest wants a DNS name in certificates, so the server is this node's localhost.
const PORT: u16 = 9000;

/// How long pgBackRest waits for an answer, seconds; where nobody listens it tries four times as long.
/// That is longer than it takes to write more than may wait.
const IO_TIMEOUT_S: u64 = 3;

/// How long it is out of reach at least: longer than a command may hang by itself.
const AWAY: Duration = Duration::from_secs(30);

const PHRASE: &str = "test-phrase-that-nobody-may-see";

/// The server, in the node's own network.
struct S3 {
    _server: Daemon,
    ca: PathBuf,
    key_id: String,
    secret: String,
}

fn start(cluster: &Cluster, node: &Node) -> Result<S3> {
    ensure!(
        Path::new(PYTHON).exists(),
        "moto is missing; `make test` installs what the tests need"
    );
    let (ca, key) = (node.file("s3-ca.crt"), node.file("s3-key"));
    let namespace = cluster.net.namespace(node.name());
    let mut command = clean("ip");
    command.args(["netns", "exec", &namespace, "setpriv", "--pdeathsig=KILL"]);
    command
        .args([PYTHON, concat!(env!("CARGO_MANIFEST_DIR"), "/s3/server.py")])
        .args([&PORT.to_string(), "shop"])
        .args([&ca, &key]);
    let log = node.file("s3.log");
    let server = Daemon::spawn("the server of S3", &mut command, &log)?;
    cluster.eventually(seconds(60), "the server of S3 listens", |_| {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let text = fs::read_to_string(&key).context(said)?;
        ensure!(text.lines().count() == 2, "no access key yet");
        Ok(())
    })?;
    let text = fs::read_to_string(&key)?;
    let (key_id, secret) = text.trim_end().split_once('\n').context("no secret")?;
    Ok(S3 {
        _server: server,
        ca,
        key_id: key_id.to_owned(),
        secret: secret.to_owned(),
    })
}

impl S3 {
    /// `[backup]` for it.
    fn settings(&self, key: &Path, phrase: &Path) -> String {
        format!(
            "[slots]\nreserve_percent = 2\n[backup]\nrepository = \"s3\"\nbucket = \"shop\"\n\
             endpoint = \"localhost\"\nport = {PORT}\nregion = \"us-east-1\"\nuri_style = \"path\"\n\
             key_id = {:?}\nkey_file = {key:?}\ncipher_file = {phrase:?}\nca_file = {:?}\n\
             archive_timeout_s = 20\nwaiting_max_mb = {WAITING_MAX_MB}\n\
             options = [\"io-timeout={IO_TIMEOUT_S}\"]\n",
            self.key_id, self.ca
        )
    }
}

#[test]
fn s3_over_tls_holds_encrypted_backups_that_are_proven() -> Result<()> {
    play_unstarted(1, |cluster| {
        let [node] = cluster.each()?;
        let s3 = start(cluster, node)?;
        let (key, phrase) = (node.file("backup-key"), node.file("backup-phrase"));
        server_file(&key, &s3.secret, 0o600)?;
        server_file(&phrase, PHRASE, 0o600)?;
        node.amend_agent(&s3.settings(&key, &phrase))?;
        let keeps = format!("max_wal_size = {SERVER_KEEPS_MB}MB\nmin_wal_size = 32MB\n");
        node.amend("postgresql.conf", &keeps)?;
        cluster.boot(&[node])?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &[node])?;
        let load = Load::start(&[node], Workload::Own, Rate::PerSecond(20))?;
        let unseen = || unseen(node, &[&s3.secret, PHRASE]);
        cluster.eventually(BACKUP_MAX, "there is a full backup", |_| {
            unseen()?;
            covered(node)
        })?;
        encrypted(cluster, node)?;
        let listed = node.order(&["backup", "list"])?;
        ensure!(listed.contains("full"), "{listed}");
        let proof =
            output(&mut node.agent_command(&["backup", "verify", "--restore", "-o", "json"]))?;
        let said = String::from_utf8_lossy(&proof.stderr).into_owned();
        let proof: Proof = serde_json::from_slice(&proof.stdout).context(said)?;
        ensure!(proof.holds() && proof.rows() > 500, "{proof:?}");
        unseen()?;
        wrong_key(cluster, node, &key, &s3.secret)?;
        nobody_listens(cluster, node)?;
        nothing_comes_back(cluster, node)?;
        load.stop()?;
        unseen()
    })
}

/// These are in no command line, log, record, status or event.
fn unseen(node: &Node, secrets: &[&str]) -> Result<()> {
    let mut seen = vec![node.agent_log(), serde_json::to_string(&node.status()?)?];
    seen.push(node.order(&["events", "-o", "json"])?);
    // What archiving has to say goes to the server's log; records lie among the agent's files.
    for directory in [node.data_directory().join("log"), node.file("state")] {
        for entry in fs::read_dir(directory)?.flatten() {
            seen.push(fs::read_to_string(entry.path()).unwrap_or_default());
        }
    }
    for entry in fs::read_dir("/proc")?.flatten() {
        // A process may be gone by now.
        seen.push(fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default());
    }
    for text in seen {
        let told = secrets.iter().any(|secret| text.contains(secret));
        ensure!(!told, "a secret is in {text}");
    }
    Ok(())
}

/// What lies in the bucket can't be read without the phrase.
fn encrypted(cluster: &Cluster, node: &Node) -> Result<()> {
    let config = format!(
        "--config={}",
        node.file("state/backup/pgbackrest.conf").display()
    );
    let namespace = cluster.net.namespace(node.name());
    let ask = |arguments: &[&str]| {
        let mut command = as_server_in(&namespace, "pgbackrest");
        run(command.arg(&config).args(arguments))
    };
    let listed = ask(&["repo-ls", "archive"])?;
    let info = format!("archive/{}/archive.info", listed.trim());
    let there = ask(&["repo-get", "--raw", &info])?;
    // OpenSSL's mark of what is encrypted, then noise.
    ensure!(there.starts_with("Salted__"), "{info} can be read: {there}");
    Ok(())
}

/// With a wrong key status says so; with the right one all goes on, without a restart.
fn wrong_key(cluster: &Cluster, node: &Node, key: &Path, secret: &str) -> Result<()> {
    server_file(key, "not-the-key", 0o600)?;
    // The agent reads it when it has something to do.
    node.order(&["backup", "run", "incremental"])?;
    cluster.eventually(seconds(180), "status says that the key is refused", |_| {
        let words = ["HTTP request failed with 403", "backup.key_file"];
        says(node, Health::Degraded, "archive_failing", &words)
    })?;
    node.sql("update public.shared set value = value + 1 where id = 1")?;
    server_file(key, secret, 0o600)?;
    well_again(cluster, node, seconds(180))
}

/// All that waited is there, and there is no gap.
fn well_again(cluster: &Cluster, node: &Node, within: Duration) -> Result<()> {
    cluster.eventually(within, "all is well again", |_| {
        let report = report(node)?;
        ensure!(
            report.waiting_bytes == 0 && report.gaps.is_empty(),
            "{report:?}"
        );
        well(node)
    })?;
    Ok(())
}

/// The server is down: status says so, WAL waits, and goes there when it is back.
fn nobody_listens(cluster: &Cluster, node: &Node) -> Result<()> {
    let reset = Some("reject with tcp reset");
    cluster.net.block_port(node.name(), PORT, reset)?;
    complete_one(node)?;
    cluster.eventually(seconds(240), "status says that it can't be reached", |_| {
        let words = ["unable to connect to 'localhost:9000'", "backup.endpoint"];
        says(node, Health::Degraded, "archive_failing", &words)
    })?;
    cluster.net.block_port(node.name(), PORT, None)?;
    well_again(cluster, node, seconds(120))
}

/// Packets vanish, under a load that fills what may wait while one command still hangs.
fn nothing_comes_back(cluster: &Cluster, node: &Node) -> Result<()> {
    cluster.net.block_port(node.name(), PORT, Some("drop"))?;
    let words = ["can't be restored", "backup.endpoint"];
    let most_mb = stays_bounded(node, AWAY, &words)?;
    eprintln!("          {most_mb} MB of WAL lay there at most, {WAITING_MAX_MB} MB may wait");
    cluster.net.block_port(node.name(), PORT, None)?;
    cluster.eventually(BACKUP_MAX, "a full backup ends the gap", |_| {
        let report = report(node)?;
        ensure!(report.gaps.len() == 1, "{report:?}");
        covered(node)?;
        well(node)
    })?;
    Ok(())
}
