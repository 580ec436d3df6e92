//! From a wish to a database that runs: the backup is chosen, the disk is looked at, the backup is
//! copied, WAL is replayed. Each step is noted, so that a second attempt goes on from there.

use super::scratch::{Purpose, Scratch, ScratchError, Stage};
use super::side::{Lasting, Side};
use crate::backup::PgBackRest;
use crate::cli::render::words;
use crate::clock::Clocks;
use crate::config::Settings;
use crate::failpoint;
use crate::postgres::Postgres;
use anyhow::{Context, anyhow, bail};
use jiff::tz::TimeZone;
use nix::sys::statvfs::statvfs;
use pgaa_core::backup::Stanza;
use pgaa_core::backup::reach::is_archived;
use pgaa_core::backup::repository::StanzaContents;
use pgaa_core::guard::in_words as size_in_words;
use pgaa_core::restore::{Room, Target, Unreachable, choose};
use pgaa_core::time::{Mono, Wall};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// How long the live server may take to archive the segment that is being written.
const ARCHIVE_MAX: Duration = Duration::from_secs(60);
/// Between two looks at that.
const ARCHIVE_LOOK: Duration = Duration::from_millis(100);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where.
    pub directory: PathBuf,
    /// What for.
    pub purpose: Purpose,
    /// To where.
    pub target: Target,
    /// From whose backups; whoever's fit best when `None`.
    pub stanza: Option<String>,
}

/// Brings it about, and says what is being done. What an earlier attempt has done in the same
/// directory for the same target is not done again.
pub async fn bring(
    settings: &Settings,
    wish: &Wish,
    told: &mut (dyn FnMut(&str) + Send),
) -> anyhow::Result<Side> {
    let program = program_of(settings)?;
    let mut side = match Scratch::open(&wish.directory)? {
        Some(scratch) => Side::new(same(scratch, wish)?, settings),
        None => Side::new(begin(settings, &program, wish, told).await?, settings),
    };
    let stanza = side.scratch().manifest().stanza.clone();
    if side.scratch().manifest().stage == Stage::Restoring {
        let clocks = Clocks::start();
        failpoint::reached("restore_made").await;
        copy(&program, &side, &stanza, told).await?;
        failpoint::reached("restore_copied").await;
        side.restored(clocks.mono().since(Mono(0)))?;
    }
    if side.scratch().manifest().stage == Stage::Recovering {
        told("replaying WAL");
    }
    let lasting = match wish.purpose {
        Purpose::Side | Purpose::Anew => Lasting::Yes,
        Purpose::Passing => Lasting::No,
    };
    side.configure(&restore_command(&program, &side, &stanza), lasting)?;
    side.start().await?;
    Ok(side)
}

/// The pgBackRest of this machine, with a configuration.
pub fn program_of(settings: &Settings) -> anyhow::Result<PgBackRest> {
    let program = PgBackRest::new(settings).context(
        "there is no repository: set backup.repository, and see pgaa-agent config sample",
    )?;
    if !program.config_file().exists() {
        program.write_config(None)?;
    }
    Ok(program)
}

/// pgBackRest knows where this node's own cluster lies, and no other; and it must not fetch WAL
/// ahead into a directory that several restores would share.
fn restore_command(program: &PgBackRest, side: &Side, stanza: &Stanza) -> String {
    let data = side.scratch().path("data");
    format!(
        "{} --pg1-path={} --no-archive-async",
        program.restore_command(stanza),
        data.display()
    )
}

/// Is what lies there what is wanted?
fn same(scratch: Scratch, wish: &Wish) -> Result<Scratch, ScratchError> {
    let has = scratch.manifest();
    let stanza = wish.stanza.as_deref().unwrap_or(has.stanza.as_str());
    if has.target == wish.target && has.stanza.as_str() == stanza {
        return Ok(scratch);
    }
    Err(ScratchError::Other {
        directory: scratch.directory().to_owned(),
        holds: in_words(has.target),
    })
}

/// A target in words.
#[must_use]
pub fn in_words(target: Target) -> String {
    match target {
        Target::Latest => "as late as can be".to_owned(),
        Target::Time(us) => words::time(pgaa_core::time::Wall(us / 1_000), &TimeZone::system()),
        Target::Lsn(lsn) => format!("position {lsn}"),
    }
}

/// Chooses the backup and makes the directory.
async fn begin(
    settings: &Settings,
    program: &PgBackRest,
    wish: &Wish,
    told: &mut (dyn FnMut(&str) + Send),
) -> anyhow::Result<Scratch> {
    told("asking the repository");
    let mut contents = program.contents().await?;
    let live = Postgres::new(settings);
    let own = archived_here(&live, &contents).await;
    for of in contents
        .iter_mut()
        .filter(|of| Some(&of.stanza) == own.as_ref())
    {
        // As far as is wanted: what it is writing is archived before it is looked for.
        of.archived_at = Some(Wall(i64::MAX));
    }
    let chosen = choose(&contents, wish.stanza.as_deref(), wish.target);
    let (stanza, backup) = chosen.map_err(explained)?;
    room(settings, &wish.directory, backup.size_bytes)?;
    if own.as_ref() == Some(stanza)
        && let Err(error) = archive_now(&live).await
    {
        told(&format!("{error:#}"));
    }
    let size = size_in_words(backup.size_bytes);
    told(&format!("backup {} of {stanza}, {size}", backup.label));
    let from = (stanza, backup.label.as_str());
    Ok(Scratch::create(
        &wish.directory,
        wish.purpose,
        wish.target,
        from,
    )?)
}

fn explained(error: Unreachable) -> anyhow::Error {
    let words = |at| words::time(at, &TimeZone::system());
    match error {
        Unreachable::NotCovered { until, again } => {
            let end = match again {
                Some(again) => format!(
                    "between {} and {} there is a gap",
                    words(until),
                    words(again)
                ),
                None => format!(
                    "the WAL in the repository ends at {}. If a node archives, wait until it has \
                     archived more, or ask there, which is at once",
                    words(until)
                ),
            };
            anyhow!("{error}: {end}; or name another time: pgaa-agent backup list")
        }
        Unreachable::TooEarly { first } => {
            let first = words(first);
            anyhow!("{error}: the first one ended at {first}; name a later time")
        }
        Unreachable::Empty | Unreachable::NoStanza { .. } => error.into(),
    }
}

/// Refuses what doesn't fit. On the disk of the live database the reserve stays free that slots
/// leave as well.
fn room(settings: &Settings, directory: &Path, database_bytes: u64) -> anyhow::Result<()> {
    let above = directory
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let disk = statvfs(above).with_context(|| format!("the disk of {}", above.display()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let shared = device(above) == device(&settings.postgres.data_dir);
    let reserve = settings.policy.slots.reserve_percent;
    let room = Room {
        database_bytes,
        free_bytes: bytes(disk.blocks_available()),
        total_bytes: bytes(disk.blocks()),
        reserve_percent: if shared { reserve } else { 0 },
    };
    let missing = room.missing_bytes();
    if missing == 0 {
        return Ok(());
    }
    bail!(
        "the disk of {} lacks {} for a database of {}: make room there (df -h), or name a directory \
         on another disk",
        above.display(),
        size_in_words(missing),
        size_in_words(database_bytes)
    )
}

/// The stanza that this machine's server archives to, if it does.
async fn archived_here(live: &Postgres, contents: &[StanzaContents]) -> Option<Stanza> {
    // A server that doesn't run has nothing to add.
    let facts = live.archiver().await.ok()?;
    let counts = facts.enabled && facts.library.is_empty();
    let mut stanzas = contents.iter().map(|of| &of.stanza).filter(|_| counts);
    stanzas
        .find(|stanza| facts.command.contains(stanza.as_str()))
        .cloned()
}

/// Has the live server archive what it is writing: what happened a minute ago may lie in a segment
/// that isn't full.
async fn archive_now(live: &Postgres) -> anyhow::Result<()> {
    let (_, segment) = live.end_segment().await?;
    let there = |last: Option<String>| last.is_some_and(|last| is_archived(&segment, &last));
    let waited = async {
        while !there(live.archived().await?) {
            sleep(ARCHIVE_LOOK).await;
        }
        Ok::<(), anyhow::Error>(())
    };
    match tokio::time::timeout(ARCHIVE_MAX, waited).await {
        Ok(done) => done,
        Err(_) => bail!(
            "the newest WAL was not archived within {} s, so the last minutes may be missing; why: \
             pgaa-agent status",
            ARCHIVE_MAX.as_secs()
        ),
    }
}

/// Copies the backup. What an attempt before has copied is kept, where pgBackRest finds its own
/// list of files.
async fn copy(
    program: &PgBackRest,
    side: &Side,
    stanza: &Stanza,
    told: &mut (dyn FnMut(&str) + Send),
) -> anyhow::Result<()> {
    let manifest = side.scratch().manifest();
    let data = side.scratch().path("data");
    let tablespaces = side.scratch().path("tablespaces");
    let mut options = vec![
        format!("--set={}", manifest.backup),
        "--type=default".to_owned(),
        "--archive-mode=off".to_owned(),
        format!("--tablespace-map-all={}", tablespaces.display()),
    ];
    // The first is pgBackRest's own, until all is copied.
    let begun = ["backup.manifest", "PG_VERSION"];
    if begun.iter().any(|file| data.join(file).exists()) {
        options.push("--delta".to_owned());
    }
    told(&format!("copying to {}", data.display()));
    program
        .restore(stanza, &data, &options, side.scratch().hold()?, &mut |_| {})
        .await
        .context("the backup can't be restored")
}
