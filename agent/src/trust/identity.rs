//! Who this node is: its UUID, how often its agent has started, and its record's version.
//!
//! Does not know what the identity is used for. The data epoch lives in the database.

use crate::durable::{self, DurableError};
use pgaa_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// How many record versions are taken from the file at once: one fsync for so many versions,
/// and at most so many are skipped by a restart.
const VERSION_BLOCK: u64 = 1_000;

/// What `node.json` holds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    node: NodeId,
    generation: u64,
    /// Every record version up to this one may have been used.
    versions_reserved: u64,
}

/// This node's identity. Opening it counts a start of the agent.
#[derive(Debug)]
pub struct Identity {
    path: PathBuf,
    node: NodeId,
    versions: Mutex<Versions>,
}

#[derive(Debug)]
struct Versions {
    generation: u64,
    used: u64,
    reserved: u64,
}

impl Identity {
    /// Reads the identity in `state_dir`, or mints one at the first boot, and counts this start.
    /// What it returns is on disk already: a generation is never given twice.
    pub fn open(state_dir: &Path) -> Result<Identity, DurableError> {
        durable::make_directory(state_dir, 0o700)?;
        let path = state_dir.join("node.json");
        let before = durable::read_json::<Stored>(&path)?.unwrap_or_else(|| Stored {
            node: NodeId(Uuid::new_v4()),
            generation: 0,
            versions_reserved: 0,
        });
        let stored = Stored {
            generation: before.generation.saturating_add(1),
            ..before
        };
        durable::write_json(&path, &stored)?;
        let reserved = stored.versions_reserved;
        Ok(Identity {
            path,
            node: stored.node,
            versions: Mutex::new(Versions {
                generation: stored.generation,
                used: reserved,
                reserved,
            }),
        })
    }

    /// Who the node is whose files lie in `state_dir`, without a start of the agent; `None` where there
    /// was none yet.
    pub fn known(state_dir: &Path) -> Result<Option<NodeId>, DurableError> {
        let stored = durable::read_json::<Stored>(&state_dir.join("node.json"))?;
        Ok(stored.map(|stored| stored.node))
    }

    /// The node's UUID.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// How often the agent has started on this identity: 1 the first time.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on as a generation that nobody has seen yet, durably: for a node whose disk was
    /// restored, and whose generations others have heard of before.
    pub fn raise_generation(&self, seen: u64) -> Result<(), DurableError> {
        let mut versions = self.lock();
        let generation = versions.generation.max(seen).saturating_add(1);
        let stored = Stored {
            node: self.node,
            generation,
            versions_reserved: versions.reserved,
        };
        durable::write_json(&self.path, &stored)?;
        versions.generation = generation;
        Ok(())
    }

    /// The next version of this node's record: higher than every one before, also those of
    /// earlier runs. Writes to disk once in a block.
    pub fn next_record_version(&self) -> Result<u64, DurableError> {
        let mut versions = self.lock();
        let next = versions.used.saturating_add(1);
        if next > versions.reserved {
            let reserved = versions.reserved.saturating_add(VERSION_BLOCK);
            let stored = Stored {
                node: self.node,
                generation: versions.generation,
                versions_reserved: reserved,
            };
            durable::write_json(&self.path, &stored)?;
            versions.reserved = reserved;
        }
        versions.used = next;
        Ok(next)
    }

    /// Never goes below `seen` again: for a node that meets its own record with a higher version
    /// than it remembers (its disk was restored).
    pub fn raise_record_version(&self, seen: u64) -> Result<(), DurableError> {
        let mut versions = self.lock();
        if seen > versions.reserved {
            let stored = Stored {
                node: self.node,
                generation: versions.generation,
                versions_reserved: seen,
            };
            durable::write_json(&self.path, &stored)?;
            versions.reserved = seen;
        }
        versions.used = versions.used.max(seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_counted_and_the_uuid_stays() {
        let directory = tempfile::tempdir().unwrap();
        let first = Identity::open(directory.path()).unwrap();
        let second = Identity::open(directory.path()).unwrap();
        assert_eq!(first.node(), second.node());
        assert_eq!((first.generation(), second.generation()), (1, 2));
        let known = Identity::known(directory.path()).unwrap();
        assert_eq!(known, Some(first.node()));
        assert_eq!(Identity::open(directory.path()).unwrap().generation(), 3);
        let elsewhere = tempfile::tempdir().unwrap();
        assert_ne!(
            Identity::open(elsewhere.path()).unwrap().node(),
            first.node()
        );
    }

    #[test]
    fn a_generation_that_was_raised_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::open(directory.path()).unwrap();
        identity.raise_generation(7).unwrap();
        assert_eq!(identity.generation(), 8);
        identity.raise_generation(3).unwrap();
        assert_eq!(identity.generation(), 9);
        identity.next_record_version().unwrap();
        let next = Identity::open(directory.path()).unwrap();
        assert_eq!(next.generation(), 10);
    }

    #[test]
    fn record_versions_never_go_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let identity = Identity::open(directory.path()).unwrap();
            for _ in 0..VERSION_BLOCK + 5 {
                let version = identity.next_record_version().unwrap();
                assert!(version > last, "{version} after {last}");
                last = version;
            }
        }
        let identity = Identity::open(directory.path()).unwrap();
        identity.raise_record_version(1_000_000).unwrap();
        drop(identity);
        let identity = Identity::open(directory.path()).unwrap();
        assert_eq!(identity.next_record_version().unwrap(), 1_000_001);
    }

    #[test]
    fn versions_of_one_block_cost_one_write() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::open(directory.path()).unwrap();
        identity.next_record_version().unwrap();
        durable::remove(&directory.path().join("node.json")).unwrap();
        identity.next_record_version().unwrap();
        assert_eq!(
            durable::read(&directory.path().join("node.json")).unwrap(),
            None
        );
    }

    #[test]
    fn a_damaged_identity_is_no_reason_for_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        durable::write(&directory.path().join("node.json"), b"{}", 0o600).unwrap();
        let error = Identity::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
