//! Facts → decision → what the hook returns, with the count and the event in between.

use crate::{
    emit::{self, What},
    hold::{self, At, held},
    maps::{AGENTS, REQUESTS, rule_in},
    offsets::{forget, opaque},
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
    decide::{self, Found, Tables as _},
    event::flag,
    grant::RequestKey,
    hold::Hold,
    path::Matched,
    rule::{NO_RULE, Rule},
    verdict::{Decision, Reason, Verdict, errno_of, outcome},
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

/// What a hook returns, in bounds that 6.12 and later can see. VERIFIER: the constants are hidden from LLVM, which would
/// return what was compared with them, whose bounds the verifier has lost.
#[inline(always)]
fn bounded(errno: i32) -> i32 {
    const EAGAIN: i32 = 11;
    const EPERM: i32 = 1;
    match errno {
        0 => constant(0),
        errno if errno == -EAGAIN => constant(-EAGAIN),
        AGAIN => constant(AGAIN),
        INTERRUPTED => constant(INTERRUPTED),
        _ => constant(-EPERM),
    }
}

#[inline(always)]
fn constant(errno: i32) -> i32 {
    opaque(i64::from(errno) as u64) as i32
}

/// `-ERESTARTNOINTR`.
pub(crate) const AGAIN: i32 = errno_of(outcome::AGAIN);
/// `-EINTR`.
pub(crate) const INTERRUPTED: i32 = errno_of(outcome::INTERRUPTED);

/// [`bounded`] once more. VERIFIER: 6.12 loses sight of the bounds of what was compared in a copy.
#[inline(always)]
pub(crate) fn rebound(errno: i32, unknown: u64) -> i32 {
    bounded(forget(errno as u64, unknown) as i32)
}

/// What a decision came to, before it is told.
struct Settled {
    verdict: u8,
    reason: u8,
    rule: u32,
    content: u64,
    log_all: u8,
    /// One of [`held`].
    held: u8,
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
            held: held::NOT,
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
        self.held = forget(u64::from(self.held), unknown) as u8;
        self.token_ns = forget(self.token_ns, unknown);
        self.hash[0] = forget(self.hash[0], unknown);
        self.hash[1] = forget(self.hash[1], unknown);
        self.filed = forget(self.filed, unknown);
    }

    /// Does what a rule says.
    #[inline(always)]
    fn apply<O: Object>(&mut self, tables: &KernelTables<'_, O>, index: u32, rule: &Rule) {
        self.decided(decide::apply(tables, index, rule));
        self.content = rule.content;
        self.log_all = rule.log_all;
        self.held = if rule.hold == Hold::Refuse as u8 { held::NOT } else { held::MAYBE };
        self.token_ns = tables.token_ns.get();
        self.hash = tables.hash.get();
    }

    #[inline(always)]
    fn decided(&mut self, decision: Decision) {
        self.verdict = decision.verdict as u8;
        self.reason = decision.reason as u8;
        self.rule = decision.rule;
    }
}

/// Has a network action decided. VERIFIER: not inlined, for a stack of its own.
#[inline(never)]
fn settle_network(actor: &Actor, object: &Peer<'_>, settled: &mut Settled) {
    settled.reason = Reason::NoTable as u8;
    if let Some(tables) = KernelTables::new(actor, object) {
        match decide::network_rule(&tables, object.endpoint) {
            Some(Found::Plain(index)) => {
                settled.decided(decide::plain(&tables, index));
                settled.log_all = 0;
            }
            Some(Found::Rule(index, rule)) => settled.apply(&tables, index, rule),
            None => {}
        }
    }
    settled.forget(actor.agent);
}

/// Has an action wait that is not answered yet, goes on with one that waited, or ends its wait; `at` is the number of the
/// hook.
///
/// VERIFIER: the steps are functions of their own beside each other, for their stacks.
#[inline(always)]
fn wait<O: Object>(actor: &Actor, object: &O, settled: &mut Settled, at: u64) {
    if settled.held == held::MAYBE {
        look_for_wait(actor, settled, at);
    }
    if settled.verdict == Verdict::Escalate as u8 && settled.held <= held::NEW {
        request(actor, object, settled);
    }
    if settled.held == held::NEW {
        begin_to_wait(actor, settled, object.kind() << 8 | at);
    }
}

/// The request of a decision; without an object where it is about a rate.
#[inline(always)]
fn key_of(actor: &Actor, settled: &Settled) -> RequestKey {
    RequestKey { agent: actor.agent, rule: settled.content, object: settled.hash }
}

/// What becomes of a decision by a rule that holds: it may be that of a call that waits already.
#[inline(never)]
fn look_for_wait(actor: &Actor, settled: &mut Settled, at: u64) {
    settled.held = forget(u64::from(held::NOT), actor.agent) as u8;
    let key = key_of(actor, settled);
    if settled.verdict != Verdict::Escalate as u8 && settled.verdict != Verdict::Throttle as u8 {
        hold::over(&key);
    } else if actor.audit == 0
        && let Some(rule) = rule_in(actor.slot, settled.rule)
        && hold::is_possible(at) == 1
    {
        let waits = hold::again(&key, rule, at);
        settled.held = forget(waits, actor.agent) as u8;
    }
}

/// Has a call wait that was decided just now.
#[inline(never)]
fn begin_to_wait(actor: &Actor, settled: &mut Settled, how: u64) {
    let Some(rule) = rule_in(actor.slot, settled.rule) else { return };
    let key = key_of(actor, settled);
    // What no request could be filed for is refused by now.
    let waits = if settled.verdict == Verdict::Block as u8 { 0 } else { hold::begin(&key, rule, how) };
    settled.held = forget(waits, actor.agent) as u8;
    if settled.held == held::NOT {
        keep_without_waiters(&key);
    }
    if settled.held == held::FULL {
        settled.verdict = Verdict::Block as u8;
        settled.reason = Reason::RequestsFull as u8;
        if settled.filed != 0 {
            settled.filed = 0;
            let _ = REQUESTS.remove(key);
        }
    }
    settled.forget(actor.agent);
}

/// Notes of a request that somebody tries again later for whom nobody waits.
#[inline(always)]
fn keep_without_waiters(key: &RequestKey) {
    if let Some(waiting) = REQUESTS.get_ptr_mut(key) {
        // SAFETY: a value of the map.
        unsafe { (*waiting).event.flags &= !flag::HELD };
    }
}

/// Files the request of a decision to escalate, unless it waits already or the agent is in audit mode. VERIFIER: not
/// inlined, for a stack of its own.
#[inline(never)]
fn request<O: Object>(actor: &Actor, object: &O, settled: &mut Settled) {
    file(actor, object, settled);
    settled.forget(actor.agent);
}

#[inline(always)]
fn file<O: Object>(actor: &Actor, object: &O, settled: &mut Settled) {
    if actor.audit != 0 {
        return;
    }
    let key = key_of(actor, settled);
    if REQUESTS.get_ptr(key).is_some() {
        if settled.held == held::NOT {
            keep_without_waiters(&key);
        }
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
        // It is either `NEW` here, which is 1, or `NOT`.
        flags: settled.held * flag::HELD,
        object: settled.hash,
        deadline_ns,
        id: 0,
    };
    if object.file(actor, &what, &key) {
        settled.filed = deadline_ns;
    } else if REQUESTS.get_ptr(key).is_none() {
        // There is no room. Where there is a request now, another thread was first to file the same.
        settled.verdict = Verdict::Block as u8;
        settled.reason = Reason::RequestsFull as u8;
    }
}

/// Has an act on a path decided. VERIFIER: not inlined, for a stack of its own.
#[inline(never)]
fn settle_path(actor: &Actor, object: &Place<'_>, walked: u64, settled: &mut Settled) {
    match classify(actor, object.claim, walked) {
        Some(reason) => settled.reason = reason as u8,
        None => {
            settled.reason = Reason::NoTable as u8;
            if let Some(tables) = KernelTables::new(actor, object)
                && let Some((index, rule)) = rule_of_path(&tables, object)
            {
                settled.apply(&tables, index, rule);
            }
        }
    }
    settled.forget(actor.agent);
}

/// The rule that a path that was matched falls under.
#[inline(always)]
fn rule_of_path<'t, O: Object>(
    tables: &'t KernelTables<'_, O>,
    object: &Place<'_>,
) -> Option<(u32, &'t Rule)> {
    // SAFETY: the area is claimed.
    let matched = unsafe { (&raw const (*object.claim.area).matched).read_volatile() };
    decide::path_rule(tables, Access(object.access as u8), &matched)
}

/// What becomes of an action that may have waited: a verdict or one of [`outcome`]. VERIFIER: without branches.
#[inline(always)]
fn outcome(settled: &Settled) -> u8 {
    const BY_HELD: u64 = (outcome::AGAIN as u64) << (8 * held::BEGUN)
        | (outcome::AGAIN as u64) << (8 * held::AGAIN)
        | (outcome::INTERRUPTED as u64) << (8 * held::INTERRUPTED);
    let waited = BY_HELD >> ((u32::from(settled.held) * 8) & 63) & 0xff;
    // 0 where the verdict holds.
    let any = (waited + 0xff) >> 8;
    (waited + u64::from(settled.verdict) * (1 - any)) as u8
}

/// What the hook returns: nothing but a refusal counts, and none in audit mode.
#[inline(always)]
fn errno(actor: &Actor, settled: &Settled) -> i32 {
    let audit = forget(u64::from(actor.audit), actor.agent) as i32;
    errno_of(outcome(settled)) & (audit - 1)
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
        (*act).rule = settled.rule as u16;
        (*act).kind = kind as u8;
        (*act).verdict = settled.verdict;
        (*act).reason = settled.reason;
        (*act).elf = 0;
        (*act).tentative = 0;
    }
}

/// Counts a decision and makes its event; the event's id, or 0 for none. VERIFIER: not inlined, for a stack of its
/// own.
#[inline(never)]
fn announce<O: Object>(actor: &Actor, object: &O, settled: &Settled, flags: u8) -> u64 {
    // A turn of a call that waits is the act that was told of when it began to.
    if settled.held == held::AGAIN || settled.held == held::INTERRUPTED {
        return 0;
    }
    emit::count(actor, u64::from(settled.rule), settled.content, u64::from(settled.verdict));
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
        flags: flags | if settled.held == held::BEGUN { flag::HELD } else { 0 },
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
    (kind, at): (u64, At),
    endpoint: &Endpoint,
    judged: &mut Judged,
    check: impl FnOnce(&Actor, u8, u32) -> Option<Reason>,
) {
    let object = Peer { kind, endpoint };
    let mut settled = Settled::refuse(Reason::NoPolicy);
    let actor = match actor(agent) {
        Some(actor) => {
            settle_network(&actor, &object, &mut settled);
            wait(&actor, &object, &mut settled, at as u64);
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
    (kind, access, at): (ActionKind, Access, At),
    (claim, walked): (&Claim, u64),
    flags: u8,
    act: *mut Act,
) -> i32 {
    let object = Place { kind: forget(kind as u64, agent), access: u64::from(access.0), claim };
    let mut settled = Settled::refuse(Reason::NoPolicy);
    let actor = match actor(agent) {
        Some(actor) => {
            settle_path(&actor, &object, walked, &mut settled);
            wait(&actor, &object, &mut settled, at as u64);
            actor
        }
        None => Actor::unknown(agent),
    };
    let errno = errno(&actor, &settled);
    // No interpreter replaces an exec that is refused.
    let flags = if kind as u8 == ActionKind::Exec as u8 { settling(errno, flags, agent) } else { flags };
    let event = announce(&actor, &object, &settled, flags);
    if !act.is_null() {
        // SAFETY: the caller's contract.
        unsafe { note(act, &actor, kind, &settled, event) };
    }
    rebound(errno, agent)
}

/// The flags of the event of an exec.
#[inline(always)]
fn settling(errno: i32, flags: u8, unknown: u64) -> u8 {
    forget(if errno == 0 { u64::from(flags) } else { 0 }, unknown) as u8
}

/// Decides on the interpreter of a program whose exec was decided before, as `act` records. What that rule covers too
/// is the same decision; what is allowed is part of it; only a refusal replaces it. `loaded` is the dentry of what is
/// loaded beside an ELF program, or 0; what no rule names is part of the program there.
///
/// # Safety
///
/// `act` is in a mark.
#[inline(always)]
pub(crate) unsafe fn interpreter(
    agent: u64,
    act: *mut Act,
    (claim, walked): (&Claim, u64),
    flags: u8,
    loaded: u64,
) -> i32 {
    let object = Place { kind: ActionKind::Exec as u64, access: u64::from(Access::EXEC.0), claim };
    let Some(actor) = actor(agent) else { return Verdict::Block.errno() };
    let mut settled = Settled::refuse(Reason::NoTable);
    // SAFETY: the caller's contract.
    let before = unsafe { (*act).rule_content };
    if is_part(&actor, &object, walked, before, loaded) == 1 {
        return 0;
    }
    settle_path(&actor, &object, walked, &mut settled);
    if settled.verdict == Verdict::Allow as u8 {
        // SAFETY: the caller's contract.
        unsafe { (*act).folder = loaded };
        return 0;
    }
    wait(&actor, &object, &mut settled, At::Lsm as u64);
    let errno = errno(&actor, &settled);
    // SAFETY: the caller's contract. In audit mode the exec goes on, and another interpreter may replace this one.
    unsafe {
        emit::withdraw(&actor, &*act);
        let event = announce(&actor, &object, &settled, settling(errno, flags, agent));
        note(act, &actor, ActionKind::Exec, &settled, event);
    }
    errno
}

/// Whether the interpreter in working memory is part of what was decided before by the rule of this content: 1 or 0.
/// VERIFIER: not inlined, for a stack of its own.
#[inline(never)]
fn is_part(actor: &Actor, object: &Place<'_>, walked: u64, before: u64, loaded: u64) -> u64 {
    let found = match classify(actor, object.claim, walked) {
        Some(_) => None,
        None => KernelTables::new(actor, object),
    };
    let Some(tables) = found else { return u64::from(before == 0) };
    let Some((index, rule)) = rule_of_path(&tables, object) else { return u64::from(before == 0) };
    let unnamed = loaded != 0 && tables.defaults().is_some_and(|defaults| defaults.exec == index);
    u64::from(unnamed || rule.content == before)
}
