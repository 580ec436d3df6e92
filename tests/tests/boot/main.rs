//! Whole machines: real systemd, real cloud-init, our package, booted by systemd-nspawn in
//! network namespaces of the test's own.
//!
//! `make boot-test` runs them; they need root and packages that other tests don't.

mod booted;
mod group;
mod image;
mod machine;
mod yard;

use std::time::Duration;

/// A bound that says "never", not "slow".
fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
