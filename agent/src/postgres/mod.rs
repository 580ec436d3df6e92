//! The local PostgreSQL.

pub mod audit;
pub mod block;
pub mod conf;
pub mod gate;
pub mod hba;
pub mod ident;
pub mod layout;
pub mod needed;
pub mod owner;
pub mod provision;
pub mod server;

pub use gate::{admit, inspect_files, set_gate};
pub use hba::Gate;
pub use provision::provision;
pub use server::restart;
