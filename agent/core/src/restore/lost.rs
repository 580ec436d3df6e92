//! Rows that were there at some time and aren't any more, or look different: the outcome of a
//! comparison with the past, as `backup diff -o json` prints it.

use super::Target;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The values of a row by column, as text; `None` is NULL. Text loses nothing: a number of any
/// length stays what it is.
pub type Values = BTreeMap<String, Option<String>>;

/// One row that isn't what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRow {
    /// Its primary key, in the key's order.
    pub key: Vec<String>,
    /// What it was.
    pub then: Values,
    /// What it is now; nothing when it was deleted.
    pub now: Option<Values>,
    /// When it got what it has now, where the server still knows.
    pub changed_at: Option<String>,
}

impl LostRow {
    /// The columns whose values differ, with then and now; none for a row that was deleted.
    #[must_use]
    pub fn differing(&self) -> Vec<(&str, Option<&str>, Option<&str>)> {
        let Some(now) = &self.now else {
            return Vec::new();
        };
        let text = |value: &'_ Option<String>| value.clone();
        self.then
            .iter()
            .filter(|(column, then)| now.get(*column).map(text) != Some(text(then)))
            .map(|(column, then)| {
                let now = now.get(column).and_then(Option::as_deref);
                (column.as_str(), then.as_deref(), now)
            })
            .collect()
    }
}

/// What was written back to one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Written {
    /// Rows inserted again.
    pub inserted: u64,
    /// Rows set to what they were.
    pub updated: u64,
    /// Rows left alone: there again meanwhile, changed meanwhile, or in the way of another row's
    /// unique value.
    pub left: u64,
}

/// One table, then and now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct LostTable {
    /// "schema.table"
    pub table: String,
    /// How many rows it had.
    pub rows_then: u64,
    /// Rows that are gone.
    pub deleted: u64,
    /// Rows with other values.
    pub changed: u64,
    /// Rows that came since. They are never touched.
    pub new: u64,
    /// The first of those that are gone or changed.
    pub rows: Vec<LostRow>,
    /// What was written back; nothing in a dry run.
    pub written: Option<Written>,
    /// Why it could not be compared, or not be written back to the end.
    pub problem: Option<String>,
}

/// A comparison with the past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostReport {
    /// Of all documents.
    pub schema_version: u32,
    /// What was asked for.
    pub target: Target,
    /// The last commit that the past holds, in PostgreSQL's words.
    pub recovered_to: Option<String>,
    /// Whose backup it was.
    pub stanza: String,
    /// Which.
    pub backup: String,
    /// The tables.
    pub tables: Vec<LostTable>,
}

impl LostReport {
    /// Is every row still what it was?
    #[must_use]
    pub fn nothing_lost(&self) -> bool {
        let whole =
            |table: &LostTable| table.deleted == 0 && table.changed == 0 && table.problem.is_none();
        self.tables.iter().all(whole)
    }

    /// Rows that are gone, and rows with other values, in all tables.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let tables = self.tables.iter();
        tables.fold((0, 0), |(deleted, changed), table| {
            (deleted + table.deleted, changed + table.changed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let values = |a: Option<&str>| {
            Values::from([
                ("a".to_owned(), a.map(str::to_owned)),
                ("id".to_owned(), Some("1".to_owned())),
            ])
        };
        let row = |now| LostRow {
            key: vec!["1".to_owned()],
            then: values(Some("x")),
            now,
            changed_at: None,
        };
        assert_eq!(row(None).differing(), []);
        assert_eq!(
            row(Some(values(None))).differing(),
            [("a", Some("x"), None)]
        );
        assert_eq!(row(Some(values(Some("x")))).differing(), []);
    }

    #[test]
    fn a_table_that_could_not_be_compared_is_not_whole() {
        let mut report = LostReport {
            schema_version: 1,
            target: Target::Latest,
            recovered_to: None,
            stanza: String::new(),
            backup: String::new(),
            tables: vec![LostTable::default()],
        };
        assert!(report.nothing_lost());
        report.tables[0].problem = Some("no".to_owned());
        assert!(!report.nothing_lost());
        report.tables[0] = LostTable {
            deleted: 2,
            changed: 1,
            ..LostTable::default()
        };
        assert_eq!((report.totals(), report.nothing_lost()), ((2, 1), false));
    }
}
