//! Which tables may be replicated: those that every ready member has, with the same structure.
//!
//! One node ahead of the others would stop their whole stream: pglogical's apply worker fails on
//! a row for a table it does not have, and retries for ever.

use crate::ids::NodeId;
use crate::observed::{Fact, TableFacts};
use crate::roster::Roster;
use crate::status::{Finding, Health, TableWaiting, TablesReport};
use std::collections::{BTreeMap, BTreeSet};

/// The tables of another member, by name: structure digest, and whether it has a primary key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    /// The digest its record carries when this catalogue holds.
    pub digest: u64,
    /// The tables.
    pub tables: BTreeMap<String, (u64, bool)>,
}

/// What is to be done about tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Tables to put into the replication set now.
    pub add: Vec<String>,
    /// For the report.
    pub report: TablesReport,
    /// For the report.
    pub findings: Vec<Finding>,
}

/// Judges every local table against the catalogues of the other ready members.
#[must_use]
pub fn judge(
    local: &[TableFacts],
    others: &BTreeMap<NodeId, Fact<Catalog>>,
    roster: &Roster,
) -> Verdict {
    let mut verdict = Verdict::default();
    for table in local {
        judge_keys(table, &mut verdict.findings);
        if !table.replicable {
            continue;
        }
        let waiting = compare(table, others, roster);
        if table.replicated {
            verdict.report.replicated.push(table.name.clone());
            if !waiting.lacking.is_empty() || !waiting.differing.is_empty() {
                verdict.findings.push(parted(&waiting));
            }
        } else if !table.primary_key {
            let because = "it has no primary key".to_owned();
            verdict
                .report
                .waiting
                .push(TableWaiting { because, ..waiting });
        } else if waiting.lacking.is_empty()
            && waiting.differing.is_empty()
            && waiting.unknown.is_empty()
        {
            verdict.add.push(table.name.clone());
        } else {
            verdict.report.waiting.push(waiting);
        }
    }
    note_missing_here(local, others, roster, &mut verdict.report);
    verdict
}

/// What the other members say of one table.
fn compare(
    table: &TableFacts,
    others: &BTreeMap<NodeId, Fact<Catalog>>,
    roster: &Roster,
) -> TableWaiting {
    let mut waiting = TableWaiting {
        table: table.name.clone(),
        lacking: BTreeSet::new(),
        differing: BTreeSet::new(),
        unknown: BTreeSet::new(),
        because: String::new(),
    };
    for (node, catalog) in others {
        let name = roster.name_of(*node);
        match catalog {
            Fact::Unknown(_) => waiting.unknown.insert(name),
            Fact::Known(catalog) => match catalog.tables.get(&table.name) {
                None => waiting.lacking.insert(name),
                Some((structure, _)) if *structure != table.structure => {
                    waiting.differing.insert(name)
                }
                Some(_) => false,
            },
        };
    }
    waiting.because = reason(&waiting);
    waiting
}

fn reason(waiting: &TableWaiting) -> String {
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let mut parts = Vec::new();
    if !waiting.lacking.is_empty() {
        parts.push(format!("missing on {}", list(&waiting.lacking)));
    }
    if !waiting.differing.is_empty() {
        parts.push(format!("different on {}", list(&waiting.differing)));
    }
    if !waiting.unknown.is_empty() {
        parts.push(format!("{} could not be asked", list(&waiting.unknown)));
    }
    parts.join("; ")
}

/// Tables that others have and this node lacks.
fn note_missing_here(
    local: &[TableFacts],
    others: &BTreeMap<NodeId, Fact<Catalog>>,
    roster: &Roster,
    report: &mut TablesReport,
) {
    let here: BTreeSet<&String> = local.iter().map(|table| &table.name).collect();
    let mut elsewhere: BTreeMap<&String, BTreeSet<String>> = BTreeMap::new();
    for (node, catalog) in others {
        for name in catalog.known().into_iter().flat_map(|c| c.tables.keys()) {
            if !here.contains(name) {
                elsewhere
                    .entry(name)
                    .or_default()
                    .insert(roster.name_of(*node));
            }
        }
    }
    for (table, holders) in elsewhere {
        let holders: Vec<String> = holders.into_iter().collect();
        report.waiting.push(TableWaiting {
            table: table.clone(),
            lacking: BTreeSet::from(["this node".to_owned()]),
            differing: BTreeSet::new(),
            unknown: BTreeSet::new(),
            because: format!("missing on this node; {} has it", holders.join(", ")),
        });
    }
}

fn parted(waiting: &TableWaiting) -> Finding {
    Finding {
        severity: Health::Critical,
        code: "table_parted".to_owned(),
        text: format!(
            "table {} is replicated, and {}: rows for it stop the stream there",
            waiting.table,
            reason(waiting)
        ),
        command: format!(
            "pg_dump --schema-only --table={} # compare, then correct",
            waiting.table
        ),
    }
}

fn judge_keys(table: &TableFacts, findings: &mut Vec<Finding>) {
    if !table.replicable {
        findings.push(Finding {
            severity: Health::Degraded,
            code: "not_replicable".to_owned(),
            text: format!("table {} is unlogged and can't be replicated", table.name),
            command: format!("ALTER TABLE {} SET LOGGED", table.name),
        });
        return;
    }
    if !table.primary_key {
        findings.push(Finding {
            severity: Health::Critical,
            code: "no_primary_key".to_owned(),
            text: format!(
                "table {} has no primary key: its rows stay on this node",
                table.name
            ),
            command: format!(
                "ALTER TABLE {} ADD PRIMARY KEY (...), on every node",
                table.name
            ),
        });
    }
    for sequence in &table.plain_sequences {
        findings.push(Finding {
            severity: Health::Critical,
            code: "plain_sequence".to_owned(),
            text: format!(
                "key {}.{} is fed by the plain sequence {}: two nodes will give the same value, \
                 and one of the two rows is lost",
                table.name, sequence.column, sequence.name
            ),
            command: "pgaa-agent sequences fix, on every node".to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, Name};
    use crate::roster::Decree;
    use uuid::Uuid;

    fn table(name: &str, structure: u64) -> TableFacts {
        TableFacts {
            name: name.to_owned(),
            structure,
            primary_key: true,
            replicated: false,
            plain_sequences: Vec::new(),
            replicable: true,
        }
    }

    fn roster() -> Roster {
        Roster::founded(Decree {
            cluster: ClusterId(Uuid::from_u128(1)),
            cluster_name: Name::new("shop").unwrap(),
            founder: NodeId(Uuid::from_u128(2)),
            founder_holds_data: false,
            members: Vec::new(),
        })
    }

    fn other(tables: &[(&str, u64)]) -> BTreeMap<NodeId, Fact<Catalog>> {
        let tables = tables
            .iter()
            .map(|(n, s)| ((*n).to_owned(), (*s, true)))
            .collect();
        BTreeMap::from([(
            NodeId(Uuid::from_u128(3)),
            Fact::Known(Catalog { digest: 0, tables }),
        )])
    }

    #[test]
    fn a_table_enters_when_all_have_it_alike() {
        let verdict = judge(
            &[table("public.a", 1)],
            &other(&[("public.a", 1)]),
            &roster(),
        );
        assert_eq!(verdict.add, ["public.a"]);
        for others in [other(&[]), other(&[("public.a", 2)])] {
            let verdict = judge(&[table("public.a", 1)], &others, &roster());
            assert!(verdict.add.is_empty());
            assert_eq!(verdict.report.waiting.len(), 1);
        }
    }

    #[test]
    fn an_unknown_catalogue_lets_nothing_in() {
        let node = NodeId(Uuid::from_u128(3));
        let others = BTreeMap::from([(node, Fact::Unknown("no answer".to_owned()))]);
        let verdict = judge(&[table("public.a", 1)], &others, &roster());
        assert!(verdict.add.is_empty());
        assert_eq!(verdict.report.waiting[0].unknown.len(), 1);
    }

    #[test]
    fn a_table_missing_here_is_named() {
        let verdict = judge(&[], &other(&[("public.b", 1)]), &roster());
        assert_eq!(verdict.report.waiting[0].table, "public.b");
    }

    #[test]
    fn keys_that_collide_are_critical() {
        let keyless = TableFacts {
            primary_key: false,
            ..table("public.a", 1)
        };
        let verdict = judge(&[keyless], &other(&[("public.a", 1)]), &roster());
        assert!(verdict.add.is_empty());
        assert_eq!(verdict.findings[0].code, "no_primary_key");
        assert_eq!(verdict.findings[0].severity, Health::Critical);
    }
}
