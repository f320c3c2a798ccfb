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
    match find(tables, facts) {
        Some((index, rule)) => apply(tables, index, rule),
        None => Decision::refuse(Reason::NoTable),
    }
}

/// The first half of [`decide`]: the rule that an action falls under. Changes nothing.
#[inline(always)]
pub fn find<'t, T: Tables>(tables: &'t T, facts: &Facts<'_>) -> Option<(u32, &'t Rule)> {
    match facts {
        Facts::Network(endpoint) => network_rule(tables, endpoint),
        Facts::Path { access, matched } => path_rule(tables, *access, matched),
    }
}

#[inline(always)]
fn network_rule<'t, T: Tables>(tables: &'t T, endpoint: &Endpoint) -> Option<(u32, &'t Rule)> {
    let index = if let Protocol::Other = endpoint.protocol {
        tables.defaults()?.network
    } else {
        let root = tables.root(&endpoint.address)?;
        network::search(&tables.words()?, root, &network::keys(endpoint))?
    };
    Some((index, tables.rule(index)?))
}

#[inline(always)]
fn path_rule<'t, T: Tables>(tables: &'t T, access: Access, matched: &Matched) -> Option<(u32, &'t Rule)> {
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

/// The second half of [`decide`]: does what the rule says, which takes a token or uses a grant.
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
