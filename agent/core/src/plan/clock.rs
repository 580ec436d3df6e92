//! What the clocks mean for the mesh: who is the odd one out, whether this node may take part
//! yet, and whether load balancers should avoid it. A running node is only warned about.

use super::Inputs;
use crate::clock::consensus::{Consensus, Rated, apart, consensus};
use crate::clock::distrust::{Pair, ordered};
use crate::clock::interval::Interval;
use crate::clock::{ClockCause, ClockReading, ClockSource, ClockVerdict, PairReading};
use crate::ids::NodeId;
use crate::join::takes_part;
use crate::life::Stage;
use crate::observed::Reach;
use crate::record::{JoinPhase, NodeRecord};
use crate::roster::Roster;
use crate::status::{Finding, Health};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A member that answers and whose clock can't be measured for so long (its agent may be older)
/// keeps nobody from joining.
const MEASURE_MAX: Duration = Duration::from_secs(10);

/// How far sources of time may differ beyond what both admit, microseconds: they are not read at
/// one moment.
const SOURCES_SLACK_US: u64 = 5_000;

/// At most so many pairs are named when there is no majority.
const APART_NAMED_MAX: usize = 3;

/// What keeps a node from taking part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// These clocks have not been compared yet.
    Unmeasured(String),
    /// This node's clock differs from the mesh's.
    Apart(String),
}

impl Gate {
    /// In words.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Gate::Unmeasured(text) | Gate::Apart(text) => text,
        }
    }
}

fn own(inputs: &Inputs<'_>) -> Rated {
    Rated {
        at: Interval::point(0),
        tolerance_us: inputs.policy.clock.tolerance_us(0),
    }
}

fn rated(inputs: &Inputs<'_>, pair: &PairReading) -> Rated {
    Rated {
        at: pair.interval(),
        tolerance_us: inputs.policy.clock.tolerance_us(pair.round_trip_us),
    }
}

/// The clocks of these nodes, as far as they were measured lately, against this node's.
fn measured<'a>(
    inputs: &Inputs<'_>,
    nodes: impl IntoIterator<Item = &'a NodeId>,
) -> BTreeMap<NodeId, Rated> {
    let clock = &inputs.observed.clock;
    let others = nodes.into_iter().filter(|node| **node != inputs.me);
    others
        .filter_map(|node| Some((*node, rated(inputs, clock.fresh(*node)?))))
        .collect()
}

/// Every clock of the mesh that can be compared, this node's among them.
fn everybody(inputs: &Inputs<'_>, roster: &Roster) -> BTreeMap<NodeId, Rated> {
    let mut clocks = measured(inputs, &roster.members());
    clocks.insert(inputs.me, own(inputs));
    clocks
}

/// How far the clocks of all pairs are apart, by whoever of the two has measured it, this node's
/// own measurements first.
#[must_use]
pub fn pairs(inputs: &Inputs<'_>) -> BTreeMap<Pair, Rated> {
    let mut all = BTreeMap::new();
    let Some(roster) = inputs.roster else {
        return all;
    };
    let members = roster.members();
    let mut add = |from: NodeId, to: NodeId, pair: &PairReading| {
        let mut seen = rated(inputs, pair);
        if from > to {
            seen.at = Interval::around(pair.offset_us.saturating_neg(), pair.error_us);
        }
        all.entry(ordered(from, to)).or_insert(seen);
    };
    for node in &members {
        if let Some(pair) = inputs.observed.clock.fresh(*node) {
            add(inputs.me, *node, pair);
        }
    }
    for record in roster.records.values().filter(|r| r.node != inputs.me) {
        for (other, pair) in &record.clock_pairs {
            if members.contains(other) && *other != record.node && *other != inputs.me {
                add(record.node, *other, pair);
            }
        }
    }
    all
}

/// The clocks that disagree with a majority for certain.
#[must_use]
pub fn odd_clocks(inputs: &Inputs<'_>) -> BTreeSet<NodeId> {
    let Some(roster) = inputs.roster else {
        return BTreeSet::new();
    };
    let clocks = everybody(inputs, roster);
    consensus(&clocks).odd(&clocks)
}

/// Those with whose clocks this node's has to agree before it takes part; `None` when it takes
/// part already, or needn't ask.
fn judges(inputs: &Inputs<'_>, roster: &Roster) -> Option<BTreeSet<NodeId>> {
    let counts: &dyn Fn(&NodeRecord) -> bool = match inputs.life.stage {
        Stage::Founding => &|record| roster.decree.member(record.node).is_some(),
        Stage::Joining(JoinPhase::Leasing) => &|record| takes_part(record) == Some(true),
        Stage::Single
        | Stage::Joining(_)
        | Stage::Ready
        | Stage::Resyncing
        | Stage::Leaving
        | Stage::Left => return None,
    };
    let judges = roster
        .records
        .values()
        .filter(|record| record.node != inputs.me && counts(record));
    Some(judges.map(|record| record.node).collect())
}

/// What the clocks have against this node's taking part.
#[must_use]
pub fn gate(inputs: &Inputs<'_>) -> Option<Gate> {
    let roster = inputs.roster?;
    let judges = judges(inputs, roster)?;
    let clocks = measured(inputs, &judges);
    let lacking: Vec<String> = judges
        .iter()
        .filter(|node| {
            inputs.observed.peers.get(node) == Some(&Reach::Up) && !clocks.contains_key(node)
        })
        .map(|node| roster.name_of(*node))
        .collect();
    let since = inputs.memory.stage_since.unwrap_or(inputs.now);
    if !lacking.is_empty() && inputs.now.since(since) < MEASURE_MAX {
        let text = format!("the clocks of {} to be compared", lacking.join(", "));
        return Some(Gate::Unmeasured(text));
    }
    let found = consensus(&clocks);
    if found.admits(&own(inputs)) {
        return None;
    }
    let ahead = found.distance_us(&own(inputs));
    let text = format!(
        "this node's clock to agree with the mesh: it is {} the clocks of {} of {} other nodes; \
         look at: {}",
        distance(ahead),
        found.agree,
        judges.len(),
        inputs.observed.clock.local.source.command()
    );
    Some(Gate::Apart(text))
}

/// "5.0 s ahead of", "12.5 ms behind".
fn distance(us: i64) -> String {
    let way = if us < 0 { "behind" } else { "ahead of" };
    format!("{} {way}", span(us.unsigned_abs()))
}

/// "0.2 ms", "5.0 s".
fn span(us: u64) -> String {
    if us < 999_950 {
        format!("{:.1} ms", us as f64 / 1e3)
    } else {
        format!("{:.1} s", us as f64 / 1e6)
    }
}

/// Why load balancers should avoid this node although it takes writes: strict mode only.
#[must_use]
pub fn withheld(inputs: &Inputs<'_>) -> Option<String> {
    if !inputs.policy.clock.strict || inputs.life.stage != Stage::Ready {
        return None;
    }
    let roster = inputs.roster?;
    let clocks = everybody(inputs, roster);
    let found = consensus(&clocks);
    let me = clocks.get(&inputs.me)?;
    let alone = found.majority().is_none() && clocks.values().any(|c| apart(me, c).is_some());
    if alone || found.odd(&clocks).contains(&inputs.me) {
        return Some("clock.strict: its clock does not agree with the mesh".to_owned());
    }
    match inputs.observed.clock.local.verdict {
        ClockVerdict::Synchronized => None,
        ClockVerdict::Unknown | ClockVerdict::Drifting | ClockVerdict::Unsynchronized => {
            Some("clock.strict: its clock is not synchronized".to_owned())
        }
    }
}

/// Everything that is wrong with the clocks, as seen from here.
#[must_use]
pub fn findings(inputs: &Inputs<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = local(inputs).into_iter().collect();
    let Some(roster) = inputs.roster else {
        return findings;
    };
    let clocks = everybody(inputs, roster);
    let found = consensus(&clocks);
    let odd = found.odd(&clocks);
    let view = Compared {
        inputs,
        roster,
        clocks: &clocks,
        found: &found,
    };
    findings.extend(odd.iter().filter_map(|node| view.odd_one(*node)));
    findings.extend(view.apart(&odd));
    findings.extend(view.sources(&odd));
    findings
}

/// What the node's own source says.
fn local(inputs: &Inputs<'_>) -> Option<Finding> {
    let clock = &inputs.observed.clock.local;
    let text = match (clock.verdict, clock.cause) {
        (ClockVerdict::Synchronized, _) => return None,
        (ClockVerdict::Unknown, _) => {
            "the clock's quality is unknown: no time source could be asked".to_owned()
        }
        (ClockVerdict::Unsynchronized, _) => "the clock follows no time source".to_owned(),
        (ClockVerdict::Drifting, ClockCause::Unreachable) => {
            "the clock drifts: none of its time servers answers any more".to_owned()
        }
        (ClockVerdict::Drifting, ClockCause::Stale) => {
            "the clock drifts: its time source has been silent for too long".to_owned()
        }
        (ClockVerdict::Drifting, ClockCause::Error | ClockCause::None | ClockCause::NoSource) => {
            format!(
                "the clock can be wrong by {}, more than the {} of clock.max_error_ms",
                span(clock.error_us.unwrap_or(0)),
                span(inputs.policy.clock.error_us_max())
            )
        }
    };
    Some(Finding {
        severity: Health::Degraded,
        code: "clock".to_owned(),
        text: format!("{text}; last-update-wins rests on clocks that agree"),
        command: clock.source.command().to_owned(),
    })
}

/// All clocks, held against one another.
struct Compared<'a> {
    inputs: &'a Inputs<'a>,
    roster: &'a Roster,
    clocks: &'a BTreeMap<NodeId, Rated>,
    found: &'a Consensus,
}

impl Compared<'_> {
    fn whose(&self, node: NodeId) -> String {
        if node == self.inputs.me {
            "this node's clock".to_owned()
        } else {
            format!("the clock of {}", self.roster.name_of(node))
        }
    }

    fn reading(&self, node: NodeId) -> Option<ClockReading> {
        if node == self.inputs.me {
            return Some(self.inputs.observed.clock.local);
        }
        self.roster.records.get(&node).map(|record| record.clock)
    }

    fn command(&self, node: NodeId) -> String {
        let source = self.reading(node).map_or(ClockSource::None, |r| r.source);
        let command = match source {
            ClockSource::Chrony => "chronyc -n sources; chronyc makestep",
            ClockSource::None
            | ClockSource::Kernel
            | ClockSource::Timesyncd
            | ClockSource::NtpdRs => source.command(),
        };
        if node == self.inputs.me {
            command.to_owned()
        } else {
            format!("on {}: {command}", self.roster.name_of(node))
        }
    }

    /// The one whose clock a majority contradicts; and its own source, where that sees nothing.
    fn odd_one(&self, node: NodeId) -> Option<Finding> {
        let clock = self.clocks.get(&node)?;
        let ahead = self.found.distance_us(clock);
        let effect = if ahead < 0 {
            "its writes lose against older ones"
        } else {
            "its writes win over newer ones"
        };
        let reading = self.reading(node).unwrap_or_default();
        let contradicted = reading.verdict == ClockVerdict::Synchronized;
        let source = contradicted.then(|| {
            format!(
                "; its own time source ({}) calls it right within {}, and must be wrong",
                reading.source.word(),
                span(reading.error_us.unwrap_or(0))
            )
        });
        Some(Finding {
            severity: Health::Critical,
            code: "clock_odd".to_owned(),
            text: format!(
                "{} is {} the {} others that agree (give or take {}): {effect}{}",
                self.whose(node),
                distance(ahead),
                self.found.agree,
                span(clock.at.error_us()),
                source.unwrap_or_default()
            ),
            command: self.command(node),
        })
    }

    /// Pairs that are too far apart, where no majority says who is wrong.
    fn apart(&self, odd: &BTreeSet<NodeId>) -> Vec<Finding> {
        let settled: Vec<&NodeId> = self.clocks.keys().filter(|n| !odd.contains(n)).collect();
        let mut findings = Vec::new();
        for (index, one) in settled.iter().enumerate() {
            for other in &settled[index + 1..] {
                let (Some(a), Some(b)) = (self.clocks.get(one), self.clocks.get(other)) else {
                    continue;
                };
                let Some(least) = apart(a, b) else { continue };
                findings.push(Finding {
                    severity: Health::Critical,
                    code: "clock_apart".to_owned(),
                    text: format!(
                        "{} and {} are at least {} apart, and no majority says which is wrong",
                        self.whose(**one),
                        self.whose(**other),
                        span(least)
                    ),
                    command: self.suspect_command(**one, **other),
                });
            }
        }
        findings.truncate(APART_NAMED_MAX);
        findings
    }

    /// Of two, the one whose own source doesn't vouch for it; else this node's.
    fn suspect_command(&self, one: NodeId, other: NodeId) -> String {
        let vouched = |node| {
            self.reading(node)
                .is_some_and(|r| r.verdict == ClockVerdict::Synchronized)
        };
        match (vouched(one), vouched(other)) {
            (true, false) => self.command(other),
            (false, true) => self.command(one),
            (true, true) | (false, false) if other == self.inputs.me => self.command(other),
            (true, true) | (false, false) => self.command(one),
        }
    }

    /// Sources of time that contradict one another although nobody's clock is off yet: true time,
    /// as each node's source has it, against this node's clock.
    fn sources(&self, odd: &BTreeSet<NodeId>) -> Vec<Finding> {
        let claim = |node: &NodeId, clock: &Rated| {
            let reading = self.reading(*node)?;
            let beyond = reading
                .error_us?
                .checked_sub(reading.offset_us.unsigned_abs())?;
            let follows = match reading.verdict {
                ClockVerdict::Synchronized | ClockVerdict::Drifting => true,
                ClockVerdict::Unknown | ClockVerdict::Unsynchronized => false,
            };
            follows.then(|| Rated {
                at: clock
                    .at
                    .shifted(reading.offset_us.saturating_neg())
                    .widened(beyond),
                tolerance_us: SOURCES_SLACK_US,
            })
        };
        let claims: BTreeMap<NodeId, Rated> = self
            .clocks
            .iter()
            .filter_map(|(node, clock)| Some((*node, claim(node, clock)?)))
            .collect();
        let found = consensus(&claims);
        let contradicted = found.odd(&claims);
        let mut findings = Vec::new();
        for node in contradicted.difference(odd) {
            let (Some(claim), Some(reading)) = (claims.get(node), self.reading(*node)) else {
                continue;
            };
            findings.push(Finding {
                severity: Health::Degraded,
                code: "clock_source".to_owned(),
                text: format!(
                    "{} follows a time source ({}) that is {} those of {} other nodes",
                    self.whose(*node),
                    reading.source.word(),
                    distance(found.distance_us(claim)),
                    found.agree
                ),
                command: self.command(*node),
            });
        }
        findings
    }
}
