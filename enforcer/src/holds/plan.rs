//! What is to be done with a thread that waits, or waited: a function of what is seen of it.

use enforcer_common::{
    hold::{Waiter, state},
    limits::{TURN_SHORT_NS, TURN_SOON_NS},
};

const MS: u64 = 1_000_000;

/// How long after its last turn a thread that is not held is taken for one that turns.
pub(super) const TURNS_NS: u64 = 1_000 * MS;
/// The same where a handler of its runs before the turn.
pub(super) const HANDLER_NS: u64 = 10_000 * MS;
/// How long a thread may take to stop once it is to be frozen.
const STOPS_NS: u64 = 5 * MS;
/// How long a released thread stays where it was held. It may wait again at once, and to go back and forth is dear.
const TIDY_NS: u64 = 100 * MS;

/// Where a thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Where it lives; or nobody knows.
    Free,
    /// On its way into a frozen cgroup.
    Entering,
    /// In a frozen cgroup, since then.
    Frozen {
        /// Nanoseconds since boot.
        since_ns: u64,
    },
    /// In a cgroup that was thawed then.
    Thawed {
        /// Nanoseconds since boot.
        since_ns: u64,
    },
}

/// What is seen of a thread that lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// What it waits for.
    pub(super) waiter: Option<Waiter>,
    /// Where it stands.
    pub(super) standing: Standing,
    /// Of a free thread that did not turn of late: whether it stopped, or is in a cgroup that threads are held in. Of one
    /// that was thawed: whether it cannot turn, since it stopped, or its agent is frozen.
    pub(super) is_parked: bool,
    /// Of a frozen thread: whether what it waits for may still come.
    pub(super) may_come: bool,
    /// When its agent got another policy, which may decide otherwise; 0 where it did not.
    pub(super) replaced_ns: u64,
    /// Now.
    pub(super) now_ns: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, for now.
    Nothing,
    /// Freeze it, also where it was frozen before.
    Hold,
    /// It is frozen; its process can go on.
    Resume,
    /// Thaw it: its wait is over.
    Thaw,
    /// Thaw it as one that does not wait, so that it asks again.
    AskAgain,
    /// Move it back.
    Leave,
    /// It waits no longer, and said nothing.
    Forget,
}

/// What is to be done with a thread.
pub(super) fn plan(sight: &Sight) -> Step {
    let after = |then_ns: u64| sight.now_ns.saturating_sub(then_ns);
    match (sight.standing, &sight.waiter) {
        (Standing::Entering, _) | (Standing::Free, None) => Step::Nothing,
        (Standing::Free, Some(waiter)) => free(sight, waiter),
        (Standing::Frozen { .. }, None) => Step::Thaw,
        (Standing::Frozen { since_ns }, Some(waiter)) => {
            if ends(waiter) || waiter.turned_ns < sight.replaced_ns {
                Step::Thaw
            } else if waiter.turned_ns > since_ns + STOPS_NS {
                Step::Hold
            } else if !sight.may_come {
                Step::AskAgain
            } else if waiter.state == state::STOPPED {
                Step::Resume
            } else {
                Step::Nothing
            }
        }
        (Standing::Thawed { since_ns }, None) if after(since_ns) >= TIDY_NS => Step::Leave,
        (Standing::Thawed { .. }, None) => Step::Nothing,
        (Standing::Thawed { since_ns }, Some(waiter)) => {
            let turned = waiter.turned_ns > since_ns;
            if turned && !ends(waiter) && !is_soon(waiter, sight.now_ns) {
                Step::Hold
            } else if !sight.is_parked && after(since_ns) >= TURNS_NS && after(waiter.turned_ns) >= TURNS_NS {
                Step::Leave
            } else {
                Step::Nothing
            }
        }
    }
}

fn free(sight: &Sight, waiter: &Waiter) -> Step {
    let since_turn = sight.now_ns.saturating_sub(waiter.turned_ns);
    let patience = if waiter.state == state::INTERRUPTED { HANDLER_NS } else { TURNS_NS };
    if waiter.state == state::REFUSED && sight.is_parked {
        // It stopped in the instant in which it was refused.
        Step::Resume
    } else if ends(waiter) {
        if since_turn < patience { Step::Nothing } else { Step::Forget }
    } else if sight.is_parked {
        Step::Hold
    } else if since_turn >= patience {
        Step::Forget
    } else if is_soon(waiter, sight.now_ns) {
        Step::Nothing
    } else {
        Step::Hold
    }
}

/// Whether its next turn ends the call.
pub(super) fn ends(waiter: &Waiter) -> bool {
    matches!(waiter.state, state::INTERRUPTED | state::REFUSED)
}

/// Whether what it waits for comes sooner than it could be frozen; see [`TURN_SHORT_NS`] and [`TURN_SOON_NS`]. Not where it
/// stopped: then nothing comes.
fn is_soon(waiter: &Waiter, now_ns: u64) -> bool {
    waiter.state != state::STOPPED
        && waiter.due_ns != 0
        && waiter.due_ns < now_ns + TURN_SHORT_NS
        && now_ns.saturating_sub(waiter.turning_ns) < TURN_SOON_NS
}

#[cfg(test)]
mod tests {
    use super::{HANDLER_NS, MS, Sight, Standing, Step, TIDY_NS, TURNS_NS, plan};
    use crate::holds::tests::waiter;
    use enforcer_common::hold::{Waiter, state};

    const NOW: u64 = 100_000 * MS;

    fn seen(standing: Standing, waiter: Option<Waiter>) -> Sight {
        Sight { waiter, standing, is_parked: false, may_come: true, replaced_ns: 0, now_ns: NOW }
    }

    fn turned(ago_ns: u64, state: u32) -> Option<Waiter> {
        Some(Waiter { turned_ns: NOW - ago_ns, state, ..waiter() })
    }

    #[test]
    fn whoever_turns_is_frozen_and_whoever_does_not_is_forgotten() {
        let free = |waiter| plan(&seen(Standing::Free, waiter));
        assert_eq!(free(None), Step::Nothing);
        assert_eq!(free(turned(MS, state::TURNING)), Step::Hold);
        assert_eq!(free(turned(MS, state::STOPPED)), Step::Hold);
        assert_eq!(free(turned(TURNS_NS, state::TURNING)), Step::Forget);
        assert_eq!(free(turned(TURNS_NS, state::STOPPED)), Step::Forget, "it went elsewhere");
        let refused = Sight { is_parked: true, ..seen(Standing::Free, turned(HANDLER_NS, state::REFUSED)) };
        assert_eq!(plan(&refused), Step::Resume);
        for parked in [state::TURNING, state::STOPPED] {
            let sight = Sight { is_parked: true, ..seen(Standing::Free, turned(HANDLER_NS, parked)) };
            assert_eq!(plan(&sight), Step::Hold);
        }
    }

    #[test]
    fn a_call_that_is_about_to_end_is_let_end() {
        let free = |waiter| plan(&seen(Standing::Free, waiter));
        assert_eq!(free(turned(MS, state::REFUSED)), Step::Nothing);
        assert_eq!(free(turned(TURNS_NS, state::REFUSED)), Step::Forget);
        assert_eq!(free(turned(TURNS_NS, state::INTERRUPTED)), Step::Nothing);
        assert_eq!(free(turned(HANDLER_NS, state::INTERRUPTED)), Step::Forget);
        let soon = |state, since| {
            turned(MS, state).map(|waiter| Waiter { due_ns: NOW + MS, turning_ns: NOW - since, ..waiter })
        };
        assert_eq!(free(soon(state::TURNING, 2 * MS)), Step::Nothing);
        assert_eq!(free(soon(state::STOPPED, 2 * MS)), Step::Hold);
        assert_eq!(free(soon(state::TURNING, 60 * MS)), Step::Hold, "others take the tokens");
    }

    #[test]
    fn a_frozen_thread_stays_until_nothing_can_come_any_more() {
        let frozen = Standing::Frozen { since_ns: NOW - 50 * MS };
        let step = |waiter| plan(&seen(frozen, waiter));
        assert_eq!(step(turned(51 * MS, state::TURNING)), Step::Nothing);
        assert_eq!(step(turned(49 * MS, state::TURNING)), Step::Nothing, "it takes a while to stop");
        assert_eq!(step(turned(10 * MS, state::TURNING)), Step::Hold, "it is not where it was put");
        assert_eq!(step(turned(51 * MS, state::STOPPED)), Step::Resume);
        assert_eq!(step(None), Step::Thaw);
        assert_eq!(step(turned(51 * MS, state::INTERRUPTED)), Step::Thaw, "a handler ran just before");
        let replaced = Sight { replaced_ns: NOW - 40 * MS, ..seen(frozen, turned(51 * MS, state::TURNING)) };
        assert_eq!(plan(&replaced), Step::Thaw, "another policy may decide otherwise");
        let asked = Sight { replaced_ns: NOW - 60 * MS, ..replaced };
        assert_eq!(plan(&asked), Step::Nothing);
        let lost = Sight { may_come: false, ..seen(frozen, turned(51 * MS, state::TURNING)) };
        assert_eq!(plan(&lost), Step::AskAgain);
    }

    #[test]
    fn a_thawed_thread_goes_back_or_waits_again() {
        let step = |ago_ns, waiter| plan(&seen(Standing::Thawed { since_ns: NOW - ago_ns }, waiter));
        assert_eq!(step(MS, None), Step::Nothing);
        assert_eq!(step(TIDY_NS, None), Step::Leave);
        assert_eq!(step(10 * MS, turned(20 * MS, state::TURNING)), Step::Nothing, "a handler may run");
        assert_eq!(step(10 * MS, turned(MS, state::TURNING)), Step::Hold);
        assert_eq!(step(10 * MS, turned(MS, state::INTERRUPTED)), Step::Nothing);
        assert_eq!(step(TURNS_NS, turned(2 * TURNS_NS, state::TURNING)), Step::Leave);
        let thawed = Standing::Thawed { since_ns: NOW - 9 * TURNS_NS };
        let frozen_above = Sight { is_parked: true, ..seen(thawed, turned(10 * TURNS_NS, state::TURNING)) };
        assert_eq!(plan(&frozen_above), Step::Nothing, "its agent is frozen, and may go on yet");
    }

    #[test]
    fn nothing_is_done_with_a_thread_that_is_being_moved() {
        assert_eq!(plan(&seen(Standing::Entering, turned(MS, state::TURNING))), Step::Nothing);
    }
}
