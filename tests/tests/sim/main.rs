//! Tests in virtual time: many machines on one thread, every schedule a function of its seed.
//!
//! `SEEDS=20000` tries more seeds, `SEED=7` replays one and prints what happened;
//! `SIM_HOURS=24` watches gossip for longer.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can't go on must stop"
)]

mod backup;
mod clocks;
mod founding;
mod gossip;
mod join;
mod mesh;
mod rows;
mod seeds;
mod world;
