//! Reads what PostgreSQL's `test_decoding` prints of rows.
//!
//! `table public.t: DELETE: id[integer]:1 name[text]:'it''s'`, and of an update that changed the key
//! `table public.t: UPDATE: old-key: id[integer]:1 new-tuple: ...`; names are quoted like SQL's
//! identifiers, texts like its literals (contrib/test_decoding/test_decoding.c).

use super::check::RowValues;
use crate::verify::Key;
use std::collections::BTreeMap;
use thiserror::Error;

/// A change after which rows are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A row was deleted, or its key was changed.
    Gone {
        /// schema.table, quoted where needed.
        table: String,
        /// The columns that stand for the row: those of the replica identity.
        columns: BTreeMap<String, String>,
    },
    /// Whole tables were emptied.
    Emptied {
        /// schema.table, quoted where needed.
        tables: Vec<String>,
    },
}

impl Change {
    /// The primary key of the row that is gone, `names` being its columns; `None` when the
    /// replica identity doesn't have them all.
    #[must_use]
    pub fn key(&self, names: &[String]) -> Option<Key> {
        match self {
            Change::Gone { columns, .. } => names
                .iter()
                .map(|name| columns.get(name).cloned())
                .collect(),
            Change::Emptied { .. } => None,
        }
    }
}

/// A line that doesn't look like what `test_decoding` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a line of test_decoding can't be read at byte {0}")]
pub struct BadLine(usize);

/// Reads one line. `None` for all that makes no row go.
pub fn decode(line: &str) -> Result<Option<Change>, BadLine> {
    let Some(rest) = line.strip_prefix("table ") else {
        return Ok(None);
    };
    let mut reader = Reader {
        whole: line.len(),
        rest,
    };
    let names = reader.until_colon()?;
    if reader.take(" TRUNCATE: ") {
        let tables = listed(names);
        return Ok(Some(Change::Emptied { tables }));
    }
    let gone = reader.take(" DELETE:") || reader.take(" UPDATE: old-key:");
    if !gone || reader.rest == " (no-tuple-data)" {
        return Ok(None);
    }
    let table = names.to_owned();
    let mut columns = BTreeMap::new();
    while !reader.rest.is_empty() && !reader.rest.starts_with(" new-tuple:") {
        if let (name, Value::Text(value)) = reader.column()? {
            columns.insert(name, value);
        }
    }
    Ok(Some(Change::Gone { table, columns }))
}

/// A row as an insert or update leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// schema.table, quoted where needed.
    pub table: String,
    /// The values by their columns' names, `None` for NULL; large ones that an update has left as
    /// they were are not in the line.
    pub columns: RowValues,
    /// Is it new? Else it was updated.
    pub inserted: bool,
}

/// Reads one line. `None` for all that leaves no row.
pub fn written(line: &str) -> Result<Option<Written>, BadLine> {
    let Some(rest) = line.strip_prefix("table ") else {
        return Ok(None);
    };
    let mut reader = Reader {
        whole: line.len(),
        rest,
    };
    let table = reader.until_colon()?.to_owned();
    let update = reader.take(" UPDATE:");
    if !update && !reader.take(" INSERT:") {
        return Ok(None);
    }
    if update && reader.take(" old-key:") {
        while !reader.take(" new-tuple:") {
            reader.column()?;
        }
    }
    let mut columns = RowValues::new();
    while !reader.rest.is_empty() && reader.rest != " (no-tuple-data)" {
        match reader.column()? {
            (name, Value::Text(text)) => columns.insert(name, Some(text)),
            (name, Value::Null) => columns.insert(name, None),
            (_, Value::Unchanged) => None,
        };
    }
    Ok(Some(Written {
        table,
        columns,
        inserted: !update,
    }))
}

/// One value of a line.
enum Value {
    Null,
    /// A large one that is as it was, and isn't told.
    Unchanged,
    Text(String),
}

struct Reader<'a> {
    whole: usize,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn bad<T>(&self) -> Result<T, BadLine> {
        Err(BadLine(self.whole - self.rest.len()))
    }

    fn take(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// What comes before the first `end` that is in no double quotes; `end` is taken, too.
    fn until(&mut self, end: &str) -> Result<&'a str, BadLine> {
        let mut quoted = false;
        for (place, letter) in self.rest.char_indices() {
            if letter == '"' {
                quoted = !quoted;
            } else if !quoted && self.rest[place..].starts_with(end) {
                let found = &self.rest[..place];
                self.rest = &self.rest[place + end.len()..];
                return Ok(found);
            }
        }
        self.bad()
    }

    fn until_colon(&mut self) -> Result<&'a str, BadLine> {
        self.until(":")
    }

    fn column(&mut self) -> Result<(String, Value), BadLine> {
        if !self.take(" ") {
            return self.bad();
        }
        let name = self.until("[")?;
        // The type may have brackets itself, but no colon behind them.
        self.until("]:")?;
        Ok((bare(name), self.value()?))
    }

    fn value(&mut self) -> Result<Value, BadLine> {
        if self.take("'") || self.take("B'") {
            return self.literal().map(Value::Text);
        }
        let end = self.rest.find(' ').unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(match value {
            "null" => Value::Null,
            "unchanged-toast-datum" => Value::Unchanged,
            text => Value::Text(text.to_owned()),
        })
    }

    fn literal(&mut self) -> Result<String, BadLine> {
        let mut text = String::new();
        loop {
            let Some(place) = self.rest.find('\'') else {
                return self.bad();
            };
            text.push_str(&self.rest[..place]);
            self.rest = &self.rest[place + 1..];
            if !self.take("'") {
                return Ok(text);
            }
            text.push('\'');
        }
    }
}

/// schema.table without quotes, as the server's log writes it.
pub(super) fn unquoted(table: &str) -> String {
    let mut quoted = false;
    let parts = table.split(|letter| {
        quoted ^= letter == '"';
        letter == '.' && !quoted
    });
    parts.map(bare).collect::<Vec<_>>().join(".")
}

/// An identifier without its quotes.
fn bare(name: &str) -> String {
    let inner = name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'));
    inner.map_or_else(|| name.to_owned(), |inner| inner.replace("\"\"", "\""))
}

/// Names separated by commas that are in no quotes.
fn listed(names: &str) -> Vec<String> {
    let mut quoted = false;
    let parts = names.split(|letter| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    });
    parts.map(|name| name.trim_start().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(line: &str) -> (String, Vec<(String, String)>) {
        match decode(line) {
            Ok(Some(Change::Gone { table, columns })) => (table, columns.into_iter().collect()),
            other => panic!("{other:?}"),
        }
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn deletes_are_read_whatever_the_values_are() {
        let line = "table public.t: DELETE: id[bigint]:-5 name[text]:'it''s: [x]:1' \
                    ok[boolean]:true gap[integer[]]:null b[bit varying]:B'01'";
        let (table, columns) = gone(line);
        assert_eq!(table, "public.t");
        let expected = [
            pair("b", "01"),
            pair("id", "-5"),
            pair("name", "it's: [x]:1"),
            pair("ok", "true"),
        ];
        assert_eq!(columns, expected);
    }

    #[test]
    fn odd_names_are_read() {
        let line = "table odd.\"a: \"\"b, c\": DELETE: \"K [1]:\"[public.\"t]:\"]:'x' z[text]:''";
        let (table, columns) = gone(line);
        assert_eq!(table, "odd.\"a: \"\"b, c\"");
        assert_eq!(columns, [pair("K [1]:", "x"), pair("z", "")]);
    }

    #[test]
    fn a_changed_key_is_a_delete_of_the_old_one() {
        let line =
            "table public.t: UPDATE: old-key: id[uuid]:'a' new-tuple: id[uuid]:'b' v[int4]:1";
        assert_eq!(gone(line).1, [pair("id", "a")]);
    }

    #[test]
    fn emptied_tables_are_told_apart() {
        let line = "table public.a, public.\"b, c\": TRUNCATE: restart_seqs cascade";
        let tables = vec!["public.a".to_owned(), "public.\"b, c\"".to_owned()];
        assert_eq!(decode(line), Ok(Some(Change::Emptied { tables })));
    }

    #[test]
    fn what_makes_no_row_go_is_nothing() {
        for line in [
            "BEGIN 700",
            "COMMIT 700 (at 2026-11-20 10:00:00+00)",
            "table public.t: INSERT: id[integer]:1 note[text]:': DELETE: x'",
            "table public.t: UPDATE: id[integer]:1 v[integer]:2",
            "table public.t: DELETE: (no-tuple-data)",
        ] {
            assert_eq!(decode(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn written_rows_are_read_with_their_nulls() {
        let read = |line: &str| written(line).unwrap().unwrap();
        let row = read(
            "table odd.\"T.x\": UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 \
             a[text]:'it''s' b[text]:null c[text]:'null' d[text]:unchanged-toast-datum",
        );
        assert_eq!(unquoted(&row.table), "odd.T.x");
        let expected = [
            ("a", Some("it's")),
            ("b", None),
            ("c", Some("null")),
            ("id", Some("2")),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(row.columns, expected.into());
        assert!(!row.inserted);
        let row = read("table public.t: INSERT: id[integer]:1");
        assert_eq!((row.columns.len(), row.inserted), (1, true));
        for line in [
            "BEGIN 1",
            "table public.t: DELETE: id[integer]:1",
            "table public.t: TRUNCATE: (no-flags)",
        ] {
            assert_eq!(written(line), Ok(None), "{line}");
        }
        assert!(written("table public.t: UPDATE: old-key: id[integer]:1").is_err());
    }

    #[test]
    fn a_line_that_ends_early_is_refused() {
        for line in [
            "table public.t",
            "table public.t: DELETE: id",
            "table public.t: DELETE: id[integer",
            "table public.t: DELETE: id[text]:'half",
        ] {
            assert!(decode(line).is_err(), "{line}");
        }
    }
}
