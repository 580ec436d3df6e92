//! What a restored server and the live one beside it are asked about WAL: has it recovered, is the
//! segment archived.
//!
//! Must not know what is restored, and why.

use super::purpose::Purpose;
use super::session::{Session, Sql, SqlError, column, sql};
use super::{Place, Postgres};
use pgaa_core::time::Wall;

/// What a server that is being recovered says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// It takes connections: it has reached what it was to be recovered to. With the time of the
    /// last commit it has replayed.
    Done(Option<String>),
    /// It doesn't take any yet, or is gone; its words.
    NotYet(String),
}

/// How far a server has come, asked in the database that every cluster has.
pub async fn recovery(place: &Place) -> Recovery {
    let asked = async {
        let session = Session::open(place, "template1", Purpose::Look).await?;
        let sql = sql!("recovery");
        let row = session.row(&sql, &[]).await?;
        let (going, last) = (column(sql.name, &row, 0)?, column(sql.name, &row, 1)?);
        Ok::<(bool, Option<String>), SqlError>((going, last))
    };
    match asked.await {
        Ok((false, last)) => Recovery::Done(last),
        Ok((true, _)) => Recovery::NotYet("it is being recovered".to_owned()),
        Err(error) => Recovery::NotYet(error.to_string()),
    }
}

impl Postgres {
    /// The server's system identifier.
    pub async fn system_identifier(&self) -> Result<u64, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("system_identifier");
        let row = session.row(&sql, &[]).await?;
        let text: String = column(sql.name, &row, 0)?;
        self.give_back(session);
        text.parse().map_err(|_| SqlError::Unexpected {
            what: sql.name,
            found: format!("{text:?} is no system identifier"),
        })
    }

    /// Writes a commit and ends the segment it lies in: a moment before the commit, and the segment's
    /// name.
    pub async fn end_segment(&self) -> Result<(Wall, String), SqlError> {
        self.mark(&sql!("wal_switch")).await
    }

    /// Writes a commit: a moment before it, and the segment in which it lies, or one behind that.
    pub async fn mark_segment(&self) -> Result<(Wall, String), SqlError> {
        self.mark(&sql!("wal_segment")).await
    }

    async fn mark(&self, where_it_lies: &Sql) -> Result<(Wall, String), SqlError> {
        let session = self.take(Purpose::Change).await?;
        let sql = sql!("commit_mark");
        let before = column(sql.name, &session.row(&sql, &[]).await?, 0)?;
        let row = session.row(where_it_lies, &[]).await?;
        let segment = column(where_it_lies.name, &row, 0)?;
        self.give_back(session);
        Ok((Wall(before), segment))
    }

    /// Does pgBackRest archive its WAL?
    pub async fn archives(&self) -> Result<bool, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("archives");
        let answer = column(sql.name, &session.row(&sql, &[]).await?, 0)?;
        self.give_back(session);
        Ok(answer)
    }

    /// The name of what was archived last.
    pub async fn archived(&self) -> Result<Option<String>, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("wal_archived");
        let row = session.row(&sql, &[]).await?;
        let answer = column(sql.name, &row, 0)?;
        self.give_back(session);
        Ok(answer)
    }

    /// Takes everything of a mesh out of a restored database; says what could not be.
    pub async fn strip(&self) -> Result<Vec<String>, SqlError> {
        let session = self.open(Purpose::Long).await?;
        let sql = sql!("strip");
        session.script(sql.name, sql.text).await?;
        let sql = sql!("mesh_left");
        let rows = session.rows(&sql, &[]).await?;
        rows.iter().map(|row| column(sql.name, row, 0)).collect()
    }
}
