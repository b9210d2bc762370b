//! How a node is started.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use dashmap::DashMap;
use tokio::sync::{Notify, watch};

use crate::{
    config::{Config, Loaded, PeerConfig, advertised},
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
        guard::Guard,
        hub::Hub,
        identity::{self, Identity},
        shared::{Options, Phase, Shared},
        work::{
            pull::{Pulls, PullsCore},
            push::Outlets,
        },
    },
    security::Permissions,
    socket::{
        core::{LinkOptions, ListenOptions},
        gate::{self, Gate},
        listen::listen,
        monitor::Reporter,
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

    /// How long calls, pushes and waits for subscribers may take unless they say. Default 10 s.
    ///
    /// ```
    /// let builder = ripstop::Node::builder("pricing").call_timeout(std::time::Duration::from_secs(2));
    /// ```
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.config.timeouts.call = timeout;
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
    /// [`StartError`]: a bad name or configuration, a listener that cannot be opened, a source that cannot be used.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripstop::Result<()> {
    /// let node = ripstop::Node::builder("pricing").local(false).start().await?;
    /// assert_eq!(node.endpoints().len(), 1);
    /// # Ok(()) }
    /// ```
    pub async fn start(mut self) -> Result<Node, StartError> {
        for (what, name) in [("service", &self.service), ("fabric", &self.config.fabric)] {
            check_subject(name).map_err(|reason| StartError::Name { what, name: name.clone(), reason })?;
        }
        if !self.listen.is_empty() {
            self.config.listen = std::mem::take(&mut self.listen);
        }
        self.config.check()?;
        let wanted = self.config.listeners()?;
        let identity = identity::take(self.config.data_dir.as_deref())?;
        let shared = self.shared(identity);
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
                ListenOptions { link: shared.options.link.clone(), tls: shared.guard.acceptor() },
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
        shared.spawn(Shared::reconciler(Arc::downgrade(&shared)));
        tracing::debug!(node = %shared.id, service = %shared.service, fabric = %shared.fabric, endpoints = ?bound, "started");
        let node = shared.handle();
        shared.roots_changed().await;
        Ok(node)
    }

    fn shared(&self, identity: Identity) -> Arc<Shared> {
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
            _identity: identity,
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
            topics: Arc::new(Topics::new(me.clone())),
            subscriptions: Arc::new(Subscriptions::default()),
            outlets: Outlets::default(),
            pulls: Arc::new(Pulls::new(me.clone())),
            guard: Guard::new(None, Permissions::default(), None),
            monitor: Reporter::default(),
            gate: Gate::new(gate),
            listeners: Mutex::default(),
            endpoints: Mutex::default(),
            accepted: Mutex::new(HashMap::new()),
            accepted_changed: Notify::new(),
            phase: watch::Sender::new(Phase::Running),
            reconcile: Notify::new(),
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
