//! Peers at fixed addresses: `[[peers]]` of `ripstop.toml`, or given by the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::{Advert, BoxFuture, Change, Changes, DiscoveryError, Key, Source};
use crate::config::PeerConfig;
use crate::endpoint::Endpoint;
use crate::watch::Touches;

/// Changes that may wait for the directory.
const CHANNEL: usize = 1024;

/// Peers given by the program. They never change.
///
/// ```
/// use ripstop::{config::PeerConfig, discovery::{Source, Static}};
/// let peer = PeerConfig::new("ledger", "tcp://10.0.0.7:5555".parse().unwrap());
/// assert_eq!(Static::new(vec![peer], "default").name(), "static");
/// ```
#[derive(Debug)]
pub struct Static {
    fabric: String,
    peers: Vec<PeerConfig>,
}

impl Static {
    /// These peers, as members of `fabric`.
    ///
    /// ```
    /// let _nobody = ripstop::discovery::Static::new(Vec::new(), "default");
    /// ```
    pub fn new(peers: Vec<PeerConfig>, fabric: impl Into<String>) -> Self {
        Self { fabric: fabric.into(), peers }
    }
}

impl Source for Static {
    fn name(&self) -> &'static str {
        "static"
    }

    fn announce(&self, _: Advert) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async { Ok(()) })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async { Ok(()) })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Changes, DiscoveryError>> {
        let adverts = adverts(&self.peers, &self.fabric);
        let (sender, changes) = mpsc::channel(adverts.len().max(1));
        tokio::spawn(async move {
            for advert in adverts.into_values() {
                if sender.send(Change::Up(advert)).await.is_err() {
                    return;
                }
            }
            // The channel stays open, since nothing more is to be said; it ends with its reader.
            sender.closed().await;
        });
        Box::pin(async { Ok(changes) })
    }
}

/// `[[peers]]` of a file, read again whenever it changes. While it is broken or away, the peers read last stay.
///
/// ```
/// # use ripstop::discovery::{Source, StaticFile};
/// assert_eq!(StaticFile::new("ripstop.toml", "default").name(), "static");
/// ```
#[derive(Debug)]
pub struct StaticFile {
    fabric: String,
    path: PathBuf,
}

impl StaticFile {
    /// The peers of this file, as members of `fabric`.
    ///
    /// ```
    /// let _source = ripstop::discovery::StaticFile::new("ripstop.toml", "default");
    /// ```
    pub fn new(path: impl Into<PathBuf>, fabric: impl Into<String>) -> Self {
        Self { fabric: fabric.into(), path: path.into() }
    }
}

impl Source for StaticFile {
    fn name(&self) -> &'static str {
        "static"
    }

    fn announce(&self, _: Advert) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async { Ok(()) })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async { Ok(()) })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Changes, DiscoveryError>> {
        Box::pin(async {
            let touches = Touches::of([self.path.as_path()]).map_err(|error| DiscoveryError::Source {
                source_name: "static",
                reason: format!("cannot watch {}: {error}", self.path.display()),
            })?;
            let (sender, changes) = mpsc::channel(CHANNEL);
            let (path, fabric) = (self.path.clone(), self.fabric.clone());
            tokio::spawn(async move { follow(&path, &fabric, touches, &sender).await });
            Ok(changes)
        })
    }
}

async fn follow(path: &Path, fabric: &str, mut touches: Touches, sender: &mpsc::Sender<Change>) {
    let mut read_last: Option<String> = None;
    let mut known = BTreeMap::new();
    let mut missing = false;
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if read_last.as_ref() == Some(&text) => {}
            Ok(text) => {
                missing = false;
                match crate::config::peers(&text, path) {
                    Ok(peers) => {
                        let now = adverts(&peers, fabric);
                        if read_last.is_some() {
                            tracing::info!(file = %path.display(), peers = now.len(), "read the peers again");
                        }
                        if tell(sender, &known, &now).await.is_err() {
                            return;
                        }
                        known = now;
                    }
                    Err(error) => {
                        metrics::counter!("ripstop_discovery_errors_total", "source" => "static")
                            .increment(1);
                        tracing::error!(%error, "the peers read before stay in force");
                    }
                }
                read_last = Some(text);
            }
            Err(error) if !missing => {
                // Said once: between an editor's remove and rename, or for good.
                missing = true;
                tracing::warn!(file = %path.display(), %error, "cannot read the peers; those read before stay in force");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = touches.next() => {}
            () = sender.closed() => return,
        }
    }
}

async fn tell(
    sender: &mpsc::Sender<Change>,
    before: &BTreeMap<Endpoint, Advert>,
    now: &BTreeMap<Endpoint, Advert>,
) -> Result<(), mpsc::error::SendError<Change>> {
    for endpoint in before.keys().filter(|endpoint| !now.contains_key(endpoint)) {
        sender.send(Change::Down(Key::Endpoint(endpoint.clone()))).await?;
    }
    for (endpoint, advert) in now {
        if before.get(endpoint) != Some(advert) {
            sender.send(Change::Up(advert.clone())).await?;
        }
    }
    Ok(())
}

/// Adverts without a node: nobody knows yet who is behind these addresses. One address may provide several services.
fn adverts(peers: &[PeerConfig], fabric: &str) -> BTreeMap<Endpoint, Advert> {
    let mut adverts: BTreeMap<Endpoint, Advert> = BTreeMap::new();
    for peer in peers {
        let advert = adverts.entry(peer.endpoint.clone()).or_insert_with(|| Advert {
            node: None,
            epoch: 0,
            fabric: fabric.to_owned(),
            service: peer.service.clone(),
            version: String::new(),
            endpoints: vec![peer.endpoint.clone()],
            roots: Vec::new(),
            metadata: BTreeMap::new(),
        });
        for root in peer.roots() {
            if !advert.roots.contains(&root) {
                advert.roots.push(root);
            }
        }
    }
    adverts
}

#[cfg(test)]
mod tests;
