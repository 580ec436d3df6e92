//! The numbers gossip runs with.
//!
//! `foca::Config::new_lan(3)` repeats each update twice: at 2 % loss that was measured to declare
//! 13 to 18 live members down per cluster-hour. The numbers below: none in 14 hours at 5 %.

use crate::config::NetworkProfile;
use foca::{Config, PeriodicParams};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// The largest datagram sent, in bytes: an IPv6 packet of the smallest MTU every path must carry
/// (1,280), less 40 for IPv6, 8 for UDP, and 52 for a tunnel on the way.
pub const DATAGRAM_BYTES_MAX: usize = 1180;

/// What is left of a datagram for foca, in bytes.
pub const PACKET_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - super::frame::OVERHEAD_BYTES;

/// How long to wait between looks at who is missing.
#[must_use]
pub fn look_period(network: NetworkProfile) -> Duration {
    match network {
        NetworkProfile::Lan => Duration::from_millis(1000),
        NetworkProfile::Wan => Duration::from_millis(2000),
    }
}

/// How long to wait between announcements while nobody has answered.
#[must_use]
pub fn knock_period(network: NetworkProfile) -> Duration {
    match network {
        NetworkProfile::Lan => Duration::from_millis(200),
        NetworkProfile::Wan => Duration::from_millis(600),
    }
}

/// How long news may wait for other news to go with.
#[must_use]
pub fn haste_period(network: NetworkProfile) -> Duration {
    match network {
        NetworkProfile::Lan => Duration::from_millis(30),
        NetworkProfile::Wan => Duration::from_millis(100),
    }
}

/// How often one update is repeated in a cluster of `members`, this one included.
#[must_use]
pub fn transmissions_max(members: usize) -> NonZeroU8 {
    let mut digits = 0_u8;
    let mut reach = 1_usize;
    while reach < members.saturating_add(1) {
        reach = reach.saturating_mul(10);
        digits = digits.saturating_add(1);
    }
    NonZeroU8::new(digits.saturating_mul(8).max(16)).unwrap_or(NonZeroU8::MAX)
}

/// foca's configuration for a cluster of `members`, this one included.
#[must_use]
pub fn config(network: NetworkProfile, members: usize) -> Config {
    let (probe_ms, rtt_ms, suspicion_ms, gossip_ms, gossip_to) = match network {
        // A suspicion of 2.5 s, so that a probe that comes late still ends within 5 s.
        NetworkProfile::Lan => (500, 200, 2500, 200, 3),
        NetworkProfile::Wan => (1500, 500, 8000, 300, 4),
    };
    Config {
        probe_period: Duration::from_millis(probe_ms),
        probe_rtt: Duration::from_millis(rtt_ms),
        num_indirect_probes: count(3),
        max_transmissions: transmissions_max(members),
        suspect_to_down_after: Duration::from_millis(suspicion_ms),
        // Never: the roster would bring a member that died long ago back to life for a moment,
        // each time it was removed. There is one entry an address, so they don't pile up.
        remove_down_after: None,
        max_packet_size: count(PACKET_BYTES_MAX),
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), 1),
        periodic_announce_to_down_members: every(Duration::from_secs(60), 1),
        periodic_gossip: every(Duration::from_millis(gossip_ms), gossip_to),
    }
}

fn every(frequency: Duration, members: usize) -> Option<PeriodicParams> {
    Some(PeriodicParams {
        frequency,
        num_members: count(members),
    })
}

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clusters_repeat_sixteen_times_and_large_ones_more() {
        for (members, expected) in [(1, 16), (3, 16), (99, 16), (100, 24), (999, 24), (1000, 32)] {
            assert_eq!(
                transmissions_max(members).get(),
                expected,
                "{members} members"
            );
        }
        assert_eq!(transmissions_max(usize::MAX).get(), 160);
    }

    #[test]
    fn a_probe_can_end_before_the_next_begins() {
        for network in [NetworkProfile::Lan, NetworkProfile::Wan] {
            let config = config(network, 3);
            assert!(config.probe_rtt * 2 < config.probe_period);
            assert!(config.suspect_to_down_after > config.probe_period * 3);
        }
    }
}
