//! A row that others refer to is nobody's to take away but people's: of two rows with one unique
//! value the older goes by itself only where no row, on any node, refers to it.
//!
//! Must not know how such rows are found.

use std::collections::BTreeMap;
use std::fmt;

/// Rows of one node that refer to a row by one foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrers {
    /// The table that they are in: schema.table, quoted where needed.
    pub table: String,
    /// The foreign key.
    pub constraint: String,
    /// How many, counted up to a thousand.
    pub rows: u64,
    /// What makes them refer to it no longer: SQL.
    pub command: String,
}

/// Why a row is kept, and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Who refers to it, and where.
    pub why: String,
    /// What people can do.
    pub command: String,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.command)
    }
}

impl std::error::Error for Kept {}

/// Must a row be kept, the older of two with one unique value? It must when rows refer to it on any
/// of these nodes, by their names.
#[must_use]
pub fn kept(row: &str, referring: &[(String, Vec<Referrers>)]) -> Option<Kept> {
    let mut by_key: BTreeMap<(&str, &str), (u64, Vec<&str>)> = BTreeMap::new();
    let mut by_command: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, found) in referring {
        for one in found.iter().filter(|one| one.rows > 0) {
            let told = by_key.entry((&one.table, &one.constraint)).or_default();
            told.0 = told.0.max(one.rows);
            told.1.push(node);
            let nodes = by_command.entry(&one.command).or_default();
            if nodes.last() != Some(&node.as_str()) {
                nodes.push(node);
            }
        }
    }
    if by_key.is_empty() {
        return None;
    }
    let one = |((table, constraint), (rows, nodes)): (&(&str, &str), &(u64, Vec<&str>))| {
        format!("{rows} of {table} ({constraint}) on {}", nodes.join(", "))
    };
    let who: Vec<String> = by_key.iter().map(one).collect();
    let step =
        |(command, nodes): (&&str, &Vec<&str>)| format!("on {}: {command}", nodes.join(", "));
    let steps: Vec<String> = by_command.iter().map(step).collect();
    Some(Kept {
        why: format!(
            "rows refer to {row}, the older of two with one unique value: {}",
            who.join(", ")
        ),
        command: format!("{}; then it goes by itself", steps.join("; ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(rows: u64) -> Referrers {
        Referrers {
            table: "public.letters".to_owned(),
            constraint: "letters_person_fkey".to_owned(),
            rows,
            command: "UPDATE public.letters SET person = ... WHERE person = '1'".to_owned(),
        }
    }

    #[test]
    fn a_row_that_none_refers_to_goes() {
        assert_eq!(kept("1", &[]), None);
        assert_eq!(kept("1", &[("a".to_owned(), vec![letters(0)])]), None);
    }

    #[test]
    fn one_that_a_row_of_any_node_refers_to_is_kept_and_it_is_told_where() {
        let on = |node: &str, rows| (node.to_owned(), vec![letters(rows)]);
        let told = kept("1", &[on("a", 1), on("b", 0), on("c", 3)]).unwrap();
        assert_eq!(
            told.why,
            "rows refer to 1, the older of two with one unique value: 3 of public.letters \
             (letters_person_fkey) on a, c"
        );
        assert_eq!(
            told.command,
            "on a, c: UPDATE public.letters SET person = ... WHERE person = '1'; then it goes by \
             itself"
        );
    }
}
