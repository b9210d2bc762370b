//! Durable events: a copy of each for every durable subscription that is known, owed like work.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Outbox, now,
    push::{How, Receipt},
};
use crate::{
    config::DurableConfig,
    durable::{Group, Millis, NewLetter, RETAINED, Reason, StoreError, Write},
    envelope::{Pattern, group_of, group_queue},
    fabric::error::PushError,
};

/// Durable subscriptions that one node keeps events for.
const GROUPS: usize = 1024;
/// How often a group that is here is noted as seen, and those that are gone are looked for.
const LOOK: Duration = Duration::from_secs(3600);
/// Letters written at once.
const PAGE: usize = 256;

/// Whom events are kept for, and for how long for those who come later.
#[derive(Default)]
pub(super) struct Groups {
    /// Read while an event is kept, written while a group is added: it gets every event behind what it was given.
    known: tokio::sync::RwLock<Vec<Group>>,
    retain: Duration,
    gone: Duration,
}

impl Groups {
    pub(super) fn new(config: &DurableConfig) -> Self {
        Self { known: tokio::sync::RwLock::default(), retain: config.retain, gone: config.groups_for }
    }
}

impl Outbox {
    /// What is on disk, and what the configuration names on top of it.
    pub(crate) async fn open_groups(self: &Arc<Self>, config: &DurableConfig) -> Result<(), StoreError> {
        *self.groups.known.write().await = self.journal().look(|store| store.groups()).await?;
        for group in &config.groups {
            // The configuration was checked.
            let pattern = Pattern::parse(&group.pattern).ok();
            if let Some(queue) = pattern.and_then(|pattern| group_queue(&group.name, &pattern).ok()) {
                self.register(&queue).await?;
            }
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.spawn(look_after(Arc::downgrade(self)));
        }
        Ok(())
    }

    /// An instance of a durable subscription is here: from now on events are kept for it.
    pub(crate) async fn register(&self, queue: &str) -> Result<(), StoreError> {
        let Some((name, pattern)) = group_of(queue) else { return Ok(()) };
        let seen = now();
        let mut known = self.groups.known.write().await;
        let old = known.iter().position(|group| group.queue == queue);
        if let Some(group) = old.and_then(|old| known.get_mut(old)) {
            let fresh = group.seen.after(super::millis(LOOK)) > seen;
            group.seen = seen;
            if fresh {
                return Ok(());
            }
        } else if known.len() >= GROUPS {
            tracing::warn!(queue, GROUPS, "a durable subscription more than there may be is not kept for");
            return Ok(());
        }
        let group = Group { queue: queue.to_owned(), pattern: pattern.clone(), seen };
        self.journal().commit(vec![Write::Group(group.clone())]).await?;
        if old.is_none() {
            tracing::info!(name, %pattern, "events are kept for a new durable subscription");
            known.push(group);
            self.wake(queue);
        }
        Ok(())
    }

    /// Events are kept for it no more, and those that were are thrown away. Gives how many.
    pub(crate) async fn unregister(&self, queue: &str) -> Result<u64, StoreError> {
        let mut known = self.groups.known.write().await;
        let removed = self.journal().commit(vec![Write::Ungroup(queue.to_owned())]).await?;
        known.retain(|group| group.queue != queue);
        let events = removed.first().copied().flatten().unwrap_or_default();
        tracing::warn!(queue, events, "a durable subscription was removed, with what was kept for it");
        Ok(events)
    }

    pub(crate) async fn known_groups(&self) -> Vec<Group> {
        self.groups.known.read().await.clone()
    }

    /// Whether somebody gets an event of this topic, now or later.
    pub(crate) async fn keep_event(
        &self,
        topic: &str,
        body: Bytes,
        how: How<'_>,
    ) -> Result<Option<Vec<Receipt>>, PushError> {
        let known = self.groups.known.read().await;
        let created = now();
        let new = |queue: &str| how.item(queue, body.clone(), Some(topic), created, self);
        let matching = known.iter().filter(|group| group.pattern.matches(topic));
        let items: Vec<_> = matching.map(|group| new(&group.queue)).collect::<Result<_, _>>()?;
        let retained = match self.groups.retain {
            Duration::ZERO => Vec::new(),
            retain => {
                let before = Millis(created.0.saturating_sub(super::millis(retain)));
                vec![Write::Put(new(RETAINED)?), Write::Trim(before)]
            }
        };
        if items.is_empty() && retained.is_empty() {
            return Ok(None);
        }
        self.keep(items, retained).await.map(Some)
    }

    /// Groups that are here are noted as such; those that have been gone for too long are removed.
    async fn look_at_groups(&self) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        for group in self.known_groups().await {
            let here = self.shared.upgrade().is_some_and(|shared| shared.outlets.has_pullers(&group.queue));
            if here {
                self.register(&group.queue).await?;
            } else if group.seen.after(super::millis(self.groups.gone)) < now() {
                gone.push(group.queue);
            }
        }
        for queue in gone {
            let (mut after, mut letters) = (0, 0);
            loop {
                let name = queue.clone();
                let page = self.journal().look(move |store| store.page(&name, after, PAGE)).await?;
                let Some(last) = page.last() else { break };
                after = last.id;
                letters += page.len();
                let dead = page.iter().map(|item| {
                    Write::Dead(NewLetter {
                        item: item.id,
                        reason: Reason::Expired,
                        died: now(),
                        attempts: item.attempts,
                        error: "its durable subscription was gone for too long".into(),
                        chain: Vec::new(),
                        instance: None,
                    })
                });
                self.journal().commit(dead.collect()).await?;
            }
            tracing::warn!(queue, letters, "a durable subscription was gone for too long: it is removed");
            self.unregister(&queue).await?;
        }
        Ok(())
    }
}

async fn look_after(outbox: std::sync::Weak<Outbox>) {
    loop {
        {
            let Some(outbox) = outbox.upgrade() else { return };
            if let Err(error) = outbox.look_at_groups().await {
                if error == StoreError::Closed {
                    return;
                }
                tracing::warn!(%error, "durable subscriptions cannot be looked after for now");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
