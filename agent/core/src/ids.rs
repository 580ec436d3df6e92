//! The names of things: nodes, clusters, epochs, positions in the WAL.
//!
//! Three words are kept apart: a *node* is PostgreSQL in the mesh, a *member* is a gossip entry,
//! a *peer* is the other end of a gRPC call. All three carry the same [`NodeId`].

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Uuid::parse_str(text).map($name).map_err(|_| BadId::Uuid(text.to_owned()))
            }
        }
    };
}

uuid_id!(
    /// A node's identity: a random UUID minted at first boot.
    NodeId
);
uuid_id!(
    /// A cluster's identity, minted once by its founder.
    ClusterId
);
uuid_id!(
    /// The identity of one database's contents, minted with the database. A node whose data was
    /// replaced has the same [`NodeId`] and another epoch.
    DataEpoch
);
uuid_id!(
    /// One link of the chain of memberships: each `forget` mints the next.
    LineageId
);

impl NodeId {
    /// The eight hexadecimal digits that stand for this node where a UUID does not fit.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(8);
        text
    }
}

/// What is wrong with an identifier from outside.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BadId {
    /// Not a UUID.
    #[error("{0:?} is not a UUID")]
    Uuid(String),
    /// Not a valid node or cluster name.
    #[error("{0:?} is not a valid name: use 1 to 32 characters of a-z, 0-9 and '-'")]
    Name(String),
    /// Not a WAL position.
    #[error("{0:?} is not a WAL position like 0/16B3748")]
    Lsn(String),
}

/// A name chosen by a person, for a node or a cluster: `[a-z0-9-]{1,32}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Checks and wraps a name.
    pub fn new(text: &str) -> Result<Name, BadId> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if (1..=32).contains(&text.len()) && text.chars().all(allowed) {
            Ok(Name(text.to_owned()))
        } else {
            Err(BadId::Name(text.to_owned()))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = BadId;
    fn try_from(text: String) -> Result<Name, BadId> {
        Name::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A small durable number, unique in the mesh and never reused: 1, 2, 3, ...
/// Sequences take it as their offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ordinal(pub u16);

impl fmt::Display for Ordinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in one node's WAL, in bytes. Positions of different nodes can't be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

impl FromStr for Lsn {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Lsn, BadId> {
        let bad = || BadId::Lsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let part = |t: &str| u32::from_str_radix(t, 16).map_err(|_| bad());
        Ok(Lsn((u64::from(part(high)?) << 32) | u64::from(part(low)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Eight hexadecimal digits that stand for one node with one data epoch, so that a node whose
/// data was replaced never meets its own old slots and origins.
fn incarnation_digits(node: NodeId, epoch: DataEpoch) -> String {
    let mixed = node.0.as_u128() ^ epoch.0.as_u128();
    format!("{:08x}", (mixed >> 96) as u32)
}

/// The name of a node in pglogical. Stays below 16 characters: pglogical cuts longer ones when
/// it builds slot names (`shorten_hash` in pglogical's `pglogical_functions.c`).
#[must_use]
pub fn pglogical_node_name(node: NodeId, epoch: DataEpoch) -> String {
    format!("pgaa_{}", incarnation_digits(node, epoch))
}

/// The name of the subscription by which `subscriber` follows `provider`. It names both, because
/// pglogical derives the slot's name on the provider from it. 16 characters.
#[must_use]
pub fn subscription_name(subscriber: (NodeId, DataEpoch), provider: (NodeId, DataEpoch)) -> String {
    let mut subscriber = incarnation_digits(subscriber.0, subscriber.1);
    subscriber.truncate(7);
    format!(
        "{}_{}",
        subscriber,
        incarnation_digits(provider.0, provider.1)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_what_it_writes() {
        let lsn = Lsn(0x1_016B_3748);
        assert_eq!(lsn.to_string(), "1/16B3748");
        assert_eq!("1/16B3748".parse(), Ok(lsn));
        for bad in ["", "/", "1", "1/", "x/1", "1/100000000", "1/2/3"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn names_are_narrow() {
        for good in ["a", "db-1", "0"] {
            assert!(Name::new(good).is_ok());
        }
        for bad in ["", "A", "a_b", "a b", "ä", &"x".repeat(33)] {
            assert!(Name::new(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn pglogical_does_not_cut_our_names() {
        let node = (
            NodeId(Uuid::from_u128(u128::MAX)),
            DataEpoch(Uuid::from_u128(1)),
        );
        assert!(pglogical_node_name(node.0, node.1).len() <= 16);
        assert!(subscription_name(node, node).len() <= 16);
    }
}
