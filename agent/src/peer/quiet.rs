//! Log lines about outsiders, each at most once a minute: whoever can dial a port must not be
//! able to fill a disk with it.

use crate::clock::Clocks;
use log::warn;
use pgaa_core::time::Mono;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a line that was written is not repeated.
const PAUSE: Duration = Duration::from_secs(60);
/// How many lines are remembered; beyond that everything new is left out until some are old.
const LINES_MAX: usize = 256;

/// Remembers what was said lately, by address and kind.
pub(super) struct Quiet {
    clocks: Clocks,
    said: Mutex<BTreeMap<(IpAddr, String), Mono>>,
}

impl Quiet {
    pub(super) fn new(clocks: Clocks) -> Quiet {
        Quiet {
            clocks,
            said: Mutex::new(BTreeMap::new()),
        }
    }

    /// Warns of what `address` did, unless the same was said in the last minute.
    pub(super) fn warn(&self, address: IpAddr, kind: &str, text: &str) {
        if self.due(address, kind, self.clocks.mono()) {
            warn!(kind = kind; "{address}: {text}");
        }
    }

    fn due(&self, address: IpAddr, kind: &str, now: Mono) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| now.since(*at) < PAUSE);
        let key = (address, kind.to_owned());
        if said.contains_key(&key) || said.len() >= LINES_MAX {
            return false;
        }
        said.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_same_is_said_once_a_minute_and_floods_are_left_out() {
        let quiet = Quiet::new(Clocks::start());
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
        let start = Mono(1_000);
        assert!(quiet.due(address(1), "a", start));
        assert!(!quiet.due(address(1), "a", start.plus(PAUSE / 2)));
        assert!(quiet.due(address(1), "b", start));
        assert!(quiet.due(address(2), "a", start));
        assert!(quiet.due(address(1), "a", start.plus(PAUSE)));
        let later = start.plus(10 * PAUSE);
        let said = (0..10_000)
            .filter(|n| quiet.due(address(*n), "a", later))
            .count();
        assert_eq!(said, LINES_MAX);
    }
}
