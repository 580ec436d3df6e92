//! The user's tables: what they look like, and their way into the replication set.
//!
//! Must not decide which tables replicate; never touches rows except to send them.

use super::purpose::Purpose;
use super::session::{Session, SqlError, column, sql};
use super::{Postgres, USER_SET, sequences};
use pgaa_core::ids::Ordinal;
use pgaa_core::observed::{SequenceFacts, TableFacts};
use ring::digest::{Context, SHA256};
use std::collections::{BTreeMap, BTreeSet};

/// Everything the slow part of a look finds out about tables.
#[derive(Default)]
pub(super) struct Structure {
    pub(super) tables: Vec<TableFacts>,
    pub(super) catalog: u64,
    pub(super) has_rows: bool,
}

/// Reads the user's tables. Sequences are listed while they aren't in step with `numbering`.
pub(super) async fn read(
    session: &Session,
    excluded: &Vec<String>,
    prepared: bool,
    numbering: (Option<Ordinal>, i64),
) -> Result<Structure, SqlError> {
    let sql = sql!("tables");
    let rows = session.rows(&sql, &[excluded]).await?;
    let replicated = if prepared {
        members(session).await?
    } else {
        BTreeSet::new()
    };
    let mut feeding = plain_sequences(session, excluded, numbering).await?;
    let mut tables = Vec::with_capacity(rows.len());
    let mut oids = Vec::with_capacity(rows.len());
    for row in &rows {
        let oid: u32 = column(sql.name, row, 0)?;
        tables.push(TableFacts {
            name: column(sql.name, row, 1)?,
            structure: column::<i64>(sql.name, row, 2)?.cast_unsigned(),
            primary_key: column(sql.name, row, 3)?,
            replicable: column(sql.name, row, 4)?,
            replicated: replicated.contains(&oid),
            plain_sequences: feeding.remove(&oid).unwrap_or_default(),
        });
        oids.push(oid);
    }
    let has_rows = any_rows(session, &oids).await?;
    Ok(Structure {
        catalog: digest(&tables),
        tables,
        has_rows,
    })
}

async fn members(session: &Session) -> Result<BTreeSet<u32>, SqlError> {
    let sql = sql!("replicated_tables");
    let rows = session.rows(&sql, &[&USER_SET]).await?;
    rows.iter().map(|row| column(sql.name, row, 0)).collect()
}

async fn plain_sequences(
    session: &Session,
    excluded: &Vec<String>,
    (ordinal, step): (Option<Ordinal>, i64),
) -> Result<BTreeMap<u32, Vec<SequenceFacts>>, SqlError> {
    let mut feeding: BTreeMap<u32, Vec<SequenceFacts>> = BTreeMap::new();
    for found in sequences::list(session, excluded).await? {
        if !ordinal.is_some_and(|ordinal| found.in_step(ordinal, step)) {
            feeding
                .entry(found.table_oid)
                .or_default()
                .push(found.facts());
        }
    }
    Ok(feeding)
}

async fn any_rows(session: &Session, oids: &Vec<u32>) -> Result<bool, SqlError> {
    for query in session.written(&sql!("rows_query"), &[oids]).await? {
        for row in session.rows_of("looking for rows", &query).await? {
            if column::<bool>("looking for rows", &row, 0)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// A number that is equal on two nodes exactly when their tables are: names, structures, keys.
/// Whether they are replicated yet doesn't count. Sorted by name, as `tables` come.
fn digest(tables: &[TableFacts]) -> u64 {
    let mut context = Context::new(&SHA256);
    for table in tables {
        context.update(table.name.as_bytes());
        context.update(&[0, u8::from(table.primary_key), u8::from(table.replicable)]);
        context.update(&table.structure.to_be_bytes());
    }
    let bytes = context.finish();
    bytes
        .as_ref()
        .iter()
        .take(8)
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

impl Postgres {
    /// Puts a table into the replication set of the user's tables; returns false when it was in
    /// it before. `name` is "schema.table", quoted where needed.
    ///
    /// With `send_existing` the rows that were written here before are sent as well: in one
    /// transaction, with writers locked out, they are taken out of the table before it enters the
    /// set and put back after. Subscribers see inserts alone, never a delete, so that a row which several
    /// nodes hold meets the ordinary insert/insert rule, under which all nodes converge.
    pub async fn add_table(&self, name: &str, send_existing: bool) -> Result<bool, SqlError> {
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        let Some((oid, replicated)) = find(&session, name).await? else {
            return Err(no_such_table(name));
        };
        if !replicated {
            let enter = sql!("table_into_set");
            let values: super::session::Params<'_> = &[&USER_SET, &oid];
            if send_existing {
                session.run_written(&sql!("table_lock"), &[&oid]).await?;
                session
                    .run_written(&sql!("rows_set_aside"), &[&oid])
                    .await?;
                session.rows(&enter, values).await?;
                session.run_written(&sql!("rows_put_back"), &[&oid]).await?;
            } else {
                session.rows(&enter, values).await?;
            }
        }
        session.commit().await?;
        self.give_back(session);
        self.inner.watch.lock().await.forget();
        Ok(!replicated)
    }

    /// Takes a table out of the replication set; returns false when it was not in it. Its rows
    /// stay, here and elsewhere.
    pub async fn remove_table(&self, name: &str) -> Result<bool, SqlError> {
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        let Some((oid, replicated)) = find(&session, name).await? else {
            return Err(no_such_table(name));
        };
        if replicated {
            session
                .rows(&sql!("table_out_of_set"), &[&USER_SET, &oid])
                .await?;
        }
        session.commit().await?;
        self.give_back(session);
        self.inner.watch.lock().await.forget();
        Ok(replicated)
    }
}

async fn find(session: &Session, name: &str) -> Result<Option<(u32, bool)>, SqlError> {
    let sql = sql!("table_find");
    let Some(row) = session.maybe(&sql, &[&name, &USER_SET]).await? else {
        return Ok(None);
    };
    Ok(Some((
        column(sql.name, &row, 0)?,
        column(sql.name, &row, 1)?,
    )))
}

fn no_such_table(name: &str) -> SqlError {
    SqlError::Unexpected {
        what: "finding the table",
        found: format!("there is no ordinary table {name}; it may have been dropped or renamed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tables_have_equal_digests() {
        let table = |name: &str, structure| TableFacts {
            name: name.to_owned(),
            structure,
            primary_key: true,
            replicated: false,
            plain_sequences: Vec::new(),
            replicable: true,
        };
        let here = [table("public.a", 1), table("public.b", 2)];
        let mut there = here.clone();
        there[0].replicated = true;
        assert_eq!(digest(&here), digest(&there));
        there[1].structure = 3;
        assert_ne!(digest(&here), digest(&there));
        assert_ne!(digest(&here), digest(&here[..1]));
    }
}
