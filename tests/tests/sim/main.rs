//! Tests in virtual time: many machines on one thread, every schedule a function of its seed.
//!
//! `SEEDS=20000` tries more seeds, `SEED=7` replays one and prints what happened.

mod founding;
mod seeds;
mod world;
