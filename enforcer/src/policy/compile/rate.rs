//! Times as the kernel counts them: nanoseconds in 64 bits, which the limits of a policy fit into.

use std::time::Duration;

use crate::policy::rate::Rate;

/// The time for one token.
pub(super) fn interval_ns(rate: Rate) -> u64 {
    nanoseconds(rate.interval())
}

/// How far tokens may be ahead of time: all of a burst but the one that is taken.
pub(super) fn tolerance_ns(rate: Rate, burst: u32) -> u64 {
    nanoseconds(rate.refill(burst.saturating_sub(1)))
}

/// A duration in nanoseconds.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use enforcer_common::rate::{Token, take};

    use super::*;

    /// How many of many tries, evenly spaced, pass within some seconds.
    fn passed(text: &str, burst: u32, seconds: u64, tries_per_second: u64) -> u64 {
        let rate = Rate::parse(text).unwrap();
        let (interval, tolerance) = (interval_ns(rate), tolerance_ns(rate, burst));
        let start = 1_000_000_000_000;
        let mut bucket = 0;
        let mut count = 0;
        for tick in 0..seconds * tries_per_second {
            let now = start + tick * 1_000_000_000 / tries_per_second;
            if let Token::Taken(next) = take(bucket, now, interval, tolerance) {
                bucket = next;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rate_from_then_on() {
        // The first instant has the burst; each interval after it one more.
        assert_eq!(passed("30/minute", 30, 1, 1_000), 30);
        assert_eq!(passed("30/minute", 1, 60, 1_000), 30);
        assert_eq!(passed("30/minute", 30, 60, 1_000), 59);
        assert_eq!(passed("5/10s", 2, 20, 1_000), 11);
        assert_eq!(passed("3/second", 1, 100, 1_000), 300);
    }

    #[test]
    fn the_largest_values_fit() {
        use crate::policy::limits::{MAX_RATE_COUNT, MAX_REFILL};
        let rate = Rate::parse("1/day").unwrap();
        assert!(tolerance_ns(rate, 365) < nanoseconds(MAX_REFILL));
        let rate = Rate::parse(&format!("{MAX_RATE_COUNT}/second")).unwrap();
        assert_eq!(interval_ns(rate), 1_000);
        assert_eq!(tolerance_ns(rate, MAX_RATE_COUNT), 999_999_000);
    }
}
