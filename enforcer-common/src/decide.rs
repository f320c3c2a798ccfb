//! The decision engine. It exists once: the kernel programs and the tools compile this function.

use crate::{
    action::{ACCESS_KINDS, Access, Endpoint, Protocol},
    address::Address,
    grant::Answer,
    network::{self, Entry},
    path::Matched,
    rule::{NO_RULE, Rule},
    verdict::{Decision, Reason, Verdict},
    words::Words,
};

/// The facts of an action that rules look at.
#[derive(Clone, Copy, Debug)]
pub enum Facts<'a> {
    /// A connect or a send.
    Network(&'a Endpoint),
    /// An open, a create or an exec, with what its path matched.
    Path {
        /// The kinds of access that the act is at once.
        access: Access,
        /// The first matching rule for each kind.
        matched: Matched,
    },
}

/// The index of each default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Of network actions.
    pub network: u32,
    /// Of file actions.
    pub file: u32,
    /// Of exec actions.
    pub exec: u32,
}

/// The tables of the policy that governs an agent, and the agent's state under it.
///
/// `None` always means that the table cannot be read, and the action is refused.
pub trait Tables {
    /// How the policy's words are read.
    type Words: Words;

    /// The defaults.
    fn defaults(&self) -> Option<Defaults>;
    /// Where the search for an endpoint begins.
    fn root(&self, address: &Address) -> Option<Entry>;
    /// The policy's words.
    fn words(&self) -> Option<Self::Words>;
    /// A rule.
    fn rule(&self, index: u32) -> Option<&Rule>;
    /// Takes a token of the rule's rate; whether there was one.
    fn take_token(&self, rule: &Rule) -> Option<bool>;
    /// What the grants say about the action's object; files a request where they say nothing. `index` is the
    /// rule's.
    fn answer(&self, index: u32, rule: &Rule) -> Option<Answer>;
}

/// Decides one action: finds the first rule that matches and does what it says.
///
/// An act that is several kinds of access at once is decided by the first match of each kind; the strictest of
/// them holds, and of equally strict ones the earliest. Only that one takes a token or asks for a grant.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, facts: &Facts<'_>) -> Decision {
    let found = match facts {
        Facts::Network(endpoint) => network_rule(tables, endpoint),
        Facts::Path { access, matched } => {
            path_rule(tables, *access, matched).map(|(index, rule)| Found::Rule(index, rule))
        }
    };
    match found {
        Some(Found::Plain(index)) => plain(tables, index),
        Some(Found::Rule(index, rule)) => apply(tables, index, rule),
        None => Decision::refuse(Reason::NoTable),
    }
}

/// The rule that an action falls under.
#[derive(Clone, Copy, Debug)]
pub enum Found<'t> {
    /// One that allows and makes no events, by its index.
    Plain(u32),
    /// Any, by its index.
    Rule(u32, &'t Rule),
}

/// What a plain rule decides.
#[inline(always)]
pub fn plain<T: Tables>(tables: &T, index: u32) -> Decision {
    let is_default = matches!(tables.defaults(), Some(defaults) if defaults.network == index);
    let reason = if is_default { Reason::Default } else { Reason::Rule };
    Decision { verdict: Verdict::Allow, reason, rule: index }
}

/// The rule that a connect or a send falls under. Changes nothing.
#[inline(always)]
pub fn network_rule<'t, T: Tables>(tables: &'t T, endpoint: &Endpoint) -> Option<Found<'t>> {
    let entry = if let Protocol::Other = endpoint.protocol {
        Entry::rule(tables.defaults()?.network, false)
    } else {
        let root = tables.root(&endpoint.address)?;
        network::search(&tables.words()?, root, &network::keys(endpoint))?
    };
    let index = entry.index()?;
    Some(if entry.is_plain() { Found::Plain(index) } else { Found::Rule(index, tables.rule(index)?) })
}

/// The rule that an act on a path falls under. Changes nothing.
#[inline(always)]
pub fn path_rule<'t, T: Tables>(tables: &'t T, access: Access, matched: &Matched) -> Option<(u32, &'t Rule)> {
    let defaults = tables.defaults()?;
    let mut strictest: Option<(u32, &'t Rule)> = None;
    let mut kind = 0;
    while kind < ACCESS_KINDS {
        if access.has(kind) {
            let default = if kind == 3 { defaults.exec } else { defaults.file };
            let index = match matched.0.get(kind) {
                Some(index) if *index != NO_RULE => *index,
                _ => default,
            };
            let rule = tables.rule(index)?;
            let replace = match &strictest {
                None => true,
                Some((earlier, held)) => {
                    rule.verdict() > held.verdict() || (rule.verdict() == held.verdict() && index < *earlier)
                }
            };
            if replace {
                strictest = Some((index, rule));
            }
        }
        kind += 1;
    }
    strictest
}

/// Does what a rule says, which takes a token or uses a grant.
#[inline(always)]
pub fn apply<T: Tables>(tables: &T, index: u32, rule: &Rule) -> Decision {
    let (verdict, reason) = match rule.verdict() {
        Verdict::Throttle => match tables.take_token(rule) {
            Some(true) => (Verdict::Allow, Reason::WithinRate),
            Some(false) => (Verdict::Throttle, Reason::OverRate),
            None => (Verdict::Block, Reason::NoBucket),
        },
        Verdict::Escalate => match tables.answer(index, rule) {
            Some(Answer::Allowed) => (Verdict::Allow, Reason::Granted),
            Some(Answer::Refused) => (Verdict::Block, Reason::Rejected),
            Some(Answer::Waiting) => (Verdict::Escalate, Reason::Waiting),
            Some(Answer::Full) => (Verdict::Block, Reason::RequestsFull),
            None => (Verdict::Block, Reason::NoTable),
        },
        verdict => (verdict, if rule.is_default == 1 { Reason::Default } else { Reason::Rule }),
    };
    Decision { verdict, reason, rule: index }
}
