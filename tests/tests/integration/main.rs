//! Real PostgreSQL and real agents in network namespaces.
//!
//! Bounds are generous: they say "never came", not "was slow". What took how long is printed.

mod absence;
mod address;
mod anew;
mod assembly;
mod backup;
mod clocks;
mod conflicts;
mod crashes;
mod demo;
mod forgetting;
mod gate;
mod harness;
mod intruders;
mod join;
mod leaving;
mod partitions;
mod provision;
mod restore;
mod resume;
mod resync;
mod rollback;
mod rows;
mod slots;
mod sql;
mod structure;
mod stuck;
mod tables;
mod verify;

use std::time::Duration;

/// How long nodes may take from boot to a full mesh.
const ASSEMBLY_MAX: Duration = Duration::from_secs(60);

/// How long a mesh may take to be whole again after a fault ended.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
