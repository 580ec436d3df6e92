//! Who owns the backups: a sticky claim with an epoch, in its owner's record.
//!
//! There is no election. A node that sees no owner for the hand-over's time, and nobody before it
//! among those who could be one, says that it is the owner now, with an epoch above every one it
//! has heard of. Who hears of a higher claim gives its own up. In a partition each side so comes
//! to an owner of its own, which costs a backup and nothing else: what they write doesn't mix, and
//! after the heal the higher claim stays. An owner that is back, or a preferred node that comes
//! later, changes nothing: a move costs a full backup.

use super::BackupPolicy;
use crate::ids::{ClusterId, NodeId};
use crate::time::{Mono, Wall};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::time::Duration;

/// How long nobody may have owned the backups, where nobody out of reach can be the owner: longer
/// than records take to come round.
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// How much longer each further candidate waits than the one before it, in case that one doesn't
/// see what it should do.
const STAGGER: Duration = Duration::from_secs(20);

/// "I own the backups."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Higher than every claim that the claimant had heard of.
    pub epoch: u64,
    /// When it was made.
    pub since: Wall,
    /// Has a full backup been taken under it, so that whoever had it before may stop to archive?
    pub covered: bool,
}

/// "This node shall own them": what an operator has said to any node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Who.
    pub target: NodeId,
    /// With this epoch; void when a claim has it or a higher one.
    pub epoch: u64,
}

/// What a node says of the backups in its record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupWord {
    /// Could it own them?
    pub able: bool,
    /// Does it?
    pub claim: Option<Claim>,
    /// What an operator has said to it.
    pub wish: Option<Wish>,
    /// Up to when its WAL is in the repository, while it archives.
    pub archived_until: Option<Wall>,
    /// The end of what was archived without a gap, where archiving has ended or begun anew and no
    /// full backup has been taken since: what its stanza holds beyond can't be restored.
    #[serde(default)]
    pub gap_since: Option<Wall>,
    /// Why its archiving or its backups fail, where they do, with what helps.
    pub problem: String,
}

/// One member, as the deciding node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Does it answer?
    pub reachable: bool,
    /// Is it ready, and able to own the backups?
    pub able: bool,
    /// Where the operator's preferences put it, 0 first; `None` where they exclude it.
    pub place: Option<usize>,
    /// Its claim.
    pub claim: Option<Claim>,
    /// An operator's wish that it carries.
    pub wish: Option<Wish>,
}

/// What a node must not forget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its claim.
    pub claim: Option<Claim>,
    /// The highest epoch it has heard of.
    pub highest: u64,
    /// It has owned the backups, and goes on archiving until a claim of this epoch or a higher one
    /// is covered: so that nothing between is lost.
    pub archives_for: Option<u64>,
}

impl Standing {
    /// Does it archive its WAL?
    #[must_use]
    pub fn archives(&self) -> bool {
        self.claim.is_some() || self.archives_for.is_some()
    }
}

/// What is decided about the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing changes.
    Stay,
    /// This node owns the backups from now on.
    Take {
        /// Under this epoch.
        epoch: u64,
        /// Because an operator said so.
        wished: bool,
    },
    /// Another's claim is higher.
    Yield {
        /// Whose.
        to: NodeId,
        /// Its epoch.
        epoch: u64,
    },
    /// The configuration doesn't want this node to own them.
    Resign,
    /// Whoever took over has what it needs: archiving ends here.
    Relieved,
}

/// Since when this node sees no owner. Lost with the agent: then it waits anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vacancy {
    since: Option<Mono>,
}

impl Vacancy {
    /// Since when.
    #[must_use]
    pub fn since(&self) -> Option<Mono> {
        self.since
    }
}

/// What a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Now.
    pub now: Mono,
    /// This node.
    pub me: NodeId,
    /// The cluster.
    pub cluster: ClusterId,
    /// How long an owner may be gone.
    pub hand_over: Duration,
    /// All members, this node among them.
    pub members: &'a [Member],
}

/// Decides, and notes whether an owner is seen.
#[must_use]
pub fn decide(inputs: &Inputs<'_>, standing: &Standing, vacancy: &mut Vacancy) -> Verdict {
    let Some(me) = inputs.members.iter().find(|m| m.node == inputs.me) else {
        return Verdict::Stay;
    };
    let highest = highest(inputs, standing);
    if let Some(own) = standing.claim {
        vacancy.since = None;
        return keep(inputs, me, &own);
    }
    let wished = wish(inputs).filter(|wish| wish.epoch > claimed(inputs));
    if let Some(wish) = wished.filter(|wish| wish.target == inputs.me)
        && me.able
    {
        vacancy.since = None;
        let epoch = wish.epoch.max(highest_claim(inputs, standing) + 1);
        return Verdict::Take {
            epoch,
            wished: true,
        };
    }
    if let Some(epoch) = standing.archives_for
        && relieved(inputs, epoch)
    {
        return Verdict::Relieved;
    }
    if owner(inputs).is_some_and(|owner| owner.reachable && owner.able) {
        vacancy.since = None;
        return Verdict::Stay;
    }
    let since = *vacancy.since.get_or_insert(inputs.now);
    match patience(inputs, me, highest) {
        Some(patience) if inputs.now.since(since) >= patience => {
            vacancy.since = None;
            Verdict::Take {
                epoch: highest + 1,
                wished: false,
            }
        }
        Some(_) | None => Verdict::Stay,
    }
}

/// What a node does that has a claim.
fn keep(inputs: &Inputs<'_>, me: &Member, own: &Claim) -> Verdict {
    if me.place.is_none() {
        return Verdict::Resign;
    }
    let mine = (own.epoch, weight(inputs.cluster, inputs.me));
    let others = inputs.members.iter().filter(|m| m.node != inputs.me);
    let higher = others
        .filter_map(|m| Some(((m.claim?.epoch, weight(inputs.cluster, m.node)), m.node)))
        .filter(|(theirs, _)| *theirs > mine)
        .max();
    match higher {
        Some(((epoch, _), to)) => Verdict::Yield { to, epoch },
        None => Verdict::Stay,
    }
}

/// How long this node sees no owner before it takes over; `None` when it can't.
fn patience(inputs: &Inputs<'_>, me: &Member, highest: u64) -> Option<Duration> {
    let rank = |m: &Member| {
        let weight = weight(inputs.cluster, m.node);
        m.place.map(|place| (place, Reverse(weight), m.node))
    };
    let mine = rank(me).filter(|_| me.able)?;
    let others = inputs.members.iter().filter(|m| m.node != inputs.me);
    let candidates = others.filter(|m| m.reachable && m.able);
    let before = candidates.filter(|m| rank(m).is_some_and(|theirs| theirs < mine));
    let before = u32::try_from(before.count()).unwrap_or(u32::MAX);
    // A claim that nobody is seen to hold may be held by somebody who isn't seen.
    let hidden = inputs
        .members
        .iter()
        .any(|m| !m.reachable && m.node != inputs.me);
    let claimed = owner(inputs).is_some();
    let base = if claimed || (hidden && highest > 0) {
        inputs.hand_over
    } else {
        FIRST_WAIT
    };
    Some(base.saturating_add(STAGGER.saturating_mul(before)))
}

/// Who has the highest claim, reachable or not.
#[must_use]
pub fn owner<'a>(inputs: &Inputs<'a>) -> Option<&'a Member> {
    let claimed = inputs.members.iter().filter_map(|m| Some((m.claim?, m)));
    claimed
        .max_by_key(|(claim, m)| (claim.epoch, weight(inputs.cluster, m.node)))
        .map(|(_, m)| m)
}

fn claimed(inputs: &Inputs<'_>) -> u64 {
    let claims = inputs.members.iter().filter_map(|m| m.claim);
    claims.map(|claim| claim.epoch).max().unwrap_or(0)
}

fn wish(inputs: &Inputs<'_>) -> Option<Wish> {
    let wishes = inputs.members.iter().filter_map(|m| m.wish);
    wishes.max_by_key(|wish| wish.epoch)
}

fn highest_claim(inputs: &Inputs<'_>, standing: &Standing) -> u64 {
    claimed(inputs).max(standing.highest)
}

/// The highest epoch that was heard of, those of wishes among them.
#[must_use]
pub fn highest(inputs: &Inputs<'_>, standing: &Standing) -> u64 {
    let wished = wish(inputs).map_or(0, |wish| wish.epoch);
    highest_claim(inputs, standing).max(wished)
}

fn relieved(inputs: &Inputs<'_>, epoch: u64) -> bool {
    let claims = inputs.members.iter().filter_map(|m| m.claim);
    claims
        .into_iter()
        .any(|claim| claim.epoch >= epoch && claim.covered)
}

/// What becomes of the standing by a verdict. It has to be on disk before others hear of it.
#[must_use]
pub fn settle(standing: &Standing, verdict: Verdict, highest: u64, now: Wall) -> Standing {
    let mut next = Standing {
        highest: standing.highest.max(highest),
        ..standing.clone()
    };
    match verdict {
        Verdict::Stay => {}
        Verdict::Take { epoch, .. } => {
            next.claim = Some(Claim {
                epoch,
                since: now,
                covered: false,
            });
            next.highest = next.highest.max(epoch);
            next.archives_for = None;
        }
        Verdict::Yield { epoch, .. } => {
            next.claim = None;
            next.archives_for = Some(epoch);
        }
        Verdict::Resign => {
            // It goes on until somebody else has begun.
            next.archives_for = next.claim.map(|claim| claim.epoch.saturating_add(1));
            next.claim = None;
        }
        Verdict::Relieved => next.archives_for = None,
    }
    next
}

/// Where the operator's preferences put a node; `None` where they exclude it.
#[must_use]
pub fn place(policy: &BackupPolicy, name: &str, site: &str) -> Option<usize> {
    let at = |list: &[String], wanted: &str| list.iter().position(|entry| entry == wanted);
    if at(&policy.exclude_nodes, name).is_some() || at(&policy.exclude_sites, site).is_some() {
        return None;
    }
    let nodes = policy.prefer_nodes.len();
    let by_site = || Some(nodes + at(&policy.prefer_sites, site)?);
    let last = nodes + policy.prefer_sites.len();
    Some(
        at(&policy.prefer_nodes, name)
            .or_else(by_site)
            .unwrap_or(last),
    )
}

/// Rendezvous hashing: each cluster has an order of its own over all nodes, the same on each, in
/// which one more or less moves nobody else. FNV-1a (Fowler, Noll, Vo) over both names, with its
/// bits mixed once more: alone it hardly spreads the last ones.
#[must_use]
pub fn weight(cluster: ClusterId, node: NodeId) -> u64 {
    let bytes = cluster.0.as_bytes().iter().chain(node.0.as_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests;
