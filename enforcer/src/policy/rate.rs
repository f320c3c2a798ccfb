//! How often: `30/minute`, `5/10s`.

use std::fmt;
use std::time::Duration;

use super::diagnostics::{Fault, quote};
use super::duration;
use super::limits::{MAX_RATE_COUNT, MAX_RATE_PERIOD};

/// A number of actions in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    period: Duration,
}

impl Rate {
    /// The number of actions: at least 1.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The period they come in: at least a second.
    pub fn period(self) -> Duration {
        self.period
    }

    /// The time from one action to the next, rounded up so that the rate is never exceeded.
    pub fn interval(self) -> Duration {
        let nanos = self.period.as_nanos().div_ceil(u128::from(self.count));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The time in which a number of actions comes due.
    pub(crate) fn refill(self, burst: u32) -> Duration {
        self.interval().saturating_mul(burst)
    }

    /// Reads a rate.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let (count, period) = text.split_once('/').ok_or_else(|| malformed(text))?;
        let count = parse_count(text, count)?;
        let period = parse_period(period).ok_or_else(|| malformed(text))?;
        if period.is_zero() || period > MAX_RATE_PERIOD {
            let longest = duration::format(MAX_RATE_PERIOD);
            return Err(Fault::new(format!(
                "the period of {} is not between `1s` and `{longest}`",
                quote(text)
            ))
            .with_help("write a period such as `minute`, `hour`, `day` or `10s`"));
        }
        Ok(Self { count, period })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = duration::format(self.period);
        let period = match period.as_str() {
            "1s" => "second",
            "1m" => "minute",
            "1h" => "hour",
            "1d" => "day",
            other => other,
        };
        write!(f, "{}/{period}", self.count)
    }
}

fn parse_count(text: &str, count: &str) -> Result<u32, Fault> {
    match count.parse::<u64>() {
        Ok(0) => {
            Err(Fault::new("a rate of 0 allows nothing").with_help("write `action = \"block\"` instead"))
        }
        Ok(count) => u32::try_from(count).ok().filter(|&count| count <= MAX_RATE_COUNT).ok_or_else(|| {
            Fault::new(format!("the rate {} is over the limit of {MAX_RATE_COUNT}", quote(text)))
                .with_help("write a smaller number, or `action = \"allow\"`")
        }),
        Err(_) => Err(malformed(text)),
    }
}

fn parse_period(text: &str) -> Option<Duration> {
    let is_unit = matches!(text, "s" | "m" | "h" | "d" | "second" | "minute" | "hour" | "day");
    if is_unit { duration::unit_from_word(text) } else { duration::parse(text).ok() }
}

fn malformed(text: &str) -> Fault {
    let fault = Fault::new(format!("{} is not a rate", quote(text)));
    match lenient(text) {
        Some(rate) => fault.with_help(format!("write `\"{rate}\"`")),
        None => fault.with_help("write a number and a period, such as `\"30/minute\"` or `\"5/10s\"`"),
    }
}

/// What a rate in other spellings probably means: `30 per minute`, `30/min`.
fn lenient(text: &str) -> Option<Rate> {
    let text = text.to_lowercase().replace(" per ", "/").replace(" a ", "/").replace(' ', "");
    let (count, unit) = text.split_once('/')?;
    let count = count.parse().ok().filter(|count| (1..=MAX_RATE_COUNT).contains(count))?;
    Some(Rate { count, period: duration::unit_from_word(unit)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_long_and_short_form() {
        for (text, count, seconds, shown) in [
            ("30/minute", 30, 60, "30/minute"),
            ("5/s", 5, 1, "5/second"),
            ("100/hour", 100, 3_600, "100/hour"),
            ("1000/d", 1000, 86_400, "1000/day"),
            ("5/10s", 5, 10, "5/10s"),
            ("7/1m30s", 7, 90, "7/1m30s"),
        ] {
            let rate = Rate::parse(text).unwrap();
            assert_eq!((rate.count(), rate.period()), (count, Duration::from_secs(seconds)), "{text}");
            assert_eq!(rate.to_string(), shown);
        }
    }

    #[test]
    fn intervals_round_up() {
        assert_eq!(Rate::parse("3/second").unwrap().interval(), Duration::from_nanos(333_333_334));
        assert_eq!(Rate::parse("30/minute").unwrap().interval(), Duration::from_secs(2));
    }

    #[test]
    fn bad_rates_say_what_to_write() {
        for (text, help) in [
            ("30 per minute", "write `\"30/minute\"`"),
            ("30/min", "write `\"30/minute\"`"),
            ("0/minute", "write `action = \"block\"` instead"),
            ("30", "write a number and a period, such as `\"30/minute\"` or `\"5/10s\"`"),
            ("x/minute", "write a number and a period, such as `\"30/minute\"` or `\"5/10s\"`"),
            ("30/0s", "write a period such as `minute`, `hour`, `day` or `10s`"),
            ("30/365d", "write a period such as `minute`, `hour`, `day` or `10s`"),
            ("9999999/s", "write a smaller number, or `action = \"allow\"`"),
        ] {
            assert_eq!(Rate::parse(text).unwrap_err().help(), Some(help), "{text}");
        }
    }
}
