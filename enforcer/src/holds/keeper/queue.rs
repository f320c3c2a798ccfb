//! What is to be done one after the other, each thing once however often it is asked for.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// Keys in the order in which they came, each with what was last said of it.
#[derive(Debug)]
pub(super) struct Queue<K, V> {
    order: VecDeque<K>,
    last: HashMap<K, V>,
}

impl<K: Copy + Eq + Hash, V> Queue<K, V> {
    pub(super) fn new() -> Self {
        Self { order: VecDeque::new(), last: HashMap::new() }
    }

    pub(super) fn push(&mut self, key: K, value: V) {
        if self.last.insert(key, value).is_none() {
            self.order.push_back(key);
        }
    }

    pub(super) fn pop(&mut self) -> Option<(K, V)> {
        let key = self.order.pop_front()?;
        self.last.remove(&key).map(|value| (key, value))
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;

    #[test]
    fn each_comes_once_in_its_first_place_with_what_was_said_last() {
        let mut queue = Queue::new();
        for (key, value) in [(1, 'a'), (2, 'b'), (1, 'c')] {
            queue.push(key, value);
        }
        assert_eq!(queue.len(), 2);
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some((1, 'c')), Some((2, 'b')), None]);
        assert!(queue.is_empty());
    }
}
