//! What this node's database is made of: pieces, their hashes and definitions.
//!
//! Must not know what they are compared with.

use super::Postgres;
use super::purpose::Purpose;
use super::session::{SqlError, column, sql};
use pgaa_core::verify::{Definition, PieceName, Pieces};
use std::collections::BTreeMap;

/// Pieces of a page, and how long their names may be together, in bytes: a message has 4 MiB at
/// most.
const PAGE_MAX: usize = 20_000;
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Of a definition no more characters are told, each of up to four bytes.
const CHARACTERS_MAX: u32 = 10_000;

/// Definitions together are cut to this, in bytes.
const TEXTS_BYTES_MAX: usize = 3 * 1024 * 1024;

impl Postgres {
    /// The pieces behind one of them, of these tables or, where none is named, of everything; and
    /// whether there are more.
    pub async fn pieces(
        &self,
        tables: &[String],
        after: Option<&PieceName>,
    ) -> Result<Pieces, SqlError> {
        match self.pieces_once(tables, after).await {
            // What is dropped while its definition is written makes the server give up.
            Err(error) if error.retry() => self.pieces_once(tables, after).await,
            read => read,
        }
    }

    async fn pieces_once(
        &self,
        tables: &[String],
        after: Option<&PieceName>,
    ) -> Result<Pieces, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let sql = sql!("structure");
        let tables = (!tables.is_empty()).then_some(tables);
        let none: Option<Vec<String>> = None;
        let kind = after.map(|piece| piece.kind.as_str());
        let name = after.map(|piece| piece.name.as_str());
        let limit = i64::try_from(PAGE_MAX + 1).unwrap_or(i64::MAX);
        let excluded = &self.inner.excluded_schemas;
        let mesh = &self.inner.mesh_role;
        let rows = session
            .rows(
                &sql,
                &[
                    excluded, &tables, &none, &none, &kind, &name, &limit, &0, mesh,
                ],
            )
            .await?;
        let (mut pieces, mut bytes) = (BTreeMap::new(), 0);
        for row in &rows {
            let kind: String = column(sql.name, row, 0)?;
            let name: String = column(sql.name, row, 1)?;
            bytes += kind.len() + name.len();
            if pieces.len() == PAGE_MAX || bytes > PAGE_BYTES_MAX {
                break;
            }
            let hash = [column(sql.name, row, 2)?, column(sql.name, row, 3)?];
            pieces.insert(PieceName { kind, name }, hash);
        }
        self.give_back(session);
        let more = pieces.len() < rows.len();
        Ok((pieces, more))
    }

    /// These pieces, as far as they are there, with the first `characters` of their definitions.
    pub async fn definitions(
        &self,
        pieces: &[PieceName],
        characters: u32,
    ) -> Result<BTreeMap<PieceName, Definition>, SqlError> {
        match self.definitions_once(pieces, characters).await {
            Err(error) if error.retry() => self.definitions_once(pieces, characters).await,
            read => read,
        }
    }

    async fn definitions_once(
        &self,
        pieces: &[PieceName],
        characters: u32,
    ) -> Result<BTreeMap<PieceName, Definition>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let sql = sql!("structure");
        let none: Option<&str> = None;
        let all: Option<Vec<String>> = None;
        let kinds: Vec<&str> = pieces.iter().map(|piece| piece.kind.as_str()).collect();
        let names: Vec<&str> = pieces.iter().map(|piece| piece.name.as_str()).collect();
        let limit = i64::try_from(pieces.len()).unwrap_or(i64::MAX);
        let characters = i32::try_from(characters.min(CHARACTERS_MAX)).unwrap_or(0);
        let excluded = &self.inner.excluded_schemas;
        let mesh = &self.inner.mesh_role;
        let rows = session
            .rows(
                &sql,
                &[
                    excluded,
                    &all,
                    &kinds,
                    &names,
                    &none,
                    &none,
                    &limit,
                    &characters,
                    mesh,
                ],
            )
            .await?;
        let (mut defined, mut bytes) = (BTreeMap::new(), 0);
        for row in &rows {
            let piece = PieceName {
                kind: column(sql.name, row, 0)?,
                name: column(sql.name, row, 1)?,
            };
            let mut text: String = column(sql.name, row, 4)?;
            bytes += text.len();
            if bytes > TEXTS_BYTES_MAX {
                text.clear();
            }
            let definition = Definition {
                hash: [column(sql.name, row, 2)?, column(sql.name, row, 3)?],
                text,
                within: column(sql.name, row, 5)?,
            };
            defined.insert(piece, definition);
        }
        self.give_back(session);
        Ok(defined)
    }
}
