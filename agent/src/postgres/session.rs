//! One connection to the local server, and what can go wrong on it.
//!
//! A session that met an error is thrown away, never repaired: a half-done transaction ends with
//! its connection. Must not know what the statements mean.

use super::purpose::Purpose;
use bytes::Bytes;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, CopyInSink, NoTls, Row, Statement};

/// The name every connection of ours shows in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "pgaa-agent";

/// One statement from `sql/`, with the file's name for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sql {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

/// Loads `sql/<name>.sql`.
macro_rules! sql {
    ($name:literal) => {
        $crate::postgres::session::Sql {
            name: $name,
            text: include_str!(concat!("sql/", $name, ".sql")),
        }
    };
}
pub(super) use sql;

/// The values of one statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The local server did not do what it was asked.
#[derive(Debug, Error)]
pub enum SqlError {
    /// No connection could be made.
    #[error("PostgreSQL does not answer at {place}; is it running there?")]
    Unreachable {
        /// Socket and database.
        place: String,
        /// What the driver says.
        source: tokio_postgres::Error,
    },
    /// The server accepts connections, but not ours.
    #[error("PostgreSQL refuses the connection to {place}: {message}")]
    Rejected {
        /// Socket and database.
        place: String,
        /// SQLSTATE.
        sqlstate: String,
        /// The server's words.
        message: String,
    },
    /// No answer in time, or a lock was not had in time.
    #[error("{what} was not done within {after:?}; look at pg_stat_activity for what it waits on")]
    TimedOut {
        /// The statement.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The server refused a statement.
    #[error("PostgreSQL refused {what}: {message} ({sqlstate}){}", extra(.detail, .hint))]
    Refused {
        /// The statement.
        what: &'static str,
        /// SQLSTATE.
        sqlstate: String,
        /// The server's words.
        message: String,
        /// Its detail.
        detail: Option<String>,
        /// Its hint.
        hint: Option<String>,
    },
    /// The connection broke; whether the statement was done isn't known.
    #[error("the connection broke during {what}")]
    Lost {
        /// The statement.
        what: &'static str,
        /// What the driver says.
        source: tokio_postgres::Error,
    },
    /// The server answered something that doesn't fit.
    #[error("{what}: {found}")]
    Unexpected {
        /// The statement or step.
        what: &'static str,
        /// What was found, and what to do next.
        found: String,
    },
}

/// An error with everything that caused it, in one line for people.
pub(super) fn chain(error: &SqlError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn extra(detail: &Option<String>, hint: &Option<String>) -> String {
    let mut text = String::new();
    for (word, part) in [("detail", detail), ("hint", hint)] {
        if let Some(part) = part {
            text.push_str(&format!("; {word}: {part}"));
        }
    }
    text
}

impl SqlError {
    /// May the same step succeed later with nobody doing anything?
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            SqlError::Unreachable { .. } | SqlError::TimedOut { .. } | SqlError::Lost { .. } => {
                true
            }
            SqlError::Rejected { sqlstate, .. } => passing(sqlstate),
            SqlError::Refused { sqlstate, .. } => passing(sqlstate),
            SqlError::Unexpected { .. } => false,
        }
    }

    /// Is it that the database doesn't exist?
    #[must_use]
    pub fn no_such_database(&self) -> bool {
        matches!(self, SqlError::Rejected { sqlstate, .. }
            if sqlstate == SqlState::INVALID_CATALOG_NAME.code())
    }

    /// Is it that another row has the same value of a unique column?
    pub(super) fn unique_violation(&self) -> bool {
        matches!(self, SqlError::Refused { sqlstate, .. }
            if sqlstate == SqlState::UNIQUE_VIOLATION.code())
    }

    pub(super) fn from_driver(
        what: &'static str,
        after: Duration,
        source: tokio_postgres::Error,
    ) -> SqlError {
        let Some(error) = source.as_db_error() else {
            return SqlError::Lost { what, source };
        };
        let timed_out = [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE];
        if timed_out.contains(error.code()) {
            return SqlError::TimedOut { what, after };
        }
        SqlError::Refused {
            what,
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }
}

/// Classes of SQLSTATE that pass by themselves: connections (08), transactions that met one
/// another (40), resources (53), objects in use (55), shutdowns and cancellations (57), and
/// pglogical's own connections to other nodes, which it reports as XX000.
fn passing(sqlstate: &str) -> bool {
    ["08", "40", "53", "55", "57", "XX"]
        .iter()
        .any(|class| sqlstate.starts_with(class))
}

/// Where the local server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Directory of its Unix socket.
    pub socket_dir: PathBuf,
    /// Its port, which is part of the socket's name.
    pub port: u16,
    /// The role.
    pub role: String,
}

/// One connection.
pub(super) struct Session {
    client: Client,
    purpose: Purpose,
    statements: Mutex<HashMap<&'static str, Statement>>,
    driver: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A server that hangs would otherwise keep the driver waiting for ever.
        self.driver.abort();
    }
}

impl Session {
    /// Connects.
    pub(super) async fn open(
        place: &Place,
        database: &str,
        purpose: Purpose,
    ) -> Result<Session, SqlError> {
        let mut config = Config::new();
        config
            .host_path(&place.socket_dir)
            .port(place.port)
            .user(&place.role)
            .dbname(database)
            .application_name(APPLICATION_NAME)
            .options(purpose.options());
        let socket = place.socket_dir.join(format!(".s.PGSQL.{}", place.port));
        let place = || format!("{}, database {database}", socket.display());
        let patience = Duration::from_secs(5);
        let opened = tokio::time::timeout(patience, config.connect(NoTls)).await;
        let Ok(opened) = opened else {
            return Err(SqlError::TimedOut {
                what: "connecting",
                after: patience,
            });
        };
        let (client, connection) = opened.map_err(|source| match source.as_db_error() {
            Some(error) => SqlError::Rejected {
                place: place(),
                sqlstate: error.code().code().to_owned(),
                message: error.message().to_owned(),
            },
            None => SqlError::Unreachable {
                place: place(),
                source,
            },
        })?;
        // The task ends with the connection; its error reaches whoever waits on a statement.
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                log::debug!("a connection to PostgreSQL ended: {error}");
            }
        });
        let statements = Mutex::default();
        Ok(Session {
            client,
            purpose,
            statements,
            driver: driver.abort_handle(),
        })
    }

    /// What it is for.
    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Has the connection ended?
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    async fn within<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, SqlError> {
        let after = self.purpose.patience();
        match tokio::time::timeout(after, work).await {
            Ok(done) => done.map_err(|source| SqlError::from_driver(what, after, source)),
            Err(_) => Err(SqlError::TimedOut { what, after }),
        }
    }

    async fn prepared(&self, sql: &Sql) -> Result<Statement, tokio_postgres::Error> {
        let known = {
            let statements = self
                .statements
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            statements.get(sql.name).cloned()
        };
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql.text).await?;
        let mut statements = self
            .statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        statements.insert(sql.name, statement.clone());
        Ok(statement)
    }

    /// Runs a statement and returns its rows. Several may be awaited at once: they are pipelined.
    pub(super) async fn rows(&self, sql: &Sql, params: Params<'_>) -> Result<Vec<Row>, SqlError> {
        let work = async {
            let statement = self.prepared(sql).await?;
            self.client.query(&statement, params).await
        };
        self.within(sql.name, work).await
    }

    /// Runs a statement that returns exactly one row.
    pub(super) async fn row(&self, sql: &Sql, params: Params<'_>) -> Result<Row, SqlError> {
        let found = self.maybe(sql, params).await?;
        found.ok_or_else(|| SqlError::Unexpected {
            what: sql.name,
            found: "no row came back where one was expected".to_owned(),
        })
    }

    /// Runs a statement that returns a row or none.
    pub(super) async fn maybe(
        &self,
        sql: &Sql,
        params: Params<'_>,
    ) -> Result<Option<Row>, SqlError> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// Runs a script without values.
    pub(super) async fn script(&self, what: &'static str, text: &str) -> Result<(), SqlError> {
        self.within(what, self.client.batch_execute(text)).await
    }

    /// Runs a query that the server itself has written (see [`Session::written`]).
    pub(super) async fn rows_of(
        &self,
        what: &'static str,
        text: &str,
    ) -> Result<Vec<Row>, SqlError> {
        self.within(what, self.client.query(text, &[])).await
    }

    /// Runs a query that the server itself has written, with values.
    pub(super) async fn rows_by(
        &self,
        what: &'static str,
        text: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, SqlError> {
        self.within(what, self.client.query(text, params)).await
    }

    /// Prepares a query that the server itself has written.
    pub(super) async fn prepare(
        &self,
        what: &'static str,
        text: &str,
    ) -> Result<Statement, SqlError> {
        self.within(what, self.client.prepare(text)).await
    }

    /// Runs what was prepared. Several may be awaited at once: they are pipelined.
    pub(super) async fn rows_prepared(
        &self,
        what: &'static str,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Vec<Row>, SqlError> {
        self.within(what, self.client.query(statement, params))
            .await
    }

    /// Asks the server to write statements, quoting names with its own `format('%I')`: where SQL
    /// can't bind a name. One text column; no row or NULL means that nothing is to be done.
    pub(super) async fn written(
        &self,
        sql: &Sql,
        params: Params<'_>,
    ) -> Result<Vec<String>, SqlError> {
        let rows = self.rows(sql, params).await?;
        let texts = rows
            .iter()
            .map(|row| column::<Option<String>>(sql.name, row, 0));
        Ok(texts
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// Has the server write statements and runs them.
    pub(super) async fn run_written(
        &self,
        sql: &Sql,
        params: Params<'_>,
    ) -> Result<Vec<String>, SqlError> {
        let texts = self.written(sql, params).await?;
        for text in &texts {
            self.script(sql.name, text).await?;
        }
        Ok(texts)
    }

    /// Starts to copy rows in, by a statement that a server has written.
    pub(super) async fn copy_in(
        &self,
        what: &'static str,
        text: &str,
    ) -> Result<CopyInSink<Bytes>, SqlError> {
        self.within(what, self.client.copy_in(text)).await
    }

    /// Opens a transaction. It ends by [`Session::commit`], or with the session.
    pub(super) async fn begin(&self) -> Result<(), SqlError> {
        self.script("begin", "BEGIN ISOLATION LEVEL READ COMMITTED")
            .await
    }

    /// Commits.
    pub(super) async fn commit(&self) -> Result<(), SqlError> {
        self.script("commit", "COMMIT").await
    }
}

/// Column `index` of a row, as a `T`.
pub(super) fn column<'r, T: tokio_postgres::types::FromSql<'r>>(
    what: &'static str,
    row: &'r Row,
    index: usize,
) -> Result<T, SqlError> {
    row.try_get(index).map_err(|error| SqlError::Unexpected {
        what,
        found: format!("column {index} can't be read: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(sqlstate: &str) -> SqlError {
        SqlError::Refused {
            what: "x",
            sqlstate: sqlstate.to_owned(),
            message: "no".to_owned(),
            detail: None,
            hint: Some("do y".to_owned()),
        }
    }

    #[test]
    fn errors_know_whether_to_retry_and_carry_the_hint() {
        assert!(refused("40001").retry());
        assert!(!refused("42501").retry());
        assert!(refused("42501").to_string().ends_with("; hint: do y"));
        assert!(
            !SqlError::Unexpected {
                what: "x",
                found: String::new()
            }
            .retry()
        );
    }
}
