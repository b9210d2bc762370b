//! The records behind the directory: who lists whom, and who has been met. No clock, no tasks, no locks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use super::advert::{MAX_ENDPOINTS, MAX_ROOTS};
use super::{Advert, Instance, Key, NodeId, State};
use crate::endpoint::Endpoint;

/// Adverts that are kept per source: a flood of forged ones must not grow memory without bound.
pub(super) const MAX_PER_SOURCE: usize = 4096;
/// Roots that are remembered as seen.
const MAX_SEEN_ROOTS: usize = 16_384;

/// What one source says of one key.
#[derive(Debug)]
struct Listing {
    source: usize,
    /// The key under which the source lists it; differs from the record's for a configured address whose node has been met.
    listed_as: Key,
    /// The opening of the source's channel in which it was last said.
    generation: u64,
    advert: Advert,
}

/// Everything known of one instance.
#[derive(Debug)]
struct Record {
    listings: Vec<Listing>,
    /// What its link's hello said, while a link is up.
    hello: Option<Advert>,
    suspect: bool,
    /// How often it became suspect since it was last seen alive.
    strikes: u32,
    first_seen: Instant,
}

/// Who a source is, and how much it has said.
#[derive(Debug)]
struct Slot {
    name: &'static str,
    listings: usize,
    /// Nothing is listed any more that was last said in an opening before this one.
    swept: u64,
}

/// All records. Methods that change something collect the keys to publish again in `touched`.
#[derive(Debug)]
pub(super) struct Table {
    fabric: String,
    me: NodeId,
    own_endpoints: Vec<Endpoint>,
    slots: Vec<Slot>,
    records: HashMap<Key, Record>,
    /// Configured addresses whose node has been met (or is this one).
    met: HashMap<Key, NodeId>,
    suspects: HashSet<Key>,
    /// Which published instances have a root.
    index: HashMap<String, BTreeSet<Key>>,
    seen_roots: HashSet<String>,
    pub(super) touched: BTreeSet<Key>,
}

/// What became of an advert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    Taken,
    /// Of another fabric, or of this node itself.
    NotOurs,
    /// Unusable, or over the quota of its source.
    Refused,
}

impl Table {
    pub(super) fn new(fabric: String, me: NodeId) -> Self {
        Self {
            fabric,
            me,
            own_endpoints: Vec::new(),
            slots: Vec::new(),
            records: HashMap::new(),
            met: HashMap::new(),
            suspects: HashSet::new(),
            index: HashMap::new(),
            seen_roots: HashSet::new(),
            touched: BTreeSet::new(),
        }
    }

    pub(super) fn add_source(&mut self, name: &'static str) -> usize {
        self.slots.push(Slot { name, listings: 0, swept: 1 });
        self.slots.len() - 1
    }

    /// A configured peer may be this very node (one file for all); it is recognised by its address.
    pub(super) fn set_own_endpoints(&mut self, endpoints: &[Endpoint]) {
        self.own_endpoints = endpoints.to_vec();
        let mine: Vec<Key> = endpoints.iter().cloned().map(Key::Endpoint).collect();
        for key in mine {
            self.drop_record(&key);
        }
    }

    pub(super) fn up(&mut self, source: usize, generation: u64, mut advert: Advert, now: Instant) -> Heard {
        if advert.fabric != self.fabric {
            return Heard::NotOurs;
        }
        // What says of no node whose instance it is would be believed whoever answers there.
        if !advert.bound() || (advert.node.is_some() && advert.service.is_empty()) {
            return Heard::Refused;
        }
        let Some(listed_as) = advert.key() else { return Heard::Refused };
        let key = self.resolve(&listed_as);
        if key == Key::Node(self.me)
            || matches!(&listed_as, Key::Endpoint(endpoint) if self.own_endpoints.contains(endpoint))
        {
            return Heard::NotOurs;
        }
        let known = self.records.get(&key).is_some_and(|record| record.lists(source, &listed_as));
        if !known && !self.make_room(source, generation) {
            return Heard::Refused;
        }
        for root in &advert.roots {
            if self.seen_roots.len() < MAX_SEEN_ROOTS && !self.seen_roots.contains(root) {
                self.seen_roots.insert(root.clone());
            }
        }
        let record = self.records.entry(key.clone()).or_insert_with(|| Record::new(now));
        record.suspect = false;
        record.strikes = 0;
        self.suspects.remove(&key);
        let listing = Listing { source, listed_as, generation, advert };
        match record.listings.iter_mut().find(|l| l.source == source && l.listed_as == listing.listed_as) {
            Some(old) => *old = listing,
            None => {
                record.listings.push(listing);
                record.listings.sort_by_key(|l| l.source);
                self.slots[source].listings += 1;
            }
        }
        self.touched.insert(key);
        Heard::Taken
    }

    pub(super) fn down(&mut self, source: usize, listed_as: &Key) {
        let key = self.resolve(listed_as);
        self.unlist(&key, |l| l.source == source && l.listed_as == *listed_as);
    }

    /// After a source was opened anew and has had time to repeat itself: forget what it did not repeat.
    pub(super) fn sweep(&mut self, source: usize, generation: u64) {
        self.slots[source].swept = generation;
        let stale = |l: &Listing| l.source == source && l.generation < generation;
        let keys: Vec<Key> = self
            .records
            .iter()
            .filter(|(_, r)| r.listings.iter().any(stale))
            .map(|(k, _)| k.clone())
            .collect();
        for key in keys {
            self.unlist(&key, stale);
        }
    }

    /// A link's hello: who is really behind `key`.
    pub(super) fn met(&mut self, key: &Key, mut hello: Advert, now: Instant) {
        let Some(node) = hello.node else { return };
        if hello.fabric != self.fabric || !hello.bound() {
            return;
        }
        let before = self.resolve(key);
        if node == self.me {
            if let Key::Endpoint(_) = key {
                self.unlist(&before, |l| l.listed_as == *key);
                self.met.insert(key.clone(), node);
            }
            return;
        }
        let at = Key::Node(node);
        if before != at {
            // Another one than was dialled. It may say that it is any node: that makes a configured address lead to it, and
            // nothing else. Of a node that is connected only its own connection has the word.
            let live = self.records.get(&at).and_then(|record| record.hello.as_ref());
            let (live, another) = (live.is_some(), live.is_some_and(|live| live.service != hello.service));
            if another || !self.move_configured(&before, key, &at, now) {
                return;
            }
            self.touched.insert(at.clone());
            if live {
                return;
            }
        }
        let record = self.records.entry(at.clone()).or_insert_with(|| Record::new(now));
        // A link of an earlier life that is slow to die must not undo what a later one said.
        if record.hello.as_ref().is_some_and(|old| old.epoch > hello.epoch) {
            return;
        }
        if hello.endpoints.is_empty() {
            hello.endpoints = record.endpoints_of(hello.epoch);
            if let (true, Key::Endpoint(dialled)) = (hello.endpoints.is_empty(), key) {
                hello.endpoints.push(dialled.clone());
            }
        }
        for root in &hello.roots {
            if self.seen_roots.len() < MAX_SEEN_ROOTS && !self.seen_roots.contains(root) {
                self.seen_roots.insert(root.clone());
            }
        }
        record.hello = Some(hello);
        record.alive();
        self.suspects.remove(&at);
        self.touched.insert(at);
    }

    pub(super) fn link_up(&mut self, node: NodeId) {
        let key = Key::Node(node);
        let Some(record) = self.records.get_mut(&key) else { return };
        if record.hello.is_none() {
            record.hello = Some(record.merged(&key));
        }
        record.alive();
        self.suspects.remove(&key);
        self.touched.insert(key);
    }

    pub(super) fn link_down(&mut self, node: NodeId) {
        let key = Key::Node(node);
        let Some(record) = self.records.get_mut(&key) else { return };
        record.hello = None;
        self.touched.insert(key);
    }

    /// Doubts an instance without a live link. Returns how often that happened, if it is newly suspect.
    pub(super) fn suspect(&mut self, key: &Key) -> Option<u32> {
        let key = self.resolve(key);
        let record = self.records.get_mut(&key)?;
        if record.hello.is_some() || record.suspect {
            return None;
        }
        record.suspect = true;
        record.strikes += 1;
        let strikes = record.strikes;
        self.suspects.insert(key.clone());
        self.touched.insert(key);
        Some(strikes)
    }

    /// Offers a suspect again, if nothing has happened since its `strikes`-th suspicion.
    pub(super) fn forgive(&mut self, key: &Key, strikes: u32) {
        let key = self.resolve(key);
        let Some(record) = self.records.get_mut(&key) else { return };
        if record.suspect && record.strikes == strikes {
            record.suspect = false;
            self.suspects.remove(&key);
            self.touched.insert(key);
        }
    }

    /// The sources that list it, and the keys under which they do.
    pub(super) fn listed_by(&self, key: &Key) -> Vec<(usize, Key)> {
        let record = self.records.get(&self.resolve(key));
        record.into_iter().flat_map(|r| &r.listings).map(|l| (l.source, l.listed_as.clone())).collect()
    }

    /// What to publish for this key; `None`: nothing is left of it, and the record goes.
    pub(super) fn instance(&mut self, key: &Key) -> Option<Instance> {
        let record = self.records.get(key)?;
        if record.listings.is_empty() && record.hello.is_none() {
            self.records.remove(key);
            self.suspects.remove(key);
            return None;
        }
        let (advert, pending) = match &record.hello {
            Some(hello) => (record.live(hello), record.pending(hello)),
            None => (record.merged(key), Vec::new()),
        };
        let mut sources: Vec<&'static str> =
            record.listings.iter().filter_map(|l| self.slots.get(l.source)).map(|slot| slot.name).collect();
        sources.dedup();
        let state = match () {
            () if record.hello.is_some() => State::Live,
            () if record.suspect => State::Suspect,
            () => State::Known,
        };
        Some(Instance { advert, key: key.clone(), sources, state, pending, first_seen: record.first_seen })
    }

    /// What an address given by a caller stands for now: the node met there, or the address itself.
    pub(super) fn resolve(&self, key: &Key) -> Key {
        self.met.get(key).map_or_else(|| key.clone(), |node| Key::Node(*node))
    }

    pub(super) fn seen_root(&self, root: &str) -> bool {
        self.seen_roots.contains(root)
    }

    pub(super) fn seen_roots(&self) -> impl Iterator<Item = &str> {
        self.seen_roots.iter().map(String::as_str)
    }

    pub(super) fn index(&mut self, root: &str, key: &Key) {
        self.index.entry(root.to_owned()).or_default().insert(key.clone());
    }

    pub(super) fn unindex(&mut self, root: &str, key: &Key) {
        if let Some(keys) = self.index.get_mut(root) {
            keys.remove(key);
            if keys.is_empty() {
                self.index.remove(root);
            }
        }
    }

    pub(super) fn indexed(&self, root: &str) -> impl Iterator<Item = &Key> {
        self.index.get(root).into_iter().flatten()
    }

    /// When a source has used up its quota, a suspect that only it lists makes room, or somebody without a link whom it has
    /// not repeated since it was opened anew; known services stay.
    fn make_room(&mut self, source: usize, generation: u64) -> bool {
        if self.slots[source].listings < MAX_PER_SOURCE {
            return true;
        }
        let suspect = self.suspects.iter().find(|key| {
            self.records.get(*key).is_some_and(|r| r.listings.iter().all(|l| l.source == source))
        });
        let unrepeated = |record: &Record| {
            record.hello.is_none()
                && record.listings.iter().all(|l| l.source == source && l.generation < generation)
        };
        let victim = match suspect {
            None if self.slots[source].swept < generation => {
                self.records.iter().find(|(_, record)| unrepeated(record)).map(|(key, _)| key)
            }
            found => found,
        };
        let Some(victim) = victim.cloned() else { return false };
        self.unlist(&victim, |_| true);
        true
    }

    /// Moves configured addresses (listings without a node) to the node that answered there, if there are any.
    fn move_configured(&mut self, from: &Key, dialled: &Key, to: &Key, now: Instant) -> bool {
        let Key::Node(node) = to else { return false };
        let Some(record) = self.records.get_mut(from) else { return false };
        let moves = |l: &Listing| match (&l.listed_as, dialled) {
            (Key::Endpoint(_), Key::Endpoint(_)) => l.listed_as == *dialled,
            (Key::Endpoint(_), Key::Node(_)) => true,
            (Key::Node(_), _) => false,
        };
        let (moved, kept): (Vec<_>, Vec<_>) = record.listings.drain(..).partition(moves);
        record.listings = kept;
        let first_seen = record.first_seen;
        if moved.is_empty() {
            return false;
        }
        self.touched.insert(from.clone());
        for listing in &moved {
            self.met.insert(listing.listed_as.clone(), *node);
        }
        let record = self.records.entry(to.clone()).or_insert_with(|| Record::new(now));
        record.first_seen = record.first_seen.min(first_seen);
        record.listings.extend(moved);
        record.listings.sort_by_key(|l| l.source);
        true
    }

    fn unlist(&mut self, key: &Key, gone: impl Fn(&Listing) -> bool) {
        let Some(record) = self.records.get_mut(key) else { return };
        let (slots, met) = (&mut self.slots, &mut self.met);
        record.listings.retain(|listing| {
            let gone = gone(listing);
            if gone {
                slots[listing.source].listings = slots[listing.source].listings.saturating_sub(1);
                met.remove(&listing.listed_as);
            }
            !gone
        });
        self.touched.insert(key.clone());
    }

    fn drop_record(&mut self, key: &Key) {
        self.unlist(key, |_| true);
        if let Some(record) = self.records.get_mut(key) {
            record.hello = None;
        }
    }
}

impl Record {
    fn new(now: Instant) -> Self {
        Self { listings: Vec::new(), hello: None, suspect: false, strikes: 0, first_seen: now }
    }

    fn lists(&self, source: usize, listed_as: &Key) -> bool {
        self.listings.iter().any(|l| l.source == source && l.listed_as == *listed_as)
    }

    fn alive(&mut self) {
        self.suspect = false;
        self.strikes = 0;
    }

    /// Adverts, the latest epoch first, then in the order of the sources. Those without a node come last: they know least.
    fn adverts(&self) -> Vec<&Advert> {
        let mut adverts: Vec<&Advert> = self.listings.iter().map(|l| &l.advert).collect();
        adverts.sort_by_key(|a| (a.node.is_none(), std::cmp::Reverse(a.epoch)));
        adverts
    }

    /// What all sources say together: the latest epoch's words, everybody's endpoints. A wrong endpoint costs one dial, a
    /// missing one costs the service.
    fn merged(&self, key: &Key) -> Advert {
        let adverts = self.adverts();
        let Some((first, rest)) = adverts.split_first() else {
            let node = if let Key::Node(node) = key { *node } else { NodeId([0; 16]) };
            return Advert::new(node, "", "");
        };
        let mut advert = Advert::clone(first);
        if let Key::Node(node) = key {
            advert.node = Some(*node);
        }
        for other in rest {
            add_all(&mut advert.endpoints, &other.endpoints, MAX_ENDPOINTS);
            if other.node.is_none() || other.epoch == advert.epoch {
                add_all(&mut advert.roots, &other.roots, MAX_ROOTS);
            }
        }
        advert
    }

    /// What a live instance is: its hello, and what adverts of the same life add to its roots since.
    fn live(&self, hello: &Advert) -> Advert {
        let mut advert = hello.clone();
        for listing in &self.listings {
            if listing.advert.node.is_none() || listing.advert.epoch == hello.epoch {
                add_all(&mut advert.roots, &listing.advert.roots, MAX_ROOTS);
            }
        }
        advert
    }

    /// Endpoints of adverts that speak of another life or another place than the live link does.
    fn pending(&self, hello: &Advert) -> Vec<Endpoint> {
        let mut pending = Vec::new();
        for advert in self.listings.iter().map(|l| &l.advert).filter(|a| a.node.is_some()) {
            let elsewhere = !advert.endpoints.iter().any(|e| hello.endpoints.contains(e));
            if elsewhere || advert.epoch > hello.epoch {
                add_all(&mut pending, &advert.endpoints, MAX_ENDPOINTS);
            }
        }
        pending.retain(|endpoint| !hello.endpoints.contains(endpoint));
        pending
    }

    /// The endpoints listed for this life; for want of them, all.
    fn endpoints_of(&self, epoch: u64) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        let adverts = self.adverts();
        for advert in adverts.iter().filter(|a| a.node.is_none() || a.epoch == epoch) {
            add_all(&mut endpoints, &advert.endpoints, MAX_ENDPOINTS);
        }
        if endpoints.is_empty() {
            adverts.iter().for_each(|a| add_all(&mut endpoints, &a.endpoints, MAX_ENDPOINTS));
        }
        endpoints
    }
}

fn add_all<T: Clone + PartialEq>(to: &mut Vec<T>, from: &[T], max: usize) {
    for item in from {
        if to.len() < max && !to.contains(item) {
            to.push(item.clone());
        }
    }
}
