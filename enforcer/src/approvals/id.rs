//! What a person calls a request.

use enforcer_common::{grant::RequestKey, siphash::SipHash};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt};
use zerocopy::IntoBytes as _;

/// Hexadecimal digits that name a request, unless two that wait begin alike.
const DIGITS: usize = 12;

/// The name of a request: the first digits of a hash of what it is for, so that an action that is tried again has
/// the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(String);

impl RequestId {
    /// The name of a request, whatever else waits.
    #[must_use]
    pub fn of(key: &RequestKey) -> Self {
        Self::with_digits(key, DIGITS)
    }

    fn with_digits(key: &RequestKey, digits: usize) -> Self {
        let mut hash = SipHash::new([0; 2]);
        hash.bytes(key.as_bytes());
        let [high, low] = hash.finish();
        let mut text = format!("{high:016x}{low:016x}");
        text.truncate(digits);
        Self(text)
    }

    /// The names of requests that wait together: where two would have the same, longer ones.
    #[must_use]
    pub fn of_all(keys: &[RequestKey]) -> Vec<Self> {
        let mut count: HashMap<Self, usize> = HashMap::new();
        for key in keys {
            *count.entry(Self::of(key)).or_default() += 1;
        }
        let id = |key: &RequestKey| match count.get(&Self::of(key)) {
            Some(1) | None => Self::of(key),
            Some(_) => Self::with_digits(key, 2 * size_of::<[u64; 2]>()),
        };
        keys.iter().map(id).collect()
    }

    /// What a person typed, as a name.
    pub(super) fn typed(text: &str) -> Self {
        Self(text.to_ascii_lowercase())
    }

    /// Whether what a person typed means this request: all of it, or a beginning.
    #[must_use]
    pub fn begins_with(&self, typed: &str) -> bool {
        !typed.is_empty() && self.0.starts_with(&typed.to_ascii_lowercase())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::RequestId;
    use enforcer_common::grant::RequestKey;

    const KEY: RequestKey = RequestKey { agent: 1, rule: 2, object: [3, 4] };

    #[test]
    fn a_request_has_the_same_name_each_time_and_another_has_another() {
        assert_eq!(RequestId::of(&KEY), RequestId::of(&KEY));
        assert_eq!(RequestId::of(&KEY).to_string().len(), 12);
        assert_ne!(RequestId::of(&KEY), RequestId::of(&RequestKey { agent: 2, ..KEY }));
    }

    #[test]
    fn names_that_would_be_the_same_are_longer() {
        // The same key twice stands for two keys whose hashes begin alike.
        let ids = RequestId::of_all(&[KEY, KEY, RequestKey { agent: 9, ..KEY }]);
        let lengths: Vec<_> = ids.iter().map(|id| id.to_string().len()).collect();
        assert_eq!(lengths, [32, 32, 12]);
    }

    #[test]
    fn a_beginning_will_do() {
        let id = RequestId::of(&KEY);
        let text = id.to_string();
        assert!(id.begins_with(&text) && id.begins_with(&text[..4].to_uppercase()));
        assert!(!id.begins_with("") && !id.begins_with("x"));
    }
}
