//! Is a slot still the one it was? PostgreSQL gives slots no identity: one that was dropped and
//! made anew under the same name looks like the first, pglogical calls its stream "replicating",
//! and what was committed in between never arrives.
//!
//! What tells the two apart is the time of birth of the directory that PostgreSQL keeps for each. Its
//! inode says less: file systems use one again, and an overlay of two may number the same directory
//! anew after each mount. Must not know where that is, nor what is done about it.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What tells two files of the same name apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// When it was made, nanoseconds since 1970.
    pub born_ns: u64,
}

/// The slots of one server, as they were first seen. Durable: one may be made anew while no agent
/// looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Births {
    /// A file that lies in the data directory since it was made.
    data: Option<Birth>,
    slots: BTreeMap<String, Birth>,
}

impl Births {
    /// Compares what is there with what was, and returns the slots that were made anew. A slot
    /// that isn't known yet is taken as it is; one that is gone stays known, so that whoever makes
    /// it anew by hand is found out.
    ///
    /// When the data directory itself was copied to another place, file by file, nothing is where
    /// it was, and all of it is taken as it is.
    pub fn compare(&mut self, data: Birth, seen: &BTreeMap<String, Birth>) -> BTreeSet<String> {
        if self.data != Some(data) {
            self.data = Some(data);
            self.slots.clear();
        }
        let mut anew = BTreeSet::new();
        for (slot, birth) in seen {
            let known = self.slots.entry(slot.clone()).or_insert(*birth);
            if known != birth {
                anew.insert(slot.clone());
            }
        }
        anew
    }

    /// The agent itself has dropped a slot that nobody relies on: the next one of that name is as
    /// good as the first.
    pub fn forget(&mut self, slot: &str) {
        self.slots.remove(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth(born_ns: u64) -> Birth {
        Birth { born_ns }
    }

    fn slots(of: &[(&str, Birth)]) -> BTreeMap<String, Birth> {
        let named = of.iter().map(|(name, birth)| ((*name).to_owned(), *birth));
        named.collect()
    }

    fn anew(births: &mut Births, data: u64, of: &[(&str, Birth)]) -> Vec<String> {
        let found = births.compare(birth(data), &slots(of));
        found.into_iter().collect()
    }

    #[test]
    fn a_slot_made_anew_under_its_name_is_found_out_and_stays_so() {
        let mut births = Births::default();
        let (a, b) = (("a", birth(10)), ("b", birth(11)));
        assert!(anew(&mut births, 1, &[a, b]).is_empty());
        assert!(anew(&mut births, 1, &[a]).is_empty(), "b is gone");
        let again = ("b", birth(99));
        assert_eq!(anew(&mut births, 1, &[a, again]), ["b"]);
        assert_eq!(anew(&mut births, 1, &[a, again]), ["b"]);
    }

    #[test]
    fn what_the_agent_drops_may_come_again() {
        let mut births = Births::default();
        assert!(anew(&mut births, 1, &[("a", birth(10))]).is_empty());
        births.forget("a");
        assert!(anew(&mut births, 1, &[("a", birth(20))]).is_empty());
        assert_eq!(anew(&mut births, 1, &[("a", birth(21))]), ["a"]);
    }

    #[test]
    fn a_data_directory_that_was_copied_makes_nothing_suspicious() {
        let mut births = Births::default();
        assert!(anew(&mut births, 1, &[("a", birth(10))]).is_empty());
        assert!(anew(&mut births, 2, &[("a", birth(100))]).is_empty());
        assert_eq!(anew(&mut births, 2, &[("a", birth(10))]), ["a"]);
    }
}
