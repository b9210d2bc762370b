//! A handler over a pull: `node.work("emails", handler)`.

use std::{
    future::{Future, IntoFuture, poll_fn},
    pin::Pin,
    sync::Arc,
};

use serde::de::DeserializeOwned;
use tokio::{sync::Semaphore, task::AbortHandle, time::Instant};
use tracing::Instrument;

use crate::{
    Code,
    envelope::ErrorBody,
    fabric::{
        Node,
        calls::server::{caught, handler_error},
        context::{Context, PeerName},
        error::{HandlerError, SubscribeError},
        trace,
        work::pull::{Pull, PullBuilder},
    },
};

/// The default of [`Work::concurrency`].
const CONCURRENCY: usize = 8;

type Run = Box<
    dyn FnOnce(Node, String, usize) -> Pin<Box<dyn Future<Output = Result<Worker, SubscribeError>> + Send>>
        + Send,
>;

/// A worker being prepared by [`Node::work`]. Await it to begin.
#[must_use = "nothing is worked on until this is awaited"]
pub struct Work {
    node: Node,
    queue: String,
    concurrency: usize,
    run: Run,
}

impl Work {
    pub(crate) fn new<T, F, Fut>(node: &Node, queue: &str, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let run: Run = Box::new(move |node, queue, concurrency| {
            Box::pin(async move {
                Worker::start(PullBuilder::<T>::new(&node, &queue), handler, concurrency).await
            })
        });
        Self { node: node.clone(), queue: queue.to_owned(), concurrency: CONCURRENCY, run }
    }

    /// How many items are worked on at once. Default 8.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.work("films", |film: String, _| async move { println!("{film}"); Ok(()) }).concurrency(2).await?;
    /// # Ok(()) }
    /// ```
    pub fn concurrency(mut self, items: usize) -> Self {
        self.concurrency = items.clamp(1, Semaphore::MAX_PERMITS);
        self
    }
}

impl IntoFuture for Work {
    type Output = Result<Worker, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        (self.run)(self.node, self.queue, self.concurrency)
    }
}

/// A worker at work. Dropping this changes nothing; [`Worker::stop`] ends it, and so does a drain. Until then the worker
/// keeps the node alive, as a pull does.
pub struct Worker {
    task: AbortHandle,
}

impl Worker {
    pub(crate) async fn start<T, F, Fut>(
        pull: PullBuilder<T>,
        handler: F,
        concurrency: usize,
    ) -> Result<Self, SubscribeError>
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        // Twice what is being worked on, so that no handler waits for the wire.
        let pull = pull.prefetch(u32::try_from(concurrency * 2).unwrap_or(u32::MAX)).await?;
        let shared = pull.node().shared().clone();
        let task = shared.spawn(work(pull, Arc::new(handler), concurrency));
        Ok(Self { task })
    }

    /// Takes no further items; handlers under way are finished.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.work("emails", |_: String, _| async { Ok(()) }).await?.stop();
    /// # Ok(()) }
    /// ```
    pub fn stop(self) {
        self.task.abort();
    }
}

async fn work<T, F, Fut>(pull: Pull<T>, handler: Arc<F>, concurrency: usize)
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(T, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(concurrency));
    let series = pull.node().shared().counted.worked(pull.queue());
    loop {
        // The place comes first: an item that is taken is worked on at once. The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let shared = pull.node().shared();
        let Some(item) = poll_fn(|cx| pull.poll_recv(cx)).await else { return };
        let delivery = match item {
            Ok(delivery) => delivery,
            Err(error) => {
                metrics::counter!("ripstop_work_failed_total", "reason" => "decode").increment(1);
                series.failed(Code::new(430));
                tracing::warn!(%error, "an item was dropped");
                continue;
            }
        };
        let working = shared.methods.busy.begin();
        let peer = PeerName { service: delivery.from.clone(), ..PeerName::default() };
        let subject = delivery.topic.clone().unwrap_or_else(|| delivery.queue.clone());
        let effect = delivery.answer.as_ref().map(|answer| answer.effect());
        let context = Context::new(shared, subject, None, peer).of_item(
            effect,
            delivery.attempt,
            delivery.fence,
            delivery.traceparent.clone(),
        );
        let handler = handler.clone();
        let (counting, began) = (series.begin(), Instant::now());
        let span = tracing::debug_span!(
            "work", node = %shared.id, service = %shared.service, subject = %delivery.queue, peer = delivery.from.as_deref(),
        );
        let task = async move {
            let _held = (working, place, &counting);
            let (body, delivery) = delivery.open();
            let (queue, durable) = (&delivery.queue, delivery.is_durable());
            let traceparent = delivery.traceparent.clone();
            #[cfg(feature = "durable")]
            if crate::sync::is_mutated("ack_order") {
                delivery.ack();
            }
            let done =
                caught(trace::within(traceparent.as_deref(), async { handler(body, context).await })).await;
            let outcome = if matches!(done, Ok(Ok(()))) { Ok(()) } else { Err(Code::new(416)) };
            counting.series().ended(outcome, began.elapsed());
            match done {
                Ok(Ok(())) => {
                    metrics::counter!("ripstop_work_done_total").increment(1);
                    delivery.ack();
                }
                Ok(Err(error)) => {
                    metrics::counter!("ripstop_work_failed_total", "reason" => "handler").increment(1);
                    let (error, attempt) = (handler_error(&error), delivery.attempt);
                    tracing::warn!(%queue, error = error.message, durable, attempt, "a handler failed");
                    delivery.failed(&error);
                }
                Err(panic) => {
                    metrics::counter!("ripstop_work_failed_total", "reason" => "panic").increment(1);
                    tracing::error!(%queue, %panic, durable, attempt = delivery.attempt, "a handler panicked");
                    delivery.failed(&ErrorBody::new("", format!("the handler panicked: {panic}")));
                }
            }
        };
        shared.spawn(task.instrument(span));
    }
}

show!([] Work, "Work", this, { queue: this.queue, concurrency: this.concurrency });

show!([] Worker, "Worker", this, { stopped: this.task.is_finished() });
