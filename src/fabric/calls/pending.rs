//! The calls that wait on one connection of the lane `calls`, each for the reply with its number.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    Message,
    envelope::{Header, Kind, Parts},
    fabric::{
        calls::stream::{Feed, Piece},
        link::PeerLink,
        shared::Shared,
        wire::{self, Envelope, own},
    },
    socket::{core::Flow, pipe::Pipe},
    sync::lock,
    zmtp::Received,
};

/// What became of a request that was handed to a connection.
pub(crate) enum Outcome {
    /// Kind 1: the body.
    Reply(Bytes),
    /// Kind 2: the body, an `ErrorBody`.
    Error(Bytes),
    /// The connection ended first.
    Lost(Arc<str>),
}

/// Who waits for what comes under a number.
pub(super) enum Waiter {
    Once(oneshot::Sender<Outcome>),
    /// For as many as were asked for.
    Stream(Feed),
}

impl Waiter {
    fn end(self, outcome: Outcome) {
        match self {
            Self::Once(sender) => drop(sender.send(outcome)),
            Self::Stream(feed) => feed.put(Piece::Last(outcome)),
        }
    }
}

type Waiting = HashMap<u64, Waiter>;

/// The waiting calls of one connection.
pub(crate) struct Pending {
    /// Who the connection leads to, for errors.
    pub(crate) instance: String,
    next: AtomicU64,
    /// The peer said goaway: it finishes what it has and takes nothing new. Of this connection, not of the link: an
    /// instance that comes back with the same id takes calls again.
    pub(crate) draining: AtomicBool,
    /// A call was lost with this connection: that is one failure, however many calls were.
    pub(crate) lost: AtomicBool,
    /// `Err`: the connection has ended, for this reason; nothing may wait on it any more.
    waiting: Mutex<Result<Waiting, Arc<str>>>,
}

impl Pending {
    pub(crate) fn new(instance: String) -> Self {
        // 0 means "no id" to a foreign caller.
        Self {
            instance,
            next: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            waiting: Mutex::new(Ok(HashMap::new())),
        }
    }

    /// A number for a new call and the place where its outcome will appear.
    pub(crate) fn register(self: &Arc<Self>) -> Result<(Ticket, oneshot::Receiver<Outcome>), Arc<str>> {
        let (sender, receiver) = oneshot::channel();
        Ok((self.wait(Waiter::Once(sender))?, receiver))
    }

    /// A number for what this one waits for.
    pub(super) fn wait(self: &Arc<Self>, waiter: Waiter) -> Result<Ticket, Arc<str>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        match &mut *lock(&self.waiting) {
            Ok(waiting) => waiting.insert(id, waiter),
            Err(reason) => return Err(reason.clone()),
        };
        Ok(Ticket { id, pending: self.clone() })
    }

    fn take(&self, id: u64) -> Option<Waiter> {
        lock(&self.waiting).as_mut().ok()?.remove(&id)
    }

    /// The connection ended: every waiting call learns it now.
    pub(crate) fn fail_all(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        let mut waiting = lock(&self.waiting);
        if let Ok(calls) = std::mem::replace(&mut *waiting, Err(reason.clone())) {
            drop(waiting);
            calls.into_values().for_each(|waiter| waiter.end(Outcome::Lost(reason.clone())));
        } else {
            *waiting = Err(reason);
        }
    }

    /// Hands all replies of one read to their callers.
    pub(crate) fn deliver(
        &self,
        shared: &Arc<Shared>,
        link: &Arc<PeerLink>,
        pipe: &Arc<Pipe>,
        received: &mut Received,
    ) -> Flow {
        for message in received.messages.drain(..) {
            match wire::parse_delimited(&message) {
                Ok((skip, Parts { header: Some(header), .. })) => {
                    if let Err(reason) = self.one(shared, link, pipe, &header, &message, skip) {
                        return Flow::Close(reason);
                    }
                }
                Ok(_) => {
                    tracing::debug!(peer = %self.instance, "a reply without a header cannot be matched to its call");
                }
                Err(reason) => return Flow::Close(reason),
            }
        }
        received.commands.clear();
        Flow::Continue
    }

    fn one(
        &self,
        shared: &Arc<Shared>,
        link: &Arc<PeerLink>,
        pipe: &Arc<Pipe>,
        header: &Header,
        message: &Message,
        envelope: usize,
    ) -> Result<(), String> {
        let body = || message.frame_bytes(envelope + 2).unwrap_or_default();
        match header.kind {
            Kind::Reply | Kind::Error => {
                let Some(waiter) = self.take(header.id) else {
                    // Its caller gave up or was timed out; the handler's work was for nothing, which is worth a count.
                    metrics::counter!("ripstop_replies_late_total").increment(1);
                    return Ok(());
                };
                let outcome =
                    if header.kind == Kind::Reply { Outcome::Reply(body()) } else { Outcome::Error(body()) };
                waiter.end(outcome);
            }
            Kind::Item => {
                if let Ok(waiting) = &mut *lock(&self.waiting)
                    && let Some(Waiter::Stream(feed)) = waiting.get_mut(&header.id)
                {
                    feed.item(pipe, body())?;
                }
            }
            Kind::End => {
                if let Some(Waiter::Stream(feed)) = self.take(header.id) {
                    feed.put(Piece::End);
                }
            }
            Kind::Hello | Kind::Manifest => shared.heard(link, &body()),
            Kind::Goaway => {
                self.draining.store(true, Ordering::Relaxed);
                tracing::debug!(peer = %self.instance, "goaway");
                // The peer waits for this before it stops taking calls: it comes behind those that are queued, so that
                // nothing of ours is on its way any more.
                wire::last(pipe, Envelope::Delimiter, own::GOAWAY, Header::new(Kind::Goaway, 0), &());
            }
            other => tracing::debug!(peer = %self.instance, kind = ?other, "unexpected on the lane calls"),
        }
        Ok(())
    }
}

/// A call's place among the waiting ones, given up when dropped.
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pending: Arc<Pending>,
}

impl Ticket {
    /// Gives the place up early; `true` when the outcome had not come yet, so that a cancel is worth sending.
    pub(crate) fn give_up(&self) -> bool {
        self.pending.take(self.id).is_some()
    }
}

/// Ends a call that nobody waits for any more: tells the serving side so.
pub(crate) struct CancelOnDrop<S: AsRef<str>> {
    pub(crate) ticket: Ticket,
    pub(crate) subject: S,
    pub(crate) pipe: Arc<Pipe>,
}

impl<S: AsRef<str>> CancelOnDrop<S> {
    /// Nobody waits any more.
    pub(super) fn cancel(&self) {
        if !self.ticket.give_up() {
            return;
        }
        // Cancels overtake what is queued, which may be the call itself: then the word is repeated behind it.
        let header = || Header::new(Kind::Cancel, self.ticket.id);
        let queued = self.pipe.queued().0 > 0;
        let subject = self.subject.as_ref();
        wire::urgent(&self.pipe, Envelope::Delimiter, subject, header(), &());
        if queued {
            wire::last(&self.pipe, Envelope::Delimiter, subject, header(), &());
        }
    }
}

impl<S: AsRef<str>> Drop for CancelOnDrop<S> {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_waits_on_a_dead_connection() {
        let pending = Arc::new(Pending::new("pricing".into()));
        let (_ticket, outcome) = pending.register().unwrap();
        pending.fail_all("reset");
        assert!(matches!(outcome.await, Ok(Outcome::Lost(reason)) if &*reason == "reset"));
        assert!(pending.register().is_err());
    }

    #[test]
    fn a_ticket_is_given_up_once() {
        let pending = Arc::new(Pending::new("pricing".into()));
        let (ticket, _outcome) = pending.register().unwrap();
        assert!(ticket.give_up());
        assert!(!ticket.give_up());
    }
}
