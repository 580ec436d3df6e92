//! Parents before children: in which order rows are written back, so that foreign keys find what
//! they refer to.

use std::collections::BTreeSet;

/// `tables` with every one behind those it refers to, as far as that is possible: tables that
/// refer to one another in a circle keep the order they came in. `references` are pairs of a
/// table and the one it refers to.
#[must_use]
pub fn parents_first(tables: &[String], references: &[(String, String)]) -> Vec<String> {
    let known: BTreeSet<&String> = tables.iter().collect();
    let mut placed: BTreeSet<&String> = BTreeSet::new();
    let mut ordered = Vec::with_capacity(tables.len());
    while ordered.len() < tables.len() {
        let waits = |table: &&String| {
            references.iter().any(|(child, parent)| {
                child == *table
                    && parent != child
                    && known.contains(parent)
                    && !placed.contains(parent)
            })
        };
        let mut left = tables.iter().filter(|table| !placed.contains(table));
        // In a circle the first goes ahead.
        let next = left
            .clone()
            .find(|table| !waits(table))
            .or_else(|| left.next());
        let Some(next) = next else {
            break;
        };
        placed.insert(next);
        ordered.push(next.clone());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(tables: &[&str], references: &[(&str, &str)]) -> Vec<String> {
        let tables: Vec<String> = tables.iter().map(|t| (*t).to_owned()).collect();
        let references: Vec<(String, String)> = references
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        parents_first(&tables, &references)
    }

    #[test]
    fn children_come_behind_their_parents() {
        let references = [
            ("lines", "orders"),
            ("orders", "customers"),
            ("lines", "parts"),
        ];
        let tables = ["lines", "orders", "customers", "other"];
        assert_eq!(
            ordered(&tables, &references),
            ["customers", "orders", "lines", "other"]
        );
    }

    #[test]
    fn circles_and_tables_that_refer_to_themselves_end() {
        assert_eq!(ordered(&["a", "b"], &[("a", "b"), ("b", "a")]), ["a", "b"]);
        assert_eq!(ordered(&["a", "a"], &[("a", "a")]), ["a"]);
        assert_eq!(ordered(&[], &[("a", "b")]), Vec::<String>::new());
    }
}
