//! What the integration tests and benchmarks share: a network of namespaces with a real
//! PostgreSQL server and a real agent in each.
//!
//! Must not touch the host's own network, and must not end a process that it did not start.

pub mod cluster;
pub mod command;
pub mod disk;
pub mod load;
pub mod net;
pub mod node;
pub mod process;
pub mod scenario;
pub mod stale;
pub mod time;
pub mod workload;
