//! The shell of `pgaa-agent`: everything that touches the outside world.
//!
//! One module an outside thing; the decisions are in `pgaa-core`. ARCHITECTURE.md has the map,
//! with one line on what each module does and one on what it must not know.

pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod discovery;
pub mod durable;
pub mod events;
pub mod failpoint;
pub mod gossip;
pub mod image;
pub mod peer;
pub mod postgres;
pub mod restore;
pub mod telemetry;
pub mod trust;
