//! The decisions of `pgaa-agent`.
//!
//! Everything here is a function of its arguments: the current time, random numbers, files,
//! sockets, SQL and the environment are handed in by the shell (`agent/`), so that the
//! simulation in `tests/` can run the very same decisions in virtual time. What this crate must
//! not do is listed in ARCHITECTURE.md; that it has no I/O dependency is what keeps it so.

pub mod action;
pub mod backup;
pub mod beats;
pub mod births;
pub mod check;
pub mod clock;
pub mod conflicts;
pub mod founding;
pub mod guard;
pub mod history;
pub mod ids;
pub mod join;
pub mod life;
pub mod memory;
pub mod observed;
pub mod plan;
pub mod policy;
pub mod publish;
pub mod record;
pub mod report;
pub mod restore;
pub mod roster;
pub mod rows;
pub mod state;
pub mod status;
pub mod tables;
pub mod time;
pub mod verify;
