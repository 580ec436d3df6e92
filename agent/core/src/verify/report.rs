//! What a comparison tells people and programs.

use serde::{Deserialize, Serialize};

/// What is done about rows that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mending {
    /// Nothing.
    #[default]
    None,
    /// It is told what would be done.
    Told,
    /// They are mended.
    Done,
}

/// What an operator wants to be compared, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// Tables by name, with or without the schema; all replicated ones when none is named.
    pub tables: Vec<String>,
    /// Without rests between ranges.
    pub eager: bool,
    /// What is done about rows that differ.
    pub mending: Mending,
}

/// What comes out of a running comparison: progress, and one report at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum News {
    /// So far.
    Progress {
        /// The table that is being compared.
        table: String,
        /// Its place among those that are compared, from 1.
        number: usize,
        /// How many are compared.
        tables: usize,
        /// Rows of it that have been compared.
        rows: u64,
        /// Rows that differ, or are on their way.
        suspects: usize,
    },
    /// The end.
    Report(Report),
}

/// The outcome of a comparison. `schema_version` is that of the status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// See [`crate::status::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The names of the nodes that were compared, the answering one first.
    pub nodes: Vec<String>,
    /// Members that were not compared, and why.
    pub left_out: Vec<String>,
    /// The tables, in the order in which they were compared.
    pub tables: Vec<TableReport>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// The outcome of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableReport {
    /// schema.table, quoted where needed.
    pub table: String,
    /// Rows that were compared.
    pub rows: u64,
    /// Rows that are not the same on all nodes.
    pub different: Vec<DifferentRow>,
    /// Keys of rows that changed at every look.
    pub undecided: Vec<Vec<String>>,
    /// Was the comparison ended early, because too many rows differ?
    pub cut_short: bool,
    /// Why the table could not be compared.
    pub problem: Option<String>,
}

/// A row that is not the same on all nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DifferentRow {
    /// The text of each column of its primary key.
    pub key: Vec<String>,
    /// A letter for each node, in the order of [`Report::nodes`]: the same letter for the same
    /// row, `null` where there is none.
    pub held: Vec<Option<char>>,
    /// Who is right about it, and why, where that was asked for; or why it can't be mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ruling: Option<String>,
    /// Is it the same on all nodes by now, because it was mended?
    #[serde(default)]
    pub mended: bool,
}

/// How much a comparison has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// All compared nodes hold the same rows, and all members were compared.
    Equal,
    /// Not everything could be compared.
    Open,
    /// Rows differ.
    Different,
}

impl Report {
    /// The worst that was found.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let tables = self.tables.iter().map(TableReport::finding);
        let whole = match self.left_out.is_empty() {
            true => Finding::Equal,
            false => Finding::Open,
        };
        tables.max().unwrap_or(Finding::Equal).max(whole)
    }
}

impl TableReport {
    /// What was found in this table.
    #[must_use]
    pub fn finding(&self) -> Finding {
        if self.different.iter().any(|row| !row.mended) {
            return Finding::Different;
        }
        match self.undecided.is_empty() && self.problem.is_none() {
            true => Finding::Equal,
            false => Finding::Open,
        }
    }

    /// A table that was compared.
    #[must_use]
    pub fn compared(table: &str, verdict: super::Verdict) -> TableReport {
        let different = verdict.different.into_iter().map(|row| DifferentRow {
            held: letters(&row.held),
            key: row.key,
            ruling: None,
            mended: false,
        });
        TableReport {
            table: table.to_owned(),
            rows: verdict.rows,
            different: different.collect(),
            undecided: verdict.undecided,
            cut_short: verdict.cut_short,
            problem: None,
        }
    }

    /// A table that could not be compared.
    #[must_use]
    pub fn failed(table: &str, why: String) -> TableReport {
        TableReport {
            table: table.to_owned(),
            rows: 0,
            different: Vec::new(),
            undecided: Vec::new(),
            cut_short: false,
            problem: Some(why),
        }
    }
}

/// The same letter for the same row: A for the first node's, and so on.
fn letters(held: &super::Sighting) -> Vec<Option<char>> {
    let mut known = Vec::new();
    let mut letter = |hash: super::RowHash| {
        let place = known.iter().position(|one| *one == hash);
        let place = place.unwrap_or_else(|| {
            known.push(hash);
            known.len() - 1
        });
        ('A'..='Z').nth(place).unwrap_or('?')
    };
    held.iter().map(|row| row.map(&mut letter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_have_the_same_letter() {
        let held = vec![Some([1, 2]), None, Some([3, 4]), Some([1, 2])];
        assert_eq!(letters(&held), [Some('A'), None, Some('B'), Some('A')]);
    }

    #[test]
    fn what_was_not_compared_is_not_called_equal() {
        let mut report = Report {
            schema_version: 1,
            nodes: vec!["a".to_owned(), "b".to_owned()],
            left_out: Vec::new(),
            tables: vec![TableReport::compared(
                "public.t",
                super::super::Verdict {
                    rows: 3,
                    different: Vec::new(),
                    undecided: Vec::new(),
                    cut_short: false,
                },
            )],
            took_ms: 1,
        };
        assert_eq!(report.finding(), Finding::Equal);
        report.left_out.push("c does not answer".to_owned());
        assert_eq!(report.finding(), Finding::Open);
        report.left_out.clear();
        report
            .tables
            .push(TableReport::failed("public.u", "why".to_owned()));
        assert_eq!(report.finding(), Finding::Open);
        let row = DifferentRow {
            key: vec!["1".to_owned()],
            held: vec![None, Some('A')],
            ruling: None,
            mended: false,
        };
        report.tables[0].different.push(row);
        assert_eq!(report.finding(), Finding::Different);
        report.tables[0].different[0].mended = true;
        assert_eq!(report.finding(), Finding::Open, "the other table");
    }
}
