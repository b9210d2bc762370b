//! A store without a disk, for tests: what [`super::Sqlite`] has to be like.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::{
    Act, Depth, Doubt, Group, Id, Item, Letter, Limits, Millis, NewItem, RETAINED, ReplyKey, SeenKey, Store,
    StoreError, Usage, Write,
};

#[derive(Debug)]
pub(crate) struct Memory {
    outbox: String,
    limits: Limits,
    last: Id,
    last_letter: Id,
    items: BTreeMap<Id, Item>,
    letters: BTreeMap<Id, Letter>,
    seen: BTreeMap<u64, (SeenKey, Millis)>,
    seen_keys: HashSet<SeenKey>,
    seen_last: u64,
    groups: BTreeMap<String, Group>,
    replies: HashMap<ReplyKey, Bytes>,
    bytes: u64,
}

impl Memory {
    /// `outbox` names it: see [`Store::outbox`].
    pub(crate) fn new(outbox: &str, limits: Limits) -> Self {
        Self {
            outbox: outbox.to_owned(),
            limits,
            last: 0,
            last_letter: 0,
            items: BTreeMap::new(),
            letters: BTreeMap::new(),
            seen: BTreeMap::new(),
            seen_keys: HashSet::new(),
            seen_last: 0,
            groups: BTreeMap::new(),
            replies: HashMap::new(),
            bytes: 0,
        }
    }

    fn put(&mut self, item: &NewItem) -> Id {
        self.last += 1;
        let id = self.last;
        self.bytes += item.body.len() as u64;
        let NewItem { queue, body, labels, created, due, expires } = item.clone();
        self.items.insert(
            id,
            Item {
                id,
                queue,
                body,
                labels,
                created,
                due,
                expires,
                attempts: 0,
                error: None,
                doubt: None,
                lost: 0,
            },
        );
        id
    }

    fn take(&mut self, id: Id) -> Option<Item> {
        let item = self.items.remove(&id)?;
        self.bytes -= item.body.len() as u64;
        Some(item)
    }

    fn take_all(&mut self, which: impl Fn(&Item) -> bool) -> u64 {
        let all: Vec<_> = self.items.values().filter(|item| which(item)).map(|item| item.id).collect();
        all.iter().filter_map(|id| self.take(*id)).count() as u64
    }

    fn write(&mut self, write: &Write) -> Option<Id> {
        match write {
            Write::Put(item) => return Some(self.put(item)),
            Write::Done(id) => {
                self.take(*id);
                self.letters.retain(|_, letter| letter.replay != Some(*id));
            }
            Write::Retry { id, due, attempts, error } => {
                if let Some(item) = self.items.get_mut(id) {
                    (item.due, item.attempts, item.error) = (*due, *attempts, Some(error.clone()));
                }
            }
            Write::Doubt { id, doubt, lost } => {
                if let Some(item) = self.items.get_mut(id) {
                    let since = item.doubt.as_ref().map_or(doubt.since, |before| before.since);
                    item.doubt = Some(Doubt { since, holder: doubt.holder.clone() });
                    item.lost += u32::from(*lost);
                }
            }
            Write::Sure(id) => {
                let item = self.items.get_mut(id)?;
                item.doubt = None;
                return Some(*id);
            }
            Write::Dead(about) => {
                let item = self.take(about.item)?;
                self.letters.retain(|_, letter| letter.replay != Some(item.id));
                self.last_letter += 1;
                let id = self.last_letter;
                let Item { queue, body, labels, created, .. } = item;
                let letter = Letter { id, queue, body, labels, created, about: about.clone(), replay: None };
                self.letters.insert(id, letter);
            }
            Write::Seen { key, at } => {
                if self.seen_keys.insert(key.clone()) {
                    self.seen_last += 1;
                    self.seen.insert(self.seen_last, (key.clone(), *at));
                }
                for _ in 0..2 {
                    let Some((first, (_, at_first))) = self.seen.first_key_value() else { break };
                    let old = at_first.after(self.limits.seen_for) < *at;
                    if !old && self.seen_last - first < self.limits.seen {
                        break;
                    }
                    if let Some((_, (key, _))) = self.seen.pop_first() {
                        self.seen_keys.remove(&key);
                    }
                }
            }
            Write::Replay { letter, now } => {
                let found = self.letters.get(letter).filter(|found| found.replay.is_none())?;
                let item = NewItem {
                    queue: found.queue.clone(),
                    body: found.body.clone(),
                    labels: found.labels.clone(),
                    created: found.created,
                    due: *now,
                    expires: None,
                };
                let id = self.put(&item);
                self.letters.get_mut(letter)?.replay = Some(id);
                return Some(id);
            }
            Write::Purge(letter) => return self.letters.remove(letter).map(|letter| letter.id),
            Write::Cancel(id) => {
                self.letters.retain(|_, letter| letter.replay != Some(*id));
                return self.take(*id).map(|item| item.id);
            }
            Write::Hurry { id, now } => {
                let item = self.items.get_mut(id)?;
                item.due = item.due.min(*now);
                return Some(*id);
            }
            Write::Group(group) => {
                if let Some(known) = self.groups.get_mut(&group.queue) {
                    known.seen = known.seen.max(group.seen);
                    return None;
                }
                self.groups.insert(group.queue.clone(), group.clone());
                let retained: Vec<_> =
                    self.items.values().filter(|item| item.queue == RETAINED).cloned().collect();
                for Item { body, labels, created, expires, .. } in retained {
                    if labels.topic.as_ref().is_some_and(|topic| group.pattern.matches(topic)) {
                        let (queue, due) = (group.queue.clone(), created);
                        self.put(&NewItem { queue, body, labels, created, due, expires });
                    }
                }
            }
            Write::Ungroup(queue) => {
                self.groups.remove(queue);
                return Some(self.take_all(|item| item.queue == *queue));
            }
            Write::Trim(before) => {
                let oldest: Vec<_> = self
                    .items
                    .values()
                    .filter(|item| item.queue == RETAINED)
                    .map(|item| item.id)
                    .take(2)
                    .collect();
                self.take_all(|item| oldest.contains(&item.id) && item.created < *before);
            }
            Write::Reply { key, body, .. } => {
                self.replies.entry(key.clone()).or_insert_with(|| body.clone());
            }
        }
        None
    }
}

impl Store for Memory {
    fn outbox(&self) -> &str {
        &self.outbox
    }

    fn usage(&self) -> Usage {
        Usage { messages: self.items.len() as u64, bytes: self.bytes, letters: self.letters.len() as u64 }
    }

    fn commit(&mut self, writes: &[Write]) -> Result<Vec<Option<Id>>, StoreError> {
        Ok(writes.iter().map(|write| self.write(write)).collect())
    }

    fn act(&mut self, _: Act) -> Result<(), StoreError> {
        Err(StoreError::Disk { reason: "there is no file".into() })
    }

    fn queues(&mut self) -> Result<Vec<String>, StoreError> {
        let mut queues: Vec<_> = self.items.values().map(|item| item.queue.clone()).collect();
        queues.sort();
        queues.dedup();
        Ok(queues)
    }

    fn depths(&mut self) -> Result<Vec<Depth>, StoreError> {
        let mut depths: BTreeMap<&str, Depth> = BTreeMap::new();
        for item in self.items.values() {
            let new = || Depth { queue: item.queue.clone(), messages: 0, oldest: item.created };
            let depth = depths.entry(&item.queue).or_insert_with(new);
            depth.messages += 1;
            depth.oldest = depth.oldest.min(item.created);
        }
        Ok(depths.into_values().collect())
    }

    fn page(&mut self, queue: &str, after: Id, limit: usize) -> Result<Vec<Item>, StoreError> {
        let behind = self.items.range(after + 1..).map(|(_, item)| item);
        Ok(behind.filter(|item| item.queue == queue).take(limit).cloned().collect())
    }

    fn item(&mut self, id: Id) -> Result<Option<Item>, StoreError> {
        Ok(self.items.get(&id).cloned())
    }

    fn seen(&mut self) -> Result<Vec<SeenKey>, StoreError> {
        Ok(self.seen.values().map(|(key, _)| key.clone()).collect())
    }

    fn letters(&mut self, after: Id, limit: usize) -> Result<Vec<Letter>, StoreError> {
        Ok(self.letters.range(after + 1..).take(limit).map(|(_, letter)| letter.clone()).collect())
    }

    fn groups(&mut self) -> Result<Vec<Group>, StoreError> {
        Ok(self.groups.values().cloned().collect())
    }

    fn reply(&mut self, key: &ReplyKey) -> Result<Option<Bytes>, StoreError> {
        Ok(self.replies.get(key).cloned())
    }
}
