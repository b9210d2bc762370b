//! `Req`: asks, then waits for the answer.

use std::sync::atomic::Ordering;

use crate::message::{Frames, Message};
use crate::socket::error::{RecvError, SendError};
use crate::socket::handle::socket;
use crate::socket::pipe::Prefixed;
use crate::sync::lock;

socket! {
    /// Asks one peer at a time, in turn, and waits for its answer (RFC 28).
    ///
    /// Each request carries an id that the reply repeats, so that a reply which comes after its request was given up is
    /// never taken for a later one's. A request is given up by sending the next.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{Rep, Req};
    ///
    /// let rep = Rep::new();
    /// let endpoint = rep.bind("tcp://127.0.0.1:0").await?;
    /// let req = Req::new();
    /// req.connect(endpoint)?;
    /// req.send("ask").await?;
    /// assert_eq!(rep.recv().await?, "ask".into());
    /// rep.send("answer").await?;
    /// assert_eq!(req.recv().await?, "answer".into());
    /// # Ok(()) }
    /// ```
    Req
}

impl Req {
    /// Queues a request for the next peer that has room, and waits while there is none. Gives up an earlier request.
    /// Cancel safe.
    ///
    /// Errors: [`TooLarge`](SendError::TooLarge), [`Closed`](SendError::Closed).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let req = ripstop::socket::Req::new();
    /// req.connect("inproc://somebody")?;
    /// req.send("ask").await?;
    /// # Ok(()) }
    /// ```
    pub async fn send(&self, frames: impl Frames) -> Result<(), SendError> {
        self.shared().check(&frames)?;
        self.shared().until_sent(|| self.ask(&frames)).await
    }

    /// The same without waiting.
    ///
    /// Errors: also [`Full`](SendError::Full).
    ///
    /// ```
    /// use ripstop::socket::{Req, SendError};
    ///
    /// assert_eq!(Req::new().try_send("nobody is there"), Err(SendError::Full));
    /// ```
    pub fn try_send(&self, frames: impl Frames) -> Result<(), SendError> {
        self.shared().check(&frames)?;
        self.ask(&frames)
    }

    /// The answer to the last request. Cancel safe: it can be called again.
    ///
    /// Errors: [`State`](RecvError::State) when nothing was asked, [`PeerLost`](RecvError::PeerLost),
    /// [`Closed`](RecvError::Closed).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use ripstop::socket::{RecvError, Req};
    ///
    /// assert!(matches!(Req::new().recv().await, Err(RecvError::State(_))));
    /// # }
    /// ```
    pub async fn recv(&self) -> Result<Message, RecvError> {
        let shared = self.shared();
        let asked = &shared.asked;
        shared
            .inbound
            .wait(|taker| {
                let mut waiting = lock(&asked.pipe);
                let Some(pipe) = *waiting else {
                    return Some(Err(match asked.lost.load(Ordering::Acquire) {
                        true => RecvError::PeerLost,
                        false => RecvError::State("nothing was asked: a REQ socket sends before it receives"),
                    }));
                };
                let id = asked.next_id.load(Ordering::Relaxed).to_be_bytes();
                let id = shared.options.correlate.then_some(&id[..]);
                while let Some((message, from)) = taker.pop(|from| (from.message, from.pipe.id())) {
                    if let Some(reply) = reply(message, id).filter(|_| from == pipe) {
                        *waiting = None;
                        asked.lost.store(false, Ordering::Release);
                        return Some(Ok(reply));
                    }
                    metrics::counter!("ripstop_socket_messages_dropped_total", "reason" => "late-reply")
                        .increment(1);
                }
                // Only now: a peer that answers and leaves has answered.
                if asked.lost.load(Ordering::Acquire) {
                    *waiting = None;
                    return Some(Err(RecvError::PeerLost));
                }
                shared.is_closed().then_some(Err(RecvError::Closed))
            })
            .await
    }

    fn ask<F: Frames>(&self, frames: &F) -> Result<(), SendError> {
        let shared = self.shared();
        let asked = &shared.asked;
        // Held over the put: the pipe's end must find what was asked of it.
        let mut waiting = lock(&asked.pipe);
        let id = asked.next_id.load(Ordering::Relaxed).wrapping_add(1);
        let bytes = id.to_be_bytes();
        let prefix: &[&[u8]] = if shared.options.correlate { &[&bytes, &[]] } else { &[&[]] };
        *waiting = Some(shared.try_next(&Prefixed { prefix, frames })?);
        asked.next_id.store(id, Ordering::Relaxed);
        asked.lost.store(false, Ordering::Release);
        Ok(())
    }
}

/// What is behind the envelope, if it is the right one.
fn reply(message: Message, id: Option<&[u8]>) -> Option<Message> {
    match id {
        Some(id) if message.frame(0) != Some(id) || message.frame(1) != Some(&[]) => None,
        None if message.frame(0) != Some(&[]) => None,
        Some(_) => message.skip(2),
        None => message.skip(1),
    }
}
