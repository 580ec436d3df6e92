//! A node that goes: it dies for good and is forgotten, or leaves when nothing is open any more. What
//! the others do about it is that of `pgaa_core::plan`.

use super::{World, place};
use pgaa_core::rows::Stamp;
use pgaa_core::verify::Key;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};

/// How it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Without a word, and with what it has not sent.
    Dies,
    /// It takes no writes any more, and goes when all have its changes and its list is empty.
    Leaves,
}

/// A node that goes, and how far that is.
#[derive(Debug, Clone)]
pub struct Parting {
    who: usize,
    how: How,
    gone: bool,
    /// How much of what it sent reaches each other, once it is gone.
    reaches: BTreeMap<usize, usize>,
    /// Who knows that it is gone.
    buried: BTreeSet<usize>,
    /// Who still subscribes to it.
    followers: BTreeSet<usize>,
}

impl World {
    /// A node begins to go.
    pub fn part(&mut self, who: usize, how: How) {
        self.note(|| format!("{who} goes: {how:?}"));
        let others = (0..self.nodes.len()).filter(|node| *node != who);
        self.parting = Some(Parting {
            who,
            how,
            gone: false,
            reaches: BTreeMap::new(),
            buried: BTreeSet::new(),
            followers: others.collect(),
        });
        if how == How::Dies {
            self.go();
        }
    }

    /// Now it is gone. Something may still be in the buffers of those that subscribe to it.
    fn go(&mut self) {
        let Some(mut parting) = self.parting.take() else {
            return;
        };
        parting.gone = true;
        let sent = self.nodes[parting.who].sent.len();
        for to in &parting.followers {
            let from = self.arrived(parting.who, *to);
            let reach = self.rng.random_range(from..=sent);
            parting.reaches.insert(*to, reach);
        }
        self.note(|| format!("{parting:?}"));
        self.parting = Some(parting);
    }

    /// Goes on with it at one of the others, given by chance. `keys` are all there are.
    pub fn go_on_parting(&mut self, keys: &[Key]) {
        let Some(parting) = self.parting.clone() else {
            return;
        };
        let who = parting.who;
        if !parting.gone {
            let sent = self.nodes[who].sent.len();
            let mut others = parting.followers.iter();
            let drained = others.all(|to| self.arrived(who, *to) == sent);
            if drained && self.nodes[who].suspects.is_empty() {
                self.count("nodes that left");
                self.go();
            }
            return;
        }
        let at = self.rng.random_range(0..self.nodes.len());
        let others: BTreeSet<usize> = parting
            .followers
            .difference(&[at].into())
            .copied()
            .collect();
        let lower = others.first().is_some_and(|lowest| *lowest < at);
        let last = others.is_empty();
        let dies = parting.how == How::Dies;
        let Some(now) = self.parting.as_mut().filter(|_| at != who) else {
            return;
        };
        if now.buried.insert(at) || !parting.followers.contains(&at) {
            return;
        }
        // The lowest waits for the others.
        if dies && !last && !lower {
            return;
        }
        now.followers.remove(&at);
        self.note(|| format!("{at} drops its subscription to {who}"));
        if dies && last {
            self.count("nodes that were forgotten");
            for key in keys {
                self.name(at, key, None);
            }
        }
    }

    /// Has the parting come to its end?
    pub fn has_parted(&self) -> bool {
        let goes = self.parting.as_ref().filter(|parting| !parting.gone);
        goes.is_none() && self.is_fenced()
    }

    /// Does nobody subscribe to one that is gone, whose changes no fence holds back?
    pub fn is_fenced(&self) -> bool {
        let parting = self.parting.as_ref();
        parting.is_none_or(|parting| !parting.gone || parting.followers.is_empty())
    }

    /// Who is not gone.
    pub fn members(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|node| !self.is_gone(*node)).collect()
    }

    /// Is it gone?
    pub fn is_gone(&self, node: usize) -> bool {
        let parting = self.parting.as_ref();
        parting.is_some_and(|parting| parting.gone && parting.who == node)
    }

    /// Has it died?
    pub fn is_dead(&self, node: usize) -> bool {
        let how = self.parting.as_ref().map(|parting| parting.how);
        self.is_gone(node) && how == Some(How::Dies)
    }

    /// Does it take no writes?
    pub(super) fn is_shut(&self, node: usize) -> bool {
        let parting = self.parting.as_ref();
        parting.is_some_and(|parting| parting.who == node)
    }

    /// Does the node `at` know that `other` is gone?
    pub fn has_buried(&self, at: usize, other: usize) -> bool {
        self.is_gone(other)
            && self
                .parting
                .as_ref()
                .is_some_and(|parting| parting.buried.contains(&at))
    }

    /// How much of what `from` has sent reaches `to`.
    pub(super) fn reach(&self, from: usize, to: usize) -> usize {
        let sent = self.nodes[from].sent.len();
        match &self.parting {
            Some(parting) if parting.gone && parting.who == to => 0,
            Some(parting) if parting.gone && parting.who == from => {
                match parting.followers.contains(&to) {
                    true => parting.reaches[&to],
                    false => 0,
                }
            }
            Some(_) | None => sent,
        }
    }

    /// What died with the node that died: writes that no other has ever applied.
    pub fn lost(&self) -> BTreeSet<(Key, Stamp)> {
        let Some(who) = self.parting.as_ref().map(|parting| parting.who) else {
            return BTreeSet::new();
        };
        let arrived = self.members().into_iter().map(|to| self.arrived(who, to));
        let arrived = match self.is_gone(who) {
            true => arrived.max().unwrap_or(0),
            false => usize::MAX,
        };
        let sent = self.nodes[who].sent.iter().skip(arrived);
        sent.map(|(change, stamp)| (change.key().clone(), *stamp))
            .collect()
    }

    /// Is a write of this author's among what may be held to or not: a delete of a node that died,
    /// which nobody can tell from an older one any more?
    pub fn is_doubtful(&self, stamp: Stamp) -> bool {
        self.is_dead(place(stamp.author))
    }
}
