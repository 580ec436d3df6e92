//! A repository that is read-only, full, of another pass phrase, away: the databases of a mesh under
//! load go on, their WAL stays bounded, status says what to do, and all is well again by itself.

use super::{BACKUP_MAX, covered, posix, report, says, shared, well};
use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_core::restore::proof::Proof;
use pgaa_core::status::Health;
use pgaa_core::time::Wall;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{clean, output, server_file};
use pgaa_tests::disk::SmallDisk;
use pgaa_tests::load::{Load, Rate, Workload, await_equality, create_tables};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play_unstarted;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// What may wait for the repository, MB. A segment counts in full, however little it holds.
pub(super) const WAITING_MAX_MB: u64 = 192;

/// What the server keeps of WAL that nobody waits for, MB; by default it is a gigabyte.
pub(super) const SERVER_KEEPS_MB: u64 = 64;

/// What is written until it is seen that too much waits, MB: the agent looks every two seconds.
const SEEN_LATE_MB: u64 = 128;

/// Between two segments: an application doesn't fill a real disk within one look either.
const PACE: Duration = Duration::from_millis(500);

/// How long the repository is away, seconds, if not longer than it takes until WAL is let go:
/// `PGAA_TEST_AWAY_SECONDS=600` plays the ten minutes.
const AWAY_S: u64 = 30;

const PHRASE: &str = "test-phrase-that-nobody-may-see";

/// A mesh of three under load; the first node owns the backups, as no other may, and has one.
struct Scene<'a> {
    cluster: &'a Cluster,
    owner: &'a Node,
    nodes: [&'a Node; 3],
    disk: SmallDisk,
    phrase: PathBuf,
    load: Load,
}

impl<'a> Scene<'a> {
    fn set(cluster: &'a Cluster) -> Result<Scene<'a>> {
        let nodes = cluster.each::<3>()?;
        let owner = nodes[0];
        let disk = SmallDisk::mount(&shared(owner), 256)?;
        let phrase = shared(owner).with_file_name("phrase");
        server_file(&phrase, PHRASE, 0o600)?;
        let repository = disk.path().join("shop");
        // Segments that are completed by time must not be what is let go.
        let settings = posix(&repository).replace("timeout_s = 5", "timeout_s = 20");
        for node in nodes {
            node.amend_agent(&format!(
                "[slots]\nreserve_percent = 2\n{settings}cipher_file = {:?}\nwaiting_max_mb = {WAITING_MAX_MB}\n\
                 exclude_nodes = [{:?}, {:?}]\n",
                phrase.display().to_string(),
                nodes[1].name(),
                nodes[2].name()
            ))?;
            let keeps = format!("max_wal_size = {SERVER_KEEPS_MB}MB\nmin_wal_size = 32MB\n");
            node.amend("postgresql.conf", &keeps)?;
        }
        cluster.boot(&nodes)?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        let load = Load::start(&nodes, Workload::Own, Rate::PerSecond(20))?;
        cluster.eventually(BACKUP_MAX, "there is a full backup", |_| covered(owner))?;
        Ok(Scene {
            cluster,
            owner,
            nodes,
            disk,
            phrase,
            load,
        })
    }

    /// The mesh has lost nothing by all that.
    fn end(self) -> Result<()> {
        self.load.stop()?;
        let rows = await_equality(self.cluster, &self.nodes)?;
        eprintln!("          {rows} customers are equal everywhere");
        for node in self.nodes {
            let said = format!("{}{:?}", node.agent_log(), node.status()?);
            ensure!(!said.contains(PHRASE), "{} tells the phrase", node.name());
        }
        Ok(())
    }
}

/// What a repository can suffer.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    ReadOnly,
    Full,
    OtherPhrase,
}

impl Trouble {
    fn begin(self, scene: &Scene<'_>) -> Result<()> {
        match self {
            Trouble::ReadOnly => scene.disk.remount("ro"),
            Trouble::Full => {
                let file = format!("of={}", ballast(scene).display());
                // It ends with an error when all is taken.
                output(clean("dd").args(["if=/dev/zero", &file, "bs=64k", "status=none"]))?;
                Ok(())
            }
            Trouble::OtherPhrase => {
                server_file(&scene.phrase, "another phrase", 0o600)?;
                // The agent reads it when it has something to do.
                scene
                    .owner
                    .order(&["backup", "run", "incremental"])
                    .map(drop)
            }
        }
    }

    fn end(self, scene: &Scene<'_>) -> Result<()> {
        match self {
            Trouble::ReadOnly => scene.disk.remount("rw"),
            Trouble::Full => Ok(fs::remove_file(ballast(scene))?),
            Trouble::OtherPhrase => server_file(&scene.phrase, PHRASE, 0o600),
        }
    }

    /// What status says of it.
    fn words(self) -> [&'static str; 2] {
        match self {
            Trouble::ReadOnly => ["Read-only file system", "can be written to"],
            Trouble::Full => ["No space left", "make room in the repository"],
            Trouble::OtherPhrase => ["archive", "backup.cipher_file"],
        }
    }
}

fn ballast(scene: &Scene<'_>) -> PathBuf {
    scene.disk.path().join("ballast")
}

#[test]
fn a_repository_that_fails_stops_no_database() -> Result<()> {
    play_unstarted(3, |cluster| {
        let scene = Scene::set(cluster)?;
        for trouble in [Trouble::ReadOnly, Trouble::Full, Trouble::OtherPhrase] {
            passes(&scene, trouble).with_context(|| format!("{trouble:?}"))?;
        }
        lost_for_good(&scene)?;
        scene.end()
    })
}

/// Shorter than what the bound allows: nothing is lost.
fn passes(scene: &Scene<'_>, trouble: Trouble) -> Result<()> {
    let (cluster, owner) = (scene.cluster, scene.owner);
    let gaps = report(owner)?.gaps.len();
    trouble.begin(scene)?;
    complete_one(owner)?;
    let what = format!("the owner says what is wrong: {trouble:?}");
    cluster.eventually(seconds(90), &what, |_| {
        says(owner, Health::Degraded, "archive_failing", &trouble.words())
    })?;
    cluster.eventually(seconds(30), "so do the others", |_| {
        for node in &scene.nodes[1..] {
            says(node, Health::Degraded, "backup_problem", &trouble.words())?;
        }
        Ok(())
    })?;
    trouble.end(scene)?;
    cluster.eventually(seconds(90), "all is well again", |_| {
        let report = report(owner)?;
        ensure!(report.waiting_bytes == 0, "{report:?}");
        ensure!(report.gaps.len() == gaps, "{report:?}");
        scene.nodes.iter().try_for_each(|node| well(node))
    })?;
    Ok(())
}

/// All that was in it is gone. Nobody but the operator can know that it won't come back: by one command
/// it is made anew, and proven.
fn lost_for_good(scene: &Scene<'_>) -> Result<()> {
    let (cluster, owner) = (scene.cluster, scene.owner);
    let lost_at = newest(owner)?;
    fs::remove_dir_all(scene.disk.path().join("shop"))?;
    complete_one(owner)?;
    cluster.eventually(
        seconds(90),
        "the owner says that the backups are gone",
        |_| {
            let words = ["none of the backups", "backup.path", "lost for good"];
            says(owner, Health::Critical, "backup_lost", &words)?;
            says(
                owner,
                Health::Degraded,
                "archive_failing",
                &["the repository is there"],
            )?;
            let report = report(owner)?;
            ensure!(
                report.windows.is_empty(),
                "it promises {:?}",
                report.windows
            );
            Ok(())
        },
    )?;
    owner.order(&["backup", "run", "full"])?;
    cluster.eventually(BACKUP_MAX, "all is well again", |_| {
        covered(owner)?;
        ensure!(newest(owner)? > lost_at, "no backup was taken");
        ensure!(report(owner)?.waiting_bytes == 0, "WAL waits");
        scene.nodes.iter().try_for_each(|node| well(node))
    })?;
    let windows = report(owner)?.windows;
    ensure!(
        matches!(windows.as_slice(), [only] if only.from > lost_at),
        "what was lost is promised: {windows:?}"
    );
    let proven =
        output(&mut owner.agent_command(&["backup", "verify", "--restore", "-o", "json"]))?;
    let said = String::from_utf8_lossy(&proven.stderr).into_owned();
    let proof: Proof = serde_json::from_slice(&proven.stdout).context(said)?;
    ensure!(proof.holds() && proof.rows() > 500, "{proof:?}");
    Ok(())
}

/// When the newest backup was complete.
fn newest(node: &Node) -> Result<Wall> {
    let last = report(node)?.last.context("there is no backup")?;
    Ok(last.stopped_at)
}

#[test]
fn a_repository_that_is_away_for_long_costs_a_gap_and_no_disk() -> Result<()> {
    play_unstarted(3, |cluster| {
        let scene = Scene::set(cluster)?;
        let (there, away) = (
            scene.disk.path().join("shop"),
            scene.disk.path().join("away"),
        );
        let gaps = report(scene.owner)?.gaps.len();
        fs::rename(&there, &away)?;
        let wanted = std::env::var("PGAA_TEST_AWAY_SECONDS");
        let away_for = seconds(wanted.map_or(Ok(AWAY_S), |text| text.parse())?);
        let words = ["can't be restored", "the repository is there"];
        let most_mb = stays_bounded(scene.owner, away_for, &words)?;
        eprintln!("          {most_mb} MB of WAL lay there at most, {WAITING_MAX_MB} MB may wait");
        fs::rename(&away, &there)?;
        cluster.eventually(BACKUP_MAX, "a full backup ends the gap", |_| {
            let report = report(scene.owner)?;
            ensure!(report.gaps.len() == gaps + 1, "{report:?}");
            covered(scene.owner)?;
            scene.nodes.iter().try_for_each(|node| well(node))
        })?;
        scene.end()
    })
}

/// Writes on for so long, and until status says, in these words, that WAL was let go; returns how much
/// lay in the server's directory.
pub(super) fn stays_bounded(owner: &Node, away: Duration, words: &[&str]) -> Result<u64> {
    let clocks = Clocks::start();
    let begun = clocks.mono();
    let elapsed = || clocks.mono().since(begun);
    let mut most_mb = 0;
    let mut said = None;
    // Twice as long as it may take to be told.
    while said.is_none() || elapsed() < away {
        complete_one(owner)?;
        most_mb = most_mb.max(wal_mb(owner)?);
        let most = WAITING_MAX_MB + SERVER_KEEPS_MB + SEEN_LATE_MB;
        ensure!(most_mb <= most, "{most_mb} MB of WAL lie there");
        match says(owner, Health::Critical, "wal_let_go", words) {
            Ok(()) if said.is_none() => said = Some(elapsed()),
            Ok(()) => {}
            Err(error) => ensure!(elapsed() < seconds(60), "{error:#}"),
        }
        sleep(PACE);
    }
    eprintln!("          away for {:?}, let go after {said:?}", elapsed());
    Ok(most_mb)
}

/// Completes a segment of WAL, with a write of an application in it.
pub(super) fn complete_one(node: &Node) -> Result<()> {
    node.sql("update public.shared set value = value + 1 where id = 1")?;
    node.sql("select pg_switch_wal()").map(drop)
}

fn wal_mb(node: &Node) -> Result<u64> {
    let bytes: u64 = node
        .sql("select coalesce(sum(size), 0)::bigint from pg_ls_waldir()")?
        .parse()?;
    Ok(bytes >> 20)
}
