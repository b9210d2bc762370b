//! `ripstop.toml` and the environment.
//!
//! ```toml
//! fabric = "shop"
//! service = "pricing"
//! listen = ["lan"]                  # default: tcp://127.0.0.1:0, this machine only
//!
//! [security]
//! dir = "keys"                      # a listener beyond loopback needs keys, or insecure = true
//!
//! [[allow]]
//! who = "billing"
//! call = ["pricing.*"]
//!
//! [[peers]]
//! service = "ledger"
//! endpoint = "tcp://10.0.0.7:5555"
//! ```
//!
//! Every key can be set by an environment variable: `RIPSTOP_` and the key, nested keys joined by `__`:
//! `RIPSTOP_FABRIC=shop`, `RIPSTOP_LIMITS__MAX_MESSAGE=1MiB`, `RIPSTOP_LISTEN=lan,tcp://127.0.0.1:5555`.

mod error;
mod explain;
mod listen;
mod load;
mod resilience;
mod rule;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

pub use error::ConfigError;
pub use explain::{Origin, Setting};
pub use listen::{advertised, interfaces_of, is_beyond_loopback};
pub(crate) use load::{nearest, peers};
pub(crate) use resilience::InForce;
pub use resilience::{ResilienceConfig, ServiceConfig};
pub use rule::AllowRule;
pub(crate) use rule::{Who, check_token, pattern, who};

/// Everything that can be set. `Config::default()` is what an empty file means.
///
/// ```
/// assert_eq!(ripstop::config::Config::default().fabric, "default");
/// ```
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The fabric to join: only nodes of one fabric see each other. Default: `default`.
    pub fabric: String,
    /// The service this node is an instance of. No default: the program usually says it.
    pub service: Option<String>,
    /// The service's own version, shown to others. Default: empty.
    pub version: String,
    /// Where to listen: `lan` (every interface with a private address), an interface name, an address, or an endpoint.
    /// Default: `tcp://127.0.0.1:0`, reachable from this machine only. Beyond loopback needs keys or `security.insecure`.
    #[serde(deserialize_with = "values::list")]
    pub listen: Vec<String>,
    /// What others are told to dial, when it differs from where we listen (NAT, containers). Default: the listeners.
    #[serde(deserialize_with = "values::list")]
    pub advertise: Vec<Endpoint>,
    /// Where the node keeps its id and epoch across restarts. Default: none, so the id is random per start.
    pub data_dir: Option<PathBuf>,
    /// Whatever the service says of itself to others; at most 64 entries of 255 bytes. Default: empty.
    pub metadata: BTreeMap<String, String>,
    /// Peers at fixed addresses, hot-reloaded. Default: none.
    pub peers: Vec<PeerConfig>,
    /// How to find others.
    pub discovery: DiscoveryConfig,
    /// Keys, and what holds without them.
    pub security: SecurityConfig,
    /// Who may do what; see [`Permissions`](crate::security::Permissions). Default: none, so that defaults hold.
    pub allow: Vec<AllowRule>,
    /// How much.
    pub limits: Limits,
    /// How long.
    pub timeouts: Timeouts,
    /// What keeps one service's trouble its own.
    pub resilience: ResilienceConfig,
    /// What is kept in `data_dir` until somebody has processed it.
    pub durable: DurableConfig,
    /// How the node is seen.
    pub observe: ObserveConfig,
}

/// One of `[[peers]]`.
///
/// ```
/// let peer = ripstop::config::PeerConfig::new("ledger", "tcp://10.0.0.7:5555".parse().unwrap());
/// assert_eq!(peer.roots(), ["ledger"]);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// The service it is an instance of.
    pub service: String,
    /// Where to dial it.
    pub endpoint: Endpoint,
    /// First tokens of the subjects it serves, publishes or pulls. Default: the service.
    #[serde(default, deserialize_with = "values::list")]
    pub roots: Vec<String>,
}

impl PeerConfig {
    /// A peer whose only root is its service.
    ///
    /// ```
    /// # use ripstop::config::PeerConfig;
    /// assert_eq!(PeerConfig::new("a", "tcp://127.0.0.1:1".parse().unwrap()).service, "a");
    /// ```
    pub fn new(service: impl Into<String>, endpoint: Endpoint) -> Self {
        Self { service: service.into(), endpoint, roots: Vec::new() }
    }

    /// Its roots, or its service if it names none.
    ///
    /// ```
    /// # use ripstop::config::PeerConfig;
    /// assert_eq!(PeerConfig::new("a", "tcp://127.0.0.1:1".parse().unwrap()).roots(), ["a"]);
    /// ```
    pub fn roots(&self) -> Vec<String> {
        if self.roots.is_empty() { vec![self.service.clone()] } else { self.roots.clone() }
    }
}

/// `[discovery]`: how to find others.
///
/// ```
/// assert!(ripstop::config::DiscoveryConfig::default().local);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// Nodes of the same user on this machine. Default: true.
    pub local: bool,
    /// Nodes on the same network, by multicast DNS. Speaks only when a listener reaches beyond loopback. Default: true.
    pub mdns: bool,
    /// Interfaces for mDNS. Default: those the listeners are bound to.
    #[serde(deserialize_with = "values::list")]
    pub interfaces: Vec<String>,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self { local: true, mdns: true, interfaces: Vec::new() }
    }
}

/// `[security]`: where keys are. Relative paths begin at the directory of `ripstop.toml`.
///
/// ```
/// let security = ripstop::config::SecurityConfig::default();
/// assert!(!security.insecure && !security.has_keys());
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityConfig {
    /// One directory with all of it, under these names: `ca.pem`, `node.pem`, `node.key`, `crl.pem`, `curve.key`, `curve.toml`; what
    /// is not there is not used. Default: none. A key of its own below replaces one of these files.
    pub dir: Option<PathBuf>,
    /// Certificates of the CAs that are trusted, PEM; several are valid side by side. Default: `ca.pem` in `dir`.
    pub ca: Option<PathBuf>,
    /// This node's certificate and, after it, those between it and the CA, PEM. Default: `node.pem` in `dir`.
    pub cert: Option<PathBuf>,
    /// The private key of the certificate: PKCS#8, SEC1 or PKCS#1, PEM, for its owner's eyes only. Default: `node.key` in `dir`.
    pub key: Option<PathBuf>,
    /// Revocation lists, PEM. Default: `crl.pem` in `dir`; without it nothing is revoked.
    pub crl: Option<PathBuf>,
    /// This node's own CURVE secret key, Z85, for its owner's eyes only. Default: `curve.key` in `dir`.
    pub curve_key: Option<PathBuf>,
    /// Who is enrolled for CURVE: TOML, names and their Z85 public keys. Default: `curve.toml` in `dir`.
    pub curve_names: Option<PathBuf>,
    /// Listen beyond loopback without keys: anybody who reaches the port can call, and read along. Default: false.
    pub insecure: bool,
    /// Whether what no rule of `[[allow]]` allows is forbidden, instead of following the defaults. Default: false.
    pub deny_by_default: bool,
}

impl SecurityConfig {
    /// Whether keys are configured; if they are good, opening them tells.
    ///
    /// ```
    /// use ripstop::config::SecurityConfig;
    /// assert!(SecurityConfig { dir: Some("/etc/pricing/keys".into()), ..SecurityConfig::default() }.has_keys());
    /// ```
    pub fn has_keys(&self) -> bool {
        let files = [&self.ca, &self.cert, &self.key, &self.crl, &self.curve_key, &self.curve_names];
        self.dir.is_some() || files.into_iter().any(Option::is_some)
    }
}

/// `[limits]`: how much. Sizes are bytes, or text such as `"16MiB"`.
///
/// ```
/// assert_eq!(ripstop::config::Limits::default().max_message, 16 << 20);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest message sent or received, all frames together. Default: 16 MiB. Memory per peer can grow to this.
    #[serde(deserialize_with = "values::size")]
    pub max_message: usize,
    /// High-water mark per peer, in messages. Default: 65,536.
    pub queue_messages: usize,
    /// High-water mark per peer, in bytes; whichever mark is reached first counts. Default: 16 MiB.
    #[serde(deserialize_with = "values::size")]
    pub queue_bytes: usize,
    /// Connections that come in, handshakes included, at all listeners together; one more is closed. Default: 4,096.
    pub connections: usize,
    /// The same from one IP address, or one /64 of IPv6. Default: 1,024.
    pub connections_per_address: usize,
    /// Handshakes under way at one listener; one more gives up the oldest. Default: 256.
    pub handshakes: usize,
    /// The same from one address. Default: 128.
    pub handshakes_per_address: usize,
    /// New connections a second from one address; more are closed at once. Default: 500.
    pub handshake_rate: u32,
    /// Longest frame of a handshake, in bytes. Default: 64 KiB.
    #[serde(deserialize_with = "values::size")]
    pub handshake_bytes: usize,
    /// Frames of one message. Default: 1,024.
    pub frames: usize,
    /// Subscriptions of one peer. Default: 4,096.
    pub subscriptions: usize,
    /// Longest subscription, in bytes. Default: 1 KiB.
    #[serde(deserialize_with = "values::size")]
    pub subscription_length: usize,
    /// Bytes of one peer's subscriptions together. Default: 4 MiB.
    #[serde(deserialize_with = "values::size")]
    pub subscription_bytes: usize,
    /// All that one connection may make the node hold, in bytes: queued for it, received and not taken, begun, and
    /// subscribed. Default: 64 MiB.
    #[serde(deserialize_with = "values::size")]
    pub peer_memory: usize,
    /// Arrays and maps nested in each other in a received body. Default: 64, which is also the most.
    pub depth: usize,
    /// Values in a received body, map keys included. Default: 16,777,216. Decoded, one can take 32 bytes and more.
    pub elements: usize,
    /// Calls in flight per service, and handlers at work per method. Default: 256.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 16 << 20,
            queue_messages: 65_536,
            queue_bytes: 16 << 20,
            connections: 4096,
            connections_per_address: 1024,
            handshakes: 256,
            handshakes_per_address: 128,
            handshake_rate: 500,
            handshake_bytes: 64 << 10,
            frames: 1024,
            subscriptions: 4096,
            subscription_length: 1024,
            subscription_bytes: 4 << 20,
            peer_memory: 64 << 20,
            depth: 64,
            elements: 16 << 20,
            in_flight: 256,
        }
    }
}

/// `[timeouts]`: how long, as text such as `"10s"` or `"250ms"`.
///
/// ```
/// assert_eq!(ripstop::config::Timeouts::default().call.as_secs(), 10);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// A call, from start to reply. Default: 10 s.
    #[serde(with = "values::duration")]
    pub call: Duration,
    /// A drain: finish, flush, close. Default: 10 s.
    #[serde(with = "values::duration")]
    pub drain: Duration,
    /// How long a first call waits for somebody to be found. Default: 2 s.
    #[serde(with = "values::duration")]
    pub discovery_wait: Duration,
    /// A connection's whole handshake. Default: 5 s.
    #[serde(with = "values::duration")]
    pub handshake: Duration,
    /// Silence after which a peer is asked for a sign of life. Default: 2 s.
    #[serde(with = "values::duration")]
    pub heartbeat: Duration,
    /// Silence after which a peer is dead. Default: 6 s.
    #[serde(with = "values::duration")]
    pub dead_after: Duration,
    /// First pause before a reconnect. Default: 50 ms.
    #[serde(with = "values::duration")]
    pub reconnect_min: Duration,
    /// Longest pause before a reconnect: between half of it and all of it is waited. Default: 1 s, so that a healed network is used within that.
    #[serde(with = "values::duration")]
    pub reconnect_max: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        Self {
            call: s(10),
            drain: s(10),
            discovery_wait: s(2),
            handshake: s(5),
            heartbeat: s(2),
            dead_after: s(6),
            reconnect_min: ms(50),
            reconnect_max: s(1),
        }
    }
}

/// `[durable]`: what is kept in `data_dir` until somebody has processed it, and what is remembered of others'.
///
/// ```
/// assert_eq!(ripstop::config::DurableConfig::default().attempts, 5);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DurableConfig {
    /// Items that may wait, all queues together; one more is refused. Default: 10,000,000.
    pub messages: u64,
    /// The bytes of their bodies; whichever is reached first counts. Default: 16 GiB.
    #[serde(deserialize_with = "values::size")]
    pub bytes: usize,
    /// An item that has failed so often becomes a dead letter. Default: 5.
    pub attempts: u32,
    /// An item that was pushed without a time of its own (`expires`) becomes a dead letter when it has not been processed for so long.
    /// Default: 0 s, never.
    #[serde(with = "values::duration")]
    pub expires: Duration,
    /// First pause between attempts; each is twice the one before, and between half of it and all of it is waited. Default: 500 ms.
    #[serde(with = "values::duration")]
    pub retry_min: Duration,
    /// Longest pause between attempts. Default: 1 min.
    #[serde(with = "values::duration")]
    pub retry_max: Duration,
    /// An item of which nothing was heard for so long is delivered again, although whoever has it is there. Default: 10 min.
    #[serde(with = "values::duration")]
    pub lease: Duration,
    /// An item in doubt waits so long for the instance that had it, before it goes to another. Default: 5 s.
    #[serde(with = "values::duration")]
    pub same_first: Duration,
    /// An item that was lost so often together with whoever had it becomes a dead letter: it may be what kills them. Default: 20.
    pub losses: u32,
    /// Queues whose items, once delivered, go to the same instance again and to no other, until it says what became of them or somebody
    /// releases them; patterns such as `payments.*`. The instances need a `data_dir`, so that they remain the same. Default: none.
    #[serde(deserialize_with = "values::list")]
    pub pinned: Vec<String>,
    /// How long what was done here is remembered, so that it is not done twice; and how long an item may be in doubt before it becomes a
    /// dead letter, because nobody would remember. Default: 7 days.
    #[serde(with = "values::duration")]
    pub dedup_for: Duration,
    /// How many are remembered; whichever is reached first counts. Default: 10,000,000.
    pub dedup: u64,
    /// Who gets a copy of each durable event, although none of its instances has been here yet. Default: none.
    pub groups: Vec<GroupConfig>,
    /// A group of which no instance was here for so long is removed, and what is kept for it becomes dead letters. Default: 30 days.
    #[serde(with = "values::duration")]
    pub groups_for: Duration,
    /// How long durable events are kept for groups that come later. Default: 0 s, not at all.
    #[serde(with = "values::duration")]
    pub retain: Duration,
}

impl Default for DurableConfig {
    fn default() -> Self {
        let (s, days) = (Duration::from_secs, |days: u64| Duration::from_secs(days * 86_400));
        Self {
            messages: 10_000_000,
            bytes: 16 << 30,
            attempts: 5,
            expires: Duration::ZERO,
            retry_min: Duration::from_millis(500),
            retry_max: s(60),
            lease: s(600),
            same_first: s(5),
            losses: 20,
            pinned: Vec::new(),
            dedup_for: days(7),
            dedup: 10_000_000,
            groups: Vec::new(),
            groups_for: days(30),
            retain: Duration::ZERO,
        }
    }
}

/// One of `[[durable.groups]]`.
///
/// ```
/// let group = ripstop::config::GroupConfig::new("billing", "orders.*");
/// assert_eq!(group.pattern, "orders.*");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// The durable name under which its instances subscribe.
    pub name: String,
    /// What they subscribe to.
    pub pattern: String,
}

impl GroupConfig {
    /// A group.
    ///
    /// ```
    /// assert_eq!(ripstop::config::GroupConfig::new("billing", "orders.*").name, "billing");
    /// ```
    pub fn new(name: impl Into<String>, pattern: impl Into<String>) -> Self {
        Self { name: name.into(), pattern: pattern.into() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            fabric: "default".into(),
            service: None,
            version: String::new(),
            listen: vec!["tcp://127.0.0.1:0".into()],
            advertise: Vec::new(),
            data_dir: None,
            metadata: BTreeMap::new(),
            peers: Vec::new(),
            discovery: DiscoveryConfig::default(),
            security: SecurityConfig::default(),
            allow: Vec::new(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            resilience: ResilienceConfig::default(),
            durable: DurableConfig::default(),
            observe: ObserveConfig::default(),
        }
    }
}

/// `[observe]`: how the node is seen.
///
/// ```
/// assert_eq!(ripstop::config::ObserveConfig::default().listen, None);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObserveConfig {
    /// Where `/metrics`, `/healthz` and `/readyz` are answered, by plain HTTP and without a password: an address and a port, or a port
    /// alone, which is on loopback. It takes the feature `observe`. Default: nowhere.
    #[serde(deserialize_with = "values::text_or_number")]
    pub listen: Option<String>,
}

impl ObserveConfig {
    /// The address that `listen` means; a port alone is on loopback.
    ///
    /// # Errors
    /// What is wrong with it.
    ///
    /// ```
    /// use ripstop::config::ObserveConfig;
    /// let observe = ObserveConfig { listen: Some("9464".into()) };
    /// assert_eq!(observe.address(), Ok(Some("127.0.0.1:9464".parse().unwrap())));
    /// ```
    pub fn address(&self) -> Result<Option<std::net::SocketAddr>, String> {
        let Some(text) = self.listen.as_deref().map(str::trim) else { return Ok(None) };
        let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
        let address = port.map(|port| (std::net::Ipv4Addr::LOCALHOST, port).into()).or_else(|_| text.parse());
        let wrong = |_| {
            format!(
                "`{text}` is no address with a port: write one such as \"127.0.0.1:9464\", or a port alone"
            )
        };
        address.map(Some).map_err(wrong)
    }
}

/// What [`Config::load`] found.
///
/// ```no_run
/// let loaded = ripstop::config::Config::load(None)?;
/// println!("{:?}, and {:?} from the environment", loaded.path, loaded.from_environment);
/// # Ok::<(), ripstop::config::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file that was read; `None` if there was none.
    pub path: Option<PathBuf>,
    /// The variables that were read, such as `RIPSTOP_LIMITS__MAX_MESSAGE`, sorted.
    pub from_environment: Vec<String>,
    /// Where the file sets each key: `ripstop.toml:3:8`.
    places: BTreeMap<String, String>,
}

impl Config {
    /// Reads `path`, or `ripstop.toml` in the working directory if there is one, then the environment on top of it.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, line and column, or the variable, and what to write instead.
    ///
    /// ```no_run
    /// let config = ripstop::config::Config::load(Some("ripstop.toml".as_ref()))?.config;
    /// # Ok::<(), ripstop::config::ConfigError>(())
    /// ```
    pub fn load(path: Option<&Path>) -> Result<Loaded, ConfigError> {
        load::load(path, std::env::vars_os())
    }

    /// The configuration that `text` means, without the environment.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    ///
    /// ```
    /// use ripstop::config::Config;
    /// assert_eq!(Config::parse("fabric = 'shop'")?.fabric, "shop");
    /// let error = Config::parse("fabrik = 'shop'").unwrap_err();
    /// assert_eq!(error.to_string(), "ripstop.toml:1:1: unknown key `fabrik`: did you mean `fabric`?");
    /// # Ok::<(), ripstop::config::ConfigError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        load::parse(text, Path::new("ripstop.toml"))
    }

    /// Checks what types alone don't: names, ranges, limits that contradict each other. [`load`](Self::load) has done so already.
    ///
    /// # Errors
    /// The first key that is wrong, and what to write.
    ///
    /// ```
    /// # use ripstop::config::Config;
    /// let config = Config { fabric: "two words".into(), ..Config::default() };
    /// assert!(config.check().unwrap_err().to_string().starts_with("fabric: "));
    /// ```
    pub fn check(&self) -> Result<(), ConfigError> {
        load::check(self, str::to_owned)
    }

    /// The endpoints that `listen` means on this machine, now: `lan` is every interface address in a private range, an
    /// interface name is every address of it; port 0 unless one is given (`lan:5555`, `eth0:5555`, `10.0.0.7:5555`).
    ///
    /// # Errors
    /// An entry that is neither an endpoint, an address, an interface nor `lan`; `lan` where there is no private address; a
    /// listener beyond loopback without keys and without `security.insecure`.
    ///
    /// ```
    /// use ripstop::config::Config;
    /// assert_eq!(Config::default().listeners()?[0].to_string(), "tcp://127.0.0.1:0");
    /// let open = Config { listen: vec!["tcp://*:5555".into()], ..Config::default() };
    /// assert!(open.listeners().unwrap_err().to_string().contains("insecure = true"));
    /// # Ok::<(), ripstop::config::ConfigError>(())
    /// ```
    pub fn listeners(&self) -> Result<Vec<Endpoint>, ConfigError> {
        listen::listeners(self, &listen::interfaces())
    }
}
