//! Which counters of one stream of frames have been seen.
//!
//! A sliding bitmap, as in RFC 6479: a counter is new once; what is older than the window is
//! refused, because nobody remembers.

/// How far frames may overtake one another, in counters. A node sends some dozens of frames a
/// second to all peers together, so this is tens of seconds.
pub const WINDOW: u64 = 1024;

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: usize = (WINDOW / WORD_BITS) as usize;

/// What a counter turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Not seen before.
    New,
    /// Seen before.
    Seen,
    /// So far behind that it can't be told.
    Old,
}

/// The newest counters of one stream.
#[derive(Debug, Clone)]
pub struct Window {
    /// One past the highest counter seen.
    next: u64,
    seen: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Window {
        Window {
            next: 0,
            seen: [0; WORDS],
        }
    }
}

fn slot(counter: u64) -> (usize, u64) {
    let bit = counter % WINDOW;
    ((bit / WORD_BITS) as usize, 1 << (bit % WORD_BITS))
}

impl Window {
    /// What is `counter`? Changes nothing: only a frame that proves genuine may be recorded.
    #[must_use]
    pub fn check(&self, counter: u64) -> Freshness {
        if counter >= self.next {
            return Freshness::New;
        }
        if self.next - counter > WINDOW {
            return Freshness::Old;
        }
        let (word, mask) = slot(counter);
        match self.seen.get(word) {
            Some(bits) if bits & mask != 0 => Freshness::Seen,
            Some(_) | None => Freshness::New,
        }
    }

    /// Records a counter that [`Window::check`] found new.
    pub fn record(&mut self, counter: u64) {
        if counter >= self.next {
            if counter - self.next >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                (self.next..counter).for_each(|skipped| self.set(skipped, false));
            }
            self.next = counter.saturating_add(1);
        }
        self.set(counter, true);
    }

    fn set(&mut self, counter: u64, seen: bool) {
        let (word, mask) = slot(counter);
        if let Some(bits) = self.seen.get_mut(word) {
            *bits = if seen { *bits | mask } else { *bits & !mask };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeSet;

    #[test]
    fn the_window_agrees_with_a_set_of_everything_seen() {
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..50 {
            let (mut window, mut seen, mut highest) = (Window::default(), BTreeSet::new(), 0_u64);
            for _ in 0..5000 {
                let reach = if rng.random_bool(0.01) { 3000 } else { 40 };
                let counter = (highest + rng.random_range(0..reach))
                    .saturating_sub(rng.random_range(0..reach + 1));
                let expected = if counter + WINDOW < highest + 1 {
                    Freshness::Old
                } else if seen.contains(&counter) {
                    Freshness::Seen
                } else {
                    Freshness::New
                };
                assert_eq!(window.check(counter), expected, "{counter} after {highest}");
                if expected == Freshness::New {
                    window.record(counter);
                    seen.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }

    #[test]
    fn the_last_counter_is_new_once() {
        let mut window = Window::default();
        window.record(u64::MAX - 1);
        assert_eq!(window.check(u64::MAX - 1), Freshness::Seen);
        assert_eq!(window.check(0), Freshness::Old);
    }
}
