//! The clock of the kernel programs, and how it stands to the clock on the wall.

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot, those asleep included: what events, requests and grants carry.
#[must_use]
pub fn now_ns() -> u64 {
    // The call cannot fail for a clock that exists since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// The offset between the two clocks at one moment: the wall's is adjusted now and then.
#[derive(Clone, Copy, Debug)]
pub struct Wall {
    boot_ns: u64,
    wall: Timestamp,
}

impl Wall {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        Self { boot_ns: now_ns(), wall: Timestamp::now() }
    }

    /// The time on the wall of a time since boot.
    #[must_use]
    pub fn at(&self, boot_ns: u64) -> Timestamp {
        let ahead = boot_ns as i64 - self.boot_ns as i64;
        self.wall.checked_add(SignedDuration::from_nanos(ahead)).unwrap_or(self.wall)
    }

    /// The time since boot when this was taken.
    #[must_use]
    pub fn boot_ns(&self) -> u64 {
        self.boot_ns
    }
}

#[cfg(test)]
mod tests {
    use super::{Wall, now_ns};
    use jiff::{SignedDuration, Timestamp};

    #[test]
    fn times_since_boot_are_told_by_the_wall() {
        let wall = Wall { boot_ns: 5_000_000_000, wall: Timestamp::UNIX_EPOCH };
        assert_eq!(wall.at(6_500_000_000).to_string(), "1970-01-01T00:00:01.5Z");
        assert_eq!(wall.at(4_000_000_000).to_string(), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn now_is_now() {
        let apart = Wall::now().at(now_ns()).duration_since(Timestamp::now());
        assert!(apart.abs() < SignedDuration::from_secs(1), "{apart}");
    }
}
