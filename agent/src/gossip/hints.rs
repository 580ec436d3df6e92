//! Small broadcasts that ride on gossip: "node X has record version V".
//!
//! A hint only says that something is worth fetching; the record itself travels over gRPC.

use super::member::Member;
use foca::{BroadcastHandler, Invalidates};
use pgaa_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use thiserror::Error;

/// How many nodes' versions are remembered. More than any mesh has; a bound on what a holder of
/// the key can make us keep.
const REMEMBERED_MAX: usize = 1024;

/// The only kind of hint so far.
const KIND_RECORD_VERSION: u8 = 1;

/// What a hint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Whose record.
    pub node: NodeId,
    /// The version its owner has written.
    pub version: u64,
}

impl Hint {
    /// The hint as it rides on a datagram.
    pub fn encode(&self) -> Result<Vec<u8>, BadHint> {
        let mut bytes = vec![KIND_RECORD_VERSION];
        bytes.extend(postcard::to_stdvec(self)?);
        Ok(bytes)
    }

    /// Reads a hint; `None` when it is of a kind that only newer agents know.
    fn decode(data: &[u8]) -> Result<Option<Hint>, BadHint> {
        match data.split_first() {
            Some((&KIND_RECORD_VERSION, rest)) => Ok(Some(postcard::from_bytes(rest)?)),
            Some(_) => Ok(None),
            None => Err(BadHint::Empty),
        }
    }
}

impl Invalidates for Hint {
    fn invalidates(&self, other: &Hint) -> bool {
        self.node == other.node && self.version >= other.version
    }
}

/// What is wrong with a hint from outside.
#[derive(Debug, Error)]
pub enum BadHint {
    /// No bytes at all.
    #[error("an empty hint")]
    Empty,
    /// Not what it should be.
    #[error("a malformed hint")]
    Malformed(#[from] postcard::Error),
}

/// Remembers the newest version of each node, so that each hint is passed on once.
#[derive(Debug)]
pub struct HintBook {
    newest: BTreeMap<NodeId, (u64, u64)>,
    turn: u64,
    heard: Sender<Hint>,
}

impl HintBook {
    /// An empty book that tells `heard` what is new.
    #[must_use]
    pub fn new(heard: Sender<Hint>) -> HintBook {
        HintBook {
            newest: BTreeMap::new(),
            turn: 0,
            heard,
        }
    }

    fn is_news(&self, hint: Hint) -> bool {
        self.newest
            .get(&hint.node)
            .is_none_or(|&(version, _)| version < hint.version)
    }

    fn remember(&mut self, hint: Hint) {
        self.turn += 1;
        self.newest.insert(hint.node, (hint.version, self.turn));
        if self.newest.len() > REMEMBERED_MAX {
            let oldest = self.newest.iter().min_by_key(|(_, (_, turn))| *turn);
            if let Some(node) = oldest.map(|(node, _)| *node) {
                self.newest.remove(&node);
            }
        }
    }
}

impl BroadcastHandler<Member> for HintBook {
    type Key = Hint;
    type Error = BadHint;

    fn receive_item(
        &mut self,
        data: &[u8],
        sender: Option<&Member>,
    ) -> Result<Option<Hint>, BadHint> {
        let Some(hint) = Hint::decode(data)? else {
            return Ok(None);
        };
        if !self.is_news(hint) {
            return Ok(None);
        }
        self.remember(hint);
        if sender.is_some() {
            // The receiver lives in the engine that owns this book; nobody is left to tell when
            // it is gone.
            let _ = self.heard.send(hint);
        }
        Ok(Some(hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use uuid::Uuid;

    fn hint(node: u128, version: u64) -> Hint {
        Hint {
            node: NodeId(Uuid::from_u128(node)),
            version,
        }
    }

    #[test]
    fn a_hint_is_passed_on_once_and_older_ones_never() {
        let (sender, heard) = channel();
        let mut book = HintBook::new(sender);
        let from = Member::at("10.0.0.1:7432".parse().unwrap());
        let mut receive = |hint: Hint| {
            book.receive_item(&hint.encode().unwrap(), Some(&from))
                .unwrap()
        };
        assert_eq!(receive(hint(1, 5)), Some(hint(1, 5)));
        assert_eq!(receive(hint(1, 5)), None);
        assert_eq!(receive(hint(1, 4)), None);
        assert_eq!(receive(hint(1, 6)), Some(hint(1, 6)));
        assert_eq!(
            heard.try_iter().collect::<Vec<_>>(),
            [hint(1, 5), hint(1, 6)]
        );
        assert!(hint(1, 6).invalidates(&hint(1, 5)));
        assert!(!hint(1, 6).invalidates(&hint(2, 5)));
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let (sender, _heard) = channel();
        let mut book = HintBook::new(sender);
        for node in 0..3000 {
            book.receive_item(&hint(node, 1).encode().unwrap(), None)
                .unwrap();
        }
        assert_eq!(book.newest.len(), REMEMBERED_MAX);
        assert!(book.newest.contains_key(&hint(2999, 1).node));
    }

    #[test]
    fn unknown_kinds_are_passed_over_and_damage_is_an_error() {
        let (sender, _heard) = channel();
        let mut book = HintBook::new(sender);
        assert_eq!(book.receive_item(&[9, 1, 2], None).unwrap(), None);
        assert!(book.receive_item(&[], None).is_err());
        assert!(book.receive_item(&[KIND_RECORD_VERSION, 1], None).is_err());
    }
}
