//! What a comparison tells people and programs.

use super::OrphansReport;
use serde::{Deserialize, Serialize};

/// What is done about rows that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wish {
    /// Tables by name, with or without the schema; all replicated ones when none is named.
    pub tables: Vec<String>,
    /// Without rests between ranges.
    pub eager: bool,
    /// What is done about rows that differ.
    pub mending: Mending,
    /// Go on with the comparison that was broken off last, whatever else is wished.
    pub resume: bool,
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
    /// What the nodes' databases are made of; `None` in reports of agents that didn't compare it.
    #[serde(default)]
    pub structure: Option<StructureReport>,
    /// Rows that refer to nothing; `None` in reports of agents that didn't look for them.
    #[serde(default)]
    pub orphans: Option<OrphansReport>,
    /// Is something left that a comparison which goes on from here would compare?
    #[serde(default)]
    pub resumable: bool,
}

/// How the structures of the nodes' databases differ.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StructureReport {
    /// The names of the nodes whose structures were compared.
    pub nodes: Vec<String>,
    /// Nodes whose structures were not compared, though their rows may have been, and why.
    pub left_out: Vec<String>,
    /// What is not the same on all of them.
    pub different: Vec<DifferentPiece>,
    /// How many more pieces differ.
    pub more: usize,
}

/// A piece of the structure that is not the same on all nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DifferentPiece {
    /// table, column, index, constraint, privileges and so on.
    pub kind: String,
    /// schema.table.column, say, quoted where needed.
    pub name: String,
    /// A letter for each node, in the order of [`StructureReport::nodes`]: the same letter for the
    /// same definition, `null` where there is none.
    pub held: Vec<Option<char>>,
    /// The definitions of A, B and so on; of long ones the part in which they differ.
    pub definitions: Vec<String>,
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
    /// Not everything could be compared, the nodes' databases are made differently, or rows refer
    /// to nothing.
    Open,
    /// Rows differ.
    Different,
}

impl Report {
    /// The worst that was found.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let tables = self.tables.iter().map(TableReport::finding);
        let structure = self.structure.as_ref();
        let made_alike = structure.is_none_or(StructureReport::is_equal);
        let refers = self.orphans.as_ref().is_none_or(OrphansReport::is_clean);
        let whole = match self.left_out.is_empty() && made_alike && refers {
            true => Finding::Equal,
            false => Finding::Open,
        };
        tables.max().unwrap_or(Finding::Equal).max(whole)
    }
}

/// Of a definition so much is told, characters.
const DEFINITION_TOLD: usize = 500;

/// So much of it before the place where definitions part.
const BEFORE_PARTING: usize = 100;

impl StructureReport {
    /// Were all nodes compared, and are they made alike?
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.left_out.is_empty() && self.different.is_empty()
    }

    /// What came of a comparison of nodes with these names.
    #[must_use]
    pub fn compared(
        outcome: super::Outcome,
        name: impl Fn(crate::ids::NodeId) -> String,
    ) -> StructureReport {
        let different = outcome.unlike.into_iter().map(|unlike| DifferentPiece {
            held: letters(&unlike.held),
            kind: unlike.piece.kind,
            name: unlike.piece.name,
            definitions: excerpts(unlike.texts.into_iter().map(|(_, text)| text).collect()),
        });
        let left_out = outcome.left_out.into_iter();
        StructureReport {
            different: different.collect(),
            nodes: outcome.nodes.into_iter().map(&name).collect(),
            left_out: left_out.map(|(_, why)| why.to_string()).collect(),
            more: outcome.more,
        }
    }
}

/// Definitions as they are told: of long ones the part in which they differ.
fn excerpts(texts: Vec<String>) -> Vec<String> {
    let parting = |one: &String, other: &String| {
        let pairs = one.chars().zip(other.chars());
        pairs.take_while(|(one, other)| one == other).count()
    };
    let pairs = texts.windows(2).map(|pair| parting(&pair[0], &pair[1]));
    let parting = pairs.min().unwrap_or(0);
    let begin = match parting + BEFORE_PARTING > DEFINITION_TOLD {
        true => parting - BEFORE_PARTING,
        false => 0,
    };
    let cut = |text: String| {
        let length = text.chars().count();
        let told = text.chars().skip(begin).take(DEFINITION_TOLD);
        let before = if begin > 0 { "... " } else { "" };
        let behind = if length > begin + DEFINITION_TOLD {
            " ..."
        } else {
            ""
        };
        format!("{before}{}{behind}", told.collect::<String>())
    };
    texts.into_iter().map(cut).collect()
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
    fn of_long_definitions_the_part_that_differs_is_told() {
        let short = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(excerpts(short.clone()), short);
        let lead = "é".repeat(3_000);
        let long = |end: &str| format!("{lead}{end}{lead}");
        let told = excerpts(vec![long("one"), long("two"), long("one")]);
        assert!(
            told[0].contains("éone") && told[1].contains("étwo"),
            "{told:?}"
        );
        let framed = |text: &String| text.starts_with("... é") && text.ends_with("é ...");
        assert!(told.iter().all(framed), "{told:?}");
        assert!(
            told.iter()
                .all(|text| text.chars().count() == DEFINITION_TOLD + 8)
        );
        assert_eq!(
            excerpts(vec![lead.clone()])[0].chars().count(),
            DEFINITION_TOLD + 4
        );
        assert_eq!(excerpts(Vec::new()), Vec::<String>::new());
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
            structure: None,
            orphans: None,
            resumable: false,
        };
        assert_eq!(report.finding(), Finding::Equal);
        report.structure = Some(StructureReport::default());
        assert_eq!(report.finding(), Finding::Equal);
        let piece = DifferentPiece {
            kind: "index".to_owned(),
            name: "public.i".to_owned(),
            held: vec![Some('A'), None],
            definitions: Vec::new(),
        };
        let different = vec![piece];
        report.structure = Some(StructureReport {
            different,
            ..StructureReport::default()
        });
        assert_eq!(report.finding(), Finding::Open, "made differently");
        report.structure = Some(StructureReport {
            left_out: vec!["b: upgrade it".to_owned()],
            ..StructureReport::default()
        });
        assert_eq!(report.finding(), Finding::Open, "not compared");
        report.structure = None;
        report.orphans = Some(OrphansReport::default());
        assert_eq!(
            report.finding(),
            Finding::Equal,
            "nothing refers to nothing"
        );
        report.orphans = Some(OrphansReport {
            left_out: vec!["public.t: why".to_owned()],
            ..OrphansReport::default()
        });
        assert_eq!(report.finding(), Finding::Open, "not looked through");
        report.orphans = None;
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
