//! Facts → decision → what the hook returns, with the count and the event in between.

use crate::{
    emit::{self, What},
    maps::AGENTS,
    paths,
    scratch::Claim,
    tables::{Actor, KernelTables, Object},
    walk::Walk,
};
use enforcer_common::{
    action::{Access, ActionKind, Endpoint},
    agent::Act,
    decide::{self, Facts},
    path::Matched,
    rule::Rule,
    verdict::{Decision, Reason, Verdict},
};

/// The entry of an agent.
#[inline(always)]
pub(crate) fn actor(agent: u64) -> Option<Actor> {
    // SAFETY: the value is copied at once; an update replaces it whole.
    unsafe { AGENTS.get(agent) }.map(|entry| Actor::new(agent, entry))
}

/// A decision that was counted and told, and what a later hook of the same act may have to undo.
pub(crate) struct Judged {
    /// What becomes of the action.
    pub(crate) verdict: Verdict,
    /// What the hook returns.
    pub(crate) errno: i32,
    /// The record of it.
    pub(crate) act: Act,
}

/// What a decision came to, before it is told.
struct Settled {
    decision: Decision,
    content: u64,
    log_all: bool,
    token_ns: u64,
    hash: [u64; 2],
    filed: u64,
}

impl Settled {
    #[inline(always)]
    fn refuse(reason: Reason) -> Self {
        Self {
            decision: Decision::refuse(reason),
            content: 0,
            log_all: true,
            token_ns: 0,
            hash: [0; 2],
            filed: 0,
        }
    }
}

/// Has an action decided. `check` may refuse what the rule allows, for reasons that only the hook sees.
#[inline(always)]
fn settle(
    actor: &Actor,
    object: Object<'_>,
    facts: &Facts,
    check: impl FnOnce(&Rule) -> Option<Reason>,
) -> Settled {
    let Some(tables) = KernelTables::new(actor, object) else { return Settled::refuse(Reason::NoTable) };
    let Some((index, rule)) = decide::find(&tables, facts) else { return Settled::refuse(Reason::NoTable) };
    let mut decision = decide::apply(&tables, index, rule);
    if let Verdict::Sandbox = decision.verdict
        && let Some(reason) = check(rule)
    {
        decision = Decision { verdict: Verdict::Block, reason, rule: index };
    }
    Settled {
        decision,
        content: rule.content,
        log_all: rule.log_all == 1,
        token_ns: tables.token_ns.get(),
        hash: tables.hash.get(),
        filed: tables.filed.get(),
    }
}

/// Counts a decision, makes its event and says what the hook returns.
#[inline(always)]
fn tell(actor: &Actor, object: &Object<'_>, kind: ActionKind, settled: &Settled, flags: u8) -> Judged {
    let Decision { verdict, reason, rule } = settled.decision;
    emit::count(actor.agent, settled.content, verdict, 1);
    // A request that waits makes one event, when it is filed; in audit mode none is filed, and each says so.
    let again = matches!(verdict, Verdict::Escalate) && settled.filed == 0 && !actor.audit;
    let mut id = 0;
    if (!matches!(verdict, Verdict::Allow) || settled.log_all) && !again {
        id = emit::next_id();
        let what = What {
            rule,
            content: settled.content,
            verdict,
            reason,
            flags,
            object: settled.hash,
            deadline_ns: settled.filed,
            id,
        };
        emit::emit(actor, object, &what);
    }
    let undoes = matches!(reason, Reason::Granted | Reason::Rejected) || settled.filed != 0;
    Judged {
        verdict,
        errno: if actor.audit { 0 } else { verdict.errno() },
        act: Act {
            event: id,
            folder: 0,
            name: 0,
            token: if settled.token_ns == 0 { 0 } else { settled.content },
            interval_ns: settled.token_ns,
            object: if undoes { settled.hash } else { [0; 2] },
            rule_content: settled.content,
            rule,
            kind: kind as u8,
            verdict: verdict as u8,
            reason: reason as u8,
            tentative: 0,
        },
    }
}

/// Decides a connect or a send.
#[inline(always)]
pub(crate) fn network(
    agent: u64,
    kind: ActionKind,
    endpoint: Endpoint,
    check: impl FnOnce(&Actor, &Rule) -> Option<Reason>,
) -> Judged {
    let object = Object::Endpoint { kind, endpoint };
    let Some(actor) = actor(agent) else {
        return tell(&Actor::unknown(agent), &object, kind, &Settled::refuse(Reason::NoPolicy), 0);
    };
    let settled = settle(&actor, object, &Facts::Network(endpoint), |rule| check(&actor, rule));
    tell(&actor, &object, kind, &settled, 0)
}

/// A refusal of a network action for a reason that no rule has.
#[inline(always)]
pub(crate) fn refuse_network(agent: u64, kind: ActionKind, endpoint: Endpoint, reason: Reason) -> i32 {
    let object = Object::Endpoint { kind, endpoint };
    let actor = actor(agent).unwrap_or(Actor::unknown(agent));
    tell(&actor, &object, kind, &Settled::refuse(reason), 0).errno
}

/// The actor, and what a path in working memory matches.
#[inline(always)]
fn classify(agent: u64, claim: &Claim, walked: Walk) -> Result<Actor, (Actor, Reason)> {
    let Some(actor) = actor(agent) else { return Err((Actor::unknown(agent), Reason::NoPolicy)) };
    let reason = match walked {
        Walk::TooLong => Reason::PathTooLong,
        Walk::Disconnected => Reason::Disconnected,
        // No rule can name it: the default decides.
        Walk::Private => {
            // SAFETY: the area is claimed.
            unsafe { (*claim.area).matched = Matched::NOTHING };
            return Ok(actor);
        }
        Walk::Rooted => match paths::match_path(claim, actor.slot) {
            Some(()) => return Ok(actor),
            None => Reason::NoTable,
        },
    };
    Err((actor, reason))
}

/// Decides an open, a create or an exec of the path in working memory.
#[inline(always)]
pub(crate) fn path(
    agent: u64,
    kind: ActionKind,
    access: Access,
    claim: &Claim,
    walked: Walk,
    flags: u8,
) -> Judged {
    let object = Object::Path { kind, access, claim };
    match classify(agent, claim, walked) {
        Ok(actor) => {
            // SAFETY: the area is claimed.
            let matched = unsafe { (*claim.area).matched };
            let settled = settle(&actor, object, &Facts::Path { access, matched }, |_| None);
            tell(&actor, &object, kind, &settled, flags)
        }
        Err((actor, reason)) => tell(&actor, &object, kind, &Settled::refuse(reason), flags),
    }
}

/// Decides on the interpreter of a program whose exec was decided before, as `before` records. What that rule
/// covers too is the same decision; what is allowed is part of it; only a refusal replaces it.
#[inline(always)]
pub(crate) fn interpreter(agent: u64, before: &Act, claim: &Claim, walked: Walk) -> i32 {
    let object = Object::Path { kind: ActionKind::Exec, access: Access::EXEC, claim };
    let (actor, settled) = match classify(agent, claim, walked) {
        Ok(actor) => {
            // SAFETY: the area is claimed.
            let facts = Facts::Path { access: Access::EXEC, matched: unsafe { (*claim.area).matched } };
            let Some(tables) = KernelTables::new(&actor, object) else { return Verdict::Block.errno() };
            match decide::find(&tables, &facts) {
                Some((_, rule)) if rule.content == before.rule_content => return 0,
                _ => {}
            }
            let settled = settle(&actor, object, &facts, |_| None);
            (actor, settled)
        }
        Err((actor, reason)) => (actor, Settled::refuse(reason)),
    };
    if let Verdict::Allow = settled.decision.verdict {
        return 0;
    }
    emit::withdraw(&actor, before);
    tell(&actor, &object, ActionKind::Exec, &settled, 0).errno
}
