//! The bodies that the fabric itself writes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whether a call or a piece of work may be tried again: what the failing side knows about it.
///
/// ```
/// use ripstop::envelope::Verdict;
///
/// assert_eq!(Verdict::from_number(1), Verdict::Elsewhere);
/// assert_eq!(Verdict::from_number(200), Verdict::Never); // one that this release doesn't know
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Verdict {
    /// At once, on another instance: this one has not acted on it.
    Elsewhere = 1,
    /// After a while, anywhere: it has not been acted on, and would fail again now.
    Later = 2,
    /// Not at all: it would fail again, or has been acted on. Also what an unknown verdict means.
    #[serde(other)]
    Never = 0,
}

impl Verdict {
    /// The verdict with this number in the header field `rs`; an unknown one is [`Verdict::Never`].
    ///
    /// ```
    /// use ripstop::envelope::Verdict;
    ///
    /// assert_eq!(Verdict::from_number(Verdict::Later as u64), Verdict::Later);
    /// ```
    pub const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Elsewhere,
            2 => Self::Later,
            _ => Self::Never,
        }
    }
}

/// The body of kinds `error` and `nack`: why it failed.
///
/// ```
/// use ripstop::envelope::{ErrorBody, decode_body, encode_body};
///
/// let mut body = Vec::new();
/// encode_body(&ErrorBody::new("RS0404", "no method pricing.qoute"), &mut body)?;
/// let error: ErrorBody = decode_body(&body)?;
/// assert_eq!(error.code, "RS0404");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// `RS` and four digits for ours, whatever the handler chose for its own; may be empty.
    #[serde(default)]
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The causes, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// Whether a retry is safe, when the handler has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Verdict>,
    /// With [`Verdict::Later`]: not before this many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl ErrorBody {
    /// An error with a code and a sentence.
    ///
    /// ```
    /// assert!(ripstop::envelope::ErrorBody::new("E7", "out of stock").chain.is_empty());
    /// ```
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), ..Self::default() }
    }
}

/// The body of kind `hello`: who this end of a link is. The first message on each lane between our own nodes.
///
/// ```
/// use ripstop::envelope::HelloBody;
///
/// let hello = HelloBody { service: "pricing".into(), methods: vec!["pricing.quote".into()], ..Default::default() };
/// assert_eq!(hello.manifest().methods, ["pricing.quote"]);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HelloBody {
    /// The node id: 32 hexadecimal digits.
    pub node: String,
    /// The node's epoch.
    #[serde(default)]
    pub epoch: u64,
    /// The fabric's name; a link between two fabrics is refused.
    pub fabric: String,
    /// The service's name.
    pub service: String,
    /// The service's own version; may be empty.
    #[serde(default)]
    pub version: String,
    /// What time it is there, in milliseconds since 1970; only in answers to a ping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<u64>,
    /// Where the node can be reached.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// Subjects that it serves.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Those of them that may be done twice at no harm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idempotent: Vec<String>,
    /// Subjects that it publishes.
    #[serde(default)]
    pub topics: Vec<String>,
    /// Queues that it pulls from.
    #[serde(default)]
    pub queues: Vec<String>,
    /// Whatever else the service says of itself.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl HelloBody {
    /// The part that changes while the node lives.
    ///
    /// ```
    /// assert_eq!(ripstop::envelope::HelloBody::default().manifest(), Default::default());
    /// ```
    pub fn manifest(&self) -> ManifestBody {
        ManifestBody {
            methods: self.methods.clone(),
            idempotent: self.idempotent.clone(),
            topics: self.topics.clone(),
            queues: self.queues.clone(),
            metadata: self.metadata.clone(),
        }
    }
}

/// The body of kind `manifest`: what the node serves, publishes and pulls from now on. It replaces what the hello, or
/// the last manifest, said.
///
/// ```
/// let manifest = ripstop::envelope::ManifestBody { queues: vec!["emails".into()], ..Default::default() };
/// assert!(manifest.methods.is_empty());
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ManifestBody {
    /// Subjects that it serves.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Those of them that may be done twice at no harm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idempotent: Vec<String>,
    /// Subjects that it publishes.
    #[serde(default)]
    pub topics: Vec<String>,
    /// Queues that it pulls from.
    #[serde(default)]
    pub queues: Vec<String>,
    /// Whatever else the service says of itself.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// The body of kind `credit`: how many more messages of the subject the sender may send.
///
/// ```
/// let mut body = Vec::new();
/// ripstop::envelope::encode_body(&ripstop::envelope::CreditBody(64), &mut body)?;
/// assert_eq!(body, [64]);
/// # Ok::<(), ripstop::envelope::EncodeError>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CreditBody(pub u32);

/// The body of kind `gap`: how many events of the subject were dropped on the way to this subscriber.
///
/// ```
/// let gap: ripstop::envelope::GapBody = ripstop::envelope::decode_body(&[12])?;
/// assert_eq!(gap.0, 12);
/// # Ok::<(), ripstop::envelope::DecodeError>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GapBody(pub u64);
