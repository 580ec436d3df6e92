//! The numbers of heartbeats. Each grows by one from the last, and those of another generation of the agent
//! begin at a round number far above: so that who hears one can tell whether the agent that wrote it has
//! said by then which slots it has found. A slot may have been made anew while no agent looked, and the
//! first heartbeat that comes through it would hide the gap.
//!
//! Must not know how a heartbeat travels, nor what is made of one that nobody vouches for.

/// So many heartbeats fit in one generation: 136 years of one a second.
const GENERATION_BITS: u32 = 32;

/// The number above which the heartbeats of a generation lie.
#[must_use]
pub fn floor(generation: u64) -> u64 {
    generation.saturating_mul(1 << GENERATION_BITS)
}

/// The generation that a heartbeat belongs to; 0 for those of agents that numbered them from 1.
#[must_use]
pub fn generation(number: u64) -> u64 {
    number >> GENERATION_BITS
}

#[cfg(test)]
mod tests {
    use super::{floor, generation};

    #[test]
    fn each_generation_lies_above_the_one_before() {
        assert_eq!(generation(1_234), 0);
        assert_eq!(generation(floor(3)), 3);
        assert_eq!(generation(floor(3) + 1_000_000), 3);
        assert!(floor(4) > floor(3) + u64::from(u32::MAX));
        // Whatever somebody claims is a number.
        assert_eq!(floor(u64::MAX), u64::MAX);
    }
}
