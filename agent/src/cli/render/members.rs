//! The table of members.

use super::{Align, Page, Table, Tint, words};
use pgaa_core::clock::ClockVerdict;
use pgaa_core::observed::Reach;
use pgaa_core::state::NodeState;
use pgaa_core::status::{MemberReport, StatusReport};

/// A record older than this is no news of the node, ms: records travel at least every 30 s.
const STALE_AGE_MS: u64 = 90_000;

/// The colour of a state.
#[must_use]
pub fn tint_of(state: NodeState) -> Tint {
    match state {
        NodeState::Ready => Tint::Good,
        NodeState::Quarantined => Tint::Bad,
        NodeState::Left => Tint::Faint,
        NodeState::Booting
        | NodeState::Configuring
        | NodeState::Discovering
        | NodeState::Forming
        | NodeState::Enrolling
        | NodeState::WaitingForClock
        | NodeState::Joining
        | NodeState::Resyncing
        | NodeState::Leaving => Tint::Odd,
    }
}

/// The state of a member in words: "joining: copying".
#[must_use]
pub fn state_of(member: &MemberReport) -> (String, Tint) {
    let Some(state) = member.state else {
        return ("silent".to_owned(), Tint::Odd);
    };
    let text = match member.phase {
        Some(phase) => format!("{}: {}", state.word(), phase.word()),
        None => state.word().to_owned(),
    };
    (text, tint_of(state))
}

fn reach_of(member: &MemberReport) -> (String, Tint) {
    let (word, tint) = match (member.local, member.reach) {
        (true, _) => ("self", Tint::Plain),
        (false, Reach::Up) => ("up", Tint::Good),
        (false, Reach::Down) => ("down", Tint::Bad),
        (false, Reach::Unknown) => ("unknown", Tint::Odd),
    };
    (word.to_owned(), tint)
}

fn clock_of(member: &MemberReport) -> (String, Tint) {
    let tint = match member.clock.verdict {
        ClockVerdict::Synchronized => Tint::Plain,
        ClockVerdict::Unknown | ClockVerdict::Drifting | ClockVerdict::Unsynchronized => Tint::Odd,
    };
    (words::clock(&member.clock), tint)
}

fn age_of(member: &MemberReport) -> (String, Tint) {
    let tint = if member.age_ms > STALE_AGE_MS {
        Tint::Odd
    } else {
        Tint::Faint
    };
    (words::age(member.age_ms), tint)
}

/// Writes the members for the status: who, where they stand, how old that is.
pub fn write(page: &mut Page, report: &StatusReport) {
    use Align::{Left, Right};
    let headings = [
        ("NODE", Left),
        ("ORD", Right),
        ("STATE", Left),
        ("REACH", Left),
        ("WRITES", Left),
        ("CLOCK", Left),
        ("AGE", Right),
    ];
    let mut table = Table::new(&headings);
    for member in &report.members {
        let writes = if member.gate_open {
            ("open", Tint::Plain)
        } else {
            ("shut", Tint::Odd)
        };
        table.row(vec![
            (member.name.clone(), Tint::Plain),
            (
                member
                    .ordinal
                    .map_or_else(|| "-".to_owned(), |o| o.to_string()),
                Tint::Plain,
            ),
            state_of(member),
            reach_of(member),
            (writes.0.to_owned(), writes.1),
            clock_of(member),
            age_of(member),
        ]);
    }
    table.write(page);
}

/// Writes the members with all that identifies them, for `nodes`.
pub fn write_long(page: &mut Page, report: &StatusReport) {
    write(page, report);
    page.gap();
    use Align::Left;
    let headings = [
        ("NODE", Left),
        ("UUID", Left),
        ("POSTGRESQL", Left),
        ("SITE", Left),
    ];
    let mut table = Table::new(&headings);
    for member in &report.members {
        let address = member
            .endpoints
            .map(|endpoints| endpoints.postgres.to_string());
        let server = match (address, member.versions.postgres) {
            (None, _) => "-".to_owned(),
            (Some(address), 0) => address,
            (Some(address), version) => {
                format!("{}.{} at {address}", version / 10_000, version % 10_000)
            }
        };
        table.row(vec![
            (member.name.clone(), Tint::Plain),
            (member.node.to_string(), Tint::Plain),
            (server, Tint::Plain),
            (member.site.clone(), Tint::Plain),
        ]);
    }
    table.write(page);
}
