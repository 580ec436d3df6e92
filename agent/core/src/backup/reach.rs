//! Up to which moment the WAL in the repository can be replayed.
//!
//! Recovery to a time needs a commit behind it, and a segment comes into the repository later than the
//! last commit in it was made: after its upload, or after all that has waited before it. When it came
//! there so says nothing of what it holds. The agent therefore notes moments behind which it has
//! committed something, each with the segment that holds the commit by then: once that segment is
//! archived, the moment can be restored.

use crate::time::Wall;
use std::collections::BTreeMap;

/// How many are kept. At one mark for each segment that is an hour of a busy server whose repository
/// takes nothing; with fewer, less is promised than there is.
const MARKS_MAX: usize = 4_096;

/// What a segment's name has, characters: timeline, and the two halves of its number.
const NAME_LENGTH: usize = 24;

/// The segment that a name in `pg_stat_archiver` tells of. Of a backup's history, or of one that is
/// cut short, it is the segment before it in order, which was archived earlier. A timeline's history
/// tells of none, and comes before all segments.
#[must_use]
pub fn segment_of(archived: &str) -> Option<&str> {
    let segment = archived.get(..NAME_LENGTH)?;
    segment
        .chars()
        .all(|c| c.is_ascii_hexdigit())
        .then_some(segment)
}

/// Was `segment` archived, when `archived` was the last? The server archives in the order of names.
#[must_use]
pub fn is_archived(segment: &str, archived: &str) -> bool {
    segment_of(archived).is_some_and(|last| segment <= last)
}

/// Moments, by the segments that must be in the repository for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    by_segment: BTreeMap<String, Wall>,
}

impl Marks {
    /// Notes that something was committed after `at`, and lies in `segment` or before it.
    pub fn note(&mut self, at: Wall, segment: String) {
        let last = self.by_segment.entry(segment).or_insert(at);
        *last = at.max(*last);
        while self.by_segment.len() > MARKS_MAX {
            self.by_segment.pop_first();
        }
    }

    /// Takes out those that are in the repository when `archived` was the last segment to come there;
    /// the latest of them.
    pub fn reached(&mut self, archived: &str) -> Option<Wall> {
        let mut latest = None;
        while let Some(first) = self.by_segment.first_entry() {
            if !is_archived(first.key(), archived) {
                break;
            }
            latest = latest.max(Some(first.remove()));
        }
        latest
    }

    /// Forgets all: what is archived from here on goes elsewhere.
    pub fn clear(&mut self) {
        self.by_segment.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> String {
        format!("0000000100000000{number:08X}")
    }

    #[test]
    fn a_moment_is_reached_when_the_segment_behind_it_is_archived() {
        let mut marks = Marks::default();
        marks.note(Wall(10), name(5));
        marks.note(Wall(20), name(5));
        marks.note(Wall(30), name(6));
        assert_eq!(marks.reached(&name(4)), None);
        assert_eq!(marks.reached(&name(5)), Some(Wall(20)));
        assert_eq!(marks.reached(&name(5)), None, "it was told twice");
        // Whatever has waited behind a repository that was away is told by what it holds.
        assert_eq!(marks.reached(&name(900)), Some(Wall(30)));
    }

    #[test]
    fn names_that_are_no_segments_are_read_for_what_they_are() {
        let mut marks = Marks::default();
        marks.note(Wall(10), name(5));
        // It is the greater word, and says nothing of segments.
        assert_eq!(marks.reached("00000002.history"), None);
        assert_eq!(marks.reached(""), None);
        let backup = format!("{}.00000028.backup", name(5));
        assert_eq!(marks.reached(&backup), Some(Wall(10)));
        // A later timeline goes on where the one before has ended.
        marks.note(Wall(20), name(6));
        let later = format!("00000002{}", name(7).get(8..).unwrap());
        assert_eq!(marks.reached(&later), Some(Wall(20)));
    }

    #[test]
    fn a_repository_that_takes_nothing_for_long_costs_no_memory() {
        let mut marks = Marks::default();
        for number in 0..20_000 {
            marks.note(Wall(i64::from(number)), name(number));
        }
        assert_eq!(marks.by_segment.len(), MARKS_MAX);
        assert_eq!(marks.reached(&name(19_999)), Some(Wall(19_999)));
        marks.note(Wall(1), name(7));
        marks.clear();
        assert_eq!(marks.reached(&name(7)), None);
    }
}
