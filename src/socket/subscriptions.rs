//! Which subscriptions a topic matches: a trie over prefixes, so that a look-up costs the topic's length however
//! many subscriptions there are.
//!
//! ```text
//!   ""─┬─"orders."─┬─"created"        a node's edge is several bytes; a node stands for a subscription
//!      │           └─"paid"           when it has a value
//!      └─"prices"
//! ```

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::socket::limit::Limit;

/// A map from prefixes to values.
#[derive(Debug)]
pub(super) struct Trie<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    edge: Box<[u8]>,
    value: Option<T>,
    /// Sorted by the first byte of their edges, which differ.
    children: Vec<Node<T>>,
}

impl<T> Node<T> {
    fn new(edge: &[u8], value: Option<T>) -> Self {
        Self { edge: edge.into(), value, children: Vec::new() }
    }

    fn child(&self, first: u8) -> Result<usize, usize> {
        self.children.binary_search_by_key(&Some(first), |child| child.edge.first().copied())
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::new(&[], None), len: 0 }
    }
}

impl<T> Trie<T> {
    /// How many prefixes have a value.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value of exactly this prefix, made when there is none.
    pub(super) fn entry(&mut self, prefix: &[u8], make: impl FnOnce() -> T) -> &mut T {
        let mut node = &mut self.root;
        let mut rest = prefix;
        while let Some(first) = rest.first() {
            let index = match node.child(*first) {
                Ok(index) => index,
                Err(index) => {
                    node.children.insert(index, Node::new(rest, None));
                    index
                }
            };
            let child = &mut node.children[index];
            let common = child.edge.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common < child.edge.len() {
                // The edge forks here: what it led to becomes a child of the fork.
                let (head, tail) = child.edge.split_at(common);
                let (head, tail): (Box<[u8]>, Box<[u8]>) = (head.into(), tail.into());
                let mut below =
                    std::mem::replace(child, Node { edge: head, value: None, children: Vec::new() });
                below.edge = tail;
                child.children.push(below);
            }
            node = child;
            rest = &rest[common..];
        }
        if node.value.is_none() {
            self.len += 1;
        }
        node.value.get_or_insert_with(make)
    }

    /// The value of exactly this prefix.
    pub(super) fn get_mut(&mut self, prefix: &[u8]) -> Option<&mut T> {
        let mut node = &mut self.root;
        let mut rest = prefix;
        while let Some(first) = rest.first() {
            let index = node.child(*first).ok()?;
            node = node.children.get_mut(index)?;
            rest = rest.strip_prefix(&node.edge[..])?;
        }
        node.value.as_mut()
    }

    /// Removes the value of exactly this prefix.
    pub(super) fn remove(&mut self, prefix: &[u8]) -> Option<T> {
        // The path of child indices, so that empty nodes can be taken away from below; no recursion, because its
        // depth would be the peer's choice.
        let mut path = Vec::new();
        let mut node = &self.root;
        let mut rest = prefix;
        while let Some(first) = rest.first() {
            let index = node.child(*first).ok()?;
            node = node.children.get(index)?;
            rest = rest.strip_prefix(&node.edge[..])?;
            path.push(index);
        }
        let removed = self.at(&path).value.take()?;
        self.len -= 1;
        while let Some(index) = path.pop() {
            let parent = self.at(&path);
            let node = &mut parent.children[index];
            if node.value.is_some() {
                break;
            }
            match node.children.len() {
                0 => {
                    parent.children.remove(index);
                }
                1 => {
                    if let Some(mut only) = node.children.pop() {
                        only.edge = [&node.edge[..], &only.edge[..]].concat().into();
                        *node = only;
                    }
                    break;
                }
                _ => break,
            }
        }
        Some(removed)
    }

    fn at(&mut self, path: &[usize]) -> &mut Node<T> {
        path.iter().fold(&mut self.root, |node, index| &mut node.children[*index])
    }

    /// Visits the value of every prefix of `topic`, shortest first, until `visit` returns `false`.
    #[inline]
    pub(super) fn visit(&self, topic: &[u8], mut visit: impl FnMut(&T) -> bool) {
        let mut node = &self.root;
        let mut rest = topic;
        loop {
            if node.value.as_ref().is_some_and(|value| !visit(value)) {
                return;
            }
            let Some(first) = rest.first() else { return };
            let Ok(index) = node.child(*first) else { return };
            node = &node.children[index];
            let Some(after) = rest.strip_prefix(&node.edge[..]) else { return };
            rest = after;
        }
    }

    /// Whether any prefix of `topic` has a value.
    pub(super) fn matches(&self, topic: &[u8]) -> bool {
        let mut found = false;
        self.visit(topic, |_| {
            found = true;
            false
        });
        found
    }

    /// Every prefix with its value.
    pub(super) fn for_each(&self, mut each: impl FnMut(&[u8], &T)) {
        let mut stack = vec![(Vec::new(), &self.root)];
        while let Some((prefix, node)) = stack.pop() {
            if let Some(value) = &node.value {
                each(&prefix, value);
            }
            for child in &node.children {
                stack.push(([&prefix[..], &child.edge[..]].concat(), child));
            }
        }
    }
}

impl<T> Drop for Trie<T> {
    /// Without recursion, for the same reason as [`Trie::remove`].
    fn drop(&mut self) {
        let mut stack = std::mem::take(&mut self.root.children);
        while let Some(mut node) = stack.pop() {
            stack.append(&mut node.children);
        }
    }
}

/// Bounds on one peer's subscriptions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Caps {
    pub(crate) count: usize,
    pub(crate) length: usize,
    pub(crate) bytes: usize,
}

/// Who has subscribed to what at a publisher.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    /// To each prefix the slots of those who want it, each once.
    trie: Trie<Vec<u32>>,
    slots: Vec<Option<Slot>>,
    /// Pipe to slot.
    index: HashMap<u64, usize>,
    stamp: u64,
}

#[derive(Debug)]
struct Slot {
    /// What this peer has subscribed to; its sum is `bytes`.
    prefixes: HashSet<Bytes>,
    bytes: usize,
    /// The last message it was counted in for.
    stamp: u64,
}

/// What a subscription changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// The peer had it already, or did not have it.
    Nothing,
    /// For the peer, but others (still) have it.
    Peer,
    /// It is the first for this prefix, or was the last.
    Edge,
}

impl Subscribers {
    /// Returns the peer's slot.
    pub(super) fn joined(&mut self, id: u64) -> usize {
        let slot = Slot { prefixes: HashSet::new(), bytes: 0, stamp: 0 };
        let index = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        match self.slots.get_mut(index) {
            Some(free) => *free = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        self.index.insert(id, index);
        index
    }

    /// `room`: whether the peer's account has room for one more.
    ///
    /// Errors: over this cap.
    pub(super) fn subscribe(
        &mut self,
        id: u64,
        prefix: &Bytes,
        caps: Caps,
        room: impl FnOnce() -> bool,
    ) -> Result<Change, Limit> {
        let Some(index) = self.index.get(&id).copied() else { return Ok(Change::Nothing) };
        let Some(Some(slot)) = self.slots.get_mut(index) else { return Ok(Change::Nothing) };
        if slot.prefixes.contains(prefix) {
            return Ok(Change::Nothing);
        }
        if prefix.len() > caps.length {
            return Err(Limit::SubscriptionLength);
        }
        if slot.prefixes.len() >= caps.count {
            return Err(Limit::Subscriptions);
        }
        if slot.bytes + prefix.len() > caps.bytes {
            return Err(Limit::SubscriptionBytes);
        }
        if !room() {
            return Err(Limit::PeerMemory);
        }
        slot.bytes += prefix.len();
        slot.prefixes.insert(prefix.clone());
        let wanted_by = self.trie.entry(prefix, Vec::new);
        wanted_by.push(index as u32);
        Ok(if wanted_by.len() == 1 { Change::Edge } else { Change::Peer })
    }

    pub(super) fn cancel(&mut self, id: u64, prefix: &[u8]) -> Change {
        let Some(index) = self.index.get(&id).copied() else { return Change::Nothing };
        let Some(Some(slot)) = self.slots.get_mut(index) else { return Change::Nothing };
        if !slot.prefixes.remove(prefix) {
            return Change::Nothing;
        }
        slot.bytes -= prefix.len();
        self.unlink(index as u32, prefix)
    }

    fn unlink(&mut self, index: u32, prefix: &[u8]) -> Change {
        let Some(wanted_by) = self.trie.get_mut(prefix) else { return Change::Nothing };
        wanted_by.retain(|other| *other != index);
        if !wanted_by.is_empty() {
            return Change::Peer;
        }
        self.trie.remove(prefix);
        Change::Edge
    }

    /// Forgets a peer; returns the prefixes that nobody wants any more.
    pub(super) fn left(&mut self, id: u64) -> Vec<Bytes> {
        let Some(index) = self.index.remove(&id) else { return Vec::new() };
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { return Vec::new() };
        let mut prefixes: Vec<Bytes> = slot.prefixes.into_iter().collect();
        prefixes.retain(|prefix| self.unlink(index as u32, prefix) == Change::Edge);
        prefixes
    }

    /// Visits the slot of each peer that wants `topic`, once.
    #[inline]
    pub(super) fn matching(&mut self, topic: &[u8], mut each: impl FnMut(usize)) {
        self.stamp += 1;
        let (stamp, slots) = (self.stamp, &mut self.slots);
        self.trie.visit(topic, |wanted_by| {
            for index in wanted_by {
                let index = *index as usize;
                if let Some(Some(slot)) = slots.get_mut(index)
                    && slot.stamp != stamp
                {
                    slot.stamp = stamp;
                    each(index);
                }
            }
            true
        });
    }

    /// Distinct prefixes.
    pub(super) fn len(&self) -> usize {
        self.trie.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_trie_is_a_map_of_prefixes(
            steps in proptest::collection::vec((any::<bool>(), "[ab]{0,6}"), 0..60),
            topics in proptest::collection::vec("[ab]{0,8}", 1..10),
        ) {
            let mut trie = Trie::default();
            let mut model = BTreeMap::new();
            for (add, prefix) in steps {
                if add {
                    *trie.entry(prefix.as_bytes(), || 0) += 1;
                    *model.entry(prefix).or_insert(0) += 1;
                } else {
                    prop_assert_eq!(trie.remove(prefix.as_bytes()), model.remove(&prefix));
                }
                prop_assert_eq!(trie.len(), model.len());
            }
            for topic in topics {
                let mut seen = Vec::new();
                trie.visit(topic.as_bytes(), |count| { seen.push(*count); true });
                let expected: Vec<i32> =
                    (0..=topic.len()).filter_map(|n| model.get(&topic[..n]).copied()).collect();
                prop_assert_eq!(seen, expected);
                prop_assert_eq!(trie.get_mut(topic.as_bytes()).copied(), model.get(&topic).copied());
            }
            let mut all = BTreeMap::new();
            trie.for_each(|prefix, count| { all.insert(String::from_utf8_lossy(prefix).into_owned(), *count); });
            prop_assert_eq!(all, model);
        }
    }

    const CAPS: Caps = Caps { count: 3, length: 5, bytes: 8 };

    #[test]
    fn each_peer_once_and_edges_told() {
        let mut subs = Subscribers::default();
        assert_eq!((subs.joined(7), subs.joined(8)), (0, 1));
        assert_eq!(subs.subscribe(7, &"a".into(), CAPS, || true), Ok(Change::Edge));
        assert_eq!(subs.subscribe(7, &"a".into(), CAPS, || true), Ok(Change::Nothing));
        assert_eq!(subs.subscribe(7, &"ab".into(), CAPS, || true), Ok(Change::Edge));
        assert_eq!(subs.subscribe(8, &"a".into(), CAPS, || true), Ok(Change::Peer));
        let mut matched = |topic: &str| {
            let mut seen = Vec::new();
            subs.matching(topic.as_bytes(), |slot| seen.push(slot));
            seen
        };
        assert_eq!(matched("abc"), [0, 1]);
        assert!(matched("b").is_empty());
        assert_eq!(subs.cancel(8, b"a"), Change::Peer);
        assert_eq!(subs.cancel(8, b"a"), Change::Nothing);
        let mut last = subs.left(7);
        last.sort();
        assert_eq!(last, ["a", "ab"]);
        assert_eq!(subs.len(), 0);
        assert_eq!(subs.joined(9), 0, "the slot is used again");
    }

    #[test]
    fn caps() {
        let mut subs = Subscribers::default();
        subs.joined(1);
        let mut add = |prefix: &'static str| subs.subscribe(1, &prefix.into(), CAPS, || prefix != "9");
        assert_eq!(add("123456"), Err(Limit::SubscriptionLength));
        assert_eq!(add("12345"), Ok(Change::Edge));
        assert_eq!(add("1234"), Err(Limit::SubscriptionBytes));
        assert_eq!(add("9"), Err(Limit::PeerMemory));
        assert_eq!((add("1"), add("2")), (Ok(Change::Edge), Ok(Change::Edge)));
        assert_eq!(add("3"), Err(Limit::Subscriptions));
    }
}
