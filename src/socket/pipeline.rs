//! `Push`, `Pull`, `Dealer` and `Pair`: the types that the table alone describes.

use crate::socket::handle::{receive_in_turn, send_in_turn, socket};

socket! {
    /// Sends work: each message goes to one `Pull`, in turn (RFC 30).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{Pull, Push};
    ///
    /// let pull = Pull::new();
    /// let endpoint = pull.bind("tcp://127.0.0.1:0").await?;
    /// let push = Push::new();
    /// push.connect(endpoint)?;
    /// push.send("work").await?;
    /// assert_eq!(pull.recv().await?, "work".into());
    /// # Ok(()) }
    /// ```
    Push
}
send_in_turn!(Push);

socket! {
    /// Receives work from every `Push`, in turn (RFC 30).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{Pull, Push};
    ///
    /// let (push, pull) = (Push::new(), Pull::new());
    /// pull.connect("inproc://work")?; // connect before bind is fine
    /// push.bind("inproc://work").await?;
    /// push.send("work").await?;
    /// assert_eq!(pull.recv().await?, "work".into());
    /// # Ok(()) }
    /// ```
    Pull
}
receive_in_turn!(Pull);

socket! {
    /// Asks and answers without waiting: sends to its peers in turn, receives from all (RFC 28). Talks to `Router`,
    /// `Rep` (put an empty frame before each request) and `Dealer`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{Dealer, Rep};
    ///
    /// let rep = Rep::new();
    /// let endpoint = rep.bind("tcp://127.0.0.1:0").await?;
    /// let dealer = Dealer::new();
    /// dealer.connect(endpoint)?;
    /// dealer.send(["", "ask"]).await?;
    /// assert_eq!(rep.recv().await?, "ask".into());
    /// rep.send("answer").await?;
    /// assert_eq!(dealer.recv().await?.frame(1), Some(&b"answer"[..]));
    /// # Ok(()) }
    /// ```
    Dealer
}
send_in_turn!(Dealer);
receive_in_turn!(Dealer);

socket! {
    /// Talks to one other `Pair`, both ways (RFC 31). While it has its peer (or has dialled one), others are turned
    /// away.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::Pair;
    ///
    /// let (a, b) = (Pair::new(), Pair::new());
    /// a.bind("inproc://pair").await?;
    /// b.connect("inproc://pair")?;
    /// b.send("ping").await?;
    /// assert_eq!(a.recv().await?, "ping".into());
    /// a.send("pong").await?;
    /// assert_eq!(b.recv().await?, "pong".into());
    /// # Ok(()) }
    /// ```
    Pair
}
send_in_turn!(Pair);
receive_in_turn!(Pair);
