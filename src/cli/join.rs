//! From flags and configuration to a node in the fabric, and what to say when nobody is there.

use std::{path::PathBuf, time::Duration};

use ripstop::{
    Node,
    config::{Config, ConfigError, Loaded},
    endpoint::Endpoint,
};

use crate::{
    args::Common,
    exit::{Exit, Failure},
    stop::stop,
};

/// What a node is called that only asks, listens or sends.
pub(crate) const CLIENT: &str = "cli";
/// How long a command waits at its end for what is still to be written; the peers need no more than a moment.
const LEAVE: Duration = Duration::from_secs(5);

/// A node of the command line's, and where its settings came from.
pub(crate) struct Joined {
    pub(crate) node: Node,
    pub(crate) config: Config,
    pub(crate) path: Option<PathBuf>,
    /// Fixed addresses, from the file and from `--peer`.
    peers: Vec<Endpoint>,
    no_mdns_flag: bool,
}

/// Starts a node. `serves` is the service of a node that stays; without it the node is a passing client, which takes
/// neither the identity nor the port that the configuration gives to the service itself.
/// `subject` is what it is about: the peers given by address are first asked for that.
pub(crate) async fn join(common: &Common, serves: Option<&str>, subject: &str) -> Result<Joined, Failure> {
    start(common, serves, subject, None).await
}

/// The settings, as far as the flags leave them.
pub(crate) fn load(common: &Common) -> Result<Loaded, ConfigError> {
    let mut loaded = Config::load(common.config.as_deref())?;
    if let Some(fabric) = &common.fabric {
        loaded.config.fabric.clone_from(fabric);
    }
    Ok(loaded)
}

/// The same addresses, at ports that are free.
pub(crate) fn any_port(listeners: &[Endpoint]) -> Vec<String> {
    let any = |endpoint: &Endpoint| match endpoint {
        Endpoint::Tcp { host, .. } => Some(Endpoint::Tcp { host: host.clone(), port: 0 }.to_string()),
        Endpoint::Tls { host, .. } => Some(Endpoint::Tls { host: host.clone(), port: 0 }.to_string()),
        Endpoint::Ipc(_) | Endpoint::Inproc(_) => None,
    };
    listeners.iter().filter_map(any).collect()
}

/// The fabric's name.
pub(crate) fn fabric(common: &Common) -> Result<String, Failure> {
    Ok(load(common)?.config.fabric)
}

/// As [`join`], with a directory to keep things in.
pub(crate) async fn start(
    common: &Common,
    serves: Option<&str>,
    subject: &str,
    data_dir: Option<PathBuf>,
) -> Result<Joined, Failure> {
    let mut loaded = load(common)?;
    let config = &mut loaded.config;
    if !common.listen.is_empty() {
        config.listen.clone_from(&common.listen);
    } else if serves.is_none() {
        config.listen = any_port(&config.listeners()?);
    }
    if serves.is_none() {
        config.data_dir = data_dir;
    }
    if common.no_mdns {
        config.discovery.mdns = false;
    }
    if let Some(timeout) = common.timeout {
        config.timeouts.call = timeout;
        // Who has little time wants to hear that nobody is there, not that the time is over.
        config.timeouts.discovery_wait = config.timeouts.discovery_wait.min(timeout.mul_f32(0.8));
    }
    // Who has keys is the service that they are for; a name in the file that says otherwise is a mistake to be told.
    let said = loaded.config.service.as_deref().filter(|_| loaded.config.security.has_keys());
    let named = common.service.as_deref().or(said);
    let service = named.or(serves).unwrap_or(CLIENT);
    let mut builder = Node::builder(service).loaded(loaded.clone()).named_by_keys(named.is_none());
    let mut peers: Vec<_> = loaded.config.peers.iter().map(|peer| peer.endpoint.clone()).collect();
    let root = subject.split('.').next().filter(|root| !matches!(*root, "*" | ">")).unwrap_or_default();
    for url in &common.peer {
        let endpoint: Endpoint =
            url.parse().map_err(|error| Failure::usage(format!("--peer {url}: {error}")))?;
        peers.push(endpoint.clone());
        // Who is really behind it, its hello says, and with keys its certificate.
        builder = builder.peer("", endpoint, &[root]);
    }
    let node = builder.start().await?;
    Ok(Joined { node, config: loaded.config, path: loaded.path, peers, no_mdns_flag: common.no_mdns })
}

impl Joined {
    /// Flushes and leaves, also when the user is in a hurry.
    pub(crate) async fn leave(&self) {
        tokio::select! {
            _ = tokio::time::timeout(LEAVE, self.node.drain()) => {}
            () = stop() => {}
        }
    }

    /// Whether the network is asked.
    pub(crate) fn uses_mdns(&self) -> bool {
        cfg!(feature = "mdns") && self.config.discovery.mdns && !self.on_loopback()
    }

    fn on_loopback(&self) -> bool {
        !self.node.endpoints().iter().any(ripstop::config::is_beyond_loopback)
    }

    /// Adds who is there, or why nobody is, to a failure with exit code 3.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        match &failure {
            Failure::Told { exit: Exit::Nobody, .. } => {
                let mut services: Vec<_> =
                    self.node.directory().all().iter().map(|i| i.advert.service.clone()).collect();
                services.sort();
                services.dedup();
                services.retain(|service| service != CLIENT && !service.is_empty());
                if services.is_empty() {
                    failure.with(format!("\n  {}", self.why_nobody()))
                } else {
                    failure.with(format!("\n  services there: {}", services.join(", ")))
                }
            }
            _ => failure,
        }
    }

    /// Why nobody is there, source by source.
    pub(crate) fn why_nobody(&self) -> String {
        let fabric = match self.node.fabric() {
            "default" => String::new(),
            other => format!(" in fabric {other}"),
        };
        let local = if self.config.discovery.local {
            format!("nobody else on this machine{fabric}")
        } else {
            "this machine is not searched, because discovery.local is false".into()
        };
        let mdns = if !cfg!(feature = "mdns") {
            "mDNS is not built in".into()
        } else if self.no_mdns_flag {
            "mDNS is off because of --no-mdns".into()
        } else if !self.config.discovery.mdns {
            "mDNS is off because discovery.mdns is false".into()
        } else if self.on_loopback() {
            "mDNS is off because every listener is on loopback".into()
        } else {
            format!("no answer by mDNS{fabric}")
        };
        let file = self.path.as_ref().map_or("ripstop.toml".into(), |path| path.display().to_string());
        let peers = match (self.peers.as_slice(), &self.path) {
            ([], Some(_)) => format!("no [[peers]] in {file}"),
            ([], None) => "no [[peers]] in ripstop.toml (there is none here)".into(),
            ([one], _) => format!("{one} does not answer"),
            (several, _) => format!("none of the {} addresses given answers", several.len()),
        };
        format!("{local}; {mdns}; {peers}")
    }
}

/// Completes when the time is over; never without a limit.
pub(crate) async fn deadline(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
