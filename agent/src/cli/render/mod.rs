//! Reports as text for people: tables that fit the terminal, colour only where it is wanted.
//!
//! Renders what it is handed and decides nothing. Text from other machines passes
//! [`Page::clean`], so that no peer can send escape sequences to an operator's terminal.

pub mod backup;
pub mod clock;
pub mod conflicts;
pub mod lost;
pub mod members;
mod orphans;
pub mod outcome;
mod page;
pub mod proof;
pub mod status;
mod structure;
mod table;
pub mod topology;
pub mod verify;
pub mod words;

pub use page::{Page, Tint, clean};
pub use table::{Align, Table};

#[cfg(test)]
pub mod fixture;
#[cfg(test)]
mod tests;
