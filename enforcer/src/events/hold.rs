//! Decisions that may yet be taken back.
//!
//! The kernel runs the hook for making a file also where the file turns out to exist, and then takes the decision
//! back, within the same system call. So such a decision is told of only after a moment in which nothing took it
//! back.

use super::decode::Decided;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long that moment is. A system call that is preempted between the two hooks for longer is told of twice; it
/// is decided right all the same.
pub(super) const MOMENT: Duration = Duration::from_millis(250);

/// Decisions on hold.
#[derive(Debug, Default)]
pub(super) struct Hold(VecDeque<(Instant, Decided)>);

impl Hold {
    /// Holds a decision.
    pub(super) fn push(&mut self, decided: Decided, now: Instant) {
        self.0.push_back((now + MOMENT, decided));
    }

    /// Takes back the decision that another one voids.
    pub(super) fn void(&mut self, void: &Decided) -> Option<Decided> {
        // The newest is the likeliest.
        let at = self.0.iter().rposition(|(_, held)| held.event.id == void.event.id)?;
        self.0.remove(at).map(|(_, held)| held)
    }

    /// The next decision that nothing took back in time.
    pub(super) fn due(&mut self, now: Instant) -> Option<Decided> {
        self.0.pop_front_if(|(until, _)| *until <= now).map(|(_, decided)| decided)
    }

    /// When the next is due.
    #[must_use]
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::{Hold, MOMENT};
    use crate::{
        agents::names::Names,
        events::decode::{Decided, tests::event},
        kernel::clock::Wall,
    };
    use enforcer_common::event::{Event, flag};
    use std::time::{Duration, Instant};

    fn decided(id: u64, flags: u8) -> Decided {
        Decided::new(Event { id, flags, ..event() }, b"/a", &Names::default(), &Wall::now())
    }

    #[test]
    fn what_is_taken_back_is_never_told() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        hold.push(decided(1, flag::TENTATIVE), now);
        hold.push(decided(2, flag::TENTATIVE), now);
        assert_eq!(hold.void(&decided(1, flag::VOID)).map(|held| held.event.id), Some(1));
        assert_eq!(hold.due(now + MOMENT).map(|held| held.event.id), Some(2));
        assert!(hold.due(now + MOMENT).is_none());
        assert!(hold.void(&decided(2, flag::VOID)).is_none());
    }

    #[test]
    fn nothing_is_due_before_its_moment_is_over() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        hold.push(decided(1, flag::TENTATIVE), now);
        assert!(hold.due(now + MOMENT - Duration::from_millis(1)).is_none());
        assert_eq!(hold.next(), Some(now + MOMENT));
        assert!(hold.due(now + MOMENT).is_some());
    }
}
