//! The building blocks of an edge: local node, slot, origin, subscription, apply worker.
//!
//! Each is idempotent, or one transaction, so that a crash between two of them leaves a state
//! from which the next look goes on. Which of them to use, and when, is the planner's business.
//!
//! The order matters more than anything here. pglogical drops and recreates an inactive slot when
//! a subscription initialises, even without any copying; so a subscription is made, disabled,
//! marked as synchronised and given its origin in ONE transaction, and enabled later. The slot on
//! the provider exists before, and the stream starts where the slot starts.

use super::purpose::Purpose;
use super::session::{Params, Session, SqlError, column, sql};
use super::{OWN_SET, Postgres, SUBSCRIBED_SETS};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgaa_core::ids::Lsn;
use pgaa_core::join::Forward;
use std::time::Duration;
use tokio_postgres::types::PgLsn;

/// How often pglogical's processes are woken while workers start. Without it each worker costs a
/// second: whoever starts one sleeps on a latch that the start itself doesn't set.
const WAKE_EVERY: Duration = Duration::from_millis(10);

/// How often the manager is woken while a kicked subscription is disabled: enough for it to look
/// once, even when it was about to sleep.
const KICK_WAKES: usize = 3;

/// How many holes among the numbers of origins are filled at most to hold on to one number.
const HOLES_MAX: usize = 64;

/// A transaction of a provider that a subscription is to leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Its commit, there.
    pub commit: Lsn,
    /// Its end, there.
    pub end: Lsn,
    /// The tables that are emptied in its place, and when it was committed, microseconds.
    pub emptied: Option<(Vec<String>, i64)>,
}

/// A slot on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// From where on it is complete.
    pub position: Lsn,
    /// Was it there before?
    pub existed: bool,
}

/// A subscription of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The name of its slot on the provider, and of its origin here.
    pub slot: String,
    /// Was it there before?
    pub existed: bool,
}

/// A replication origin that was retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its number, which nobody gets again.
    pub number: u32,
    /// The name under which the number is held.
    pub name: String,
}

fn lsn(position: PgLsn) -> Lsn {
    Lsn(position.into())
}

impl Postgres {
    /// Creates the local pglogical node and our replication set, or corrects the DSN the node
    /// announces. Idempotent.
    pub async fn ensure_local_node(&self, name: &str, dsn: &str) -> Result<(), SqlError> {
        let session = self.take(Purpose::Change).await?;
        let find = sql!("node_find");
        session.begin().await?;
        match session.maybe(&find, &[]).await? {
            None => {
                session.row(&sql!("node_create"), &[&name, &dsn]).await?;
            }
            Some(row) => {
                let have: String = column(find.name, &row, 0)?;
                if have != name {
                    return Err(SqlError::Unexpected {
                        what: "creating the pglogical node",
                        found: format!(
                            "this database is the pglogical node {have}, not {name}: it was part \
                             of another cluster; pglogical.drop_node('{have}') frees it"
                        ),
                    });
                }
                let interface: u32 = column(find.name, &row, 2)?;
                if column::<String>(find.name, &row, 1)? != dsn {
                    session
                        .rows(&sql!("node_redirect"), &[&interface, &dsn])
                        .await?;
                }
            }
        }
        session.rows(&sql!("sets_ensure"), &[&OWN_SET]).await?;
        session
            .rows(&sql!("heartbeat_into_set"), &[&OWN_SET])
            .await?;
        session.commit().await?;
        self.give_back(session);
        Ok(())
    }

    /// The name of the slot, on the provider with this pglogical node name, of a subscription:
    /// pglogical's own function says it, because long names are cut and hashed.
    pub async fn slot_name(&self, provider: &str, subscription: &str) -> Result<String, SqlError> {
        let session = self.take(Purpose::Change).await?;
        let sql = sql!("slot_name");
        let row = session.row(&sql, &[&provider, &subscription]).await?;
        let name = column(sql.name, &row, 0)?;
        self.give_back(session);
        Ok(name)
    }

    /// Creates a slot for pglogical's plug-in. It waits for the transactions that run. Idempotent:
    /// a slot that is there stays; one that is lost, or another plug-in's, is refused.
    pub async fn create_slot(&self, name: &str) -> Result<Slot, SqlError> {
        let session = self.take(Purpose::Long).await?;
        let find = sql!("slot_find");
        let slot = if let Some(row) = session.maybe(&find, &[&name]).await? {
            let plugin: String = column(find.name, &row, 0)?;
            let database: String = column(find.name, &row, 1)?;
            let status: String = column(find.name, &row, 4)?;
            if plugin != "pglogical_output" || database != self.inner.database || status == "lost" {
                return Err(SqlError::Unexpected {
                    what: "creating a slot",
                    found: format!(
                        "slot {name} exists for {plugin} on {database} ({status}); drop it if \
                         nobody needs it: SELECT pg_drop_replication_slot('{name}')"
                    ),
                });
            }
            Slot {
                position: lsn(column(find.name, &row, 2)?),
                existed: true,
            }
        } else {
            let create = sql!("slot_create");
            let row = session.row(&create, &[&name]).await?;
            Slot {
                position: lsn(column(create.name, &row, 0)?),
                existed: false,
            }
        };
        self.give_back(session);
        Ok(slot)
    }

    /// Drops a slot, whoever relies on it.
    pub(super) async fn remove_slot(&self, name: &str, end_sender: bool) -> Result<(), SqlError> {
        if end_sender {
            self.end_sender(name).await?;
        }
        let session = self.take(Purpose::Change).await?;
        session.rows(&sql!("slot_drop"), &[&name]).await?;
        self.give_back(session);
        Ok(())
    }

    /// Ends the process that reads a slot and waits until it is gone. A subscriber that is alive
    /// connects again. Returns whether there was one.
    pub async fn end_sender(&self, slot: &str) -> Result<bool, SqlError> {
        let session = self.take(Purpose::Change).await?;
        let ended = session
            .maybe(&sql!("sender_end"), &[&slot])
            .await?
            .is_some();
        self.give_back(session);
        Ok(ended)
    }

    /// Creates a subscription, disabled, with its replication origin, in one transaction, so that
    /// enabling it later starts at the slot's start. Idempotent: one that is there and sound stays
    /// as it is. The slot may be made later.
    ///
    /// The server connects to the provider meanwhile, three times, holding pglogical's lock on
    /// the local node: several at once take turns here, and run side by side on other nodes.
    pub async fn create_subscription_disabled(
        &self,
        name: &str,
        dsn: &str,
        forward: Forward,
    ) -> Result<Subscription, SqlError> {
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        let subscription = match find_subscription(&session, name).await? {
            Some(found) => found,
            None => subscribe(&session, name, dsn, forward).await?,
        };
        session.commit().await?;
        self.give_back(session);
        Ok(subscription)
    }

    /// Enables subscriptions, all in one transaction, so that the manager sees them together.
    pub async fn enable(&self, names: &[&str]) -> Result<(), SqlError> {
        self.each(sql!("subscription_enable"), names).await
    }

    /// Enables a subscription that has never run, to start at a position of its provider's WAL.
    pub async fn enable_at(&self, name: &str, start: Lsn) -> Result<(), SqlError> {
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        let advance = sql!("subscription_advance");
        session
            .row(&advance, &[&name, &PgLsn::from(start.0)])
            .await?;
        session.row(&sql!("subscription_enable"), &[&name]).await?;
        session.commit().await?;
        self.give_back(session);
        Ok(())
    }

    /// Disables subscriptions, all in one transaction.
    pub async fn disable(&self, names: &[&str]) -> Result<(), SqlError> {
        self.each(sql!("subscription_disable"), names).await
    }

    /// Makes an enabled subscription that is down, or whose stream is silent, reconnect at once.
    ///
    /// pglogical alone waits: up to 180 s between two attempts, and always 5 s after a worker has
    /// failed. The manager forgets the failure when it sees the subscription disabled, so it is
    /// disabled for a moment. After a crash in between it stays so, and the next look shows it.
    pub async fn kick(&self, name: &str) -> Result<(), SqlError> {
        self.disable(&[name]).await?;
        for _ in 0..KICK_WAKES {
            self.wake_workers(&[name]).await?;
            tokio::time::sleep(WAKE_EVERY).await;
        }
        self.enable(&[name]).await?;
        self.wake_workers(&[name]).await.map(drop)
    }

    /// Has a subscription go on behind a transaction that it can't apply: with nothing of it, or with
    /// the tables emptied that it empties. Fails when that was applied meanwhile.
    pub async fn pass(&self, name: &str, passed: &Passed) -> Result<(), SqlError> {
        for _ in 0..PASS_TRIES {
            self.disable(&[name]).await?;
            tokio::time::sleep(PASS_PAUSE).await;
            let session = self.take(Purpose::Long).await?;
            let done = pass_in(&session, name, passed).await;
            match done {
                Ok(()) => {
                    self.enable(&[name]).await?;
                    return self.wake_workers(&[name]).await.map(drop);
                }
                // Its worker runs still, or again.
                Err(SqlError::Refused { sqlstate, .. }) if sqlstate == IN_USE => {}
                Err(error) => {
                    self.enable(&[name]).await?;
                    return Err(error);
                }
            }
        }
        self.enable(&[name]).await?;
        Err(SqlError::Unexpected {
            what: "passing a transaction",
            found: format!("the apply worker of {name} didn't let go of it: try again"),
        })
    }

    async fn each(&self, sql: super::session::Sql, names: &[&str]) -> Result<(), SqlError> {
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        for name in names {
            session.row(&sql, &[name]).await?;
        }
        session.commit().await?;
        self.give_back(session);
        Ok(())
    }

    /// Wakes pglogical's manager once, or its supervisor while there is no manager. Returns which
    /// of the subscriptions have no apply worker yet.
    pub async fn wake_workers(&self, names: &[&str]) -> Result<Vec<String>, SqlError> {
        let session = self.take(Purpose::Change).await?;
        let missing = wake(&session, names).await?;
        self.give_back(session);
        Ok(missing)
    }

    /// Wakes pglogical's manager or supervisor every 10 ms until each of the subscriptions has an
    /// apply worker, for `time_max` at most. Returns those that have none then: their provider
    /// doesn't let them in, or a worker slot is missing, and the server's log says which.
    pub async fn start_workers(
        &self,
        names: &[&str],
        time_max: Duration,
    ) -> Result<Vec<String>, SqlError> {
        let session = self.take(Purpose::Change).await?;
        let mut waited = Duration::ZERO;
        let missing = loop {
            let missing = wake(&session, names).await?;
            if missing.is_empty() || waited >= time_max {
                break missing;
            }
            tokio::time::sleep(WAKE_EVERY).await;
            waited += WAKE_EVERY;
        };
        self.give_back(session);
        Ok(missing)
    }

    /// Drops a subscription; no error when there is none. Its slot is the provider's to drop, and
    /// that one may be dead. Its origin's number is held for ever, by an origin without progress:
    /// PostgreSQL gives the lowest free number to the next origin, whose node would then own the
    /// rows of this one, and pglogical resolves nothing between equal origins.
    pub async fn drop_subscription(&self, name: &str) -> Result<Option<Origin>, SqlError> {
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        let find = sql!("subscription_find");
        let number = match session.maybe(&find, &[&name]).await? {
            Some(row) => column::<Option<u32>>(find.name, &row, 3)?,
            None => None,
        };
        session.rows(&sql!("subscription_unplug"), &[&name]).await?;
        session.rows(&sql!("subscription_drop"), &[&name]).await?;
        let origin = match number {
            Some(number) => Some(hold_number(&session, number).await?),
            None => None,
        };
        session.commit().await?;
        self.give_back(session);
        Ok(origin)
    }

    /// Points a subscription at another DSN of its provider. Idempotent.
    pub async fn redirect_subscription(&self, name: &str, dsn: &str) -> Result<(), SqlError> {
        let session = self.take(Purpose::Change).await?;
        let find = sql!("subscription_interface");
        session.begin().await?;
        let Some(row) = session.maybe(&find, &[&name, &dsn]).await? else {
            return Err(SqlError::Unexpected {
                what: "redirecting a subscription",
                found: format!("there is no subscription {name}"),
            });
        };
        if column::<String>(find.name, &row, 1)? != dsn {
            let provider: String = column(find.name, &row, 0)?;
            let known: Option<String> = column(find.name, &row, 2)?;
            let fresh: String = column(find.name, &row, 3)?;
            if known.is_none() {
                session
                    .row(&sql!("interface_add"), &[&provider, &fresh, &dsn])
                    .await?;
            }
            let interface = known.unwrap_or(fresh);
            session
                .row(&sql!("subscription_redirect"), &[&name, &interface])
                .await?;
        }
        session.commit().await?;
        self.give_back(session);
        Ok(())
    }
}

/// SQLSTATE of an origin that a worker holds.
const IN_USE: &str = "55006";

/// How often a worker is asked to let go, and how long it may take each time.
const PASS_TRIES: u32 = 20;
const PASS_PAUSE: Duration = Duration::from_millis(250);

async fn pass_in(session: &Session, name: &str, passed: &Passed) -> Result<(), SqlError> {
    session.begin().await?;
    let sql = sql!("subscription_position");
    let row = session.row(&sql, &[&name]).await?;
    let position: PgLsn = column(sql.name, &row, 0)?;
    if u64::from(position) > passed.commit.0 {
        return Err(SqlError::Unexpected {
            what: "passing a transaction",
            found: "it was applied meanwhile: there is nothing to pass".to_owned(),
        });
    }
    let end = PgLsn::from(passed.end.0);
    match &passed.emptied {
        None => {
            let advance = sql!("subscription_advance");
            session.row(&advance, &[&name, &end]).await?;
            // In the same transaction: a crash leaves no subscription disabled.
            session.row(&sql!("subscription_enable"), &[&name]).await?;
        }
        Some((tables, at_us)) => {
            let applying = sql!("applying_session");
            session.row(&applying, &[&name, &end, at_us]).await?;
            let written = sql!("emptying_ddl");
            let row = session.row(&written, &[tables]).await?;
            if let Some(statement) = column::<Option<String>>(written.name, &row, 0)? {
                session.script("emptying tables", &statement).await?;
            }
        }
    }
    session.commit().await?;
    if passed.emptied.is_some() {
        session.row(&sql!("applying_over"), &[]).await?;
    }
    Ok(())
}

/// A subscription that is there already, if it can be gone on with.
async fn find_subscription(
    session: &Session,
    name: &str,
) -> Result<Option<Subscription>, SqlError> {
    let sql = sql!("subscription_find");
    let Some(row) = session.maybe(&sql, &[&name]).await? else {
        return Ok(None);
    };
    let slot: String = column(sql.name, &row, 0)?;
    let status: String = column(sql.name, &row, 2)?;
    let origin: Option<u32> = column(sql.name, &row, 3)?;
    if status != "r" || origin.is_none() {
        return Err(SqlError::Unexpected {
            what: "creating a subscription",
            found: format!(
                "subscription {name} exists, made by somebody else or interrupted (status \
                 {status:?}, origin {origin:?}): pglogical.drop_subscription('{name}') removes it"
            ),
        });
    }
    Ok(Some(Subscription {
        slot,
        existed: true,
    }))
}

async fn subscribe(
    session: &Session,
    name: &str,
    dsn: &str,
    forward: Forward,
) -> Result<Subscription, SqlError> {
    let sets = SUBSCRIBED_SETS.as_slice();
    let origins: &[&str] = match forward {
        Forward::Nothing => &[],
        Forward::All => &["all"],
    };
    let values: Params<'_> = &[&name, &dsn, &sets, &origins];
    session.row(&sql!("subscription_create"), values).await?;
    session.row(&sql!("subscription_disable"), &[&name]).await?;
    let synced = sql!("subscription_synced");
    let row = session.row(&synced, &[&name]).await?;
    let slot: String = column(synced.name, &row, 0)?;
    session.row(&sql!("origin_create"), &[&slot]).await?;
    Ok(Subscription {
        slot,
        existed: false,
    })
}

/// Creates origins until one has the number that was just freed.
async fn hold_number(session: &Session, number: u32) -> Result<Origin, SqlError> {
    let name = format!("pgaa_retired_{number}");
    let create = sql!("origin_create");
    for hole in 0..HOLES_MAX {
        let filler = format!("{name}_{hole}");
        let row = session.row(&create, &[&filler]).await?;
        if column::<u32>(create.name, &row, 0)? == number {
            return Ok(Origin {
                number,
                name: filler,
            });
        }
    }
    Err(SqlError::Unexpected {
        what: "holding the number of an origin",
        found: format!("number {number} was not free again; see pg_replication_origin"),
    })
}

async fn wake(session: &Session, names: &[&str]) -> Result<Vec<String>, SqlError> {
    let sql = sql!("workers");
    let row = session.row(&sql, &[&names]).await?;
    let missing: Vec<String> = column(sql.name, &row, 2)?;
    // Also when none is missing: a manager that looked a moment too early sleeps on, with its node
    // locked, although the worker has come, and whoever changes a subscription next waits for it.
    let (supervisor, manager) = (
        column::<Option<i32>>(sql.name, &row, 0)?,
        column::<Option<i32>>(sql.name, &row, 1)?,
    );
    // The supervisor starts a manager for every other database each time it wakes, only to see it
    // end again: it is left alone where there is a manager.
    if let Some(pid) = manager.or(supervisor) {
        match kill(Pid::from_raw(pid), Signal::SIGUSR1) {
            // It has ended since: there is nobody to wake.
            Ok(()) | Err(Errno::ESRCH) => {}
            // Not the server's own user: the server can wake it itself.
            Err(_) => {
                session.rows(&sql!("wake_by_log"), &[&pid]).await?;
            }
        }
    }
    Ok(missing)
}
