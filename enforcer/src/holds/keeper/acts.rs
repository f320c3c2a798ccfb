//! What is done with a thread: freeze, thaw, let go on, move back.

use super::{Keeper, Resumed};
use crate::{
    holds::{
        place::{self, NotHeld, Place},
        plan::{Standing, Step, ends},
        proc::{self, Signals},
    },
    kernel::{self, clock::now_ns},
};
use enforcer_common::hold::{Hold, ThreadKey, Waiter, state};
use std::collections::HashSet;

/// How many cgroups that could not be removed are tried again with each look.
const LEFT_AT_ONCE: usize = 256;

impl Keeper {
    /// Does a step.
    pub(super) fn take(&mut self, thread: &ThreadKey, waiter: Option<Waiter>, step: Step) {
        match (step, waiter) {
            (Step::Hold, Some(waiter)) if waiter.state == state::STOPPED => self.hold_stopped(thread.tgid),
            (Step::Hold, Some(waiter)) => self.hold(thread, &waiter),
            (Step::Resume, _) => self.resume(thread.tgid),
            (Step::AskAgain, _) => self.ask_again(thread),
            (Step::Thaw, _) => self.thaw_thread(thread),
            (Step::Leave, _) => self.leave(thread),
            (Step::Forget, _) => self.forget(thread),
            (Step::Hold, None) | (Step::Nothing, _) => {}
        }
    }

    /// Freezes a thread, and sees what came between.
    fn hold(&mut self, thread: &ThreadKey, waiter: &Waiter) {
        if self.freeze(thread, waiter) && self.settle(thread) {
            self.resume(thread.tgid);
        }
    }

    /// Freezes all threads that wait of a process that stopped for them, and has the others go on.
    fn hold_stopped(&mut self, tgid: u32) {
        let mut frozen = Vec::new();
        for (thread, waiter) in self.waiters_of(tgid).into_iter().filter(|(_, waiter)| !ends(waiter)) {
            let is_frozen = matches!(self.shared.table().standing(&thread), Standing::Frozen { .. });
            if is_frozen || self.freeze(&thread, &waiter) {
                frozen.push(thread);
            }
            self.keep_up_meanwhile();
        }
        self.resume(tgid);
        for thread in frozen {
            self.settle(&thread);
        }
    }

    /// Freezes a thread; whether it is frozen.
    fn freeze(&mut self, thread: &ThreadKey, waiter: &Waiter) -> bool {
        let before = {
            let mut table = self.shared.table();
            let before = table.get(thread).and_then(|held| held.place.clone());
            table.enter(*thread, *waiter);
            before
        };
        // The kernel tells of signals from here on.
        self.tell_frozen();
        let wish = Hold::from_number(waiter.hold).unwrap_or(Hold::Thread);
        match place::hold(thread, wish, self.shared.mount(), &mut self.left) {
            Ok(place) => {
                // Somebody moved it meanwhile.
                self.left.extend(before.map(|before| before.hold).filter(|hold| *hold != place.hold));
                self.shared.table().froze(thread, place, now_ns());
                true
            }
            Err(NotHeld::Gone) => {
                self.bury(thread);
                false
            }
            Err(NotHeld::Refused(error)) => {
                self.trouble("a thread that waits cannot be held, so its call fails", &error);
                self.leave(thread);
                let refused = self.shared.refuse(thread, None);
                self.note(refused);
                false
            }
        }
    }

    /// Sees what came while a thread was being frozen: its last turn; the answer, which found nobody to thaw; a signal.
    /// Whether its process stopped for it.
    fn settle(&mut self, thread: &ThreadKey) -> bool {
        let waiter = match self.shared.kernel.holds().waiter(thread) {
            Ok(waiter) => waiter,
            Err(error) => {
                self.trouble("a thread that waits cannot be looked up", &error);
                return false;
            }
        };
        if let Some(waiter) = waiter {
            self.shared.table().set_waiter(thread, waiter);
        }
        match self.step_for(thread, waiter, None) {
            step @ (Step::Thaw | Step::AskAgain) => self.take(thread, waiter, step),
            _ if has_signal_to_take(thread, waiter.as_ref()) => self.thaw_thread(thread),
            step => return step == Step::Resume,
        }
        waiter.is_some_and(|waiter| waiter.state == state::STOPPED)
    }

    /// Has a process go on that stopped for threads that are frozen now.
    fn resume(&mut self, tgid: u32) {
        let mut stopped = self.waiters_of(tgid);
        stopped.retain(|(_, waiter)| matches!(waiter.state, state::STOPPED | state::REFUSED));
        let Some((first, _)) = stopped.first() else { return };
        self.shared.owed().remove(&tgid);
        if !self.send_on(first) {
            return;
        }
        for (thread, waiter) in stopped {
            let is_frozen = matches!(self.shared.table().standing(&thread), Standing::Frozen { .. });
            if waiter.state == state::STOPPED && is_frozen {
                self.set_waiter(&thread, &Waiter { state: state::TURNING, ..waiter });
            }
        }
    }

    fn set_waiter(&mut self, thread: &ThreadKey, waiter: &Waiter) {
        if let Err(error) = self.shared.kernel.holds().set_waiter(thread, waiter) {
            self.trouble("the kernel cannot be told of a thread that waits", &error);
        }
    }

    /// Thaws a thread as one that does not wait.
    fn ask_again(&mut self, thread: &ThreadKey) {
        self.forget(thread);
        self.thaw_thread(thread);
    }

    pub(super) fn thaw_thread(&mut self, thread: &ThreadKey) {
        let places = self.shared.table().thaw(|held, _| held == thread, now_ns());
        self.thaw(&places);
    }

    pub(super) fn thaw(&mut self, places: &[Place]) {
        for place in places {
            if let Err(error) = place.thaw() {
                self.trouble("a cgroup cannot be thawed", &error);
            }
        }
    }

    /// The thread waits no longer, or begins anew.
    fn forget(&mut self, thread: &ThreadKey) {
        let forgotten = self.shared.forget(thread);
        self.note(forgotten);
    }

    /// Tells where the kernel could not be told that a thread waits no longer.
    fn note(&mut self, told: Result<(), kernel::Error>) {
        if let Err(error) = told {
            self.trouble("the kernel cannot be told of a thread that waits no longer", &error);
        }
    }

    /// Has the processes go on that stopped for a thread which waits no longer.
    pub(super) fn resume_owed(&mut self) {
        let owed = std::mem::take(&mut *self.shared.owed());
        for thread in owed.values() {
            self.send_on(thread);
        }
    }

    /// Sends a process the `SIGCONT` that it needs since it stopped for this thread, and knows the signal for its own;
    /// whether nothing was in the way.
    fn send_on(&mut self, thread: &ThreadKey) -> bool {
        let from_ns = now_ns();
        let sent = proc::resume(thread);
        self.resumed.push(Resumed { tgid: thread.tgid, from_ns, to_ns: now_ns() });
        match sent {
            Err(error) if !proc::is_gone(&error) => {
                self.trouble("a process that stopped for a thread that waits does not go on", &error);
                false
            }
            _ => true,
        }
    }

    /// Moves a thread back to where it lives.
    fn leave(&mut self, thread: &ThreadKey) {
        let place = self.shared.table().remove(thread);
        if let Some(place) = place {
            self.give_back(&place);
        }
    }

    /// Removes all there is of a thread that is dead.
    pub(super) fn bury(&mut self, thread: &ThreadKey) {
        self.forget(thread);
        self.leave(thread);
    }

    /// Removes a cgroup in which nobody is held any more.
    fn give_back(&mut self, place: &Place) {
        match place.give_back() {
            Ok(()) => return,
            // Somebody in it is dying.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => self.trouble("a cgroup in which threads were held cannot be removed", &error),
        }
        self.left.push(place.hold.clone());
    }

    /// Tries once more to remove what could not be removed, unless somebody is held there again.
    pub(super) fn give_back_left(&mut self) {
        let mut left = std::mem::take(&mut self.left);
        let mut seen = HashSet::new();
        left.retain(|hold| seen.insert(hold.clone()));
        let later = left.split_off(left.len().min(LEFT_AT_ONCE));
        for hold in left {
            if !self.shared.table().is_used(&hold) {
                self.give_back(&Place::found(&hold));
            }
            self.attend_meanwhile();
        }
        // Those that were tried come last the next time.
        self.left.splice(0..0, later);
    }
}

/// Whether a signal waits that a thread is to take.
pub(super) fn has_signal_to_take(thread: &ThreadKey, waiter: Option<&Waiter>) -> bool {
    Signals::of(thread).is_some_and(|signals| signals.has_one_to_take(waiter))
}
