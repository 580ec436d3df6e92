//! When two clocks were too far apart: kept, so that conflicts of that time can be told to have
//! been decided by clocks that could not be trusted.

use super::consensus::{Rated, apart};
use crate::ids::NodeId;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// So many periods are kept; the oldest go.
pub const PERIODS_MAX: usize = 500;

/// Two nodes, the lesser UUID first.
pub type Pair = (NodeId, NodeId);

/// One period in which the clocks of two nodes were too far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// The two.
    pub pair: Pair,
    /// When they were last seen to agree before it, by the clock of the node that noted it; or
    /// when they were first seen to differ.
    pub from: Wall,
    /// When they were first seen to agree again; `None` while they don't.
    pub until: Option<Wall>,
    /// The most that the second was ahead of the first in it; negative when it was behind.
    pub offset_us: i64,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Two clocks are too far apart now, by so much.
    Apart(Pair, i64),
    /// They agree again.
    Agree(Pair),
}

/// The periods, oldest first. Stored by the shell whenever [`Distrust::note`] names a change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Distrust {
    /// The periods.
    pub periods: Vec<Period>,
    /// When each pair was last seen to agree.
    #[serde(skip)]
    agreed: BTreeMap<Pair, Wall>,
}

/// Two clocks that were too far apart agree again within this share of their tolerance, percent:
/// a pair at the edge must not fill the list.
const AGREE_PERCENT: u64 = 80;

impl Distrust {
    /// Notes how far the clocks of pairs are apart now: the second's, seen from the first.
    pub fn note(&mut self, seen: &BTreeMap<Pair, Rated>, now: Wall) -> Vec<Change> {
        let mut changes = Vec::new();
        for (pair, second) in seen {
            changes.extend(self.note_pair(*pair, second, now));
        }
        let excess = self.periods.len().saturating_sub(PERIODS_MAX);
        self.periods.drain(..excess);
        changes
    }

    fn note_pair(&mut self, pair: Pair, second: &Rated, now: Wall) -> Option<Change> {
        let first = Rated {
            at: super::interval::Interval::point(0),
            tolerance_us: second.tolerance_us,
        };
        let offset_us = second.at.middle_us();
        let differs = apart(&first, second).is_some();
        let close = second.tolerance_us.saturating_mul(AGREE_PERCENT) / 100;
        let open = |period: &&mut Period| period.pair == pair && period.until.is_none();
        match (self.periods.iter_mut().find(open), differs) {
            (None, false) => {
                self.agreed.insert(pair, now);
                None
            }
            (None, true) => {
                let from = self.agreed.get(&pair).copied().unwrap_or(now);
                self.periods.push(Period {
                    pair,
                    from,
                    until: None,
                    offset_us,
                });
                Some(Change::Apart(pair, offset_us))
            }
            (Some(period), true) => {
                if offset_us.unsigned_abs() > period.offset_us.unsigned_abs() {
                    period.offset_us = offset_us;
                }
                None
            }
            (Some(period), false) if second.at.least_us() <= close => {
                period.until = Some(now);
                self.agreed.insert(pair, now);
                Some(Change::Agree(pair))
            }
            (Some(_), false) => None,
        }
    }

    /// Were the clocks of these two too far apart at that time, as far as is known here?
    #[must_use]
    pub fn covers(&self, one: NodeId, other: NodeId, at: Wall) -> bool {
        let pair = ordered(one, other);
        self.periods.iter().any(|period| {
            period.pair == pair && period.from <= at && period.until.is_none_or(|until| at <= until)
        })
    }
}

/// The pair of these two.
#[must_use]
pub fn ordered(one: NodeId, other: NodeId) -> Pair {
    (one.min(other), one.max(other))
}

#[cfg(test)]
mod tests {
    use super::super::interval::Interval;
    use super::*;
    use uuid::Uuid;

    fn node(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    fn seen(offset_ms: i64) -> BTreeMap<Pair, Rated> {
        let rated = Rated {
            at: Interval::around(offset_ms * 1000, 1_000),
            tolerance_us: 50_000,
        };
        BTreeMap::from([((node(1), node(2)), rated)])
    }

    #[test]
    fn a_period_begins_where_the_clocks_last_agreed() {
        let mut distrust = Distrust::default();
        let pair = (node(1), node(2));
        assert_eq!(distrust.note(&seen(1), Wall(1_000)), []);
        let apart = Change::Apart(pair, -5_000_000);
        assert_eq!(distrust.note(&seen(-5_000), Wall(2_000)), [apart]);
        assert_eq!(distrust.note(&seen(-9_000), Wall(3_000)), []);
        // At the edge nothing is said; well within they agree.
        assert_eq!(distrust.note(&seen(-49), Wall(4_000)), []);
        assert_eq!(
            distrust.note(&seen(-20), Wall(5_000)),
            [Change::Agree(pair)]
        );
        let period = Period {
            pair,
            from: Wall(1_000),
            until: Some(Wall(5_000)),
            offset_us: -9_000_000,
        };
        assert_eq!(distrust.periods, [period]);
        let covers = |at| distrust.covers(node(2), node(1), Wall(at));
        assert!(!covers(999) && covers(1_000) && covers(5_000) && !covers(5_001));
        assert!(!distrust.covers(node(1), node(3), Wall(2_000)));
    }

    #[test]
    fn the_list_is_bounded_and_survives_a_restart() {
        let mut distrust = Distrust::default();
        for turn in 0..2_000 {
            let offset_ms = if turn % 2 == 0 { 5_000 } else { 0 };
            distrust.note(&seen(offset_ms), Wall(turn));
        }
        assert_eq!(distrust.periods.len(), PERIODS_MAX);
        distrust.note(&seen(5_000), Wall(2_000));
        let text = serde_json::to_string(&distrust).unwrap();
        let mut again: Distrust = serde_json::from_str(&text).unwrap();
        assert!(again.covers(node(1), node(2), Wall(9_000)));
        // A period that was open goes on, and isn't told again.
        assert_eq!(again.note(&seen(5_000), Wall(10_000)), []);
    }
}
