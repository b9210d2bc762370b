//! How a node is started.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use dashmap::DashMap;
use tokio::sync::{Notify, watch};

use crate::{
    config::{AllowRule, Config, ConfigError, Loaded, PeerConfig, advertised},
    discovery::{Directory, Local, Source, Static, StaticFile},
    endpoint::Endpoint,
    envelope::{self, check_subject},
    fabric::{
        Node,
        calls::server::{CallsCore, Methods},
        error::StartError,
        events::{
            publisher::{Topics, TopicsCore},
            subscription::{FeedCore, Subscriptions},
        },
        guard::{Guard, KeyStore},
        hub::Hub,
        identity::{self, Identity},
        observe::{self, Counted},
        resilience::{follow, policy::Targets, rates::Rates},
        shared::{Options, Phase, Shared},
        work::{
            pull::{Pulls, PullsCore},
            push::Outlets,
        },
    },
    security::{Authoriser, Permissions, SecurityError},
    socket::{
        core::{LinkOptions, ListenOptions},
        gate::{self, Gate},
        listen::listen,
        monitor::Reporter,
        pipe::Turn,
        subscriptions::Caps,
    },
    sync::lock,
    zmtp::{Heartbeat, Limits},
};

/// Prepares a node; [`NodeBuilder::start`] starts it. Made by [`Node::builder`].
///
/// ```no_run
/// # async fn f() -> ripstop::Result<()> {
/// let node = ripstop::Node::builder("pricing").version("1.4.0").listen("tcp://127.0.0.1:7701").start().await?;
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until it is started"]
pub struct NodeBuilder {
    service: String,
    config: Config,
    /// Where the configuration came from: watched for `[[peers]]`.
    file: Option<PathBuf>,
    sources: Vec<Arc<dyn Source>>,
    peers: Vec<PeerConfig>,
    /// Listeners given here replace the configured ones.
    listen: Vec<String>,
    /// Rules given here come on top of the configured ones.
    rules: Vec<AllowRule>,
    authoriser: Option<Arc<dyn Authoriser>>,
    named_by_keys: bool,
}

impl NodeBuilder {
    pub(crate) fn new(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            config: Config::default(),
            file: None,
            sources: Vec::new(),
            peers: Vec::new(),
            listen: Vec::new(),
            rules: Vec::new(),
            authoriser: None,
            named_by_keys: false,
        }
    }

    /// Uses a configuration that was loaded from a file and the environment; its `[[peers]]` are reloaded when the
    /// file changes.
    ///
    /// ```no_run
    /// # async fn f() -> ripstop::Result<()> {
    /// let loaded = ripstop::config::Config::load(Some("pricing.toml".as_ref()))?;
    /// let node = ripstop::Node::builder("pricing").loaded(loaded).start().await?;
    /// # Ok(()) }
    /// ```
    pub fn loaded(mut self, loaded: Loaded) -> Self {
        self.config = loaded.config;
        self.file = loaded.path;
        self
    }

    /// Uses this configuration. What was set before on the builder is replaced, listeners, sources and peers excepted.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").config(ripstop::config::Config::default());
    /// ```
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self.file = None;
        self
    }

    /// The fabric's name. Default `default`. Nodes of different fabrics do not see each other.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").fabric("staging");
    /// ```
    pub fn fabric(mut self, name: &str) -> Self {
        name.clone_into(&mut self.config.fabric);
        self
    }

    /// The service's version, shown to peers. Default empty.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").version("1.4.0");
    /// ```
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.config.version);
        self
    }

    /// A key and a value that are shown to peers.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").metadata("zone", "eu-1");
    /// ```
    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.config.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Listens here, instead of where the configuration says; may be repeated. Default `tcp://127.0.0.1:0`. Beyond
    /// loopback it takes [`NodeBuilder::insecure`].
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").listen("tcp://127.0.0.1:7701");
    /// ```
    pub fn listen(mut self, endpoint: &str) -> Self {
        self.listen.push(endpoint.to_owned());
        self
    }

    /// Announces this address instead of the listeners', as behind a forwarded port; may be repeated.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").advertise("tcp://192.0.2.7:7701".parse().unwrap());
    /// ```
    pub fn advertise(mut self, endpoint: Endpoint) -> Self {
        self.config.advertise.push(endpoint);
        self
    }

    /// One more way of finding others.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").source(ripstop::discovery::Memory::new().source());
    /// ```
    pub fn source(mut self, source: impl Source) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// Whether nodes on this machine are found. Default yes.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").local(false);
    /// ```
    pub fn local(mut self, on: bool) -> Self {
        self.config.discovery.local = on;
        self
    }

    /// Whether nodes on the local network are found by mDNS, once there is a listener beyond loopback. Default yes.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").mdns(false);
    /// ```
    pub fn mdns(mut self, on: bool) -> Self {
        self.config.discovery.mdns = on;
        self
    }

    /// A peer at a known address; its roots default to its service.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").peer("orders", "tcp://192.0.2.8:7701".parse().unwrap(), &["orders"]);
    /// ```
    pub fn peer(mut self, service: &str, endpoint: Endpoint, roots: &[&str]) -> Self {
        let mut peer = PeerConfig::new(service, endpoint);
        peer.roots = roots.iter().map(|root| (*root).to_owned()).collect();
        self.peers.push(peer);
        self
    }

    /// Allows listeners beyond loopback although there are no keys: **everyone who reaches the port is in.**
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").listen("tcp://0.0.0.0:7701").insecure(true);
    /// ```
    pub fn insecure(mut self, yes: bool) -> Self {
        self.config.security.insecure = yes;
        self
    }

    /// The directory with this node's keys, as `ripstop keys issue` writes it. With keys every connection is encrypted
    /// and proven, and nothing else is let in; see [`SecurityConfig::dir`](crate::config::SecurityConfig::dir). Default none.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").keys("/etc/pricing/keys");
    /// ```
    pub fn keys(mut self, dir: impl AsRef<Path>) -> Self {
        // Not relative to the configuration file, as in it: this is the program's own.
        let dir = std::path::absolute(&dir).unwrap_or_else(|_| dir.as_ref().to_owned());
        self.config.security.dir = Some(dir);
        self
    }

    /// Takes the service's name from the certificate instead of the one that was given, if there are keys. For tools,
    /// which act for whatever service they hold the keys of.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("tool").named_by_keys(true);
    /// ```
    pub fn named_by_keys(mut self, yes: bool) -> Self {
        self.named_by_keys = yes;
        self
    }

    /// One more rule of who may do what, on top of `[[allow]]`. Without keys nobody is asked. Default: none.
    ///
    /// ```
    /// use ripstop::config::AllowRule;
    /// let rule = AllowRule { call: Some(vec!["pricing.*".into()]), ..AllowRule::new("billing") };
    /// let builder = ripstop::Node::builder("pricing").allow(rule);
    /// ```
    pub fn allow(mut self, rule: AllowRule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Has the program itself say who may connect, once keys have proven who it is. Default: whoever has proven to be a
    /// member.
    ///
    /// ```
    /// use ripstop::security::{AuthRequest, Authoriser, BoxFuture, Verdict};
    /// struct Hours;
    /// impl Authoriser for Hours {
    ///     fn authorise(&self, request: AuthRequest) -> BoxFuture<'_, Verdict> {
    ///         Box::pin(async move {
    ///             if request.identity.name() == "intern" { Verdict::Refuse("not at night".into()) } else { Verdict::Allow }
    ///         })
    ///     }
    /// }
    /// let builder = ripstop::Node::builder("pricing").authoriser(Hours);
    /// ```
    pub fn authoriser(mut self, authoriser: impl Authoriser) -> Self {
        self.authoriser = Some(Arc::new(authoriser));
        self
    }

    /// How long calls, pushes and waits for subscribers may take unless they say. Default 10 s.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").call_timeout(std::time::Duration::from_secs(2));
    /// ```
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.config.timeouts.call = timeout;
        self
    }

    /// Where the node keeps its id, and what it owes others: durable work takes it. One process at a time. Default: none.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").data_dir("/var/lib/pricing");
    /// ```
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.data_dir = Some(path.into());
        self
    }

    /// How much may wait for one peer, or for one subscription or pull: messages and bytes, whichever comes first.
    /// Default 65,536 and 16 MiB.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").queue(1024, 1 << 20);
    /// ```
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        self.config.limits.queue_messages = messages;
        self.config.limits.queue_bytes = bytes;
        self
    }

    /// Opens the listeners and discovery. Must run within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]: a bad name or configuration, keys that cannot be used or are another service's, a listener that
    /// cannot be opened, a source that cannot be used.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripstop::Result<()> {
    /// let node = ripstop::Node::builder("pricing").local(false).start().await?;
    /// assert_eq!(node.endpoints().len(), 1);
    /// # Ok(()) }
    /// ```
    pub async fn start(mut self) -> Result<Node, StartError> {
        let keys = self.open_keys()?;
        for (what, name) in [("service", &self.service), ("fabric", &self.config.fabric)] {
            check_subject(name).map_err(|reason| StartError::Name { what, name: name.clone(), reason })?;
        }
        if !self.listen.is_empty() {
            self.config.listen = std::mem::take(&mut self.listen);
        }
        self.config.check()?;
        let wanted = self.config.listeners()?;
        let identity = identity::take(self.config.data_dir.as_deref())?;
        let table = [self.config.allow.as_slice(), self.rules.as_slice()].concat();
        let table = Permissions::new(&table, self.config.security.deny_by_default)?;
        let guard = Guard::new(keys.clone(), table, self.authoriser.take());
        #[cfg(feature = "observe")]
        let endpoint = self.open_endpoint().await?;
        #[cfg(not(feature = "observe"))]
        self.no_endpoint()?;
        crate::observe::names::describe();
        let shared = self.shared(identity, guard);
        observe::own::offer(&shared);
        let hub = Arc::new(Hub {
            shared: Arc::downgrade(&shared),
            calls: Arc::new(CallsCore(shared.methods.clone())),
            topics: Arc::new(TopicsCore(shared.topics.clone())),
            feeds: Arc::new(FeedCore {
                subscriptions: shared.subscriptions.clone(),
                shared: Arc::downgrade(&shared),
            }),
            credited: Arc::new(PullsCore { pulls: shared.pulls.clone(), credited: true }),
            foreign: Arc::new(PullsCore { pulls: shared.pulls.clone(), credited: false }),
        });
        for endpoint in wanted {
            let listening = listen(
                endpoint.clone(),
                ListenOptions {
                    link: shared.options.link.clone(),
                    tls: shared.guard.acceptor(),
                    curve: shared.guard.curve_keys(),
                },
                shared.gate.clone(),
                hub.clone(),
                shared.monitor.clone(),
            )
            .await
            .map_err(|error| StartError::Listen {
                endpoint: endpoint.to_string(),
                reason: error.to_string(),
            })?;
            lock(&shared.listeners).push(listening);
        }
        let bound: Vec<Endpoint> = lock(&shared.listeners).iter().map(|l| l.endpoint().clone()).collect();
        *lock(&shared.endpoints) =
            if self.config.advertise.is_empty() { advertised(&bound) } else { self.config.advertise.clone() };
        self.add_sources(&shared, &bound)?;
        #[cfg(feature = "durable")]
        if let Some(dir) = &self.config.data_dir {
            open_outbox(dir.clone(), &shared, &self.config.durable).await?;
        }
        shared.spawn(Shared::reconciler(Arc::downgrade(&shared)));
        shared.spawn(observe::keep(Arc::downgrade(&shared)));
        #[cfg(feature = "observe")]
        if let Some(endpoint) = endpoint {
            observe::watch(&shared, endpoint);
        }
        if let Some(keys) = keys {
            self.follow_changes(&shared, keys);
        }
        if let Some(file) = self.file.clone() {
            let follow = follow::Follow { file, in_force: self.config.clone() };
            shared.spawn(follow.resilience(Arc::downgrade(&shared), shared.phase.subscribe()));
        }
        tracing::debug!(node = %shared.id, service = %shared.service, fabric = %shared.fabric, endpoints = ?bound, "started");
        let node = shared.handle();
        shared.roots_changed().await;
        Ok(node)
    }

    #[cfg(not(feature = "tls"))]
    fn follow_changes(&self, _: &Arc<Shared>, keys: Arc<KeyStore>) {
        match *keys {}
    }

    /// The observe endpoint's port and, before anything is counted, the recorder whose numbers it serves.
    #[cfg(feature = "observe")]
    async fn open_endpoint(&self) -> Result<Option<tokio::net::TcpListener>, StartError> {
        use crate::observe::endpoint;
        let wrong = |reason| ConfigError::Value { place: "observe.listen".into(), reason };
        let Some(address) = self.config.observe.address().map_err(wrong)? else { return Ok(None) };
        let listener = endpoint::bind(address).await.map_err(|error| StartError::Listen {
            endpoint: format!("http://{address}, as [observe] listen says"),
            reason: error.to_string(),
        })?;
        endpoint::install();
        Ok(Some(listener))
    }

    #[cfg(not(feature = "observe"))]
    fn no_endpoint(&self) -> Result<(), StartError> {
        if self.config.observe.listen.is_none() {
            return Ok(());
        }
        let reason = "this program was built without the feature `observe`, which that takes".into();
        Err(ConfigError::Value { place: "observe.listen".into(), reason }.into())
    }

    /// Opens the keys, if there are any, and makes sure that they are this node's.
    #[cfg(feature = "tls")]
    fn open_keys(&mut self) -> Result<Option<Arc<KeyStore>>, StartError> {
        if !self.config.security.has_keys() {
            return Ok(None);
        }
        let base = self.file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let store = KeyStore::open(&self.config.security, base)?;
        let keys = store.current();
        if let crate::security::Identity::Service { fabric, service } = keys.identity() {
            let ours = &mut self.config.fabric;
            if *ours == Config::default().fabric {
                ours.clone_from(fabric);
            }
            if self.named_by_keys {
                self.service.clone_from(service);
            }
            if *ours != *fabric || self.service != *service {
                let reason = format!(
                    "the certificate is for service {service} of fabric {fabric}, and this node is service {} of fabric {ours}; \
                     use its own certificate, or that name",
                    self.service
                );
                return Err(SecurityError::Setup { reason }.into());
            }
        }
        Ok(Some(store))
    }

    #[cfg(not(feature = "tls"))]
    fn open_keys(&mut self) -> Result<Option<Arc<KeyStore>>, StartError> {
        if !self.config.security.has_keys() {
            return Ok(None);
        }
        let reason = "this program was built without the feature `tls`, which keys take".into();
        Err(SecurityError::Setup { reason }.into())
    }

    /// Keys and rules are followed while the node runs.
    #[cfg(feature = "tls")]
    fn follow_changes(&self, shared: &Arc<Shared>, keys: Arc<KeyStore>) {
        use crate::fabric::reload;
        let (me, phase) = (Arc::downgrade(shared), &shared.phase);
        shared.spawn(reload::keys(me.clone(), keys, phase.subscribe()));
        if let Some(file) = self.file.clone() {
            let rules = reload::Rules { file, program: self.rules.clone(), in_force: self.config.clone() };
            shared.spawn(reload::rules(me, rules, phase.subscribe()));
        }
    }

    fn shared(&self, identity: Identity, guard: Guard) -> Arc<Shared> {
        let config = &self.config;
        let (limits, timeouts) = (&config.limits, &config.timeouts);
        let (id, epoch) = (identity.id, identity.epoch);
        let link = LinkOptions {
            limits: Limits {
                max_message: limits.max_message,
                max_frames: limits.frames,
                max_unauthenticated_frame: limits.handshake_bytes,
                handshake: timeouts.handshake,
                ..Limits::default()
            },
            heartbeat: Some(Heartbeat { interval: timeouts.heartbeat, timeout: timeouts.dead_after }),
            hwm_messages: limits.queue_messages,
            hwm_bytes: limits.queue_bytes,
            memory: limits.peer_memory,
            ..LinkOptions::default()
        };
        let gate = gate::Caps {
            connections: limits.connections,
            connections_per_address: limits.connections_per_address,
            handshakes: limits.handshakes,
            handshakes_per_address: limits.handshakes_per_address,
            rate: limits.handshake_rate,
        };
        Arc::new_cyclic(|me| Shared {
            id,
            epoch,
            identity,
            own: RwLock::default(),
            fabric: config.fabric.clone(),
            service: self.service.clone(),
            version: config.version.clone(),
            metadata: config.metadata.clone(),
            options: Options {
                call_timeout: timeouts.call,
                discovery_wait: timeouts.discovery_wait,
                drain: timeouts.drain,
                reconnect: (timeouts.reconnect_min, timeouts.reconnect_max),
                queue_messages: limits.queue_messages,
                queue_bytes: limits.queue_bytes,
                max_message: limits.max_message,
                subscriptions: Caps {
                    count: limits.subscriptions,
                    length: limits.subscription_length,
                    bytes: limits.subscription_bytes,
                },
                body: envelope::Limits { depth: limits.depth, elements: limits.elements },
                in_flight: limits.in_flight,
                link,
            },
            directory: Directory::new(config.fabric.clone(), id),
            links: DashMap::new(),
            methods: Arc::new(Methods::new(me.clone())),
            targets: Targets::new(config),
            rates: Rates::new(config.resilience.caller_rate),
            topics: Arc::new(Topics::new(me.clone())),
            subscriptions: Arc::new(Subscriptions::default()),
            outlets: Outlets::default(),
            #[cfg(feature = "durable")]
            outbox: std::sync::OnceLock::new(),
            pulls: Arc::new(Pulls::new(me.clone())),
            counted: Counted::new(),
            config: RwLock::new(Config { service: Some(self.service.clone()), ..config.clone() }),
            guard,
            monitor: Reporter::default(),
            gate: Gate::new(gate),
            listeners: Mutex::default(),
            endpoints: Mutex::default(),
            accepted: Mutex::new(HashMap::new()),
            accepted_changed: Notify::new(),
            retired: Mutex::default(),
            phase: watch::Sender::new(Phase::Running),
            reconcile: Notify::new(),
            turn: Turn::default(),
            inboxes: Mutex::default(),
            ids: AtomicU64::new(1),
            handles: AtomicUsize::new(0),
            started: tokio::time::Instant::now(),
            runtime: tokio::runtime::Handle::current(),
            me: me.clone(),
        })
    }

    fn add_sources(&mut self, shared: &Shared, bound: &[Endpoint]) -> Result<(), StartError> {
        let (directory, fabric) = (&shared.directory, &self.config.fabric);
        if self.config.discovery.local {
            directory.add_source(Arc::new(Local::new(fabric)));
        }
        if let Some(file) = &self.file {
            directory.add_source(Arc::new(StaticFile::new(file, fabric)));
        } else {
            self.peers.append(&mut self.config.peers);
        }
        if !self.peers.is_empty() {
            directory.add_source(Arc::new(Static::new(std::mem::take(&mut self.peers), fabric)));
        }
        #[cfg(feature = "mdns")]
        if self.config.discovery.mdns {
            // The daemon speaks only where a listener is bound, and not at all on loopback.
            let interfaces = match self.config.discovery.interfaces.as_slice() {
                [] => crate::config::interfaces_of(bound),
                some => some.to_vec(),
            };
            if !interfaces.is_empty() && bound.iter().any(crate::config::is_beyond_loopback) {
                directory.add_source(Arc::new(crate::discovery::Mdns::new(fabric, interfaces)));
            }
        }
        #[cfg(not(feature = "mdns"))]
        let _ = bound;
        for source in self.sources.drain(..) {
            directory.add_source(source);
        }
        Ok(())
    }
}

show!([] NodeBuilder, "NodeBuilder", this, { service: this.service, fabric: this.config.fabric, listen: this.listen });

/// Opens what this node owes, and goes on with it.
#[cfg(feature = "durable")]
async fn open_outbox(
    dir: PathBuf,
    shared: &Arc<Shared>,
    config: &crate::config::DurableConfig,
) -> Result<(), StartError> {
    use crate::{
        discovery::NodeId,
        durable::{Journal, Limits, Sqlite, Store, StoreError},
        fabric::work::outbox::Outbox,
    };
    let path = dir.join("store.db");
    let limits = Limits {
        messages: config.messages,
        bytes: config.bytes as u64,
        seen_for: u64::try_from(config.dedup_for.as_millis()).unwrap_or(u64::MAX),
        seen: config.dedup,
    };
    let failed = |error: StoreError| StartError::DataDir { path: dir.clone(), reason: error.to_string() };
    let open = move || {
        let store = Sqlite::open(&path, &NodeId::random().to_string(), limits)?;
        Ok(Box::new(store) as Box<dyn Store>)
    };
    // It ends by itself, with the last who uses it.
    let started = tokio::task::spawn_blocking(move || Journal::start(Box::new(open), limits));
    let (journal, _) = started.await.unwrap_or(Err(StoreError::Closed)).map_err(failed)?;
    let outbox = shared.outbox.get_or_init(|| Arc::new(Outbox::new(shared, journal, config)));
    outbox.remember(shared, config.dedup).await.map_err(failed)?;
    outbox.open_groups(config).await.map_err(failed)?;
    Outbox::offer(shared);
    outbox.resume().await.map_err(failed)
}
