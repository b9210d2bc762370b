//! The one wide error that every narrow one widens into.

use crate::{
    code::{Code, Fault},
    config::ConfigError,
    discovery::DiscoveryError,
    fabric::{CallError, PublishError, PushError, ReceiveError, ServeError, StartError, SubscribeError},
    security::SecurityError,
};

/// `Result` with the wide [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! widen {
    ($($(#[$doc:meta])* $variant:ident($type:ty),)*) => {
        /// Any error of the fabric. Each operation has a narrow error of its own; `?` widens it into this one.
        ///
        /// ```
        /// # #[tokio::main(flavor = "current_thread")] async fn main() {
        /// let error: ripstop::Error = ripstop::Node::builder("no spaces").start().await.unwrap_err().into();
        /// assert_eq!(error.fault(), ripstop::Fault::Caller);
        /// assert!(!error.is_retryable());
        /// # }
        /// ```
        #[derive(Debug, thiserror::Error)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$doc])* #[error(transparent)] $variant(#[from] $type),)*
        }

        impl Error {
            /// The stable code of this error.
            pub fn code(&self) -> Code {
                match self { $(Self::$variant(error) => error.code(),)* }
            }

            /// Whose fault it was.
            pub fn fault(&self) -> Fault {
                match self { $(Self::$variant(error) => error.fault(),)* }
            }

            /// Whether trying again is safe and may help.
            pub fn is_retryable(&self) -> bool {
                match self { $(Self::$variant(error) => error.is_retryable(),)* }
            }
        }
    };
}

widen! {
    /// A node could not start.
    Start(StartError),
    /// The configuration is wrong.
    Config(ConfigError),
    /// A discovery source failed.
    Discovery(DiscoveryError),
    /// Keys or rules can't be used.
    Security(SecurityError),
    /// A method could not be offered.
    Serve(ServeError),
    /// A call failed.
    Call(CallError),
    /// An event could not be published.
    Publish(PublishError),
    /// A subscription or a pull could not be made.
    Subscribe(SubscribeError),
    /// An item could not be pushed.
    Push(PushError),
    /// A received message could not be read.
    Receive(ReceiveError),
}
