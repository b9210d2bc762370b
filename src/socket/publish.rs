//! `Pub` and `XPub`.

use crate::message::Frames;
use crate::socket::error::SendError;
use crate::socket::handle::{receive_in_turn, socket};
use crate::socket::options::WhenFull;
use crate::socket::pipe::Put;
use crate::socket::shared::Shared;
use crate::sync::lock;

socket! {
    /// Sends each message to every subscriber that wants it: one of whose prefixes its first frame begins with (RFC 29).
    /// Without such a subscriber it goes nowhere; [`Event::Subscribed`](crate::socket::Event::Subscribed) tells when
    /// there is one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{Event, Pub, Sub};
    ///
    /// let publisher = Pub::new();
    /// let mut monitor = publisher.monitor();
    /// let endpoint = publisher.bind("tcp://127.0.0.1:0").await?;
    /// let subscriber = Sub::new();
    /// subscriber.subscribe("orders.");
    /// subscriber.connect(endpoint)?;
    /// while !matches!(monitor.next().await, Some(Event::Subscribed { .. })) {}
    /// publisher.send(["orders.created", "{}"]).await?;
    /// assert_eq!(subscriber.recv().await?.frame(0), Some(&b"orders.created"[..]));
    /// # Ok(()) }
    /// ```
    Pub
}

socket! {
    /// A `Pub` that receives its subscriptions: a message whose first byte is 1 (subscribed) or 0 (cancelled), then the
    /// prefix. Each prefix is handed out when its first subscriber comes and when its last goes, or with
    /// [`xpub_verbose`](crate::socket::Options::xpub_verbose) every time. Also receives what an `XSub` sends.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{Sub, XPub};
    ///
    /// let publisher = XPub::new();
    /// let endpoint = publisher.bind("tcp://127.0.0.1:0").await?;
    /// let subscriber = Sub::new();
    /// subscriber.subscribe("a");
    /// subscriber.connect(endpoint)?;
    /// assert_eq!(publisher.recv().await?, "\x01a".into());
    /// publisher.send("abc").await?;
    /// assert_eq!(subscriber.recv().await?, "abc".into());
    /// # Ok(()) }
    /// ```
    XPub
}
receive_in_turn!(XPub);

macro_rules! publish {
    ($name:ident) => {
        impl $name {
            /// Queues a message for every subscriber that wants it, encoded once.
            /// [`when_full`](crate::socket::Options::when_full) says what happens where there is no room; only with
            /// [`Block`](WhenFull::Block) does this wait. Cancel safe: a cancelled send has queued nothing.
            ///
            /// Errors: [`TooLarge`](SendError::TooLarge), [`Closed`](SendError::Closed).
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("ripstop::socket::", stringify!($name), "::new().send(\"nobody listens\").await?;")]
            /// # Ok(()) }
            /// ```
            pub async fn send(&self, frames: impl Frames) -> Result<(), SendError> {
                let shared = self.shared();
                shared.check(&frames)?;
                if shared.turn.is_due() {
                    shared.turn.take().await;
                }
                shared.until_sent(|| publish(shared, &frames)).await
            }

            /// The same without waiting.
            ///
            /// Errors: with [`Block`](WhenFull::Block) also [`Full`](SendError::Full).
            ///
            /// ```
            #[doc = concat!("ripstop::socket::", stringify!($name), "::new().try_send(\"nobody listens\")?;")]
            /// # Ok::<(), ripstop::socket::SendError>(())
            /// ```
            pub fn try_send(&self, frames: impl Frames) -> Result<(), SendError> {
                self.shared().check(&frames)?;
                publish(self.shared(), &frames)
            }

            /// How many distinct prefixes are subscribed to.
            ///
            /// ```
            #[doc = concat!("assert_eq!(ripstop::socket::", stringify!($name), "::new().subscriptions(), 0);")]
            /// ```
            pub fn subscriptions(&self) -> usize {
                lock(&self.shared().routes).subscribers.len()
            }
        }
    };
}
publish!(Pub);
publish!(XPub);

fn publish<F: Frames>(shared: &Shared, frames: &F) -> Result<(), SendError> {
    let mut dropped = 0;
    let when_full = shared.options.when_full;
    lock(&shared.routes).publish(frames, when_full == WhenFull::Block, |pipe, message| match when_full {
        WhenFull::DropOldest => dropped += pipe.put_encoded_dropping_oldest(message).unwrap_or(0),
        WhenFull::Block => shared.turn.note(pipe.put_granted(message)),
        WhenFull::Drop => {
            let put = pipe.put_encoded(message);
            shared.turn.note(put);
            dropped += usize::from(put == Put::Full);
        }
    })?;
    if dropped > 0 {
        metrics::counter!("ripstop_socket_messages_dropped_total", "reason" => "full")
            .increment(dropped as u64);
    }
    Ok(())
}
