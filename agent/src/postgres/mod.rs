//! The local PostgreSQL: the only place that contains SQL.
//!
//! Statements lie in `sql/`, one a file; names that SQL can't bind are quoted by the server's own
//! `format('%I')`. Speaks over the Unix socket, and to another node's server only to copy from it
//! (`source`): every node makes its own slots and subscriptions. Decides nothing.

mod archiver;
pub mod audit;
mod births;
pub mod block;
pub mod compare;
mod conf;
pub mod conflicts;
pub mod conninfo;
mod deletes;
mod digests;
mod foreign_keys;
pub mod gate;
pub mod hba;
mod heartbeat;
pub mod ident;
mod inspect;
mod join;
pub mod layout;
pub mod log_files;
mod lost;
mod mesh;
mod migrate;
pub mod needed;
mod observe;
pub mod owner;
pub mod provision;
mod purpose;
mod queries;
mod recovery;
mod rows;
mod sequences;
pub mod server;
mod session;
mod source;
mod structure;
mod suspects;
mod tables;
mod wire;

pub use compare::Shape;
pub use deletes::Deletes;
pub use gate::{admit, set_gate};
pub use hba::Gate;
pub use heartbeat::Flush;
pub use inspect::Inspector;
pub use join::{CopyInto, CopySession};
pub use lost::WholeRow;
pub use mesh::{Origin, Passed, Slot, Subscription};
pub use migrate::Identity;
pub use provision::{archive_file, provision, wal_disk, write_conf};
pub use recovery::{Recovery, recovery};
pub use sequences::{SequenceFix, step};
pub use server::{Restart, restart, start_by_systemd};
pub use session::{Place, SqlError};
pub use source::{Reader, Snapshot, Source, SourceError, SourceTable};
pub use suspects::Named;
pub use wire::{Refusal, WireError};

use crate::config::Settings;
use pgaa_core::time::Mono;
use purpose::Purpose;
use session::{Session, sql};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The replication set of our own tables. Apart from the user's, so that nothing an operator
/// does to theirs can stop the heartbeat.
pub const OWN_SET: &str = "pgaa";

/// The replication set of the user's tables: the one pglogical's documentation and everybody's
/// scripts know.
pub const USER_SET: &str = "default";

/// What every subscription of the mesh subscribes to. `ddl_sql` carries
/// `pglogical.replicate_ddl_command`, which operators expect to work.
pub const SUBSCRIBED_SETS: [&str; 3] = [USER_SET, OWN_SET, "ddl_sql"];

/// Sessions that lie idle for longer than this are closed.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A handle on the local server. Cheap to clone; every clone shares the connections.
#[derive(Clone)]
pub struct Postgres {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    database: String,
    mesh_role: String,
    owner: String,
    excluded_schemas: Vec<String>,
    max_nodes: u16,
    idle: Mutex<Idle>,
    watch: tokio::sync::Mutex<observe::Watch>,
    beat: tokio::sync::Mutex<Option<Session>>,
    cradle: tokio::sync::Mutex<births::Cradle>,
    calm: tokio::sync::Mutex<deletes::Calm>,
    mending: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Idle {
    sessions: Vec<(Purpose, Session)>,
    used: bool,
    since: Mono,
}

impl Postgres {
    /// A handle on the server the settings name. Connects when it is first used.
    #[must_use]
    pub fn new(settings: &Settings) -> Postgres {
        let postgres = &settings.postgres;
        let owner = postgres.owner.as_ref().unwrap_or(&postgres.superuser);
        let place = Place {
            socket_dir: postgres.socket_dir.clone(),
            port: postgres.port,
            role: postgres.superuser.clone(),
        };
        Postgres {
            inner: Arc::new(Inner {
                place,
                database: settings.policy.database.clone(),
                mesh_role: postgres.mesh_role.clone(),
                owner: owner.clone(),
                excluded_schemas: settings.policy.excluded_schemas.clone(),
                max_nodes: settings.policy.max_nodes,
                idle: Mutex::default(),
                watch: tokio::sync::Mutex::default(),
                beat: tokio::sync::Mutex::default(),
                cradle: tokio::sync::Mutex::new(births::Cradle::new(settings)),
                calm: tokio::sync::Mutex::default(),
                mending: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// The connection string that the local pglogical node announces.
    pub fn local_conninfo(&self) -> Result<String, conninfo::BadConninfo> {
        let Place {
            socket_dir,
            port,
            role,
        } = &self.inner.place;
        conninfo::local(socket_dir, *port, &self.inner.database, role)
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.inner
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A session in the mesh's database: one that lies idle, or a new one. Whoever is done with
    /// it gives it back; after an error it is dropped, and with it what was half done.
    async fn take(&self, purpose: Purpose) -> Result<Session, SqlError> {
        let found = {
            let mut idle = self.idle();
            idle.used = true;
            idle.sessions.retain(|(_, session)| !session.is_closed());
            let place = idle.sessions.iter().position(|(kind, _)| *kind == purpose);
            place.map(|place| idle.sessions.swap_remove(place).1)
        };
        match found {
            Some(session) => Ok(session),
            None => self.open(purpose).await,
        }
    }

    /// A session of one's own.
    async fn open(&self, purpose: Purpose) -> Result<Session, SqlError> {
        Session::open(&self.inner.place, &self.inner.database, purpose).await
    }

    fn give_back(&self, session: Session) {
        self.idle().sessions.push((session.purpose(), session));
    }

    /// Closes sessions that were not used for a while.
    fn close_idle(&self, now: Mono) {
        let mut idle = self.idle();
        if std::mem::take(&mut idle.used) {
            idle.since = now;
        } else if now.since(idle.since) > IDLE_MAX {
            idle.sessions.clear();
        }
    }

    /// Lets the server read its configuration files again.
    pub async fn reload_conf(&self) -> Result<(), SqlError> {
        let session = self.take(Purpose::Change).await?;
        session.row(&sql!("reload"), &[]).await?;
        self.give_back(session);
        self.inner.watch.lock().await.forget();
        Ok(())
    }

    /// Writes a checkpoint.
    pub async fn checkpoint(&self) -> Result<(), SqlError> {
        let session = self.take(Purpose::Long).await?;
        let sql = sql!("checkpoint");
        session.script(sql.name, sql.text).await?;
        self.give_back(session);
        Ok(())
    }

    /// Ends the sessions that applications have in the mesh's database; superusers and the mesh
    /// itself stay. Returns how many were ended.
    pub async fn end_application_sessions(&self) -> Result<u64, SqlError> {
        let session = self.take(Purpose::Change).await?;
        let sql = sql!("sessions_end");
        let row = session.row(&sql, &[&self.inner.mesh_role]).await?;
        let ended: i64 = session::column(sql.name, &row, 0)?;
        self.give_back(session);
        Ok(ended.unsigned_abs())
    }
}
