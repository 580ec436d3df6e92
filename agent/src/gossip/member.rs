//! The identity of a gossip member, and what is known of its liveness.
//!
//! Must not grow: every identity is repeated in every datagram, so all else about a node belongs
//! into its record.

use pgaa_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use uuid::Uuid;

/// How far the claims of two successive generations lie apart, in bits: 65,536 renewals fit
/// between two starts of an agent, and 2^48 starts into the counter.
const GENERATION_SHIFT: u32 = 16;

/// A gossip member's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Where its datagrams are to be sent. foca keeps one identity an address, and a bare address
    /// can be announced to.
    pub addr: SocketAddr,
    /// Which node it is.
    pub node: NodeId,
    /// How often its agent has started, by a counter the node persists.
    pub generation: u64,
    /// Decides between identities at one address. Starts above everything the generation before
    /// can have reached, and grows by one with each renewal, so that a node that was falsely
    /// declared down is back at once.
    pub claim: u64,
}

impl Member {
    /// The identity a node starts its generation with.
    #[must_use]
    pub fn new(addr: SocketAddr, node: NodeId, generation: u64) -> Member {
        let claim = generation.saturating_mul(1 << GENERATION_SHIFT);
        Member {
            addr,
            node,
            generation,
            claim,
        }
    }

    /// Whoever is at `addr`. Only announcements can be sent to it.
    #[must_use]
    pub fn at(addr: SocketAddr) -> Member {
        Member::new(addr, NodeId(Uuid::nil()), 0)
    }

    /// Does this identity displace `other`, if both are at the same address?
    #[must_use]
    pub fn displaces(&self, other: &Member) -> bool {
        (self.claim, self.generation, self.node) > (other.claim, other.generation, other.node)
    }

    /// Can a datagram be sent to it at all?
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.addr.port() != 0 && !self.addr.ip().is_unspecified()
    }
}

impl foca::Identity for Member {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Member> {
        Some(Member {
            claim: self.claim.checked_add(1)?,
            ..*self
        })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Member) -> bool {
        self.displaces(adversary)
    }
}

/// What gossip says of a member. None of it is a fact: every heal of a partition reports live
/// nodes down for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// It does not answer, and did not refute that in time.
    Down,
    /// It did not answer somebody, and may still refute.
    Suspect,
    /// It answers.
    Alive,
}

impl Liveness {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Liveness::Alive => "alive",
            Liveness::Suspect => "suspect",
            Liveness::Down => "down",
        }
    }

    /// Alive or suspect: for all purposes but display the same.
    #[must_use]
    pub fn is_active(self) -> bool {
        self >= Liveness::Suspect
    }
}

impl From<foca::State> for Liveness {
    fn from(state: foca::State) -> Liveness {
        match state {
            foca::State::Alive => Liveness::Alive,
            foca::State::Suspect => Liveness::Suspect,
            foca::State::Down => Liveness::Down,
        }
    }
}

/// One other member as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Which node.
    pub node: NodeId,
    /// Its gossip address.
    pub addr: SocketAddr,
    /// The generation it was last seen in.
    pub generation: u64,
    /// What gossip says of it.
    pub liveness: Liveness,
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity;

    fn member(generation: u64) -> Member {
        Member::new(
            "10.0.0.1:7432".parse().unwrap(),
            NodeId(Uuid::from_u128(7)),
            generation,
        )
    }

    #[test]
    fn a_renewed_identity_displaces_the_old_and_a_restart_displaces_both() {
        let first = member(3);
        let renewed = first.renew().unwrap();
        assert!(renewed.win_addr_conflict(&first));
        assert!(!first.win_addr_conflict(&renewed));
        assert!(member(4).win_addr_conflict(&renewed));
        assert!(!first.displaces(&first));
    }

    #[test]
    fn claims_never_overflow() {
        let last = member(u64::MAX);
        assert_eq!(last.claim, u64::MAX);
        assert_eq!(last.renew(), None);
    }

    #[test]
    fn nobody_is_reached_without_an_address() {
        for bad in ["0.0.0.0:7432", "[::]:7432", "10.0.0.1:0"] {
            assert!(!Member::at(bad.parse().unwrap()).is_reachable(), "{bad}");
        }
        assert!(member(1).is_reachable());
    }
}
