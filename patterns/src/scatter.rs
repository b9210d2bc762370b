//! Ask every live instance of a service, gather until a quorum or a deadline.
//!
//! ```text
//!              ┌── ask ──▶ instance 1 ── reply ──┐
//!   caller  ───┼── ask ──▶ instance 2 ── error ──┼──▶  Gathered { replies: [1, 4], failed: [2], silent: [3] }
//!              ├── ask ──▶ instance 3     …      │
//!              └── ask ──▶ instance 4 ── reply ──┘
//!                             ▲
//!                 quorum reached, deadline passed or future dropped:
//!                       who has not answered is sent a cancel
//! ```
//!
//! All calls run inside the one future that gathers, not in tasks of their own. Two things follow: dropping it drops
//! them, which is what cancels the handlers; and inside a handler they inherit its deadline.

use std::{
    collections::BTreeSet,
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use ripstop::{
    Code, Endpoint, Fault, Node,
    discovery::{Key, NodeId},
    envelope::{SubjectError, check_subject, root},
    fabric::{Call, CallError},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep_until};

/// The default of [`Scatter::discovery_wait`]; what a first call waits, too.
const DISCOVERY_WAIT: Duration = Duration::from_secs(2);

/// A question to every live instance of a service. Await it to ask.
///
/// Who is asked: every instance that the directory offers under the subject's first token, those that appear while the
/// answers are gathered included, and this node itself if that token is its own service ([`Scatter::include_self`]). An
/// instance that its links or its source have given up is not asked and not reported.
///
/// It ends when [`quorum`](Self::quorum) replies are there, when everyone asked has replied or failed, or at the
/// [`deadline`](Self::deadline). Who has not answered by then is cancelled, and so is everyone when the future is dropped.
///
/// # Errors
/// [`ScatterError`], and only when there was nobody to ask or the question itself is wrong. That some or all instances
/// failed is not an error of the scatter: [`Gathered`] tells it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use ripstop::{Node, discovery::Memory};
/// use ripstop_patterns::{Gathered, Scatter};
///
/// let lan = Memory::new();
/// let mut shops = Vec::new();
/// for cents in [300u64, 250, 275] {
///     let shop = Node::builder("pricing").local(false).source(lan.source()).start().await?;
///     shop.serve("pricing.quote", move |qty: u64, _ctx| async move { Ok(cents * qty) }).await?;
///     shops.push(shop);
/// }
/// let buyer = Node::builder("buyer").local(false).source(lan.source()).start().await?;
///
/// let offers: Gathered<u64> =
///     Scatter::new(&buyer, "pricing.quote", &2u64).quorum(3).deadline(Duration::from_secs(5)).await?;
/// assert!(offers.has_quorum());
/// assert_eq!(offers.replies.iter().map(|(_, cents)| *cents).min(), Some(500));
/// # Ok(()) }
/// ```
#[must_use = "nobody is asked until it is awaited"]
pub struct Scatter<'a, Q: ?Sized, R> {
    node: &'a Node,
    subject: &'a str,
    request: &'a Q,
    quorum: Option<usize>,
    deadline: Option<Duration>,
    discovery_wait: Duration,
    include_self: bool,
    reply: PhantomData<fn() -> R>,
}

impl<'a, Q: Serialize + Sync + ?Sized, R: DeserializeOwned + Send + 'static> Scatter<'a, Q, R> {
    /// The same question to every instance of the service that the subject's first token names.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> Result<(), ripstop_patterns::ScatterError> {
    /// use ripstop_patterns::{Gathered, Scatter};
    ///
    /// let sizes: Gathered<u64> = Scatter::new(&node, "cache.size", &()).await?;
    /// # Ok(()) }
    /// ```
    pub fn new(node: &'a Node, subject: &'a str, request: &'a Q) -> Self {
        Self {
            node,
            subject,
            request,
            quorum: None,
            deadline: None,
            discovery_wait: DISCOVERY_WAIT,
            include_self: node.service() == root(subject),
            reply: PhantomData,
        }
    }

    /// Enough replies: the rest is cancelled. Failures do not count. While fewer instances than that are known, it waits
    /// for more ([`discovery_wait`](Self::discovery_wait)). Default: everyone's reply is wanted. 0 means 1.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> Result<(), ripstop_patterns::ScatterError> {
    /// use ripstop_patterns::{Gathered, Scatter};
    ///
    /// let first: Gathered<String> = Scatter::new(&node, "search.find", "rope").quorum(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn quorum(mut self, replies: usize) -> Self {
        self.quorum = Some(replies.max(1));
        self
    }

    /// How long it may take in all, discovery included. It travels to the handlers, which are cancelled when it has
    /// passed. Default: the node's `timeouts.call`, 10 s, from when each instance is asked. Inside a handler the time that
    /// its own caller left is the upper bound.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> Result<(), ripstop_patterns::ScatterError> {
    /// use std::time::Duration;
    /// use ripstop_patterns::{Gathered, Scatter};
    ///
    /// let offers: Gathered<u64> =
    ///     Scatter::new(&node, "pricing.quote", &3u64).deadline(Duration::from_millis(250)).await?;
    /// # Ok(()) }
    /// ```
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// How long to wait, from the start, for a first instance to be found, or with a [`quorum`](Self::quorum) for as many
    /// as it takes. Nobody is waited for once it is reached, nor past the deadline. Default 2 s; 0 asks who is known now.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> Result<(), ripstop_patterns::ScatterError> {
    /// use std::time::Duration;
    /// use ripstop_patterns::{Gathered, Scatter};
    ///
    /// let now: Gathered<u64> = Scatter::new(&node, "cache.size", &()).discovery_wait(Duration::ZERO).await?;
    /// # Ok(()) }
    /// ```
    pub fn discovery_wait(mut self, wait: Duration) -> Self {
        self.discovery_wait = wait;
        self
    }

    /// Whether this node is asked as well, over the network as everyone else. Default: yes if the subject's first token is
    /// its own service, because then it is one of the instances. Say `false` to ask only the others; say `true` on a node
    /// that serves the subject under another service's name.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> Result<(), ripstop_patterns::ScatterError> {
    /// use ripstop_patterns::{Gathered, Scatter};
    ///
    /// let siblings: Gathered<u64> = Scatter::new(&node, "cache.size", &()).include_self(false).await?;
    /// # Ok(()) }
    /// ```
    pub fn include_self(mut self, yes: bool) -> Self {
        self.include_self = yes;
        self
    }

    async fn gather(self) -> Result<Gathered<R>, ScatterError> {
        check_subject(self.subject)?;
        let started = Instant::now();
        // Beyond what the clock can hold is no limit.
        let deadline = self.deadline.and_then(|after| started.checked_add(after));
        let give_up = started.checked_add(self.discovery_wait);
        let mut changed = self.node.directory().changed();
        let mut round = Round { scatter: &self, deadline, asked: BTreeSet::new(), met: BTreeSet::new() };
        let mut calls = FuturesUnordered::new();
        let mut meeting = FuturesUnordered::new();
        let mut tally = Tally::new(self.quorum);
        // Set when the directory has gone, or nobody else may come in time.
        let mut late = false;
        loop {
            // Seen from here on, lest a change between looking and waiting be missed.
            changed.borrow_and_update();
            let Newcomers { calls: new, unmet } = round.newcomers();
            calls.extend(new);
            if unmet {
                meeting.push(self.node.peers());
            }
            let idle = calls.is_empty() && meeting.is_empty();
            if tally.is_reached() || (idle && (late || !tally.wants_more(round.asked.len()))) {
                break;
            }
            tokio::select! {
                biased;
                Some((instance, result)) = calls.next() => tally.count(instance, result)?,
                () = until(deadline) => break,
                Some(_) = meeting.next() => {}
                changed = changed.changed(), if !late => late = changed.is_err(),
                () = until(give_up), if idle => late = true,
            }
        }
        // Everyone who is still busy with it is told to stop.
        drop(calls);
        let unmet = round.unmet();
        if round.asked.is_empty() && unmet.is_empty() {
            return Err(self.nobody());
        }
        Ok(tally.gathered(&round.asked, unmet))
    }

    fn nobody(&self) -> ScatterError {
        let service = root(self.subject).to_owned();
        let directory = self.node.directory();
        if directory.ever_seen_root(&service) {
            return ScatterError::NoInstance { service };
        }
        ScatterError::NoSuchService { nearest: directory.nearest(&service), service }
    }
}

impl<'a, Q, R> IntoFuture for Scatter<'a, Q, R>
where
    Q: Serialize + Sync + ?Sized,
    R: DeserializeOwned + Send + 'static,
{
    type Output = Result<Gathered<R>, ScatterError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.gather())
    }
}

/// What came of asking everyone. Each instance that was asked is in exactly one of `replies`, `failed` and `silent`.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> Result<(), ripstop_patterns::ScatterError> {
/// use ripstop_patterns::{Gathered, Scatter};
///
/// let sizes: Gathered<u64> = Scatter::new(&node, "cache.size", &()).await?;
/// for (instance, error) in &sizes.failed {
///     eprintln!("{}: {error}", instance.short());
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "some instances may have failed or kept silent"]
#[non_exhaustive]
pub struct Gathered<R> {
    /// Who replied, and what; in the order in which the replies came.
    pub replies: Vec<(NodeId, R)>,
    /// Who failed, and how; in the order in which the failures came. [`CallError::Lost`]: it vanished while it was busy with
    /// the question, and may have acted.
    pub failed: Vec<(NodeId, CallError)>,
    /// Who had not answered when gathering ended, whether it was too late or no longer needed. It was told to stop, and may
    /// have acted. Sorted.
    pub silent: Vec<NodeId>,
    /// Configured addresses where nobody said who it is, so that they could not be asked. Sorted.
    pub unmet: Vec<Endpoint>,
    wanted: Option<usize>,
}

impl<R> Gathered<R> {
    /// How many instances were asked.
    ///
    /// ```no_run
    /// # fn f(sizes: ripstop_patterns::Gathered<u64>) {
    /// println!("{} of {} replied", sizes.replies.len(), sizes.asked());
    /// # }
    /// ```
    pub fn asked(&self) -> usize {
        self.replies.len() + self.failed.len() + self.silent.len()
    }

    /// Whether as many replied as [`Scatter::quorum`] asked for; without a quorum, whether everyone did.
    ///
    /// ```no_run
    /// # fn f(sizes: ripstop_patterns::Gathered<u64>) {
    /// if !sizes.has_quorum() {
    ///     eprintln!("{} failed, {} are silent", sizes.failed.len(), sizes.silent.len());
    /// }
    /// # }
    /// ```
    pub fn has_quorum(&self) -> bool {
        match self.wanted {
            Some(wanted) => self.replies.len() >= wanted,
            None => self.failed.is_empty() && self.silent.is_empty() && self.unmet.is_empty(),
        }
    }
}

/// Nobody could be asked.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripstop::Result<()> {
/// use std::time::Duration;
/// use ripstop::Node;
/// use ripstop_patterns::{Gathered, Scatter, ScatterError};
///
/// let node = Node::builder("buyer").local(false).start().await?;
/// let asked: Result<Gathered<u64>, _> =
///     Scatter::new(&node, "pricing.quote", &2u64).discovery_wait(Duration::ZERO).await;
/// assert!(matches!(asked, Err(ScatterError::NoSuchService { .. })));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScatterError {
    /// No such service was ever seen.
    #[error("no such service: {service}{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    NoSuchService {
        /// The first token of the subject.
        service: String,
        /// The known service with the nearest name.
        nearest: Option<String>,
    },
    /// The service is known, but no instance of it is alive.
    #[error("no instance of {service} is alive")]
    NoInstance {
        /// The service.
        service: String,
    },
    /// What was wrong is the question, or this node: no instance could have answered.
    #[error(transparent)]
    Call(CallError),
}

impl ScatterError {
    /// The stable code of this error: those of the same errors of a call.
    ///
    /// ```
    /// use ripstop_patterns::ScatterError;
    /// assert_eq!(ScatterError::NoInstance { service: "pricing".into() }.code().to_string(), "RS0411");
    /// ```
    pub fn code(&self) -> Code {
        self.as_call().code()
    }

    /// Whose fault it was.
    ///
    /// ```
    /// use ripstop_patterns::ScatterError;
    /// let error = ScatterError::NoInstance { service: "pricing".into() };
    /// assert_eq!(error.fault(), ripstop::Fault::Network);
    /// ```
    pub fn fault(&self) -> Fault {
        self.as_call().fault()
    }

    /// Whether asking again is safe and may help: `true` means that no handler has seen the question.
    ///
    /// ```
    /// use ripstop_patterns::ScatterError;
    /// assert!(ScatterError::NoInstance { service: "pricing".into() }.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        self.as_call().is_retryable()
    }

    /// The same, as a call would have told it: codes never part.
    fn as_call(&self) -> CallError {
        match self.clone() {
            Self::NoSuchService { service, nearest } => CallError::NoSuchService { service, nearest },
            Self::NoInstance { service } => CallError::NoInstance { service, reason: None },
            Self::Call(error) => error,
        }
    }
}

impl From<SubjectError> for ScatterError {
    fn from(error: SubjectError) -> Self {
        Self::Call(error.into())
    }
}

impl From<ScatterError> for ripstop::Error {
    fn from(error: ScatterError) -> Self {
        error.as_call().into()
    }
}

/// Who was asked so far.
struct Round<'s, 'a, Q: ?Sized, R> {
    scatter: &'s Scatter<'a, Q, R>,
    deadline: Option<Instant>,
    asked: BTreeSet<NodeId>,
    /// Configured addresses that were pinged, to learn who is behind them.
    met: BTreeSet<Key>,
}

/// What a look at the directory brought.
struct Newcomers<C> {
    calls: Vec<C>,
    /// There are addresses of which it is not known who is behind them.
    unmet: bool,
}

impl<Q: Serialize + ?Sized, R: DeserializeOwned + Send + 'static> Round<'_, '_, Q, R> {
    /// Calls to those who were not asked yet.
    fn newcomers(
        &mut self,
    ) -> Newcomers<impl Future<Output = (NodeId, Result<R, CallError>)> + Send + use<Q, R>> {
        let Scatter { node, subject, request, .. } = *self.scatter;
        let instances = node.directory().by_root(root(subject));
        let mut unmet = false;
        for instance in instances.iter().filter(|instance| instance.advert.node.is_none()) {
            unmet |= self.met.insert(instance.key.clone());
        }
        let own = self.scatter.include_self.then(|| node.id());
        let ids = instances.iter().filter_map(|instance| instance.advert.node).chain(own);
        let mut calls = Vec::new();
        for id in ids.filter(|id| self.asked.insert(*id)) {
            let mut call = node.call(subject, request).instance(id);
            if let Some(deadline) = self.deadline {
                call = call.timeout(deadline.saturating_duration_since(Instant::now()));
            }
            calls.push(ask(id, call));
        }
        Newcomers { calls, unmet }
    }

    /// Addresses where nobody said who it is.
    fn unmet(&self) -> Vec<Endpoint> {
        let directory = self.scatter.node.directory();
        let unknown = |key: &&Key| directory.find(key).is_none_or(|found| found.advert.node.is_none());
        let address = |key: &Key| match key {
            Key::Endpoint(endpoint) => Some(endpoint.clone()),
            _ => None,
        };
        self.met.iter().filter(unknown).filter_map(address).collect()
    }
}

async fn ask<R: DeserializeOwned + 'static>(id: NodeId, call: Call<R>) -> (NodeId, Result<R, CallError>) {
    (id, call.await)
}

/// Counts the answers.
struct Tally<R> {
    wanted: Option<usize>,
    replies: Vec<(NodeId, R)>,
    failed: Vec<(NodeId, CallError)>,
}

impl<R> Tally<R> {
    fn new(wanted: Option<usize>) -> Self {
        Self { wanted, replies: Vec::new(), failed: Vec::new() }
    }

    /// One answer. An error that every instance would have given is the scatter's own.
    fn count(&mut self, instance: NodeId, result: Result<R, CallError>) -> Result<(), ScatterError> {
        match result {
            Ok(reply) => self.replies.push((instance, reply)),
            Err(error @ (CallError::Subject(_) | CallError::Encode(_) | CallError::Draining)) => {
                return Err(ScatterError::Call(error));
            }
            // No answer in time, on whichever side the clock ran out: it stays among the silent.
            Err(CallError::Deadline { .. }) => {}
            Err(error) => self.failed.push((instance, error)),
        }
        Ok(())
    }

    fn is_reached(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.replies.len() >= wanted)
    }

    /// Whether those who were asked are too few, even if each of them replies.
    fn wants_more(&self, asked: usize) -> bool {
        asked < self.wanted.unwrap_or(1)
    }

    fn gathered(self, asked: &BTreeSet<NodeId>, unmet: Vec<Endpoint>) -> Gathered<R> {
        let answered: BTreeSet<NodeId> =
            self.replies.iter().map(|(id, _)| *id).chain(self.failed.iter().map(|(id, _)| *id)).collect();
        let silent = asked.difference(&answered).copied().collect();
        Gathered { replies: self.replies, failed: self.failed, silent, unmet, wanted: self.wanted }
    }
}

/// For ever without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [NodeId; 4] = [NodeId([1; 16]), NodeId([2; 16]), NodeId([3; 16]), NodeId([4; 16])];

    fn lost() -> CallError {
        CallError::Lost { subject: "a.b".into(), instance: "a".into(), reason: "reset".into() }
    }

    #[test]
    fn everyone_who_was_asked_is_in_one_place() {
        let mut tally = Tally::new(None);
        tally.count(IDS[2], Ok(7u64)).unwrap();
        tally.count(IDS[0], Err(lost())).unwrap();
        tally
            .count(IDS[1], Err(CallError::Deadline { subject: "a.b".into(), after: Duration::ZERO }))
            .unwrap();
        let gathered = tally.gathered(&IDS.into(), Vec::new());
        assert_eq!(gathered.replies, [(IDS[2], 7)]);
        assert!(matches!(gathered.failed[..], [(id, CallError::Lost { .. })] if id == IDS[0]));
        assert_eq!(gathered.silent, [IDS[1], IDS[3]]);
        assert_eq!(gathered.asked(), 4);
        assert!(!gathered.has_quorum());
    }

    #[test]
    fn failures_are_no_part_of_a_quorum() {
        let mut tally = Tally::new(Some(2));
        tally.count(IDS[0], Ok(1u64)).unwrap();
        tally.count(IDS[1], Err(lost())).unwrap();
        assert!(!tally.is_reached());
        assert!(tally.wants_more(1) && !tally.wants_more(2));
        tally.count(IDS[2], Ok(2)).unwrap();
        assert!(tally.is_reached());
        assert!(tally.gathered(&IDS.into(), Vec::new()).has_quorum());
    }

    #[test]
    fn without_a_quorum_anybody_will_do_and_everybody_is_wanted() {
        let tally = Tally::<u64>::new(None);
        assert!(tally.wants_more(0));
        assert!(!tally.wants_more(1));
        assert!(!tally.is_reached());
    }

    #[test]
    fn a_question_that_nobody_could_answer_is_an_error_at_once() {
        let error = Tally::<u64>::new(None).count(IDS[0], Err(CallError::Draining)).unwrap_err();
        assert_eq!(error.code(), CallError::Draining.code());
        let error =
            ScatterError::NoSuchService { service: "pricign".into(), nearest: Some("pricing".into()) };
        assert_eq!(error.to_string(), "no such service: pricign; did you mean pricing?");
        assert_eq!(error.to_string(), error.as_call().to_string());
        assert_eq!(ripstop::Error::from(error).code().number(), 410);
    }
}
