//! Layered configuration: fragments, merged inputs, validated settings.

mod settings;
pub use settings::*;
