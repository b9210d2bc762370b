//! `Sub` and `XSub`.

use crate::message::Frames;
use crate::socket::error::SendError;
use crate::socket::handle::{receive_in_turn, socket};
use crate::socket::pipe::Put;
use crate::socket::shared::Shared;
use crate::sync::lock;

socket! {
    /// Receives what it has subscribed to, from every publisher (RFC 29). Without a subscription nothing comes.
    /// Subscriptions hold for publishers that come later and after every reconnect.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::Sub;
    ///
    /// let subscriber = Sub::new();
    /// subscriber.connect("tcp://127.0.0.1:5555")?;
    /// subscriber.connect("tcp://127.0.0.1:5556")?;
    /// subscriber.subscribe("orders.");
    /// subscriber.subscribe("prices.");
    /// # Ok(()) }
    /// ```
    Sub
}
receive_in_turn!(Sub);

impl Sub {
    /// Asks for messages whose first frame begins with `prefix`; the empty one asks for all. Asking twice takes
    /// cancelling twice.
    ///
    /// ```
    /// ripstop::socket::Sub::new().subscribe("orders.");
    /// ```
    pub fn subscribe(&self, prefix: impl AsRef<[u8]>) {
        self.shared().subscribe(prefix.as_ref());
    }

    /// Takes one [`subscribe`](Self::subscribe) back; `false` if there was none.
    ///
    /// ```
    /// let subscriber = ripstop::socket::Sub::new();
    /// subscriber.subscribe("orders.");
    /// assert!(subscriber.unsubscribe("orders."));
    /// assert!(!subscriber.unsubscribe("orders."));
    /// ```
    pub fn unsubscribe(&self, prefix: impl AsRef<[u8]>) -> bool {
        self.shared().unsubscribe(prefix.as_ref())
    }
}

socket! {
    /// A `Sub` that subscribes by sending: a message of one frame whose first byte is 1 (subscribe) or 0 (cancel), then
    /// the prefix. Every other message goes to all publishers, where an `XPub` receives it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{XPub, XSub};
    ///
    /// let publisher = XPub::new();
    /// let endpoint = publisher.bind("tcp://127.0.0.1:0").await?;
    /// let subscriber = XSub::new();
    /// subscriber.connect(endpoint)?;
    /// subscriber.send("\x01a").await?;
    /// assert_eq!(publisher.recv().await?, "\x01a".into());
    /// publisher.send("abc").await?;
    /// assert_eq!(subscriber.recv().await?, "abc".into());
    /// # Ok(()) }
    /// ```
    XSub
}
receive_in_turn!(XSub);

impl XSub {
    /// Subscribes, cancels, or sends to every connected publisher; a message for one whose queue is full is dropped and
    /// counted. Never waits.
    ///
    /// Errors: [`TooLarge`](SendError::TooLarge), [`Closed`](SendError::Closed).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// ripstop::socket::XSub::new().send("\x01orders.").await?;
    /// # Ok(()) }
    /// ```
    pub async fn send(&self, frames: impl Frames) -> Result<(), SendError> {
        self.try_send(frames)
    }

    /// The same.
    ///
    /// ```
    /// ripstop::socket::XSub::new().try_send("\x01orders.")?;
    /// # Ok::<(), ripstop::socket::SendError>(())
    /// ```
    pub fn try_send(&self, frames: impl Frames) -> Result<(), SendError> {
        let shared = self.shared();
        shared.check(&frames)?;
        if frames.frame_count() == 1 {
            match frames.frame_at(0).as_slice() {
                [1, prefix @ ..] => {
                    shared.subscribe(prefix);
                    return Ok(());
                }
                [0, prefix @ ..] => {
                    shared.unsubscribe(prefix);
                    return Ok(());
                }
                _ => {}
            }
        }
        send_to_all(shared, &frames);
        Ok(())
    }
}

fn send_to_all<F: Frames>(shared: &Shared, frames: &F) {
    let full = lock(&shared.routes).pipes.iter().filter(|pipe| pipe.try_put(frames) == Put::Full).count();
    if full > 0 {
        metrics::counter!("ripstop_socket_messages_dropped_total", "reason" => "full").increment(full as u64);
    }
}
