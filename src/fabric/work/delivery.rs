//! One work item, and what its worker says of it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    envelope::{ErrorBody, Verdict},
    fabric::work::answer::Answer,
};

/// One work item.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// let mut emails = node.pull::<String>("emails").await?;
/// while let Some(Ok(delivery)) = emails.recv().await {
///     println!("{} from {:?}", delivery.body, delivery.from);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivery<T> {
    /// What was pushed.
    pub body: T,
    /// The queue.
    pub queue: Arc<str>,
    /// The pushing service, as it named itself; `None` for a foreign PUSH socket.
    pub from: Option<Arc<str>>,
    /// Which attempt this is, counted from 1. Always 1 unless the item was pushed durably.
    pub attempt: u32,
    /// Its key, if it was pushed durably with one: see [`Durable::key`](crate::fabric::Durable::key).
    pub key: Option<Arc<str>>,
    /// The topic, if it is an event: see [`Subscribe::durable`](crate::fabric::Subscribe::durable).
    pub topic: Option<Arc<str>>,
    /// When it was pushed, by its sender's clock, if it was pushed durably.
    pub first_seen: Option<SystemTime>,
    /// Rises with each delivery of one sender, over its restarts too; 0 unless the item was pushed durably. A store that keeps the
    /// highest one it has seen of a sender and key, and refuses lower ones, is safe from a worker that was believed dead.
    pub fence: u64,
    /// The W3C `traceparent` of the request that it belongs to, if its sender has said one. What is pushed durably by a handler of
    /// [`Node::work`](crate::Node::work) belongs to the same trace.
    pub traceparent: Option<Arc<str>>,
    pub(super) answer: Option<Arc<Answer>>,
}

impl<T> Delivery<T> {
    /// Whether whoever pushed this keeps it until it is acked: see [`Push::durable`](super::push::Push::durable). Such an item
    /// that is dropped without an answer is delivered again.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let mut emails = node.pull::<String>("emails").await?;
    /// while let Some(Ok(email)) = emails.recv().await {
    ///     println!("{}", if email.is_durable() { "at least once" } else { "at most once" });
    ///     email.ack();
    /// }
    /// # Ok(()) }
    /// ```
    pub fn is_durable(&self) -> bool {
        self.answer.is_some()
    }

    /// It is done, and owed no more. The first answer counts; where nobody waits for one this does nothing.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// if let Some(Ok(email)) = node.pull::<String>("emails").await?.recv().await {
    ///     println!("{}", email.body);
    ///     email.ack();
    /// }
    /// # Ok(()) }
    /// ```
    pub fn ack(&self) {
        if let Some(answer) = &self.answer {
            answer.ack();
        }
    }

    /// It failed: it is delivered again after a pause, here or elsewhere, a few times, and then becomes a dead letter.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// if let Some(Ok(email)) = node.pull::<String>("emails").await?.recv().await {
    ///     email.nack("the mail server does not answer", Some(std::time::Duration::from_secs(30)));
    /// }
    /// # Ok(()) }
    /// ```
    pub fn nack(&self, why: impl Into<String>, retry_after: Option<Duration>) {
        let after = retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self.failed(&ErrorBody { retry_after_ms: after, ..ErrorBody::new("", why) });
    }

    /// It would fail each time: it becomes a dead letter now.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// if let Some(Ok(email)) = node.pull::<String>("emails").await?.recv().await {
    ///     email.dead_letter("no such address");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn dead_letter(&self, why: impl Into<String>) {
        self.failed(&refused(why));
    }

    /// Says that it is still being worked on: whoever pushed it waits anew for as long as `durable.lease` says there, 10 min by
    /// default, before it is delivered again.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// if let Some(Ok(film)) = node.pull::<String>("films").await?.recv().await {
    ///     for _scene in 0..1000 {
    ///         film.extend();
    ///     }
    ///     film.ack();
    /// }
    /// # Ok(()) }
    /// ```
    pub fn extend(&self) {
        if let Some(answer) = &self.answer {
            answer.extend();
        }
    }

    /// The body, and the rest.
    pub(super) fn open(self) -> (T, Delivery<()>) {
        let Self { body, queue, from, attempt, key, topic, first_seen, fence, traceparent, answer } = self;
        (
            body,
            Delivery { body: (), queue, from, attempt, key, topic, first_seen, fence, traceparent, answer },
        )
    }

    pub(super) fn with<B>(self, body: B) -> Delivery<B> {
        let Self { body: _, queue, from, attempt, key, topic, first_seen, fence, traceparent, answer } = self;
        Delivery { body, queue, from, attempt, key, topic, first_seen, fence, traceparent, answer }
    }

    pub(super) fn failed(&self, error: &ErrorBody) {
        if let Some(answer) = &self.answer {
            answer.nack(error);
        }
    }
}

pub(super) fn refused(why: impl Into<String>) -> ErrorBody {
    ErrorBody { retry: Some(Verdict::Never), ..ErrorBody::new("", why) }
}
