//! One round through the log's files: what is new in them, and which have gone.
//!
//! Works on files only; the one place here that blocks.

use crate::postgres::conflicts::{Move, Position};
use crate::postgres::log_files::{self, FileId, Found};
use pgaa_core::conflicts::digest::{Digest, Known};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// What one round brings.
#[derive(Debug, Default)]
pub struct Round {
    /// What was found in the lines.
    pub digest: Digest,
    /// How far files were read.
    pub moves: Vec<Move>,
    /// Files that are gone.
    pub gone: Vec<FileId>,
    /// What can't be read any more, in words.
    pub gap: Option<String>,
    /// The file that is being written.
    pub newest: Option<String>,
    /// Bytes that are there and were not read.
    pub behind: u64,
}

impl Round {
    /// Has anything to be stored?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.gone.is_empty() && self.gap.is_none()
    }
}

/// Reads on: one block, of the oldest file that has something new.
pub fn read_on(
    directory: &Path,
    positions: &BTreeMap<FileId, Position>,
    known: &Known,
) -> io::Result<Round> {
    let files = log_files::list(directory)?;
    let mut round = Round {
        newest: files.last().map(|file| file.id.name.clone()),
        ..Round::default()
    };
    leave_gone(&mut round, &files, positions);
    let count = files.len();
    let mut read = false;
    for (place, file) in files.iter().enumerate() {
        let position = positions.get(&file.id).copied();
        let closed = place + 1 < count;
        if read {
            let read_to = position.map_or(0, |position| position.read_to);
            round.behind += file.size.saturating_sub(read_to);
            continue;
        }
        read = read_file(&mut round, directory, (file, closed), position, known)?;
    }
    Ok(round)
}

/// Files that were there and aren't: nobody knows what they held beyond what was read.
fn leave_gone(round: &mut Round, files: &[Found], positions: &BTreeMap<FileId, Position>) {
    let there: BTreeSet<&FileId> = files.iter().map(|file| &file.id).collect();
    for (file, position) in positions {
        if there.contains(file) {
            continue;
        }
        if !position.ended {
            let why = format!("{} was removed before it was read to its end", file.name);
            round.gap.get_or_insert(why);
        }
        round.gone.push(file.clone());
    }
}

/// Reads one block of a file; says whether there was one. `closed` files grow no more.
fn read_file(
    round: &mut Round,
    directory: &Path,
    (file, closed): (&Found, bool),
    position: Option<Position>,
    known: &Known,
) -> io::Result<bool> {
    let mut from = position.map_or(0, |position| position.read_to);
    let before = position.map(|position| position.read_to);
    if file.size < from {
        let why = format!(
            "{} was cut short, and may have been read only in part",
            file.id.name
        );
        round.gap.get_or_insert(why);
        from = 0;
    }
    let mut until = from;
    if file.size > from {
        let block = match log_files::read(directory, &file.id, from) {
            Ok(block) => block,
            // Removed since it was listed: the next round says so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for line in block.lines() {
            round.digest.take(line, known);
        }
        if block.passed_over.is_some_and(|head| tells(&head)) {
            let why = format!("a line of {} is too long to be read", file.id.name);
            round.gap.get_or_insert(why);
        }
        until = block.until;
        if closed && until == from {
            let why = format!("the last line of {} breaks off", file.id.name);
            round.gap.get_or_insert(why);
            until = file.size;
        }
    }
    let ended = closed && until >= file.size;
    if before != Some(until) || position.is_some_and(|position| position.ended != ended) {
        round.moves.push(Move {
            file: file.id.clone(),
            from: before,
            to: Position {
                read_to: until,
                ended,
            },
        });
    }
    round.behind += file.size.saturating_sub(until);
    Ok(until != from)
}

/// Could a line that begins so tell of a conflict?
fn tells(head: &[u8]) -> bool {
    const WORDS: &[u8] = b"CONFLICT: remote ";
    head.windows(WORDS.len()).any(|window| window == WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgaa_core::clock::distrust::Distrust;
    use pgaa_core::conflicts::judge::Lags;
    use pgaa_core::ids::NodeId;
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use uuid::Uuid;

    const LINE: &str = r#"{"timestamp":"2026-11-21 20:00:00.000 UTC","txid":9,"error_severity":"LOG","state_code":"23000","message":"CONFLICT: remote DELETE on relation public.t replica identity index t_pkey (tuple not found). Resolution: skip.","detail":"remote tuple {id[int4]:5} in xact origin=3,timestamp=2026-11-21 20:00:00+00,commit_lsn=0/5","context":"apply DELETE from remote relation public.t in commit before 0/5, xid 7 committed at 2026-11-21 20:00:00+00 (action #2) from node replorigin 3","backend_type":"pglogical apply 5:6","query_id":0}"#;

    fn known() -> Known {
        Known {
            database: 5,
            me: NodeId(Uuid::from_u128(1)),
            origins: BTreeMap::new(),
            lags: Lags::default(),
            distrust: Distrust::default(),
        }
    }

    /// A reader that stores what it has read, like the agent.
    struct Reader {
        directory: tempfile::TempDir,
        positions: BTreeMap<FileId, Position>,
        lines: u64,
        gaps: Vec<String>,
    }

    impl Reader {
        fn new() -> Reader {
            Reader {
                directory: tempfile::tempdir().unwrap(),
                positions: BTreeMap::new(),
                lines: 0,
                gaps: Vec::new(),
            }
        }

        fn append(&self, name: &str, text: &str) {
            // Files are told apart in time by the kernel's tick.
            std::thread::sleep(std::time::Duration::from_millis(8));
            let path = self.directory.path().join(name);
            let mut file = File::options()
                .append(true)
                .create(true)
                .open(path)
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn round(&mut self) -> Round {
            read_on(self.directory.path(), &self.positions, &known()).unwrap()
        }

        fn store(&mut self, round: &Round) {
            for step in &round.moves {
                let stood = self.positions.get(&step.file).map(|p| p.read_to);
                assert_eq!(stood, step.from);
                self.positions.insert(step.file.clone(), step.to);
            }
            for file in &round.gone {
                self.positions.remove(file);
            }
            self.gaps.extend(round.gap.clone());
            self.lines += round.digest.tallies.values().map(|t| t.lines).sum::<u64>();
        }

        fn all(&mut self) {
            loop {
                let round = self.round();
                if round.is_empty() {
                    return;
                }
                self.store(&round);
            }
        }
    }

    #[test]
    fn each_line_counts_once_over_rotations_and_lost_rounds() {
        let mut reader = Reader::new();
        let line = format!("{LINE}\n");
        reader.append("1.json", &line.repeat(3));
        reader.append("1.json", &LINE[..50]);
        reader.all();
        assert_eq!(reader.lines, 3);
        reader.append("1.json", &format!("{}\n", &LINE[50..]));
        // What was read and never stored is read again.
        assert_eq!(reader.round().digest.kept.len(), 1);
        reader.append("2.json", &line.repeat(2000));
        reader.append("3.json", &line);
        reader.all();
        assert_eq!((reader.lines, reader.positions.len()), (2005, 3));
        // A file that counted as closed is written on, as by a collector that was started again.
        reader.append("2.json", &line);
        reader.all();
        assert_eq!(reader.lines, 2006);
        assert_eq!(reader.gaps, Vec::<String>::new());
        assert!(reader.round().is_empty());
    }

    #[test]
    fn what_is_gone_unread_is_a_gap_and_what_was_read_is_none() {
        let mut reader = Reader::new();
        let line = format!("{LINE}\n");
        reader.append("1.json", &line);
        reader.append("2.json", &line);
        reader.all();
        fs::remove_file(reader.directory.path().join("1.json")).unwrap();
        reader.all();
        assert_eq!((reader.gaps.len(), reader.positions.len()), (0, 1));
        fs::remove_file(reader.directory.path().join("2.json")).unwrap();
        reader.append("3.json", &line);
        reader.all();
        assert_eq!(reader.gaps.len(), 1, "{:?}", reader.gaps);
        assert_eq!(reader.lines, 3);
        // Emptied in place.
        let file = File::options()
            .write(true)
            .open(reader.directory.path().join("3.json"))
            .unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(&line.as_bytes()[..20], 0).unwrap();
        reader.all();
        assert_eq!(reader.gaps.len(), 2, "{:?}", reader.gaps);
        reader.append("3.json", &line[20..]);
        reader.all();
        assert_eq!(reader.lines, 4);
    }

    #[test]
    fn a_last_line_that_breaks_off_is_a_gap() {
        let mut reader = Reader::new();
        reader.append("1.json", &LINE[..100]);
        reader.all();
        assert_eq!(reader.gaps.len(), 0);
        reader.append("2.json", &format!("{LINE}\n"));
        reader.all();
        assert_eq!((reader.gaps.len(), reader.lines), (1, 1));
        assert!(reader.round().is_empty());
    }
}
