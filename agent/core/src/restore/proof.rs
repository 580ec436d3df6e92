//! The record of a proof: a backup that was restored, and compared with the live rows of one
//! moment. A backup counts only when that has succeeded.

use crate::backup::Stanza;
use crate::ids::Lsn;
use crate::time::Wall;
use crate::verify::Digest;
use serde::{Deserialize, Serialize};

/// One table, live and restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenTable {
    /// "schema.table"
    pub table: String,
    /// Rows it had at that moment.
    pub rows: u64,
    /// What is wrong with the restored one; nothing when all rows are equal.
    pub problem: Option<String>,
}

impl ProvenTable {
    /// Compares the hash of all live rows with that of all restored ones.
    #[must_use]
    pub fn of(table: &str, live: Digest, restored: Result<Digest, String>) -> ProvenTable {
        let problem = match restored {
            Ok(restored) if restored == live => None,
            Ok(restored) if restored.rows == live.rows => {
                Some(format!("{} rows, but not the same", live.rows))
            }
            Ok(restored) => Some(format!("{} rows instead of {}", restored.rows, live.rows)),
            Err(error) => Some(error),
        };
        ProvenTable {
            table: table.to_owned(),
            rows: live.rows,
            problem,
        }
    }
}

/// How an attempt to prove the backups went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// When it ended.
    pub at: Wall,
    /// Whose backups.
    pub stanza: Stanza,
    /// Which.
    pub backup: String,
    /// The moment whose rows were compared.
    pub moment: Wall,
    /// Its position in the WAL: everything before, nothing behind.
    pub position: Lsn,
    /// The last commit that was replayed, in PostgreSQL's words.
    pub recovered_to: Option<String>,
    /// How long the copying took.
    pub copy_ms: u64,
    /// How long the WAL took to be replayed.
    pub replay_ms: u64,
    /// The tables.
    pub tables: Vec<ProvenTable>,
    /// What pg_amcheck has found; nothing when all is sound.
    pub damage: Option<String>,
}

impl Proof {
    /// Was everything as it should be?
    #[must_use]
    pub fn holds(&self) -> bool {
        self.damage.is_none() && self.tables.iter().all(|table| table.problem.is_none())
    }

    /// How long it takes until a restored database can be used.
    #[must_use]
    pub fn recovery_ms(&self) -> u64 {
        self.copy_ms.saturating_add(self.replay_ms)
    }

    /// Rows that were compared.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// What is wrong, in one line; nothing when it holds.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        let table = self.tables.iter().find_map(|table| {
            let problem = table.problem.as_ref()?;
            Some(format!("{}: {problem}", table.table))
        });
        table.or_else(|| self.damage.clone())
    }
}

/// What is remembered of proofs, in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Proofs {
    /// The last one that held.
    pub held: Option<Proof>,
    /// Why the last attempt came to nothing, and when; nothing when it held.
    pub failed: Option<(Wall, String)>,
}

impl Proofs {
    /// When the last attempt ended, however it went.
    #[must_use]
    pub fn last(&self) -> Option<Wall> {
        let held = self.held.as_ref().map(|proof| proof.at);
        held.max(self.failed.as_ref().map(|(at, _)| *at))
    }

    /// Notes an attempt.
    pub fn note(&mut self, at: Wall, attempt: Result<Proof, String>) {
        let flaw = match attempt {
            Ok(proof) => match proof.flaw() {
                None => {
                    self.held = Some(proof);
                    self.failed = None;
                    return;
                }
                Some(flaw) => flaw,
            },
            Err(why) => why,
        };
        self.failed = Some((at, flaw));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use uuid::Uuid;

    fn digest(rows: u64, hash: i64) -> Digest {
        Digest {
            rows,
            hash: [hash, hash],
        }
    }

    fn proof(tables: Vec<ProvenTable>) -> Proof {
        Proof {
            at: Wall(9),
            stanza: Stanza::new(NodeId(Uuid::from_u128(1)), 1),
            backup: "x".to_owned(),
            moment: Wall(1),
            position: Lsn(1),
            recovered_to: None,
            copy_ms: 2,
            replay_ms: 3,
            tables,
            damage: None,
        }
    }

    #[test]
    fn only_equal_rows_prove_anything() {
        let table = |restored| ProvenTable::of("t", digest(3, 7), restored);
        assert_eq!(table(Ok(digest(3, 7))).problem, None);
        let bad = [
            Ok(digest(3, 8)),
            Ok(digest(2, 7)),
            Err("no table".to_owned()),
        ];
        let words = [
            "3 rows, but not the same",
            "2 rows instead of 3",
            "no table",
        ];
        for (restored, expected) in bad.into_iter().zip(words) {
            let proof = proof(vec![table(Ok(digest(3, 7))), table(restored)]);
            assert!(!proof.holds());
            assert_eq!(proof.flaw(), Some(format!("t: {expected}")));
        }
    }

    #[test]
    fn a_failure_does_not_take_back_what_was_proven() {
        let mut proofs = Proofs::default();
        let good = proof(vec![ProvenTable::of("t", digest(3, 7), Ok(digest(3, 7)))]);
        proofs.note(Wall(1), Ok(good.clone()));
        let damaged = Proof {
            damage: Some("a page".to_owned()),
            ..good.clone()
        };
        proofs.note(Wall(2), Ok(damaged));
        assert_eq!(proofs.held.as_ref(), Some(&good));
        assert_eq!(proofs.failed, Some((Wall(2), "a page".to_owned())));
        proofs.note(Wall(3), Err("no disk".to_owned()));
        assert_eq!(proofs.failed, Some((Wall(3), "no disk".to_owned())));
        proofs.note(Wall(4), Ok(good));
        assert_eq!(proofs.failed, None);
        assert_eq!(proofs.held.map(|proof| proof.recovery_ms()), Some(5));
    }
}
