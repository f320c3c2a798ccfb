//! Durations as a policy writes them: `30s`, `5m`, `1h30m`, `2d`. Whole numbers, the largest unit first, each
//! unit at most once.

use std::time::Duration;

use super::diagnostics::{Fault, quote};

/// The units with the seconds they have, the largest first.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Reads a duration.
pub(crate) fn parse(text: &str) -> Result<Duration, Fault> {
    strict(text).ok_or_else(|| {
        let fault = Fault::new(format!("{} is not a duration", quote(text)));
        match lenient(text).filter(|duration| !duration.is_zero()) {
            Some(meant) => fault.with_help(format!("write `\"{}\"`", format(meant))),
            None => fault.with_help(
                "write numbers with `d`, `h`, `m` or `s`, such as `\"30s\"`, `\"5m\"` or `\"1h30m\"`",
            ),
        }
    })
}

/// Writes a duration as [`parse`] reads it; parts of a second are dropped.
pub(crate) fn format(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (unit, seconds) in UNITS {
        if rest >= seconds {
            text.push_str(&format!("{}{unit}", rest / seconds));
            rest %= seconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn strict(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail.chars().next()?;
        let (_, seconds) = units.find(|(known, _)| *known == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*seconds)?)?;
        rest = tail.get(unit.len_utf8()..)?;
    }
    (!text.is_empty()).then_some(Duration::from_secs(total))
}

/// What a duration in other spellings probably means: `5 minutes`, `1.5h`, `1w`, `90` for seconds.
fn lenient(text: &str) -> Option<Duration> {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
    let mut total = 0.0;
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at_checked(number_len)?;
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_len)?;
        total += number.parse::<f64>().ok()? * unit_seconds(unit)?;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).ok()
}

#[expect(clippy::cast_precision_loss, reason = "a day has fewer seconds than a float has bits")]
fn unit_seconds(unit: &str) -> Option<f64> {
    match unit {
        "" => Some(1.0),
        "ms" | "millisecond" | "milliseconds" => Some(0.001),
        "w" | "week" | "weeks" => Some(7.0 * 86_400.0),
        _ => unit_from_word(unit).map(|duration| duration.as_secs() as f64),
    }
}

/// A unit by its letter or its name.
pub(crate) fn unit_from_word(word: &str) -> Option<Duration> {
    let seconds = match word {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_alike() {
        for (text, seconds) in
            [("30s", 30), ("5m", 300), ("1h30m", 5_400), ("2d", 172_800), ("1d2h3m4s", 93_784), ("0s", 0)]
        {
            assert_eq!(parse(text).unwrap(), Duration::from_secs(seconds), "{text}");
            assert_eq!(format(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn other_spellings_are_refused_with_the_right_one() {
        for (text, help) in [
            ("5 minutes", "write `\"5m\"`"),
            ("90", "write `\"1m30s\"`"),
            ("1.5h", "write `\"1h30m\"`"),
            ("1w", "write `\"7d\"`"),
            ("30m1h", "write `\"1h30m\"`"),
            ("5m5m", "write `\"10m\"`"),
        ] {
            assert_eq!(parse(text).unwrap_err().help(), Some(help), "{text}");
        }
    }

    #[test]
    fn nonsense_gets_the_syntax() {
        for text in ["", "m", "soon", "-5m", "999999999999999999999d", "5µs", "1..2s"] {
            assert!(parse(text).unwrap_err().help().unwrap().starts_with("write numbers"), "{text}");
        }
    }
}
