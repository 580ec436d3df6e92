//! The proof that a backup can be restored: it is restored to one exact position, started, and
//! every replicated row compared with what the live server held there.
//!
//! A temporary logical slot gives a snapshot and the position in the WAL that belongs to it:
//! whatever was committed before is seen under it, and nothing else. Recovery stops there. So the
//! two are the same rows or the backup is wrong, however much is written meanwhile, and nobody
//! waits for a lock.

use super::bring::{Wish, bring, program_of};
use super::discard_left;
use super::scratch::Purpose;
use super::side::Side;
use crate::clock::Clocks;
use crate::config::Settings;
use crate::durable;
use crate::postgres::{Postgres, Source};
use crate::trust::Identity;
use anyhow::{Context, anyhow, bail};
use pgaa_core::backup::Stanza;
use pgaa_core::ids::Lsn;
use pgaa_core::restore::Target;
use pgaa_core::restore::proof::{Proof, Proofs, ProvenTable};
use pgaa_core::time::Wall;
use pgaa_core::verify::Digest;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

/// The name of the slot, which lasts for a moment.
const SLOT: &str = "pgaa_proof";
/// So often one is begun again because a backup was removed meanwhile.
const TRIES_MAX: u32 = 3;
/// How long a snapshot may take to be had: it waits for every transaction that is open.
const SNAPSHOT_MAX: Duration = Duration::from_secs(120);
/// How much of what pg_amcheck has found is kept, bytes.
const DAMAGE_MAX: usize = 600;

/// Where the outcome is remembered.
#[must_use]
pub fn file(settings: &Settings) -> PathBuf {
    settings.paths.state_dir.join("backup").join("proofs.json")
}

/// What the live server held at one moment.
struct Marked {
    moment: Wall,
    position: Lsn,
    tables: Vec<(String, Digest)>,
}

/// All backups of this node were removed while one of them was being proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "all backups of this node were removed meanwhile: the node that owns the backups now, which \
     pgaa-agent status names, keeps them no longer"
)]
pub struct NothingLeft;

/// Proves this node's backups, below `above`, and remembers the outcome. That a backup could not be
/// restored because it was removed meanwhile says nothing of those that are there: it is tried
/// again, or fails as [`NothingLeft`], which isn't remembered.
pub async fn prove(
    settings: &Settings,
    above: &Path,
    told: &mut (dyn FnMut(&str) + Send),
) -> anyhow::Result<Proof> {
    let clocks = Clocks::start();
    let mut tries = 1;
    let attempt = loop {
        let before = own_backups(settings).await;
        let attempt = attempt(settings, above, clocks, told).await;
        discard_left(settings, above).await;
        let after = own_backups(settings).await;
        let (Err(error), Ok((_, before)), Ok((_, after))) = (&attempt, before, after) else {
            break attempt;
        };
        if before.is_subset(&after) || tries == TRIES_MAX {
            break attempt;
        }
        if after.is_empty() {
            return Err(NothingLeft.into());
        }
        told(&format!(
            "a backup was removed meanwhile: once more ({error:#})"
        ));
        tries += 1;
    };
    let path = file(settings);
    let mut proofs: Proofs = durable::read_json(&path)?.unwrap_or_default();
    let outcome = attempt.as_ref().map(Clone::clone);
    proofs.note(clocks.wall(), outcome.map_err(|error| format!("{error:#}")));
    durable::write_json(&path, &proofs)?;
    attempt
}

async fn attempt(
    settings: &Settings,
    above: &Path,
    clocks: Clocks,
    told: &mut (dyn FnMut(&str) + Send),
) -> anyhow::Result<Proof> {
    discard_left(settings, above).await;
    let live = Postgres::new(settings);
    let (stanza, backups) = own_backups(settings).await?;
    if backups.is_empty() {
        bail!(
            "this node has no backup to prove: run it on the node that owns the backups, which \
             pgaa-agent status names"
        );
    }
    told("reading what the live server holds now");
    let marked = mark(settings, &live, clocks).await?;
    let wish = Wish {
        directory: above.join(format!("proof-{}", std::process::id())),
        purpose: Purpose::Passing,
        target: Target::Lsn(marked.position),
        stanza: Some(stanza.as_str().to_owned()),
    };
    let side = bring(settings, &wish, told).await?;
    told("comparing every row");
    let past = side.postgres();
    let mut tables = Vec::with_capacity(marked.tables.len());
    for (table, held) in &marked.tables {
        let restored = past
            .digest_whole(table)
            .await
            .map_err(|error| error.to_string());
        tables.push(ProvenTable::of(table, *held, restored));
    }
    told("looking for damaged pages and indexes");
    let damage = damage(settings, &side).await?;
    let manifest = side.scratch().manifest();
    let (copy_ms, replay_ms) = side.took();
    let proof = Proof {
        at: clocks.wall(),
        stanza,
        backup: manifest.backup.clone(),
        moment: marked.moment,
        position: marked.position,
        recovered_to: manifest.recovered_to.clone(),
        copy_ms,
        replay_ms,
        tables,
        damage,
    };
    Ok(proof)
}

/// Is there a backup of this node's in the repository, as far as that can be said?
pub async fn provable(settings: &Settings) -> bool {
    let found = own_backups(settings).await;
    found.is_ok_and(|(_, backups)| !backups.is_empty())
}

/// The stanza that the live server writes, and its backups: its positions mean something there alone.
/// A database that was brought back has the system identifier of the one before, and another
/// node's name.
async fn own_backups(settings: &Settings) -> anyhow::Result<(Stanza, BTreeSet<String>)> {
    let node = Identity::known(&settings.paths.state_dir)?;
    let node = node.context("this node has no identity yet: systemctl start pgaa-agent")?;
    let system = Postgres::new(settings).system_identifier().await?;
    let own = Stanza::new(node, system);
    let contents = program_of(settings)?.info(None).await?;
    let mut backups = BTreeSet::new();
    for of in contents.into_iter().filter(|of| of.stanza == own) {
        if let Some(problem) = of.problem {
            bail!("{own}: {problem}");
        }
        backups.extend(of.backups.into_iter().map(|backup| backup.label));
    }
    Ok((own, backups))
}

async fn mark(settings: &Settings, live: &Postgres, clocks: Clocks) -> anyhow::Result<Marked> {
    let conninfo = live.local_conninfo()?;
    let source = Source::new(settings, conninfo.clone(), conninfo);
    let exported = timeout(SNAPSHOT_MAX, source.export_passing(SLOT)).await;
    let Ok(exported) = exported else {
        bail!(
            "no snapshot within {} s: a transaction has been open for that long; which: \
             select * from pg_stat_activity where xact_start is not null order by xact_start",
            SNAPSHOT_MAX.as_secs()
        )
    };
    let snapshot = exported.context("the live server gives no snapshot")?;
    let moment = clocks.wall();
    let names = live.user_tables().await?;
    let tables = live.digests_under(&snapshot.name, &names).await?;
    Ok(Marked {
        moment,
        position: snapshot.position,
        tables: names.into_iter().zip(tables).collect(),
    })
}

/// What pg_amcheck has to say; nothing when all is sound. It needs the extension, which is made in
/// the copy, whose triggers stay asleep.
async fn damage(settings: &Settings, side: &Side) -> anyhow::Result<Option<String>> {
    let place = side.place();
    let mut command = Command::new(settings.postgres.bin_dir.join("pg_amcheck"));
    command
        .kill_on_drop(true)
        .env(
            "PGOPTIONS",
            "-c default_transaction_read_only=off -c session_replication_role=replica",
        )
        .arg("--install-missing")
        .arg("--host")
        .arg(&place.socket_dir)
        .arg(format!("--port={}", place.port))
        .arg(format!("--username={}", place.role))
        .arg(format!("--database={}", settings.policy.database));
    command.current_dir("/").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = || "pg_amcheck can't be run: apt install postgresql-contrib";
    let mut child = command.spawn().with_context(failed)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (out, err) = tokio::join!(beginning(out), beginning(err));
    let ended = child.wait().await.with_context(failed)?;
    // 2: corruption was found (pg_amcheck's manual). Other codes: it could not look.
    match ended.code() {
        Some(0) => Ok(None),
        Some(2) => Ok(Some(out)),
        Some(_) | None => Err(anyhow!("pg_amcheck failed ({ended}): {err}")),
    }
}

/// The first words of a program; the rest is read and dropped, so that it can end.
async fn beginning(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let (mut kept, mut piece) = (Vec::new(), [0; 4_096]);
    if let Some(mut stream) = stream {
        while let Ok(count) = stream.read(&mut piece).await {
            if count == 0 {
                break;
            }
            let room = DAMAGE_MAX.saturating_sub(kept.len()).min(count);
            kept.extend_from_slice(piece.get(..room).unwrap_or_default());
        }
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}
