//! What discovery says of a node.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::endpoint::Endpoint;

/// Endpoints of one advert that are kept; the rest is cut off.
pub(crate) const MAX_ENDPOINTS: usize = 20;
/// Roots of one advert that are kept; the rest is cut off.
pub(crate) const MAX_ROOTS: usize = 256;
/// Metadata entries of one advert that are kept; the rest is cut off.
const MAX_METADATA: usize = 64;
/// The longest name, root, metadata key or value, in bytes; an advert with a longer service is refused, other entries are skipped.
const MAX_TEXT: usize = 255;

/// A node's id: 16 bytes, random per start, or kept in `data_dir`. Shown as 32 hex digits.
///
/// ```
/// use ripstop::discovery::NodeId;
/// let id = NodeId::random();
/// assert_eq!(id.to_string().parse(), Ok(id));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

impl NodeId {
    /// A new random id, from the operating system's generator.
    ///
    /// ```
    /// use ripstop::discovery::NodeId;
    /// assert_ne!(NodeId::random(), NodeId::random());
    /// ```
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        // The generator fails only on exotic systems, early at boot. An id need not be secret, only different.
        if getrandom::fill(&mut bytes).is_err() {
            fastrand::fill(&mut bytes);
        }
        Self(bytes)
    }

    /// The first eight hex digits, enough for logs and tables.
    ///
    /// ```
    /// use ripstop::discovery::NodeId;
    /// assert_eq!(NodeId([0xab; 16]).short(), "abababab");
    /// ```
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// The text is not 32 hex digits.
///
/// ```
/// assert!("12".parse::<ripstop::discovery::NodeId>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a node id: write 32 hex digits")]
pub struct ParseNodeIdError;

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `from_str_radix` would take a sign; digits are checked first.
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseNodeIdError);
        }
        u128::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| ParseNodeIdError)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a source says of a node: a hint where to dial and what to expect there.
///
/// ```
/// use ripstop::discovery::{Advert, NodeId};
/// let advert = Advert::new(NodeId::random(), "default", "pricing").root("pricing");
/// assert_eq!(advert.roots, ["pricing"]);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Advert {
    /// The node's id; `None` for a configured address of which nobody knows yet who is behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Counts the starts of a node with a `data_dir`; 0 without one. A hint until the node has authenticated.
    #[serde(default)]
    pub epoch: u64,
    /// The fabric it belongs to.
    pub fabric: String,
    /// The service it is an instance of.
    pub service: String,
    /// The service's own version; may be empty.
    #[serde(default)]
    pub version: String,
    /// Where to dial, best first. At most 20 are kept.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// First tokens of the subjects it serves, publishes or pulls. At most 256 are kept.
    #[serde(default)]
    pub roots: Vec<String>,
    /// Whatever the service says of itself. At most 64 entries are kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl Advert {
    /// An advert of `node` without endpoints or roots.
    ///
    /// ```
    /// use ripstop::discovery::{Advert, NodeId};
    /// assert_eq!(Advert::new(NodeId::random(), "default", "pricing").service, "pricing");
    /// ```
    pub fn new(node: NodeId, fabric: impl Into<String>, service: impl Into<String>) -> Self {
        Self {
            node: Some(node),
            epoch: 0,
            fabric: fabric.into(),
            service: service.into(),
            version: String::new(),
            endpoints: Vec::new(),
            roots: Vec::new(),
            metadata: BTreeMap::new(),
        }
    }

    /// With one more endpoint.
    ///
    /// ```
    /// # use ripstop::discovery::{Advert, NodeId};
    /// let advert = Advert::new(NodeId::random(), "default", "a").endpoint("tcp://127.0.0.1:1".parse().unwrap());
    /// assert_eq!(advert.endpoints.len(), 1);
    /// ```
    #[must_use]
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// With one more root.
    ///
    /// ```
    /// # use ripstop::discovery::{Advert, NodeId};
    /// assert_eq!(Advert::new(NodeId::random(), "default", "a").root("a").roots, ["a"]);
    /// ```
    #[must_use]
    pub fn root(mut self, root: impl Into<String>) -> Self {
        self.roots.push(root.into());
        self
    }

    /// What the directory files it under: the node id, else the first endpoint. `None` if it has neither.
    ///
    /// ```
    /// # use ripstop::discovery::{Advert, Key, NodeId};
    /// let id = NodeId::random();
    /// assert_eq!(Advert::new(id, "default", "a").key(), Some(Key::Node(id)));
    /// ```
    pub fn key(&self) -> Option<Key> {
        match self.node {
            Some(node) => Some(Key::Node(node)),
            None => self.endpoints.first().cloned().map(Key::Endpoint),
        }
    }

    /// Cuts what came from outside to its bounds; `false` if it can't be used at all.
    pub(crate) fn bound(&mut self) -> bool {
        self.endpoints.truncate(MAX_ENDPOINTS);
        self.roots.retain(|root| !root.is_empty() && root.len() <= MAX_TEXT);
        self.roots.truncate(MAX_ROOTS);
        if self.version.len() > MAX_TEXT {
            self.version.clear();
        }
        self.metadata.retain(|key, value| key.len() <= MAX_TEXT && value.len() <= MAX_TEXT);
        while self.metadata.len() > MAX_METADATA {
            self.metadata.pop_last();
        }
        self.service.len() <= MAX_TEXT && self.key().is_some()
    }
}

/// What an instance is filed under.
///
/// ```
/// use ripstop::discovery::Key;
/// let key = Key::Endpoint("tcp://10.0.0.7:5555".parse().unwrap());
/// assert_eq!(key.to_string(), "tcp://10.0.0.7:5555");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// A node known by its id.
    Node(NodeId),
    /// A configured address; who is behind it is known after its hello.
    Endpoint(Endpoint),
}

impl From<NodeId> for Key {
    fn from(node: NodeId) -> Self {
        Self::Node(node)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Endpoint(endpoint) => endpoint.fmt(f),
        }
    }
}

/// One change that a source reports.
///
/// ```
/// use ripstop::discovery::{Advert, Change, NodeId};
/// let up = Change::Up(Advert::new(NodeId::random(), "default", "pricing"));
/// assert!(matches!(up, Change::Up(advert) if advert.service == "pricing"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// New, changed, or seen again.
    Up(Advert),
    /// No longer listed by this source. A hint: a live link wins.
    Down(Key),
}

/// The channel on which a source reports changes. Closed: the source has ended and wants to be watched anew.
///
/// ```
/// let (_tx, _changes): (_, ripstop::discovery::Changes) = tokio::sync::mpsc::channel(16);
/// ```
pub type Changes = tokio::sync::mpsc::Receiver<Change>;
