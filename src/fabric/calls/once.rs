//! Calls with an idempotency key: one handler for all who ask the same, and its answer for those who ask again.
//!
//! ```text
//!   call, key ──▶ under way? ──▶ wait with the others
//!                 answered before? ──▶ that answer
//!                 new ──▶ handler, in a task of its own ──▶ its answer kept, and then given to all who wait
//! ```

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::server::{Answer, error_body};
use crate::{
    envelope::{ErrorBody, Verdict},
    fabric::{
        effect::{Effect, Recorded, What},
        shared::Shared,
    },
    sync::lock,
};

/// Answers that a node without a place on disk remembers,
const REMEMBERED: usize = 65_536;
/// and their bytes.
const REMEMBERED_BYTES: usize = 64 << 20;
/// What one of them counts beside its bytes.
const OVERHEAD: usize = 256;

/// What is asked for: who asks, for what, and under which name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Asked {
    /// As proven, or as it says where nothing is proven.
    pub(super) caller: Arc<str>,
    pub(super) subject: Arc<str>,
    pub(super) key: Box<str>,
}

impl Asked {
    fn size(&self) -> usize {
        self.caller.len() + self.subject.len() + self.key.len() + OVERHEAD
    }
}

/// A request under a key.
pub(super) struct Asking {
    pub(super) asked: Asked,
    /// Tells it from others under the same key.
    pub(super) sum: u32,
    pub(super) recorded: Recorded,
}

impl Asking {
    pub(super) fn effect(&self) -> Effect {
        let Asked { caller, subject, key } = self.asked.clone();
        Effect::new(What::Call { caller, subject, key, head: head(self.sum, REPLY) }, self.recorded.clone())
    }
}

/// Tells one request from another under the same key; the same over restarts, where there is a disk.
pub(super) fn sum(request: &[u8]) -> u32 {
    #[cfg(feature = "durable")]
    return crc32fast::hash(request);
    #[cfg(not(feature = "durable"))]
    {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        request.hash(&mut hasher);
        hasher.finish() as u32
    }
}

/// What stands in front of an answer on disk.
fn head(sum: u32, kind: u8) -> [u8; 5] {
    let [a, b, c, d] = sum.to_be_bytes();
    [a, b, c, d, kind]
}

/// Everything that was asked for under a key.
#[derive(Clone, Default)]
pub(super) struct Once(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    running: HashMap<Asked, Running>,
    /// Only where there is no disk.
    kept: HashMap<Asked, Kept>,
    /// The oldest first.
    order: VecDeque<Asked>,
    bytes: usize,
}

#[derive(Clone)]
struct Running {
    sum: u32,
    answer: watch::Receiver<Option<Answer>>,
}

/// An answer, and what it is the answer to.
#[derive(Clone, PartialEq, Debug)]
struct Kept {
    sum: u32,
    answer: Answer,
}

/// How an answer that is kept begins, behind the sum of the request.
const REPLY: u8 = 0;
#[cfg(feature = "durable")]
const ERROR: u8 = 1;

impl Kept {
    /// The answer, unless something else was asked for under the same key.
    fn to(self, sum: u32) -> Answer {
        if self.sum == sum { self.answer } else { Err(reused()) }
    }

    /// As it is on disk: the sum, what it is, and its body.
    #[cfg(feature = "durable")]
    fn encode(&self) -> Option<Bytes> {
        let (kind, body) = match &self.answer {
            Ok(body) => (REPLY, body.clone()),
            Err(error) => (ERROR, crate::fabric::wire::body(error).ok()?),
        };
        Some([&head(self.sum, kind)[..], &body].concat().into())
    }

    #[cfg(feature = "durable")]
    fn decode(bytes: &Bytes) -> Option<Self> {
        let (sum, rest) = bytes.split_first_chunk()?;
        let answer = match rest.split_first()? {
            (&REPLY, body) => Ok(bytes.slice_ref(body)),
            (&ERROR, body) => Err(crate::envelope::decode_body(body).ok()?),
            _ => return None,
        };
        Some(Self { sum: u32::from_be_bytes(*sum), answer })
    }
}

fn reused() -> ErrorBody {
    error_body(
        611,
        "the idempotency key was used with another request before; give each request a key of its own",
    )
}

impl State {
    fn keep(&mut self, asked: Asked, kept: Kept) {
        let size = asked.size() + kept.answer.as_ref().map_or(0, Bytes::len);
        self.bytes += size;
        self.order.push_back(asked.clone());
        self.kept.insert(asked, kept);
        while self.bytes > REMEMBERED_BYTES || self.order.len() > REMEMBERED {
            let Some(oldest) = self.order.pop_front() else { return };
            let gone = self.kept.remove(&oldest).and_then(|kept| kept.answer.ok());
            self.bytes -= oldest.size() + gone.map_or(0, |body| body.len());
        }
    }
}

impl Once {
    /// The answer to a request: the handler's, which `run` has, or the one that was given before. Whoever stops waiting does not
    /// stop the handler.
    pub(super) async fn answer<F>(
        &self,
        shared: &Arc<Shared>,
        asking: Asking,
        deadline: Option<Instant>,
        run: F,
    ) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let mut running = match self.join(shared, asking, run) {
            Ok(running) => running.answer,
            Err(answer) => return answer,
        };
        let answered = async {
            let answer = running.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
            answer.unwrap_or_else(|| Err(error_body(416, "the handler's task has ended without an answer")))
        };
        match deadline {
            Some(deadline) => timeout_at(deadline, answered)
                .await
                .unwrap_or_else(|_| Err(error_body(415, "the deadline passed; the handler goes on"))),
            None => answered.await,
        }
    }

    /// `Err`: it is answered already.
    fn join<F>(&self, shared: &Arc<Shared>, asking: Asking, run: F) -> Result<Running, Answer>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let Asking { asked, sum, recorded } = asking;
        let mut state = lock(&self.0);
        if let Some(running) = state.running.get(&asked) {
            return if running.sum == sum { Ok(running.clone()) } else { Err(Err(reused())) };
        }
        if let Some(kept) = state.kept.get(&asked) {
            return Err(kept.clone().to(sum));
        }
        let (sender, answer) = watch::channel(None);
        let running = Running { sum, answer };
        state.running.insert(asked.clone(), running.clone());
        drop(state);
        let (once, node) = (self.clone(), shared.clone());
        shared.spawn(async move {
            let ending = Ending { once, asked: asked.clone() };
            let answer = match before(&node, &asked).await {
                Ok(Some(kept)) => kept.to(sum),
                Ok(None) => {
                    let answer = run.await;
                    // What a transaction has recorded stays.
                    if is_final(&answer) && !recorded.is_set() {
                        ending.once.keep(&node, asked, Kept { sum, answer: answer.clone() }).await;
                    }
                    answer
                }
                Err(error) => Err(error),
            };
            // Kept before it is no longer under way: whoever comes now finds one or the other.
            drop(ending);
            sender.send_replace(Some(answer));
        });
        Ok(running)
    }

    async fn keep(&self, shared: &Shared, asked: Asked, kept: Kept) {
        #[cfg(feature = "durable")]
        if let Some(outbox) = shared.outbox.get() {
            let subject = asked.subject.clone();
            let Some(body) = kept.encode() else { return };
            if let Err(error) = outbox.keep_reply(key(asked), body).await {
                tracing::warn!(%error, %subject, "the reply to a call with a key was not kept: it may act again");
            }
            return;
        }
        let _ = shared;
        lock(&self.0).keep(asked, kept);
    }
}

/// The request is under way no longer, however that ended.
struct Ending {
    once: Once,
    asked: Asked,
}

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.once.0).running.remove(&self.asked);
    }
}

/// Whether the same is to be said to whoever asks again: of an error only if trying again would not help.
fn is_final(answer: &Answer) -> bool {
    answer.as_ref().map_or_else(|error| error.retry == Some(Verdict::Never), |_| true)
}

#[cfg(feature = "durable")]
fn key(asked: Asked) -> crate::durable::ReplyKey {
    let Asked { caller, subject, key } = asked;
    crate::durable::ReplyKey { caller: caller.to_string(), subject: subject.to_string(), key: key.into() }
}

/// What is on disk. When that cannot be read, nothing is done: it may have been done before.
#[cfg(feature = "durable")]
async fn before(shared: &Shared, asked: &Asked) -> Result<Option<Kept>, ErrorBody> {
    let Some(outbox) = shared.outbox.get() else { return Ok(None) };
    let reply = outbox.reply(key(asked.clone())).await;
    let reply =
        reply.map_err(|error| error_body(418, format!("the store of replies cannot be read: {error}")))?;
    Ok(reply.as_ref().and_then(Kept::decode))
}

#[cfg(not(feature = "durable"))]
#[allow(clippy::unused_async)]
async fn before(_: &Shared, _: &Asked) -> Result<Option<Kept>, ErrorBody> {
    Ok(None)
}
