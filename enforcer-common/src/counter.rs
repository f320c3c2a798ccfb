//! Counters of decisions: an array of 64-bit words for each agent.
//!
//! First come [`HEAD`] words that say whose they are, then the content of each rule, so that they mean something when
//! the policy is gone; then, for each *stripe* and each verdict in it, one counter for each rule. Processors share the
//! stripes as evenly as they can, and where there is memory enough for that each has one of its own. What is counted
//! most, the allowed actions of one stripe, lies side by side, eight rules to a cache line.

use crate::verdict::VERDICTS;

/// The words before the contents: the agent's id, the rules, the stripes, and room up to a cache line.
pub const HEAD: u32 = 8;

/// The words of an array.
#[must_use]
pub const fn words(rules: u32, stripes: u32) -> u32 {
    HEAD + rules * (1 + stripes * VERDICTS as u32)
}

/// Where the content of a rule is.
#[inline(always)]
#[must_use]
pub const fn content_at(rule: u32) -> u32 {
    HEAD.wrapping_add(rule)
}

/// Where a rule's counter for a verdict is. `stripe` is any number, of which the stripes divide the remainder among
/// them.
#[inline(always)]
#[must_use]
pub const fn counter_at(rules: u32, stripes: u32, stripe: u32, verdict: u32, rule: u32) -> u32 {
    let stripe = stripe & stripes.wrapping_sub(1);
    let column = stripe.wrapping_mul(VERDICTS as u32).wrapping_add(verdict).wrapping_add(1);
    HEAD.wrapping_add(column.wrapping_mul(rules)).wrapping_add(rule)
}

/// How many stripes there are for so many rules and processors: each processor has one of its own, unless an array
/// would be over `max_bytes`.
#[must_use]
pub fn stripes(rules: u32, processors: u32, max_bytes: u32) -> u32 {
    let mut stripes = processors.max(1).next_power_of_two();
    while stripes > 1 && u64::from(words(rules, stripes)) * 8 > u64::from(max_bytes) {
        stripes /= 2;
    }
    stripes
}

#[cfg(test)]
mod tests {
    use super::{content_at, counter_at, stripes, words};

    #[test]
    fn every_counter_has_a_word_of_its_own() {
        let (rules, stripes) = (7, 4);
        let mut seen = [false; words(7, 4) as usize];
        let counters = (0..stripes).flat_map(|stripe| (0..5).map(move |verdict| (stripe, verdict)));
        let counters =
            counters.flat_map(|(stripe, verdict)| (0..rules).map(move |rule| (stripe, verdict, rule)));
        let counters =
            counters.map(|(stripe, verdict, rule)| counter_at(rules, stripes, stripe, verdict, rule));
        for at in (0..rules).map(content_at).chain(counters) {
            assert!(!core::mem::replace(&mut seen[at as usize], true), "{at}");
        }
        assert_eq!(seen.iter().filter(|seen| !**seen).count(), super::HEAD as usize);
    }

    #[test]
    fn processors_beyond_the_stripes_share_them() {
        assert_eq!(counter_at(3, 4, 6, 1, 2), counter_at(3, 4, 2, 1, 2));
        assert_eq!(stripes(20, 6, 1 << 20), 8);
        assert_eq!(stripes(10_000, 64, 1 << 20), 2);
        assert_eq!(stripes(10_000, 64, 1), 1);
    }
}
