//! Rows of different keys with the same value of a unique column: which one stays, and which rows a
//! transaction of another node brings that may meet such a row here.

use super::check::RowValues;
use super::decoded::{BadLine, Change, Written, decode, unquoted, written};
use super::{Key, Stamp};
use std::collections::{BTreeMap, BTreeSet};

/// Does the first of two rows stay, and the second go? The newer one does; of two that were written
/// at the same time, or nobody knows when, the one with the higher key: all nodes do the same.
#[must_use]
pub fn outlives(one: (Option<Stamp>, &Key), other: (Option<Stamp>, &Key)) -> bool {
    one > other
}

/// A row that a transaction writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arriving {
    /// Its values, as far as the provider tells them.
    pub values: RowValues,
    /// Is it new? Else it was updated, and nothing comes of it where it isn't.
    pub inserted: bool,
}

/// Rows that a transaction leaves in one table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Incoming {
    /// The table: schema.table, quoted where needed; empty while no row was read.
    pub table: String,
    /// What is written, in the order of the transaction.
    pub rows: Vec<Arriving>,
    /// What it says itself of which rows: these can't be in its way.
    gone: Vec<BTreeMap<String, String>>,
}

impl Incoming {
    /// Takes a line of `test_decoding`. `relation` is the unquoted name of the table; `detail` is
    /// PostgreSQL's word on the value that is there already: rows without it are left out.
    pub fn take(&mut self, line: &str, relation: &str, detail: &str) -> Result<(), BadLine> {
        if let Some(Change::Gone { table, columns }) = decode(line)?
            && unquoted(&table) == relation
        {
            self.gone.push(columns);
        }
        let Some(Written {
            table,
            columns,
            inserted,
        }) = written(line)?
        else {
            return Ok(());
        };
        if unquoted(&table) == relation && tells(detail, &columns) {
            self.table = table;
            self.rows.push(Arriving {
                values: columns,
                inserted,
            });
        }
        Ok(())
    }

    /// How many rows were kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len() + self.gone.len()
    }

    /// Was none kept?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys that the transaction itself changes or takes away, `names` being the key's columns.
    #[must_use]
    pub fn touched(&self, names: &[String]) -> BTreeSet<Key> {
        let written = self.rows.iter();
        let written = written.filter_map(|row| key_of(&row.values, names));
        let gone = self.gone.iter().filter_map(|columns| {
            let values = names.iter().map(|name| columns.get(name).cloned());
            values.collect::<Option<Key>>()
        });
        written.chain(gone).collect()
    }
}

/// The key of a row; `None` where it lacks a column of it.
#[must_use]
pub fn key_of(row: &RowValues, names: &[String]) -> Option<Key> {
    names.iter().map(|name| row.get(name).cloned()?).collect()
}

/// Does "Key (mail)=(x) already exists." speak of a value that this row has? True where that can't be
/// said: servers speak many languages, and an index may be on an expression.
fn tells(detail: &str, row: &RowValues) -> bool {
    let Some((names, values)) = detail.split_once(")=(") else {
        return true;
    };
    let names = names.split_once('(').map_or(names, |(_, names)| names);
    let is_column = |name: &str| row.contains_key(&unquoted(name));
    if !is_column(names) && !names.split(", ").all(is_column) {
        return true;
    }
    let Some((values, _)) = values.rsplit_once(')') else {
        return true;
    };
    let has = |text: &str| row.values().any(|value| value.as_deref() == Some(text));
    has(values) || values.split(", ").all(has)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use uuid::Uuid;

    const DETAIL: &str = "Key (mail)=(new) already exists.";

    fn take(lines: &[&str]) -> Incoming {
        let mut incoming = Incoming::default();
        for line in lines {
            incoming.take(line, "public.people", DETAIL).unwrap();
        }
        incoming
    }

    #[test]
    fn rows_with_the_value_are_found_among_all_that_a_transaction_writes() {
        let found = take(&[
            "BEGIN 7",
            "table public.people: INSERT: id[integer]:1 mail[text]:'old' note[text]:null",
            "table public.other: INSERT: id[integer]:1 mail[text]:'new'",
            "table public.people: UPDATE: id[integer]:2 mail[text]:'new' note[text]:'x: y'",
            "table public.people: DELETE: id[integer]:3",
            "COMMIT 7",
        ]);
        assert_eq!(found.table, "public.people");
        let key = ["id".to_owned()];
        let keys: Vec<_> = found
            .rows
            .iter()
            .map(|row| key_of(&row.values, &key))
            .collect();
        assert_eq!(keys, [Some(vec!["2".to_owned()])]);
        let touched: Vec<Key> = found.touched(&key).into_iter().collect();
        assert_eq!(touched, [vec!["2".to_owned()], vec!["3".to_owned()]]);
    }

    #[test]
    fn a_value_of_several_columns_is_found_and_foreign_words_leave_nothing_out() {
        let row: RowValues = [("a", "1"), ("b", "x, y")]
            .map(|(name, value)| (name.to_owned(), Some(value.to_owned())))
            .into();
        assert!(tells("Key (b)=(x, y) already exists.", &row));
        assert!(!tells("Key (b)=(x) already exists.", &row));
        assert!(tells("etwas anderes", &row));
        let row: RowValues = [("a", "1"), ("b", "x")]
            .map(|(name, value)| (name.to_owned(), Some(value.to_owned())))
            .into();
        assert!(tells("Key (a, b)=(1, x) already exists.", &row));
        assert!(!tells("Key (a, b)=(2, x) already exists.", &row));
        // What an expression makes of a row can't be read in it.
        assert!(tells("Key (lower(b))=(y) already exists.", &row));
        assert!(tells(
            "Key (a, (b || 'y'::text))=(1, xy) already exists.",
            &row
        ));
    }

    #[test]
    fn a_column_that_was_not_sent_is_no_null() {
        let found = take(&[
            "table public.people: UPDATE: id[integer]:2 mail[text]:'new' note[text]:unchanged-toast-datum",
        ]);
        assert_eq!(found.rows[0].values.len(), 2);
        let note = ["note".to_owned()];
        assert_eq!(key_of(&found.rows[0].values, &note), None);
    }

    #[test]
    fn the_newer_row_stays_and_all_nodes_agree_which_that_is() {
        let stamp = |at_us| {
            Some(Stamp {
                at_us,
                author: NodeId(Uuid::from_u128(1)),
            })
        };
        let (one, two) = (vec!["1".to_owned()], vec!["2".to_owned()]);
        assert!(outlives((stamp(2), &one), (stamp(1), &two)));
        assert!(!outlives((stamp(1), &two), (stamp(2), &one)));
        assert!(
            outlives((stamp(1), &one), (None, &two)),
            "known beats unknown"
        );
        assert!(outlives((stamp(1), &two), (stamp(1), &one)));
    }
}
