//! What a record says of clocks.

use super::{Taken, bad, node, node_out, required};
use pgaa_core::clock::{ClockCause, ClockReading, ClockSource, ClockVerdict, PairReading};
use pgaa_core::ids::NodeId;
use pgaa_proto::v1 as wire;

const UNKNOWN: &str = "is not a number this version knows";

pub(super) fn clock(clock: Option<wire::Clock>) -> Taken<ClockReading> {
    let clock = required("record.clock", clock)?;
    let verdict = match clock.verdict {
        0 => ClockVerdict::Unknown,
        1 => ClockVerdict::Synchronized,
        2 => ClockVerdict::Drifting,
        3 => ClockVerdict::Unsynchronized,
        _ => return bad("clock.verdict", UNKNOWN),
    };
    let source = match clock.source {
        0 => ClockSource::None,
        1 => ClockSource::Chrony,
        2 => ClockSource::Kernel,
        3 => ClockSource::Timesyncd,
        4 => ClockSource::NtpdRs,
        _ => return bad("clock.source", UNKNOWN),
    };
    let cause = match clock.cause {
        0 => ClockCause::None,
        1 => ClockCause::NoSource,
        2 => ClockCause::Unreachable,
        3 => ClockCause::Stale,
        4 => ClockCause::Error,
        _ => return bad("clock.cause", UNKNOWN),
    };
    Ok(ClockReading {
        verdict,
        cause,
        source,
        offset_us: clock.offset_us,
        error_us: clock.error_us,
    })
}

pub(super) fn clock_out(clock: &ClockReading) -> wire::Clock {
    wire::Clock {
        verdict: match clock.verdict {
            ClockVerdict::Unknown => 0,
            ClockVerdict::Synchronized => 1,
            ClockVerdict::Drifting => 2,
            ClockVerdict::Unsynchronized => 3,
        },
        source: match clock.source {
            ClockSource::None => 0,
            ClockSource::Chrony => 1,
            ClockSource::Kernel => 2,
            ClockSource::Timesyncd => 3,
            ClockSource::NtpdRs => 4,
        },
        offset_us: clock.offset_us,
        error_us: clock.error_us,
        cause: match clock.cause {
            ClockCause::None => 0,
            ClockCause::NoSource => 1,
            ClockCause::Unreachable => 2,
            ClockCause::Stale => 3,
            ClockCause::Error => 4,
        },
    }
}

pub(super) fn pair(pair: &wire::ClockPair) -> Taken<(NodeId, PairReading)> {
    let reading = PairReading {
        offset_us: pair.offset_us,
        error_us: pair.error_us,
        round_trip_us: pair.round_trip_us,
        age_ms: pair.age_ms,
    };
    Ok((node("clock_pair.node", &pair.node)?, reading))
}

pub(super) fn pair_out(node: NodeId, seen: &PairReading) -> wire::ClockPair {
    wire::ClockPair {
        node: node_out(node),
        offset_us: seen.offset_us,
        error_us: seen.error_us,
        round_trip_us: seen.round_trip_us,
        age_ms: seen.age_ms,
    }
}
