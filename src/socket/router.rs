//! `Router`: names the peer of each message.

use bytes::Bytes;

use crate::message::{Frames, Message, on_wire};
use crate::socket::error::{RecvError, SendError};
use crate::socket::handle::socket;
use crate::socket::inbound::From;
use crate::socket::pipe::{Put, Tail};
use crate::socket::shared::Shared;
use crate::sync::lock;

socket! {
    /// Receives from its peers in turn and sends to the one that a message's first frame, the routing id, names
    /// (RFC 28). A peer's routing id is its [`identity`](crate::socket::Options::identity), or made up: a zero byte and
    /// four more. Of two peers with the same identity the second gets a made-up one; it takes the identity over when
    /// the first leaves. An identity is a wish, not a proof.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{Dealer, Options, Router};
    ///
    /// let router = Router::new();
    /// let endpoint = router.bind("tcp://127.0.0.1:0").await?;
    /// let dealer = Dealer::with_options(Options::new().identity("d1"));
    /// dealer.connect(endpoint)?;
    /// dealer.send("ask").await?;
    /// let ask = router.recv().await?;
    /// assert_eq!(ask, ripstop::Message::from_frames(["d1", "ask"]));
    /// router.send(["d1", "answer"]).await?;
    /// assert_eq!(dealer.recv().await?, "answer".into());
    /// # Ok(()) }
    /// ```
    Router
}

impl Router {
    /// Queues a message for the peer that its first frame names, without that frame, and waits while that peer's queue
    /// is full. Cancel safe.
    ///
    /// Errors: [`Unroutable`](SendError::Unroutable) (unless
    /// [`router_mandatory(false)`](crate::socket::Options::router_mandatory)), [`TooLarge`](SendError::TooLarge),
    /// [`Closed`](SendError::Closed).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use ripstop::socket::{Router, SendError};
    ///
    /// let error = Router::new().send(["nobody", "hello"]).await.unwrap_err();
    /// assert_eq!(error, SendError::Unroutable("nobody".into()));
    /// # }
    /// ```
    pub async fn send(&self, frames: impl Frames) -> Result<(), SendError> {
        let shared = self.shared();
        shared.check(&frames)?;
        let label = label(&frames);
        shared.until_sent(|| try_route(shared, label, &Tail(&frames))).await
    }

    /// The same without waiting.
    ///
    /// Errors: also [`Full`](SendError::Full).
    ///
    /// ```
    /// assert!(ripstop::socket::Router::new().try_send(["nobody", "hello"]).is_err());
    /// ```
    pub fn try_send(&self, frames: impl Frames) -> Result<(), SendError> {
        let shared = self.shared();
        shared.check(&frames)?;
        try_route(shared, label(&frames), &Tail(&frames))
    }

    /// Queues `frames` for the peer `to`, as [`send`](Self::send) does.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// assert!(ripstop::socket::Router::new().send_to(b"nobody", "hello").await.is_err());
    /// # }
    /// ```
    pub async fn send_to(&self, to: &[u8], frames: impl Frames) -> Result<(), SendError> {
        let shared = self.shared();
        shared.check(&frames)?;
        shared.until_sent(|| try_route(shared, to, &frames)).await
    }

    /// The next message, behind a frame with its peer's routing id. The message is copied to make room for that;
    /// [`recv_from`](Self::recv_from) does not copy. Cancel safe.
    ///
    /// ```no_run
    /// # async fn doc(router: ripstop::socket::Router) -> Result<(), Box<dyn std::error::Error>> {
    /// let message = router.recv().await?;
    /// let from = message.frame(0);
    /// # Ok(()) }
    /// ```
    pub async fn recv(&self) -> Result<Message, RecvError> {
        self.shared().receive(|from| Some(labelled(from))).await
    }

    /// The next message and its peer's routing id, without copying. Cancel safe.
    ///
    /// ```no_run
    /// # async fn doc(router: ripstop::socket::Router) -> Result<(), Box<dyn std::error::Error>> {
    /// let (from, message) = router.recv_from().await?;
    /// router.send_to(&from, &message).await?; // an echo
    /// # Ok(()) }
    /// ```
    pub async fn recv_from(&self) -> Result<(Bytes, Message), RecvError> {
        self.shared().receive(|from| Some((from.label.clone(), from.message))).await
    }

    /// Appends what is there, `max` messages at most, to `into`, each as [`recv`](Self::recv) gives it; waits until
    /// there is at least one. Cancel safe.
    ///
    /// ```no_run
    /// # async fn doc(router: ripstop::socket::Router) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut batch = Vec::new();
    /// router.recv_many(&mut batch, 1000).await?;
    /// # Ok(()) }
    /// ```
    pub async fn recv_many(&self, into: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        self.shared().receive_many(into, max, labelled).await
    }
}

fn label<F: Frames>(frames: &F) -> &[u8] {
    match frames.frame_count() {
        0 => &[],
        _ => frames.frame_at(0).as_slice(),
    }
}

fn labelled(from: From<'_>) -> Message {
    let frames = || std::iter::once(&from.label[..]).chain(from.message.frames());
    Message::with_capacity(frames().map(on_wire).sum(), frames())
}

fn try_route<F: Frames + ?Sized>(shared: &Shared, to: &[u8], frames: &F) -> Result<(), SendError> {
    let pipe = lock(&shared.routes).labels.get(to).cloned();
    match pipe.map(|pipe| pipe.try_put(frames)) {
        Some(Put::Queued | Put::Batched) => Ok(()),
        Some(Put::Full) => Err(SendError::Full),
        Some(Put::Closed) | None if shared.options.mandatory => {
            Err(SendError::Unroutable(to.escape_ascii().to_string()))
        }
        Some(Put::Closed) | None => {
            metrics::counter!("ripstop_socket_messages_dropped_total", "reason" => "unroutable").increment(1);
            Ok(())
        }
    }
}
