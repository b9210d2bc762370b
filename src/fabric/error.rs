//! One narrow error per operation: what happened, whose fault it was, and whether a retry is safe.

use std::time::Duration;

use crate::{
    code::{Code, Fault},
    config::ConfigError,
    discovery::{DiscoveryError, NodeId},
    durable::StoreError,
    envelope::{DecodeError, EncodeError, SubjectError, Verdict},
    security::SecurityError,
};

/// Gives an error enum `code`, `fault` and `is_retryable` from one table.
macro_rules! classify {
    ($type:ty { $($pattern:pat => ($code:expr, $fault:ident, $retry:expr),)* }) => {
        impl $type {
            /// The stable code of this error.
            pub fn code(&self) -> Code {
                match self { $($pattern => Code::new($code),)* }
            }

            /// Whose fault it was.
            pub fn fault(&self) -> Fault {
                match self { $($pattern => Fault::$fault,)* }
            }

            /// Whether trying again is safe **and** may help: `true` means that no handler has seen the message.
            pub fn is_retryable(&self) -> bool {
                match self { $($pattern => $retry,)* }
            }
        }
    };
}

/// A node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A name that the builder was given cannot be a service or fabric name.
    #[error("{what} name {name:?}: {reason}")]
    Name {
        /// `service` or `fabric`.
        what: &'static str,
        /// The name given.
        name: String,
        /// What is wrong with it.
        reason: SubjectError,
    },
    /// A listener could not be opened.
    #[error("cannot listen on {endpoint}: {reason}")]
    Listen {
        /// As configured.
        endpoint: String,
        /// What the system said.
        reason: String,
    },
    /// A discovery source could not be opened.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// Keys or rules cannot be used, or the certificate is for another service or fabric.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The data directory cannot be used.
    #[error("data_dir {}: {reason}", path.display())]
    DataDir {
        /// As configured.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

classify!(StartError {
    Self::Config(_) => (400, Config, false),
    Self::Name { .. } => (401, Caller, false),
    Self::Listen { .. } => (402, Local, true),
    Self::Discovery(_) => (403, Local, true),
    Self::DataDir { .. } => (408, Local, false),
    Self::Security(_) => (409, Config, false),
});

/// A method could not be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The subject is not one.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// This node serves the subject already.
    #[error("this node serves {subject} already; stop the first one, or choose another subject")]
    Taken {
        /// The subject.
        subject: String,
    },
    /// The service in this node's certificate may not serve it: peers would refuse the replies.
    #[error("forbidden: {reason}")]
    Forbidden {
        /// The subject.
        subject: String,
        /// Who may not do what.
        reason: String,
    },
    /// The node is draining.
    #[error("this node is shutting down")]
    Draining,
}

classify!(ServeError {
    Self::Subject(_) => (404, Caller, false),
    Self::Taken { .. } => (405, Caller, false),
    Self::Forbidden { .. } => (440, Config, false),
    Self::Draining => (406, Caller, false),
});

/// A call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The subject is not one.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The request could not be written as MessagePack.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// No such service was ever seen.
    #[error("no such service: {service}{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    NoSuchService {
        /// The first token of the subject.
        service: String,
        /// The known service with the nearest name.
        nearest: Option<String>,
    },
    /// The service is known, but no instance of it is alive or reachable.
    #[error("no instance of {service} is alive{}", reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    NoInstance {
        /// The service.
        service: String,
        /// Why the last attempt failed.
        reason: Option<String>,
    },
    /// The service has no such method.
    #[error("{instance} has no method {subject}")]
    NoSuchMethod {
        /// The method.
        subject: String,
        /// The instance that was asked.
        instance: String,
    },
    /// The serving side could not read the request.
    #[error("{subject} could not read the request: {reason}")]
    BadRequest {
        /// The method.
        subject: String,
        /// Where and why, as the serving side said it.
        reason: String,
    },
    /// The reply is not of the expected type.
    #[error("the reply of {subject} could not be read: {reason}")]
    Decode {
        /// The method.
        subject: String,
        /// Where and why.
        reason: DecodeError,
    },
    /// The deadline passed. The handler may have acted.
    #[error("no reply from {subject} within {}", humantime::format_duration(*after))]
    Deadline {
        /// The method.
        subject: String,
        /// The time that was given.
        after: Duration,
    },
    /// The handler returned an error.
    #[error("{subject} failed: {message}")]
    Handler {
        /// The method.
        subject: String,
        /// The handler's error.
        message: String,
        /// The handler's own code, if it gave one.
        code: Option<String>,
        /// The causes, outermost first.
        chain: Vec<String>,
        /// Whether it may be asked again, if the handler has said so: see [`HandlerError::retryable`].
        retry: Option<Verdict>,
        /// Not before this, if the handler has said so.
        retry_after: Option<Duration>,
    },
    /// The request or the reply is larger than a message may be.
    #[error("{subject}: a message of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// The method.
        subject: String,
        /// Bytes.
        size: usize,
        /// `limits.max_message`.
        limit: usize,
    },
    /// The serving side has more waiting than it takes, or this caller asks more often than it may.
    #[error("{subject} is full: {reason}")]
    Full {
        /// The method.
        subject: String,
        /// Which mark was reached.
        reason: String,
        /// Not before this, if the serving side has said so.
        retry_after: Option<Duration>,
    },
    /// This node has as many calls to the service under way as it allows itself, so that one slow service does not take all of
    /// it: the service is slow, or is asked too much. It was not asked.
    #[error("{in_flight} calls to {service} are under way{}; see resilience.waiting and limits.in_flight", waiting.map_or_else(|| ", and none ended in time".to_owned(), |waiting| format!(", and {waiting} wait")))]
    HeldBack {
        /// The service.
        service: String,
        /// How many may be under way.
        in_flight: usize,
        /// How many may wait; `None`: it did wait, and its time was up.
        waiting: Option<usize>,
    },
    /// The instance vanished after it was asked. The handler may have acted.
    #[error("the instance {instance} vanished during the call to {subject}: {reason}")]
    Lost {
        /// The method.
        subject: String,
        /// The instance.
        instance: String,
        /// Why the connection ended.
        reason: String,
    },
    /// One side may not: this node may not call the method, or no instance that was found may serve it.
    #[error("forbidden: {reason}")]
    Forbidden {
        /// The method.
        subject: String,
        /// Who may not do what.
        reason: String,
    },
    /// The idempotency key is too long.
    #[error("a key of {length} bytes; {limit} are the most")]
    Key {
        /// Its length in bytes.
        length: usize,
        /// The longest there may be.
        limit: usize,
    },
    /// The idempotency key was used with another request before.
    #[error("{subject}: {reason}")]
    KeyReused {
        /// The method.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This node is draining.
    #[error("this node is shutting down")]
    Draining,
}

classify!(CallError {
    Self::Subject(_) => (404, Caller, false),
    Self::Encode(_) => (407, Caller, false),
    Self::NoSuchService { .. } => (410, Network, true),
    Self::NoInstance { .. } => (411, Network, true),
    Self::NoSuchMethod { .. } => (412, Caller, false),
    Self::BadRequest { .. } => (413, Caller, false),
    Self::Decode { .. } => (414, Peer, false),
    Self::Deadline { .. } => (415, Peer, false),
    Self::Handler { retry: Some(Verdict::Elsewhere | Verdict::Later), .. } => (416, Peer, true),
    Self::Handler { .. } => (416, Peer, false),
    Self::TooLarge { .. } => (417, Caller, false),
    Self::Full { .. } => (418, Peer, true),
    Self::HeldBack { .. } => (422, Local, true),
    Self::Lost { .. } => (419, Network, false),
    Self::Forbidden { .. } => (440, Config, false),
    Self::Key { .. } => (608, Caller, false),
    Self::KeyReused { .. } => (611, Caller, false),
    Self::Draining => (406, Caller, false),
});

impl CallError {
    /// Not before this should the same be tried again, if the serving side has said so.
    ///
    /// ```
    /// # use {ripstop::fabric::CallError, std::time::Duration};
    /// let retry_after = Some(Duration::from_secs(1));
    /// let full = CallError::Full { subject: "a.b".into(), reason: "too many".into(), retry_after };
    /// assert_eq!(full.retry_after(), retry_after);
    /// ```
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Handler { retry_after, .. } | Self::Full { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Something could not be published.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The subject is not one.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The event could not be written as MessagePack.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Too few subscribers within the time given.
    #[error("{subject} has {present} of {wanted} subscribers after {}", humantime::format_duration(*after))]
    NotReady {
        /// The topic.
        subject: String,
        /// How many there are.
        present: usize,
        /// How many were asked for.
        wanted: usize,
        /// The time that was given.
        after: Duration,
    },
    /// The event is larger than a message may be.
    #[error("{subject}: an event of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// The topic.
        subject: String,
        /// Bytes.
        size: usize,
        /// `limits.max_message`.
        limit: usize,
    },
    /// The service in this node's certificate may not publish it: subscribers would refuse the events.
    #[error("forbidden: {reason}")]
    Forbidden {
        /// The topic.
        subject: String,
        /// Who may not do what.
        reason: String,
    },
    /// This node is draining.
    #[error("this node is shutting down")]
    Draining,
    /// Nobody is known for whom the event would be kept, and nothing is retained for those who come later.
    #[error(
        "nobody is known who subscribes durably to {subject}: list [[durable.groups]], set durable.retain, or wait for a subscriber"
    )]
    NoDurableGroup {
        /// The topic.
        subject: String,
    },
    /// The event could not be kept. Nothing was accepted.
    #[error(transparent)]
    Keep(#[from] Box<PushError>),
}

classify!(PublishError {
    Self::Subject(_) => (404, Caller, false),
    Self::Encode(_) => (407, Caller, false),
    Self::NotReady { .. } => (420, Network, true),
    Self::TooLarge { .. } => (417, Caller, false),
    Self::Forbidden { .. } => (440, Config, false),
    Self::Draining => (406, Caller, false),
    Self::NoDurableGroup { .. } => (609, Config, true),
    Self::Keep(_) => (610, Local, true),
});

/// A subscription or a pull could not be made.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The pattern or queue name is not one.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The service in this node's certificate may not pull this queue: nobody would push to it.
    #[error("forbidden: {reason}")]
    Forbidden {
        /// The queue.
        subject: String,
        /// Who may not do what.
        reason: String,
    },
    /// A durable subscription cannot be called that.
    #[error("{reason}")]
    Name {
        /// Why not.
        reason: String,
    },
    /// This node is draining.
    #[error("this node is shutting down")]
    Draining,
}

classify!(SubscribeError {
    Self::Subject(_) | Self::Name { .. } => (404, Caller, false),
    Self::Forbidden { .. } => (440, Config, false),
    Self::Draining => (406, Caller, false),
});

/// One received event or work item could not be read, or a publisher refused this subscriber; what comes after it is
/// unaffected.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// It is not of the expected type.
    #[error("a message on {subject} could not be read: {reason}")]
    Decode {
        /// The topic or queue.
        subject: String,
        /// Where and why.
        #[source]
        reason: DecodeError,
    },
    /// A publisher does not let this node subscribe to one of its topics that the pattern matches.
    #[error("forbidden: {reason}")]
    Forbidden {
        /// The topic.
        subject: String,
        /// Who may not do what, as the publisher said it.
        reason: String,
    },
}

classify!(ReceiveError {
    Self::Decode { .. } => (430, Peer, false),
    Self::Forbidden { .. } => (440, Config, false),
});

impl ReceiveError {
    /// The topic or queue.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// if let Some(Err(error)) = node.subscribe::<u64>("clock.*").await?.recv().await {
    ///     println!("{}: {error}", error.subject());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn subject(&self) -> &str {
        match self {
            Self::Decode { subject, .. } | Self::Forbidden { subject, .. } => subject,
        }
    }
}

/// A work item could not be pushed. Nobody has it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The queue's name is not one.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The item could not be written as MessagePack.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Nobody pulls the queue.
    #[error("nobody pulls {queue}; waited {}{}", humantime::format_duration(*after), nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    NoPuller {
        /// The queue.
        queue: String,
        /// The time that was given.
        after: Duration,
        /// The known name nearest to it.
        nearest: Option<String>,
    },
    /// Every puller has as much as it takes.
    #[error("every puller of {queue} is full; waited {}", humantime::format_duration(*after))]
    Full {
        /// The queue.
        queue: String,
        /// The time that was given.
        after: Duration,
    },
    /// The item is larger than a message may be.
    #[error("{queue}: an item of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// The queue.
        queue: String,
        /// Bytes.
        size: usize,
        /// `limits.max_message`.
        limit: usize,
    },
    /// This node may not push to the queue, or whoever pulls it may not.
    #[error("forbidden: {reason}")]
    Forbidden {
        /// The queue.
        queue: String,
        /// Who may not do what.
        reason: String,
    },
    /// This node is draining.
    #[error("this node is shutting down")]
    Draining,
    /// This node has no place on disk.
    #[error("durable work needs a place on disk: set data_dir")]
    NoStore,
    /// The item could not be kept. Nothing was accepted.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The item's key is too long.
    #[error("a key of {length} bytes; {limit} are the most")]
    Key {
        /// Its length in bytes.
        length: usize,
        /// The longest there may be.
        limit: usize,
    },
    /// Another node's store could not be looked into.
    #[error("the other node's store: {reason}")]
    Elsewhere {
        /// Why not.
        reason: String,
    },
    /// The item was given up and is a dead letter.
    #[error("an item for {queue} became a dead letter: {reason}")]
    Dead {
        /// The queue.
        queue: String,
        /// What it failed with last.
        reason: String,
    },
}

classify!(PushError {
    Self::Subject(_) => (404, Caller, false),
    Self::Encode(_) => (407, Caller, false),
    Self::NoPuller { .. } => (421, Network, true),
    Self::Full { .. } => (418, Peer, true),
    Self::TooLarge { .. } => (417, Caller, false),
    Self::Forbidden { .. } => (440, Config, false),
    Self::Draining => (406, Caller, false),
    Self::NoStore => (600, Config, false),
    Self::Store(_) => (606, Local, true),
    Self::Key { .. } => (608, Caller, false),
    Self::Dead { .. } => (607, Peer, false),
    Self::Elsewhere { .. } => (612, Peer, false),
});

/// What a handler returns when it fails. It takes any error by `?`, with its causes.
///
/// It is not itself a [`std::error::Error`], which is what makes the conversion from every error possible.
///
/// ```
/// use ripstop::fabric::HandlerError;
///
/// fn parse(text: &str) -> Result<u64, HandlerError> {
///     Ok(text.parse::<u64>()?)
/// }
/// assert_eq!(parse("x").unwrap_err().message(), "invalid digit found in string");
/// ```
#[derive(Clone, Debug)]
pub struct HandlerError {
    message: String,
    code: Option<String>,
    chain: Vec<String>,
    verdict: Option<Verdict>,
    pause: Option<Duration>,
}

impl HandlerError {
    /// An error with a text.
    ///
    /// ```
    /// assert_eq!(ripstop::fabric::HandlerError::new("out of stock").message(), "out of stock");
    /// ```
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: None, chain: Vec::new(), verdict: None, pause: None }
    }

    #[cfg(feature = "tower")]
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::told(error.to_string(), error.source())
    }

    fn told(message: String, source: Option<&(dyn std::error::Error + 'static)>) -> Self {
        let causes = std::iter::successors(source, |cause| cause.source());
        // 16 causes tell the story; an error that is its own source must not loop.
        let chain = causes.take(16).map(ToString::to_string).collect();
        Self { message, code: None, chain, verdict: None, pause: None }
    }

    /// With a code of the application's own, which reaches the caller in [`CallError::Handler`].
    ///
    /// ```
    /// let error = ripstop::fabric::HandlerError::new("out of stock").with_code("E_STOCK");
    /// assert_eq!(error.code(), Some("E_STOCK"));
    /// ```
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Says that trying again would not help: durable work becomes a dead letter at once, and who asks again under the same
    /// idempotency key gets the same error.
    ///
    /// ```
    /// assert!(ripstop::fabric::HandlerError::new("no such address").permanent().is_permanent());
    /// ```
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.verdict = Some(Verdict::Never);
        self
    }

    /// Says that nothing was done, so that the same may be asked again at no risk: the caller's node does so, on another instance if
    /// there is one, within the call's deadline and its retry budget. Without this, and without an idempotent method, a call that a
    /// handler has failed is not repeated.
    ///
    /// ```
    /// use ripstop::{HandlerError, envelope::Verdict};
    /// assert_eq!(HandlerError::new("no free connection").retryable().verdict(), Some(Verdict::Later));
    /// ```
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.verdict = Some(Verdict::Later);
        self
    }

    /// Says when to try again, instead of after a pause that grows: durable work, and a call, which this makes
    /// [`retryable`](HandlerError::retryable). Nobody asks earlier; a caller whose deadline is earlier gets the error at once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let error = ripstop::fabric::HandlerError::new("too many mails").retry_after(Duration::from_secs(60));
    /// assert_eq!(error.pause(), Some(Duration::from_secs(60)));
    /// ```
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.pause = Some(pause);
        self.verdict.get_or_insert(Verdict::Later);
        self
    }

    /// Whether trying again would not help: see [`HandlerError::permanent`].
    ///
    /// ```
    /// assert!(!ripstop::fabric::HandlerError::new("x").is_permanent());
    /// ```
    pub fn is_permanent(&self) -> bool {
        self.verdict == Some(Verdict::Never)
    }

    /// Whether the same may be asked again, if that was said.
    ///
    /// ```
    /// assert_eq!(ripstop::fabric::HandlerError::new("x").verdict(), None);
    /// ```
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// When to try again: see [`HandlerError::retry_after`].
    ///
    /// ```
    /// assert_eq!(ripstop::fabric::HandlerError::new("x").pause(), None);
    /// ```
    pub fn pause(&self) -> Option<Duration> {
        self.pause
    }

    /// The text.
    ///
    /// ```
    /// assert_eq!(ripstop::fabric::HandlerError::new("x").message(), "x");
    /// ```
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The application's own code.
    ///
    /// ```
    /// assert_eq!(ripstop::fabric::HandlerError::new("x").code(), None);
    /// ```
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The causes, outermost first, without the message itself.
    ///
    /// ```
    /// assert!(ripstop::fabric::HandlerError::new("x").chain().is_empty());
    /// ```
    pub fn chain(&self) -> &[String] {
        &self.chain
    }
}

impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::told(error.to_string(), error.source())
    }
}

/// How a node is named in errors: its service and the first half of its id.
pub(crate) fn instance_name(service: &str, node: Option<NodeId>) -> String {
    match node {
        Some(node) => format!("{service}/{:.8}", node.to_string()),
        None => service.to_owned(),
    }
}
