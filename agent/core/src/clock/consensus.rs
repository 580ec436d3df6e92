//! Which clocks agree, and which is the odd one out: Marzullo's intersection of intervals
//! (Marzullo, Owicki 1983; NTP's selection rests on it).

use super::interval::{Interval, signed};
use crate::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// One clock, against some clock that all are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rated {
    /// How far it is ahead.
    pub at: Interval,
    /// How far it may be from another and still agree with it.
    pub tolerance_us: u64,
}

impl Rated {
    /// Clocks agree when their intervals, each wider by half its tolerance, have something in
    /// common.
    fn reach(&self) -> Interval {
        self.at.widened(self.tolerance_us.div_ceil(2))
    }
}

/// The largest groups of clocks that agree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consensus {
    /// How many clocks there are.
    pub clocks: usize,
    /// How many of them are in a largest group.
    pub agree: usize,
    /// What each largest group has in common; more than one when there is a tie.
    groups: Vec<Interval>,
}

/// Finds them.
#[must_use]
pub fn consensus(clocks: &BTreeMap<NodeId, Rated>) -> Consensus {
    // (where, opens before it closes, change)
    let mut ends: Vec<(i64, bool)> = Vec::new();
    for clock in clocks.values() {
        let reach = clock.reach();
        ends.extend([(reach.lo_us, false), (reach.hi_us, true)]);
    }
    ends.sort_unstable();
    let mut found = Consensus {
        clocks: clocks.len(),
        ..Consensus::default()
    };
    let mut open = 0;
    for (index, (at, closes)) in ends.iter().enumerate() {
        if *closes {
            open -= 1;
            continue;
        }
        open += 1;
        // The most that have come together so far lasts until the next end, whichever it is.
        let until = ends.get(index + 1).map_or(*at, |(next, _)| *next);
        let group = Interval {
            lo_us: *at,
            hi_us: until,
        };
        if open > found.agree {
            found.agree = open;
            found.groups.clear();
        }
        if open == found.agree {
            found.groups.push(group);
        }
    }
    found
}

impl Consensus {
    /// Where the clocks of the majority are, if there is one.
    #[must_use]
    pub fn majority(&self) -> Option<Interval> {
        match self.groups.as_slice() {
            [group] if 2 * self.agree > self.clocks => Some(*group),
            _ => None,
        }
    }

    /// Does this clock agree with a largest group, whether it is one of them or not?
    #[must_use]
    pub fn admits(&self, clock: &Rated) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|g| clock.reach().with(*g).is_some())
    }

    /// How far a clock is from the nearest largest group: positive when it is ahead of it.
    #[must_use]
    pub fn distance_us(&self, clock: &Rated) -> i64 {
        let middle = clock.at.middle_us();
        let distance = |group: &Interval| middle.saturating_sub(group.middle_us());
        let distances = self.groups.iter().map(distance);
        distances.min_by_key(|d| d.unsigned_abs()).unwrap_or(0)
    }

    /// The clocks that disagree with the majority for certain; none where there is no majority.
    /// Where the majority is can be pulled by clocks of which little is known; so each must also be
    /// apart, for certain, from more than half of all.
    #[must_use]
    pub fn odd(&self, clocks: &BTreeMap<NodeId, Rated>) -> BTreeSet<NodeId> {
        let Some(majority) = self.majority() else {
            return BTreeSet::new();
        };
        let alone = |clock: &Rated| {
            let apart = clocks
                .values()
                .filter(|other| apart(clock, other).is_some());
            2 * apart.count() > clocks.len()
        };
        let odd = clocks
            .iter()
            .filter(|(_, clock)| clock.reach().with(majority).is_none() && alone(clock));
        odd.map(|(node, _)| *node).collect()
    }
}

/// Two clocks that are too far apart for certain, and by how much at least.
#[must_use]
pub fn apart(one: &Rated, other: &Rated) -> Option<u64> {
    let difference = Interval {
        lo_us: other.at.lo_us.saturating_sub(one.at.hi_us),
        hi_us: other.at.hi_us.saturating_sub(one.at.lo_us),
    };
    let least = difference.least_us();
    let tolerance = one.tolerance_us.max(other.tolerance_us);
    (signed(least) > signed(tolerance)).then_some(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn node(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    /// Clocks in milliseconds, each give or take 1 ms, with a tolerance of 50 ms.
    fn clocks(at_ms: &[i64]) -> BTreeMap<NodeId, Rated> {
        let rated = |at: &i64| Rated {
            at: Interval::around(at * 1000, 1_000),
            tolerance_us: 50_000,
        };
        (1..).map(node).zip(at_ms.iter().map(rated)).collect()
    }

    fn odd(at_ms: &[i64]) -> Vec<u128> {
        let clocks = clocks(at_ms);
        let odd = consensus(&clocks).odd(&clocks);
        odd.iter().map(|node| node.0.as_u128()).collect()
    }

    #[test]
    fn the_odd_one_is_named() {
        assert_eq!(odd(&[0, 1, 5_000]), [3]);
        assert_eq!(odd(&[-200, 0, 10, 20]), [1]);
        assert_eq!(odd(&[0, 5_000, 1, -5_000, 2]), [2, 4]);
    }

    #[test]
    fn nobody_is_odd_without_a_majority() {
        assert_eq!(odd(&[0, 5_000]), [0u128; 0]);
        assert_eq!(odd(&[0, 1, 5_000, 5_001]), [0u128; 0]);
        assert_eq!(odd(&[0, 5_000, 10_000]), [0u128; 0]);
        assert_eq!(odd(&[7_000]), [0u128; 0]);
        assert_eq!(odd(&[]), [0u128; 0]);
        // A chain: the one in the middle agrees with both, who are too far apart.
        assert_eq!(odd(&[0, 40, 80]), [0u128; 0]);
    }

    #[test]
    fn doubt_counts_for_the_clock() {
        let mut wide = clocks(&[0, 0, 200]);
        assert_eq!(consensus(&wide).odd(&wide).len(), 1);
        wide.insert(
            node(3),
            Rated {
                at: Interval::around(200_000, 200_000),
                tolerance_us: 50_000,
            },
        );
        assert_eq!(consensus(&wide).odd(&wide).len(), 0);
    }

    #[test]
    fn a_newcomer_must_agree_with_a_largest_group() {
        let newcomer = Rated {
            at: Interval::point(0),
            tolerance_us: 50_000,
        };
        let admits = |at_ms: &[i64]| consensus(&clocks(at_ms)).admits(&newcomer);
        assert!(admits(&[]) && admits(&[3]) && admits(&[3, -3, 5_000]));
        assert!(!admits(&[5_000]) && !admits(&[5_000, 5_001, 0]));
        // Two that differ: agreeing with one of them is all that can be asked.
        assert!(admits(&[0, 5_000]) && !admits(&[3_000, 5_000]));
        let far = consensus(&clocks(&[3_000, 5_000]));
        assert_eq!(far.distance_us(&newcomer), -3_000_000);
    }

    #[test]
    fn pairs_are_apart_only_for_certain() {
        let all = clocks(&[0, 53, 51, -60]);
        let rated = |n| all.get(&node(n)).unwrap();
        assert_eq!(apart(rated(1), rated(2)), Some(51_000));
        assert_eq!(apart(rated(2), rated(1)), Some(51_000));
        assert_eq!(apart(rated(1), rated(3)), None);
        assert_eq!(apart(rated(1), rated(4)), Some(58_000));
    }
}
