//! One look at the local server.
//!
//! Cheap at rest: one pipelined round trip. The catalogue of tables, the settings and whatever
//! else changes seldom are read again when a fingerprint of the system catalogues has changed,
//! and every [`REREAD`]. Only looks.

use super::audit::{self, Audit, FileRow, SettingRow};
use super::needed::Needed;
use super::purpose::Purpose;
use super::session::{Session, SqlError, chain, column, sql};
use super::tables::{self, Structure};
use super::{Place, Postgres};
use pgaa_core::ids::{DataEpoch, Lsn, NodeId, Ordinal};
use pgaa_core::observed::{Fact, HeartbeatFacts, PostgresFacts, SlotFacts, SubscriptionFacts};
use pgaa_core::time::{Mono, Wall};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;
use uuid::Uuid;

/// How old the slow part of a look may be. Bounds how late a change is seen that leaves no trace
/// in the fingerprint: values of sequences, first rows of tables, lines of configuration files.
const REREAD: Duration = Duration::from_secs(10);

/// Applications that make tables all the time must not make each look a slow one.
const REREAD_PAUSE: Duration = Duration::from_millis(500);

/// What is kept between two looks.
#[derive(Default)]
pub(super) struct Watch {
    session: Option<Looking>,
    heard: BTreeMap<NodeId, (u64, Mono)>,
    needed: Option<Needed>,
    slow: Option<Slow>,
}

struct Looking {
    session: Session,
    /// Connected to the mesh's database, which exists?
    in_mesh: bool,
    /// Were pglogical and our schema seen there?
    prepared: bool,
}

struct Slow {
    fingerprint: String,
    ordinal: Option<Ordinal>,
    read_at: Mono,
    structure: Structure,
    audit: Audit,
    hba_errors: Vec<String>,
    backstop_bytes: Option<u64>,
}

/// What one look is made with.
#[derive(Clone, Copy)]
struct Glance {
    now: Mono,
    ordinal: Option<Ordinal>,
    /// Are pglogical and our schema there?
    prepared: bool,
}

impl Watch {
    /// Makes the next look read everything.
    pub(super) fn forget(&mut self) {
        self.slow = None;
        // A connection to the database "postgres" is of no use once ours exists.
        self.session = self.session.take().filter(|looking| looking.in_mesh);
    }
}

impl Postgres {
    /// From the next look on, settings are compared with what is needed.
    pub async fn compare_settings_with(&self, needed: Needed) {
        let mut watch = self.inner.watch.lock().await;
        watch.needed = Some(needed);
        watch.forget();
    }

    /// Looks at the server. Never fails: what can't be seen is unknown, with the reason.
    /// `ordinal` is this node's, once it has one: sequences are judged by it.
    pub async fn observe(&self, now: Mono, ordinal: Option<Ordinal>) -> Fact<PostgresFacts> {
        self.close_idle(now);
        let mut watch = self.inner.watch.lock().await;
        let looking = match watch.session.take().filter(|l| !l.session.is_closed()) {
            Some(looking) => Ok(looking),
            None => connect(&self.inner.place, &self.inner.database).await,
        };
        let glance = Glance {
            now,
            ordinal,
            prepared: false,
        };
        let seen = match looking {
            Ok(mut looking) => {
                let seen = self.look(&mut watch, &mut looking, glance).await;
                // After an error the session is dropped: what state it is in isn't known.
                watch.session = seen.is_ok().then_some(looking);
                seen
            }
            Err(error) => Err(error),
        };
        match seen {
            Ok(facts) => Fact::Known(facts),
            Err(error) => Fact::Unknown(chain(&error)),
        }
    }

    async fn look(
        &self,
        watch: &mut Watch,
        looking: &mut Looking,
        mut glance: Glance,
    ) -> Result<PostgresFacts, SqlError> {
        let session = &looking.session;
        if !looking.prepared {
            let mut facts = PostgresFacts::default();
            let ours = server(session, &mut facts).await?;
            looking.prepared = looking.in_mesh && ours && facts.pglogical.is_some();
            if !looking.prepared {
                // The tables of the database "postgres" are nobody's business.
                if looking.in_mesh {
                    let print = fingerprint(session, false).await?;
                    self.structure(watch, (session, print), glance, &mut facts)
                        .await?;
                }
                return Ok(facts);
            }
        }
        let mut facts = PostgresFacts::default();
        let (ours, local, slots, subscriptions, heartbeats, fingerprint) = tokio::try_join!(
            server(session, &mut facts),
            local(session),
            slots(session),
            subscriptions(session),
            heartbeats(session),
            fingerprint(session, true),
        )?;
        looking.prepared = ours;
        (facts.epoch, facts.local_node) = local;
        facts.slots = slots;
        self.mark_made_anew(&mut facts.slots).await;
        facts.subscriptions = subscriptions;
        facts.heartbeats = heard(&mut watch.heard, heartbeats, glance.now);
        glance.prepared = true;
        self.structure(watch, (session, fingerprint), glance, &mut facts)
            .await?;
        Ok(facts)
    }

    /// The slow part: from the last look where nothing says that it has changed.
    async fn structure(
        &self,
        watch: &mut Watch,
        (session, fingerprint): (&Session, String),
        Glance {
            now,
            ordinal,
            prepared,
        }: Glance,
        facts: &mut PostgresFacts,
    ) -> Result<(), SqlError> {
        let fresh = watch.slow.as_ref().is_some_and(|slow| {
            let age = now.since(slow.read_at);
            let same = slow.fingerprint == fingerprint && slow.ordinal == ordinal;
            age < REREAD_PAUSE || (same && age < REREAD)
        });
        if !fresh {
            let excluded = &self.inner.excluded_schemas;
            let step = super::step(self.inner.max_nodes);
            let structure = tables::read(session, excluded, prepared, (ordinal, step)).await?;
            let (audit, backstop_bytes) = audited(session, watch.needed.as_ref()).await?;
            let hba_errors = hba_errors(session, facts.version_num).await?;
            let read_at = now;
            let slow = Slow {
                fingerprint,
                ordinal,
                read_at,
                structure,
                audit,
                hba_errors,
                backstop_bytes,
            };
            watch.slow = Some(slow);
        }
        if let Some(slow) = &watch.slow {
            facts.tables.clone_from(&slow.structure.tables);
            facts.catalog = slow.structure.catalog;
            facts.has_rows = slow.structure.has_rows;
            facts.backstop_bytes = slow.backstop_bytes;
            facts.drifts.clone_from(&slow.audit.drifts);
            facts
                .restart_pending
                .clone_from(&slow.audit.restart_pending);
            facts.hba_errors.clone_from(&slow.hba_errors);
            facts.hba_errors.extend(slow.audit.errors.iter().cloned());
        }
        Ok(())
    }
}

/// Connects to the mesh's database, or to `postgres` while that one isn't there.
async fn connect(place: &Place, database: &str) -> Result<Looking, SqlError> {
    match Session::open(place, database, Purpose::Look).await {
        Ok(session) => Ok(Looking {
            session,
            in_mesh: true,
            prepared: false,
        }),
        Err(error) if error.no_such_database() => {
            let session = Session::open(place, "postgres", Purpose::Look).await?;
            Ok(Looking {
                session,
                in_mesh: false,
                prepared: false,
            })
        }
        Err(error) => Err(error),
    }
}

fn lsn(position: PgLsn) -> Lsn {
    Lsn(position.into())
}

/// Fills in what the server says of itself; returns whether our schema is there.
async fn server(session: &Session, facts: &mut PostgresFacts) -> Result<bool, SqlError> {
    let sql = sql!("server");
    let row = session.row(&sql, &[]).await?;
    facts.version_num = column::<i32>(sql.name, &row, 0)?.unsigned_abs();
    facts.in_recovery = column(sql.name, &row, 1)?;
    facts.system_identifier = column::<i64>(sql.name, &row, 2)?.cast_unsigned();
    facts.wal = lsn(column(sql.name, &row, 3)?);
    facts.pglogical = column(sql.name, &row, 4)?;
    column(sql.name, &row, 5)
}

type Local = (Option<DataEpoch>, Option<(String, String)>);

async fn local(session: &Session) -> Result<Local, SqlError> {
    let sql = sql!("local");
    let row = session.row(&sql, &[]).await?;
    let epoch: Option<Uuid> = column(sql.name, &row, 0)?;
    let name: Option<String> = column(sql.name, &row, 1)?;
    let dsn: Option<String> = column(sql.name, &row, 2)?;
    Ok((epoch.map(DataEpoch), name.zip(dsn)))
}

async fn slots(session: &Session) -> Result<BTreeMap<String, SlotFacts>, SqlError> {
    let sql = sql!("slots");
    let rows = session.rows(&sql, &[]).await?;
    let slot = |row: &Row| {
        let facts = SlotFacts {
            active: column(sql.name, row, 1)?,
            wal_status: column(sql.name, row, 2)?,
            retained_bytes: column::<i64>(sql.name, row, 3)?.unsigned_abs(),
            confirmed: lsn(column(sql.name, row, 4)?),
            sender: column(sql.name, row, 5)?,
            made_anew: false,
        };
        Ok((column(sql.name, row, 0)?, facts))
    };
    rows.iter().map(slot).collect()
}

async fn subscriptions(session: &Session) -> Result<BTreeMap<String, SubscriptionFacts>, SqlError> {
    let sql = sql!("subscriptions");
    let rows = session.rows(&sql, &[]).await?;
    let subscription = |row: &Row| {
        let status: Option<i8> = column(sql.name, row, 6)?;
        let facts = SubscriptionFacts {
            provider: column(sql.name, row, 1)?,
            slot: column(sql.name, row, 2)?,
            enabled: column(sql.name, row, 3)?,
            worker: column(sql.name, row, 4)?,
            forwards_nothing: column(sql.name, row, 5)?,
            sync_status: status.map(|status| char::from(status.cast_unsigned())),
            origin: column(sql.name, row, 7)?,
            dsn: column(sql.name, row, 8)?,
            position: lsn(column(sql.name, row, 9)?),
        };
        Ok((column(sql.name, row, 0)?, facts))
    };
    rows.iter().map(subscription).collect()
}

async fn heartbeats(session: &Session) -> Result<Vec<(NodeId, HeartbeatFacts)>, SqlError> {
    let sql = sql!("heartbeats");
    let rows = session.rows(&sql, &[]).await?;
    let heartbeat = |row: &Row| {
        let facts = HeartbeatFacts {
            epoch: DataEpoch(column(sql.name, row, 1)?),
            number: column::<i64>(sql.name, row, 2)?.unsigned_abs(),
            sent_at: Wall(column(sql.name, row, 3)?),
            lag_ms: column(sql.name, row, 4)?,
            seen_at: Mono::default(),
        };
        Ok((NodeId(column(sql.name, row, 0)?), facts))
    };
    rows.iter().map(heartbeat).collect()
}

/// Adds when this agent first saw each number.
fn heard(
    heard: &mut BTreeMap<NodeId, (u64, Mono)>,
    found: Vec<(NodeId, HeartbeatFacts)>,
    now: Mono,
) -> BTreeMap<NodeId, HeartbeatFacts> {
    heard.retain(|node, _| found.iter().any(|(other, _)| other == node));
    let stamp = |(node, mut facts): (NodeId, HeartbeatFacts)| {
        let known = heard.entry(node).or_insert((facts.number, now));
        if known.0 != facts.number {
            *known = (facts.number, now);
        }
        facts.seen_at = known.1;
        (node, facts)
    };
    found.into_iter().map(stamp).collect()
}

async fn fingerprint(session: &Session, prepared: bool) -> Result<String, SqlError> {
    let sql = sql!("fingerprint");
    let set = sql!("set_fingerprint");
    let catalogs = session.row(&sql, &[]);
    let (row, sets) = if prepared {
        let (row, sets) = tokio::try_join!(catalogs, session.row(&set, &[]))?;
        (row, column::<String>(set.name, &sets, 0)?)
    } else {
        (catalogs.await?, String::new())
    };
    let (classes, columns): (String, String) =
        (column(sql.name, &row, 0)?, column(sql.name, &row, 1)?);
    Ok(format!("{classes} {columns} {sets}"))
}

/// Compares the settings with what is needed; nothing differs while nobody has said what is.
/// With it comes the limit that our file sets for what slots hold back, bytes.
async fn audited(
    session: &Session,
    needed: Option<&Needed>,
) -> Result<(Audit, Option<u64>), SqlError> {
    let Some(needed) = needed else {
        return Ok((Audit::default(), None));
    };
    let settings = sql!("settings");
    let files = sql!("file_settings");
    let (setting_rows, file_rows) =
        tokio::try_join!(session.rows(&settings, &[]), session.rows(&files, &[]))?;
    let setting_rows: Vec<SettingRow> = setting_rows
        .iter()
        .map(|row| setting(settings.name, row))
        .collect::<Result<_, _>>()?;
    let file_rows: Vec<FileRow> = file_rows
        .iter()
        .map(|row| file_line(files.name, row))
        .collect::<Result<_, _>>()?;
    let audit = audit::audit(&setting_rows, &file_rows, needed);
    Ok((audit, audit::backstop_bytes(&setting_rows)))
}

fn setting(what: &'static str, row: &Row) -> Result<SettingRow, SqlError> {
    Ok(SettingRow {
        name: column(what, row, 0)?,
        setting: column(what, row, 1)?,
        unit: column(what, row, 2)?,
        context: column(what, row, 3)?,
        source: column(what, row, 4)?,
        sourcefile: column(what, row, 5)?,
        sourceline: column(what, row, 6)?,
        pending_restart: column(what, row, 7)?,
    })
}

fn file_line(what: &'static str, row: &Row) -> Result<FileRow, SqlError> {
    Ok(FileRow {
        sourcefile: column(what, row, 0)?,
        sourceline: column(what, row, 1)?,
        name: column(what, row, 2)?,
        setting: column(what, row, 3)?,
        error: column(what, row, 4)?,
    })
}

async fn hba_errors(session: &Session, version_num: u32) -> Result<Vec<String>, SqlError> {
    let mut errors = Vec::new();
    let hba = sql!("hba_errors");
    for row in session.rows(&hba, &[]).await? {
        errors.push(column(hba.name, &row, 0)?);
    }
    if version_num >= 150_000 {
        let ident = sql!("ident_errors");
        for row in session.rows(&ident, &[]).await? {
            errors.push(column(ident.name, &row, 0)?);
        }
    }
    Ok(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_as_old_as_its_number() {
        let node = NodeId(Uuid::from_u128(1));
        let facts = |number| HeartbeatFacts {
            epoch: DataEpoch(Uuid::from_u128(2)),
            number,
            sent_at: Wall(0),
            lag_ms: 0,
            seen_at: Mono::default(),
        };
        let mut kept = BTreeMap::new();
        let mut look =
            |number, now| heard(&mut kept, vec![(node, facts(number))], Mono(now))[&node].seen_at;
        assert_eq!(look(5, 100), Mono(100));
        assert_eq!(look(5, 200), Mono(100));
        assert_eq!(look(6, 300), Mono(300));
        // A number that goes back is news as well.
        assert_eq!(look(4, 400), Mono(400));
    }
}
