//! Makes role, database, extensions and our schema, each when it is missing.
//!
//! Migrations are numbered, run once, each in a transaction with its own check, and are never
//! edited after a release. Must not touch anything of the user's.

use super::Postgres;
use super::purpose::Purpose;
use super::session::{Session, Sql, SqlError, column, sql};
use pgaa_core::ids::{DataEpoch, NodeId};
use uuid::Uuid;

struct Migration {
    number: i32,
    script: Sql,
    check: Sql,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        script: sql!("0001_heartbeat"),
        check: sql!("0001_heartbeat.check"),
    },
    Migration {
        number: 2,
        script: sql!("0002_join_guard"),
        check: sql!("0002_join_guard.check"),
    },
    Migration {
        number: 3,
        script: sql!("0003_row_check"),
        check: sql!("0003_row_check.check"),
    },
    Migration {
        number: 4,
        script: sql!("0004_conflicts"),
        check: sql!("0004_conflicts.check"),
    },
];

/// Whose database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// The epoch minted with the database.
    pub epoch: DataEpoch,
}

impl Postgres {
    /// Makes what is missing of role, database, extensions and schema, and claims the database
    /// for `node`. May be run at any time; a second run changes nothing.
    ///
    /// A database that another node has claimed is refused: it came with an image or a copied
    /// disk, and two nodes must not share an identity.
    pub async fn prepare(&self, node: NodeId) -> Result<Identity, SqlError> {
        self.prepare_cluster().await?;
        let session = self.take(Purpose::Long).await?;
        session
            .run_written(&sql!("extension_ddl"), &[&"pglogical"])
            .await?;
        session
            .run_written(&sql!("extension_ddl"), &[&"pg_walinspect"])
            .await?;
        migrate(&session).await?;
        let sql = sql!("claim");
        let row = session.row(&sql, &[&node.0]).await?;
        let (holder, epoch): (Uuid, Uuid) =
            (column(sql.name, &row, 0)?, column(sql.name, &row, 1)?);
        self.give_back(session);
        self.inner.watch.lock().await.forget();
        if holder != node.0 {
            return Err(SqlError::Unexpected {
                what: "claiming the database",
                found: format!(
                    "database {} belongs to node {holder}, and this agent is {node}: restore that \
                     node's state directory, or give this machine an empty data directory",
                    self.inner.database
                ),
            });
        }
        Ok(Identity {
            node,
            epoch: DataEpoch(epoch),
        })
    }

    /// Roles and the database.
    async fn prepare_cluster(&self) -> Result<(), SqlError> {
        let inner = &self.inner;
        let session = Session::open(&inner.place, "postgres", Purpose::Long).await?;
        session
            .run_written(&sql!("role_ddl"), &[&inner.mesh_role])
            .await?;
        session
            .run_written(&sql!("owner_ddl"), &[&inner.owner])
            .await?;
        session
            .run_written(&sql!("database_ddl"), &[&inner.database, &inner.owner])
            .await?;
        Ok(())
    }
}

async fn migrate(session: &Session) -> Result<(), SqlError> {
    let exists = sql!("migration_exists");
    let row = session.row(&exists, &[]).await?;
    if !column::<bool>(exists.name, &row, 0)? {
        let table = sql!("migration_table");
        session.begin().await?;
        session.script(table.name, table.text).await?;
        session.commit().await?;
    }
    let made_sql = sql!("migrations_made");
    let rows = session.rows(&made_sql, &[]).await?;
    let made = rows.iter().map(|row| column::<i32>(made_sql.name, row, 0));
    let made = made.collect::<Result<Vec<_>, _>>()?;
    let newest = MIGRATIONS.last().map_or(0, |migration| migration.number);
    if let Some(unknown) = made.iter().find(|number| **number > newest) {
        return Err(SqlError::Unexpected {
            what: "migrating the schema pgaa",
            found: format!(
                "it was made by a newer agent (migration {unknown}; this one knows {newest}): \
                 install that version again"
            ),
        });
    }
    for migration in MIGRATIONS.iter().filter(|m| !made.contains(&m.number)) {
        session.begin().await?;
        session
            .script(migration.script.name, migration.script.text)
            .await?;
        session
            .script(migration.check.name, migration.check.text)
            .await?;
        let values: super::session::Params<'_> = &[&migration.number, &migration.script.name];
        session.rows(&sql!("migration_record"), values).await?;
        session.commit().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_from_one_without_gaps() {
        for (migration, expected) in MIGRATIONS.iter().zip(1..) {
            assert_eq!(migration.number, expected);
            assert!(
                migration
                    .script
                    .name
                    .starts_with(&format!("{expected:04}_"))
            );
            assert_eq!(
                migration.check.name,
                format!("{}.check", migration.script.name)
            );
        }
    }
}
