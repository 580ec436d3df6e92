//! What the agent tells the outside beside its status: the log, systemd, health and metrics.
//!
//! Passes on what it is handed; nothing here decides anything.

pub mod http;
mod log;
mod metrics;
mod systemd;

pub use log::init as init_log;
pub use systemd::Systemd;
