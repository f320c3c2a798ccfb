//! Facts → decision → what the hook returns, with the count and the event in between.

use crate::{
    emit::{self, What},
    maps::{AGENTS, REQUESTS, rule_in},
    offsets::forget,
    paths,
    scratch::Claim,
    tables::{Actor, KernelTables, Object, Peer, Place},
    walk::Walk,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use enforcer_common::{
    action::{Access, ActionKind, Endpoint},
    address::Address,
    agent::Act,
    decide::{self, Facts},
    grant::RequestKey,
    path::Matched,
    rule::NO_RULE,
    verdict::{Reason, Verdict, errno_of},
};

/// The entry of an agent.
#[inline(always)]
pub(crate) fn actor(agent: u64) -> Option<Actor> {
    // SAFETY: the value is copied at once; an update replaces it whole.
    unsafe { AGENTS.get(agent) }.map(|entry| Actor::new(agent, entry))
}

/// A network decision that was counted and told.
#[derive(Default)]
pub(crate) struct Judged {
    /// What the hook returns.
    pub(crate) errno: i64,
    /// The number of the verdict.
    pub(crate) verdict: u64,
    /// The rule.
    pub(crate) rule: u64,
}

/// What a hook returns, in bounds that 6.12 and later can see.
#[inline(always)]
fn bounded(errno: i32) -> i32 {
    const EAGAIN: i32 = 11;
    const EPERM: i32 = 1;
    match errno {
        0 => 0,
        errno if errno == -EAGAIN => -EAGAIN,
        _ => -EPERM,
    }
}

/// What a decision came to, before it is told.
struct Settled {
    verdict: u8,
    reason: u8,
    rule: u32,
    content: u64,
    log_all: u8,
    token_ns: u64,
    hash: [u64; 2],
    filed: u64,
}

impl Settled {
    #[inline(always)]
    fn refuse(reason: Reason) -> Self {
        Self {
            verdict: Verdict::Block as u8,
            reason: reason as u8,
            rule: NO_RULE,
            content: 0,
            log_all: 1,
            token_ns: 0,
            hash: [0; 2],
            filed: 0,
        }
    }

    /// VERIFIER: what each way to a decision has left behind is forgotten, so that they all meet here.
    #[inline(always)]
    fn forget(&mut self, unknown: u64) {
        self.verdict = forget(u64::from(self.verdict), unknown) as u8;
        self.reason = forget(u64::from(self.reason), unknown) as u8;
        self.rule = forget(u64::from(self.rule), unknown) as u32;
        self.content = forget(self.content, unknown);
        self.log_all = forget(u64::from(self.log_all), unknown) as u8;
        self.token_ns = forget(self.token_ns, unknown);
        self.hash[0] = forget(self.hash[0], unknown);
        self.hash[1] = forget(self.hash[1], unknown);
        self.filed = forget(self.filed, unknown);
    }
}

/// Has an action decided.
#[inline(always)]
fn settle<O: Object>(actor: &Actor, object: &O, facts: &Facts<'_>, settled: &mut Settled) {
    settled.reason = Reason::NoTable as u8;
    let Some(tables) = KernelTables::new(actor, object) else { return };
    let Some((index, rule)) = decide::find(&tables, facts) else { return };
    let decision = decide::apply(&tables, index, rule);
    settled.verdict = decision.verdict as u8;
    settled.reason = decision.reason as u8;
    settled.rule = index;
    settled.content = rule.content;
    settled.log_all = rule.log_all;
    settled.token_ns = tables.token_ns.get();
    settled.hash = tables.hash.get();
}

/// [`settle`] for a network action. VERIFIER: not inlined, for a stack of its own.
#[inline(never)]
fn settle_network(actor: &Actor, object: &Peer<'_>, settled: &mut Settled) {
    settle(actor, object, &Facts::Network(object.endpoint), settled);
    settled.forget(actor.agent);
}

/// Files the request of a decision to escalate, unless it waits already or the agent is in audit mode. VERIFIER: not
/// inlined, for a stack of its own.
#[inline(never)]
fn request<O: Object>(actor: &Actor, object: &O, settled: &mut Settled) {
    let key = RequestKey { agent: actor.agent, rule: settled.content, object: settled.hash };
    if actor.audit != 0 || REQUESTS.get_ptr(key).is_some() {
        return;
    }
    let Some(rule) = rule_in(actor.slot, settled.rule) else { return };
    // SAFETY: a helper without arguments.
    let deadline_ns = unsafe { bpf_ktime_get_boot_ns() }.saturating_add(rule.timeout_ns);
    let what = What {
        rule: settled.rule,
        content: settled.content,
        verdict: settled.verdict,
        reason: settled.reason,
        flags: 0,
        object: settled.hash,
        deadline_ns,
        id: 0,
    };
    if object.file(actor, &what, &key) {
        settled.filed = deadline_ns;
    } else {
        settled.verdict = Verdict::Block as u8;
        settled.reason = Reason::RequestsFull as u8;
    }
}

/// [`settle`] for a path. VERIFIER: not inlined, for a stack of its own.
#[inline(never)]
fn settle_path(actor: &Actor, object: &Place<'_>, walked: u64, settled: &mut Settled) {
    match classify(actor, object.claim, walked) {
        Some(reason) => settled.reason = reason as u8,
        None => settle(actor, object, &facts(object), settled),
    }
    settled.forget(actor.agent);
}

/// The facts of a path that was matched.
#[inline(always)]
fn facts<'a>(object: &Place<'_>) -> Facts<'a> {
    // SAFETY: the area is claimed.
    let matched = unsafe { (&raw const (*object.claim.area).matched).read_volatile() };
    Facts::Path { access: Access(object.access as u8), matched }
}

/// What the hook returns: nothing but a refusal counts, and none in audit mode.
#[inline(always)]
fn errno(actor: &Actor, settled: &Settled) -> i32 {
    let audit = forget(u64::from(actor.audit), actor.agent) as i32;
    bounded(errno_of(settled.verdict) & (audit - 1))
}

/// Writes down what a later hook of the same act may have to undo.
///
/// # Safety
///
/// `act` is in a mark.
#[inline(always)]
unsafe fn note(act: *mut Act, actor: &Actor, kind: ActionKind, settled: &Settled, event: u64) {
    // What was not in the grants or the requests cannot be taken out of them again.
    let used = settled.reason == Reason::Granted as u8 || settled.reason == Reason::Rejected as u8;
    let undoes = if used || settled.filed != 0 { u64::MAX } else { 0 };
    let undoes = forget(undoes, actor.agent);
    // SAFETY: the caller's contract.
    unsafe {
        (*act).event = event;
        (*act).folder = 0;
        (*act).name = 0;
        (*act).interval_ns = settled.token_ns;
        (*act).object = [settled.hash[0] & undoes, settled.hash[1] & undoes];
        (*act).rule_content = settled.content;
        (*act).rule = settled.rule;
        (*act).kind = kind as u8;
        (*act).verdict = settled.verdict;
        (*act).reason = settled.reason;
        (*act).tentative = 0;
    }
}

/// Counts a decision and makes its event; the event's id, or 0 for none. VERIFIER: not inlined, for a stack of its
/// own.
#[inline(never)]
fn announce<O: Object>(actor: &Actor, object: &O, settled: &Settled, flags: u8) -> u64 {
    emit::count(actor.agent, settled.content, settled.verdict, 1);
    // A request that waits makes one event, when it is filed; in audit mode none is filed, and each says so.
    let again = settled.verdict == Verdict::Escalate as u8 && settled.filed == 0 && actor.audit == 0;
    let told = settled.verdict != Verdict::Allow as u8 || settled.log_all == 1;
    if !told || again {
        return 0;
    }
    let id = emit::next_id();
    let what = What {
        rule: settled.rule,
        content: settled.content,
        verdict: settled.verdict,
        reason: settled.reason,
        flags,
        object: settled.hash,
        deadline_ns: settled.filed,
        id,
    };
    emit::emit(actor, object, &what);
    id
}

/// Decides a connect or a send. `check` is asked about what goes on, with the verdict and the rule, and may refuse it for
/// reasons that only the hook sees.
#[inline(always)]
pub(crate) fn network(
    agent: u64,
    kind: u64,
    endpoint: &Endpoint,
    judged: &mut Judged,
    check: impl FnOnce(&Actor, u8, u32) -> Option<Reason>,
) {
    let object = Peer { kind, endpoint };
    let mut settled = Settled::refuse(Reason::NoPolicy);
    let actor = match actor(agent) {
        Some(actor) => {
            settle_network(&actor, &object, &mut settled);
            if settled.verdict == Verdict::Escalate as u8 {
                request(&actor, &object, &mut settled);
            }
            actor
        }
        None => Actor::unknown(agent),
    };
    if (settled.verdict == Verdict::Sandbox as u8 || settled.verdict == Verdict::Allow as u8)
        && let Some(reason) = check(&actor, settled.verdict, settled.rule)
    {
        settled.verdict = Verdict::Block as u8;
        settled.reason = reason as u8;
    }
    announce(&actor, &object, &settled, 0);
    judged.errno = i64::from(errno(&actor, &settled));
    judged.verdict = u64::from(settled.verdict);
    judged.rule = u64::from(settled.rule);
}

/// A refusal of a network action for a reason that no rule has.
#[inline(always)]
pub(crate) fn refuse_network(agent: u64, kind: ActionKind, endpoint: &Endpoint, reason: Reason) {
    let actor = actor(agent).unwrap_or(Actor::unknown(agent));
    announce(&actor, &Peer { kind: kind as u64, endpoint }, &Settled::refuse(reason), 0);
}

/// Where a rule of an agent's policy redirects to; nothing in audit mode, where nothing is redirected.
#[inline(always)]
pub(crate) fn replica(agent: u64, rule: u32) -> Option<(&'static Address, u16)> {
    let actor = actor(agent)?;
    if actor.audit != 0 {
        return None;
    }
    let rule = rule_in(actor.slot, rule)?;
    Some((&rule.redirect, rule.redirect_port))
}

/// Matches the path in working memory; a reason to refuse it unmatched, where there is one.
#[inline(always)]
fn classify(actor: &Actor, claim: &Claim, walked: u64) -> Option<Reason> {
    if walked == Walk::Rooted as u64 {
        return if paths::match_path(claim, actor.slot).is_none() { Some(Reason::NoTable) } else { None };
    }
    if walked == Walk::Private as u64 {
        // No rule can name it: the default decides.
        // SAFETY: the area is claimed.
        unsafe { (*claim.area).matched = Matched::NOTHING };
        return None;
    }
    Some(if walked == Walk::Disconnected as u64 { Reason::Disconnected } else { Reason::PathTooLong })
}

/// Decides an open, a create or an exec of the path in working memory; what the hook returns. What a later hook of
/// the same act may have to undo goes into `act`, if that is not null.
///
/// # Safety
///
/// `act` is null or in a mark.
#[inline(always)]
pub(crate) unsafe fn path(
    agent: u64,
    (kind, access): (ActionKind, Access),
    (claim, walked): (&Claim, u64),
    flags: u8,
    act: *mut Act,
) -> i32 {
    let object = Place { kind: kind as u64, access: u64::from(access.0), claim };
    let mut settled = Settled::refuse(Reason::NoPolicy);
    let actor = match actor(agent) {
        Some(actor) => {
            settle_path(&actor, &object, walked, &mut settled);
            if settled.verdict == Verdict::Escalate as u8 {
                request(&actor, &object, &mut settled);
            }
            actor
        }
        None => Actor::unknown(agent),
    };
    let event = announce(&actor, &object, &settled, flags);
    if !act.is_null() {
        // SAFETY: the caller's contract.
        unsafe { note(act, &actor, kind, &settled, event) };
    }
    errno(&actor, &settled)
}

/// Decides on the interpreter of a program whose exec was decided before, as `before` records. What that rule
/// covers too is the same decision; what is allowed is part of it; only a refusal replaces it.
#[inline(always)]
pub(crate) fn interpreter(agent: u64, before: &Act, claim: &Claim, walked: u64) -> i32 {
    let object = Place { kind: ActionKind::Exec as u64, access: u64::from(Access::EXEC.0), claim };
    let Some(actor) = actor(agent) else { return Verdict::Block.errno() };
    let mut settled = Settled::refuse(Reason::NoTable);
    if rule_of(&actor, &object, walked) == before.rule_content {
        return 0;
    }
    settle_path(&actor, &object, walked, &mut settled);
    if settled.verdict == Verdict::Allow as u8 {
        return 0;
    }
    if settled.verdict == Verdict::Escalate as u8 {
        request(&actor, &object, &mut settled);
    }
    emit::withdraw(agent, actor.policy, before);
    announce(&actor, &object, &settled, 0);
    errno(&actor, &settled)
}

/// The content of the rule that the path in working memory falls under; 0 for none. VERIFIER: not inlined, for a
/// stack of its own.
#[inline(never)]
fn rule_of(actor: &Actor, object: &Place<'_>, walked: u64) -> u64 {
    if classify(actor, object.claim, walked).is_some() {
        return 0;
    }
    let Some(tables) = KernelTables::new(actor, object) else { return 0 };
    decide::find(&tables, &facts(object)).map_or(0, |(_, rule)| rule.content)
}
