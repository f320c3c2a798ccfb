//! Rates by the generic cell rate algorithm: one number for a bucket, no refilling, no timer.
//!
//! The number is the *theoretical arrival time*: when the next action would arrive if all came at exactly the
//! rate. An action conforms when that time is at most the tolerance ahead of now, and then moves it on by one
//! interval (ITU-T I.371, annex A). With interval T and burst B the tolerance is (B - 1) × T.

/// What taking a token comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// It conforms; the bucket becomes this.
    Taken(u64),
    /// None is there.
    None,
}

/// Takes a token from a bucket that holds `arrival_ns`, at `now_ns` of the same clock. An empty (zero) bucket is
/// a full one.
#[inline(always)]
#[must_use]
pub fn take(arrival_ns: u64, now_ns: u64, interval_ns: u64, tolerance_ns: u64) -> Token {
    let arrival = if arrival_ns > now_ns { arrival_ns } else { now_ns };
    if arrival - now_ns > tolerance_ns {
        Token::None
    } else {
        Token::Taken(arrival.saturating_add(interval_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::{Token, take};

    /// How many of `tries` at one instant pass from a bucket that is full.
    fn burst(interval: u64, tolerance: u64, tries: usize) -> usize {
        let mut bucket = 0;
        (0..tries)
            .filter(|_| match take(bucket, 1_000_000, interval, tolerance) {
                Token::Taken(next) => {
                    bucket = next;
                    true
                }
                Token::None => false,
            })
            .count()
    }

    #[test]
    fn the_burst_is_what_was_written() {
        assert_eq!(burst(100, 0, 10), 1);
        assert_eq!(burst(100, 400, 10), 5);
    }

    #[test]
    fn tokens_come_back_one_an_interval() {
        let Token::Taken(bucket) = take(0, 1000, 100, 0) else { panic!("full") };
        assert_eq!(take(bucket, 1099, 100, 0), Token::None);
        assert_eq!(take(bucket, 1100, 100, 0), Token::Taken(1200));
    }

    #[test]
    fn a_long_rest_saves_up_no_more_than_the_burst() {
        let Token::Taken(bucket) = take(500, 1_000_000, 100, 100) else { panic!("full") };
        assert_eq!(bucket, 1_000_100);
    }
}
