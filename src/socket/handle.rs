//! What the handles of all socket types have in common.

/// Defines a handle: a cheap clone of a shared socket with the methods that every type has.
macro_rules! socket {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Handles are cheap to clone and can be used from any number of tasks at once. When the last one is dropped,
        /// the socket closes in the background and writes what is queued for as long as
        /// [`linger`](crate::socket::Options::linger) says.
        #[derive(Clone)]
        pub struct $name {
            owned: std::sync::Arc<crate::socket::shared::Owned>,
        }

        impl $name {
            /// A socket with the default options and no endpoint yet.
            ///
            /// ```
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// ```
            pub fn new() -> Self {
                Self::with_options(crate::socket::Options::default())
            }

            /// A socket with these options and no endpoint yet.
            ///
            /// ```
            #[doc = concat!("use ripstop::socket::{Options, ", stringify!($name), "};")]
            ///
            #[doc = concat!("let socket = ", stringify!($name), "::with_options(Options::new().send_hwm(1000));")]
            /// ```
            pub fn with_options(options: crate::socket::Options) -> Self {
                let shared =
                    crate::socket::shared::Shared::new(crate::zmtp::SocketType::$name, options);
                Self { owned: std::sync::Arc::new(crate::socket::shared::Owned(shared)) }
            }

            fn shared(&self) -> &crate::socket::shared::Shared {
                &self.owned.0
            }

            /// Listens at `endpoint` (text or an [`Endpoint`](crate::Endpoint)) and returns the actual one, whose port
            /// is never 0. A socket can have any number of endpoints, bound and connected. Cancel safe, but the
            /// endpoint may be bound nevertheless.
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// let endpoint = socket.bind("tcp://127.0.0.1:0").await?;
            /// assert!(endpoint.to_string().starts_with("tcp://127.0.0.1:"));
            /// # Ok(()) }
            /// ```
            pub async fn bind<E>(&self, endpoint: E) -> Result<crate::Endpoint, crate::socket::BindError>
            where
                E: TryInto<crate::Endpoint>,
                E::Error: Into<crate::endpoint::ParseEndpointError>,
            {
                self.shared().bind(endpoint).await
            }

            /// Keeps a connection to `endpoint` from now on, in the background: returns at once, whether or not anybody
            /// listens there yet, and dials again whenever the connection is lost. A final refusal by the peer (a ZMTP
            /// ERROR) ends it; [`monitor`](Self::monitor) tells.
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// socket.connect("inproc://somebody")?;
            /// # Ok(()) }
            /// ```
            pub fn connect<E>(&self, endpoint: E) -> Result<(), crate::socket::ConnectError>
            where
                E: TryInto<crate::Endpoint>,
                E::Error: Into<crate::endpoint::ParseEndpointError>,
            {
                self.shared().connect(endpoint, crate::socket::ConnectOptions::new())
            }

            /// The same with options of its own: how to prove who is who. The endpoint can be dialled again by `connect`,
            /// with other options; each has its own connection.
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// socket.connect_with("inproc://somebody", ripstop::socket::ConnectOptions::new())?;
            /// # Ok(()) }
            /// ```
            pub fn connect_with<E>(
                &self,
                endpoint: E,
                options: crate::socket::ConnectOptions,
            ) -> Result<(), crate::socket::ConnectError>
            where
                E: TryInto<crate::Endpoint>,
                E::Error: Into<crate::endpoint::ParseEndpointError>,
            {
                self.shared().connect(endpoint, options)
            }

            /// Ends every `connect` to `endpoint`. What is queued for it is still written, for as long as
            /// [`linger`](crate::socket::Options::linger) says.
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// socket.connect("inproc://somebody")?;
            /// socket.disconnect("inproc://somebody")?;
            /// # Ok(()) }
            /// ```
            pub fn disconnect<E>(&self, endpoint: E) -> Result<(), crate::socket::NoSuchEndpoint>
            where
                E: TryInto<crate::Endpoint>,
                E::Error: Into<crate::endpoint::ParseEndpointError>,
            {
                self.shared().disconnect(endpoint)
            }

            /// Ends the listener at `endpoint`, as `bind` returned it. Connections that came in there stay. When this
            /// returns, the port is free again. Cancel safe: the listener ends all the same.
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// let endpoint = socket.bind("tcp://127.0.0.1:0").await?;
            /// socket.unbind(endpoint).await?;
            /// # Ok(()) }
            /// ```
            pub async fn unbind<E>(&self, endpoint: E) -> Result<(), crate::socket::NoSuchEndpoint>
            where
                E: TryInto<crate::Endpoint>,
                E::Error: Into<crate::endpoint::ParseEndpointError>,
            {
                self.shared().unbind(endpoint).await
            }

            /// Where the socket listens.
            ///
            /// ```
            #[doc = concat!("assert!(ripstop::socket::", stringify!($name), "::new().endpoints().is_empty());")]
            /// ```
            pub fn endpoints(&self) -> Vec<crate::Endpoint> {
                self.shared().endpoints()
            }

            /// What happens to this socket's connections from now on.
            ///
            /// ```
            #[doc = concat!("let monitor = ripstop::socket::", stringify!($name), "::new().monitor();")]
            /// ```
            pub fn monitor(&self) -> crate::socket::Monitor {
                self.shared().monitor()
            }

            /// Closes the socket for all its handles: no new peers, no new messages. Returns when what was queued is
            /// written, or after [`linger`](crate::socket::Options::linger). Cancel safe: the rest goes on in the
            /// background. Await this before the process ends.
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")] async fn main() {
            #[doc = concat!("ripstop::socket::", stringify!($name), "::new().close().await;")]
            /// # }
            /// ```
            pub async fn close(&self) {
                self.shared().close().await;
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("endpoints", &self.endpoints()).finish_non_exhaustive()
            }
        }
    };
}

/// `send` and `try_send` to one peer after the other.
macro_rules! send_in_turn {
    ($name:ident) => {
        impl $name {
            /// Queues one message for the next peer that has room, and waits while there is none. Returning means
            /// queued: the connection's task writes it. Cancel safe: a cancelled send has queued nothing.
            ///
            /// Errors: [`TooLarge`](crate::socket::SendError::TooLarge), [`Closed`](crate::socket::SendError::Closed).
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// socket.connect("inproc://somebody")?; // what is sent waits for somebody to come
            /// socket.send("one frame").await?;
            /// socket.send(["two", "frames"]).await?;
            /// # Ok(()) }
            /// ```
            pub async fn send(
                &self,
                frames: impl crate::message::Frames,
            ) -> Result<(), crate::socket::SendError> {
                if self.shared().turn.is_due() {
                    self.shared().turn.take().await;
                }
                match self.try_send(&frames) {
                    Err(crate::socket::SendError::Full) => {
                        let shared = self.shared();
                        shared.until_sent(|| shared.try_next(&frames)).await.map(drop)
                    }
                    outcome => outcome,
                }
            }

            /// Queues one message for the next peer that has room, or fails with
            /// [`Full`](crate::socket::SendError::Full).
            ///
            /// ```
            /// use ripstop::socket::SendError;
            ///
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// assert_eq!(socket.try_send("nobody is there"), Err(SendError::Full));
            /// ```
            pub fn try_send(
                &self,
                frames: impl crate::message::Frames,
            ) -> Result<(), crate::socket::SendError> {
                self.shared().check(&frames)?;
                self.shared().try_next(&frames).map(drop)
            }
        }
    };
}

/// `recv` and `recv_many` of what all peers send, in turn.
macro_rules! receive_in_turn {
    ($name:ident) => {
        impl $name {
            /// The next message; peers that have sent something have their turns. Cancel safe: nothing is lost.
            ///
            /// Errors: [`Closed`](crate::socket::RecvError::Closed).
            ///
            /// ```no_run
            /// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// socket.bind("tcp://127.0.0.1:5555").await?;
            /// let message = socket.recv().await?;
            /// # Ok(()) }
            /// ```
            pub async fn recv(&self) -> Result<crate::Message, crate::socket::RecvError> {
                match self.shared().inbound.try_pop() {
                    Some(message) => Ok(message),
                    None => self.shared().receive(|from| Some(from.message)).await,
                }
            }

            /// Appends what is there, `max` messages at most, to `into`; waits until there is at least one. One wake-up
            /// and one lock for the whole batch. Returns how many came. Cancel safe.
            ///
            /// Errors: [`Closed`](crate::socket::RecvError::Closed).
            ///
            /// ```no_run
            /// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("let socket = ripstop::socket::", stringify!($name), "::new();")]
            /// socket.bind("tcp://127.0.0.1:5555").await?;
            /// let mut batch = Vec::new();
            /// socket.recv_many(&mut batch, 1000).await?;
            /// # Ok(()) }
            /// ```
            pub async fn recv_many(
                &self,
                into: &mut Vec<crate::Message>,
                max: usize,
            ) -> Result<usize, crate::socket::RecvError> {
                self.shared().receive_many(into, max, |from| from.message).await
            }
        }
    };
}

pub(super) use {receive_in_turn, send_in_turn, socket};
