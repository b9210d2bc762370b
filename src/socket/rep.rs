//! `Rep`: answers.

use std::sync::{Arc, Mutex};

use crate::message::{Frame, Frames, Message};
use crate::socket::error::{RecvError, SendError};
use crate::socket::handle::socket;
use crate::socket::inbound::From;
use crate::socket::pipe::{Pipe, Put};
use crate::sync::lock;

socket! {
    /// Receives a request, answers it, receives the next: from its peers in turn (RFC 28).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{Rep, Req};
    ///
    /// let rep = Rep::new();
    /// let endpoint = rep.bind("ipc://@ripstop-doc-rep").await?;
    /// let req = Req::new();
    /// req.connect(endpoint)?;
    /// req.send("ask").await?;
    /// let ask = rep.recv().await?;
    /// rep.send(&ask).await?; // an echo
    /// assert_eq!(req.recv().await?, "ask".into());
    /// # Ok(()) }
    /// ```
    Rep
}

/// The request that is being answered: everything through its first empty frame is the way back.
pub(super) struct Asker {
    pipe: Arc<Pipe>,
    request: Message,
    envelope: usize,
}

/// In `Shared`, so that all handles know.
pub(super) type Asking = Mutex<Option<Asker>>;

impl Rep {
    /// The next request, without its envelope. Requests without an empty frame are dropped and counted, as libzmq does.
    /// Cancel safe.
    ///
    /// Errors: [`State`](RecvError::State) while the last request is not answered, [`Closed`](RecvError::Closed).
    ///
    /// ```no_run
    /// # async fn doc(rep: ripstop::socket::Rep) -> Result<(), Box<dyn std::error::Error>> {
    /// let request = rep.recv().await?;
    /// rep.send("answer").await?;
    /// # Ok(()) }
    /// ```
    pub async fn recv(&self) -> Result<Message, RecvError> {
        let shared = self.shared();
        shared
            .inbound
            .wait(|taker| {
                let mut asking = lock(&shared.asking);
                if asking.is_some() {
                    return Some(Err(RecvError::State("a REP socket answers before it receives again")));
                }
                while let Some(asked) = taker.pop(asker) {
                    if let Some((asker, body)) = asked {
                        *asking = Some(asker);
                        return Some(Ok(body));
                    }
                    metrics::counter!("ripstop_socket_messages_dropped_total", "reason" => "no-envelope")
                        .increment(1);
                }
                shared.is_closed().then_some(Err(RecvError::Closed))
            })
            .await
    }

    /// Answers the request that was received last, and waits while the asker's queue is full. An answer to one who
    /// has gone is dropped and counted. Cancel safe: a cancelled answer was not given.
    ///
    /// Errors: [`State`](SendError::State) when there is no request to answer, [`TooLarge`](SendError::TooLarge),
    /// [`Closed`](SendError::Closed).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use ripstop::socket::{Rep, SendError};
    ///
    /// assert_eq!(Rep::new().send("to nobody").await, Err(SendError::State));
    /// # }
    /// ```
    pub async fn send(&self, frames: impl Frames) -> Result<(), SendError> {
        self.shared().check(&frames)?;
        self.shared().until_sent(|| self.answer(&frames)).await
    }

    /// The same without waiting.
    ///
    /// Errors: also [`Full`](SendError::Full).
    ///
    /// ```
    /// assert_eq!(ripstop::socket::Rep::new().try_send("to nobody"), Err(ripstop::socket::SendError::State));
    /// ```
    pub fn try_send(&self, frames: impl Frames) -> Result<(), SendError> {
        self.shared().check(&frames)?;
        self.answer(&frames)
    }

    fn answer<F: Frames>(&self, frames: &F) -> Result<(), SendError> {
        let mut asking = lock(&self.shared().asking);
        let Some(asker) = &*asking else { return Err(SendError::State) };
        match asker.pipe.try_put(&Answer { asker, frames }) {
            Put::Full => return Err(SendError::Full),
            Put::Queued | Put::Batched => {}
            Put::Closed => {
                metrics::counter!("ripstop_socket_messages_dropped_total", "reason" => "asker-gone")
                    .increment(1);
            }
        }
        *asking = None;
        Ok(())
    }
}

fn asker(from: From<'_>) -> Option<(Asker, Message)> {
    let envelope = from.message.frames().position(<[u8]>::is_empty)? + 1;
    let body = from.message.clone().skip(envelope)?;
    Some((Asker { pipe: from.pipe.clone(), request: from.message, envelope }, body))
}

/// An answer behind the request's envelope.
struct Answer<'a, F> {
    asker: &'a Asker,
    frames: &'a F,
}

impl<F: Frames> Frames for Answer<'_, F> {
    fn frame_count(&self) -> usize {
        self.asker.envelope + self.frames.frame_count().max(1)
    }

    fn frame_at(&self, index: usize) -> Frame<'_> {
        match index.checked_sub(self.asker.envelope) {
            None => self.asker.request.frame_at(index),
            Some(_) if self.frames.frame_count() == 0 => Frame::Slice(&[]),
            Some(index) => self.frames.frame_at(index),
        }
    }
}
