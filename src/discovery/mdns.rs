//! Nodes on the same network, by multicast DNS (RFC 6762) and DNS service discovery (RFC 6763).
//!
//! A node is one instance of the service type `_ripstop._tcp.local.`, named by its id. The TXT record carries its advert:
//!
//! ```text
//! txtvers=1  fabric=default  node=4f0c…9a  epoch=0  service=pricing  version=1.10
//! e0=tcp://192.168.1.5:5555  e1=…        endpoints, one each
//! r0=pricing stock  r1=…                 roots, as many as fit into 255 bytes each
//! ```
//! Anybody on the network can say anything here. It is a hint where to dial, no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use mdns_sd::{IfKind, Receiver, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::table::MAX_PER_SOURCE;
use super::{Advert, BoxFuture, Change, Changes, DiscoveryError, Key, NodeId, Source};
use crate::sync::lock;

const SERVICE_TYPE: &str = "_ripstop._tcp.local.";
/// Changes that may wait for the directory.
const CHANNEL: usize = 1024;
/// Bytes of one TXT entry, key and `=` included (RFC 6763, 6.1).
const MAX_ENTRY: usize = 255;
/// Bytes of the whole TXT record: mDNS packets end at 9,000 bytes (RFC 6762, 17), and others need room in them.
const MAX_TXT: usize = 7000;
/// How long a doubted node has to answer before it is forgotten (RFC 6762, 10.4, allows up to 10 s).
const VERIFY: Duration = Duration::from_secs(2);
/// The daemon looks for interfaces that came or went this often, in seconds.
const INTERFACE_CHECK: u32 = 1;
/// The daemon's own questions get rarer, up to one an hour. We ask anew this often while somebody is missed, and otherwise.
const ASK_FOR_THE_LOST: Duration = Duration::from_secs(10);
const ASK: Duration = Duration::from_secs(120);
/// How long a lost node is missed.
const MISSED: Duration = Duration::from_secs(600);
/// A goodbye that can't be sent in this time is given up.
const GOODBYE: Duration = Duration::from_secs(1);

/// Finds the nodes on the same network.
///
/// It speaks only on the interfaces it is given, and with none it does nothing at all. The underlying daemon starts with the
/// first announcement or watch, and joins the multicast group on every interface for a moment as it does.
///
/// ```no_run
/// # fn example(directory: &ripstop::discovery::Directory, bound: &[ripstop::Endpoint]) {
/// use ripstop::{config::interfaces_of, discovery::Mdns};
/// directory.add_source(std::sync::Arc::new(Mdns::new("default", interfaces_of(bound))));
/// # }
/// ```
pub struct Mdns {
    fabric: String,
    interfaces: Vec<String>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    daemon: Option<ServiceDaemon>,
    own: Option<Advert>,
}

impl Mdns {
    /// Nodes of `fabric`, on these interfaces. Nothing is sent before the first announcement or watch.
    ///
    /// ```
    /// use ripstop::discovery::{Mdns, Source};
    /// assert_eq!(Mdns::new("default", vec!["eth0".into()]).name(), "mdns");
    /// ```
    pub fn new(fabric: impl Into<String>, interfaces: Vec<String>) -> Self {
        Self { fabric: fabric.into(), interfaces, state: Arc::default() }
    }

    /// Runs `act` with the daemon, started if it is not running. One that has died is replaced, once.
    fn with_daemon<T>(
        &self,
        act: impl Fn(&ServiceDaemon) -> mdns_sd::Result<T>,
    ) -> Result<T, DiscoveryError> {
        let mut state = lock(&self.state);
        if let Some(daemon) = &state.daemon {
            match act(daemon) {
                Err(mdns_sd::Error::DaemonShutdown) => {
                    tracing::warn!("the mDNS daemon has ended; starting another");
                    state.daemon = None;
                }
                done => return done.map_err(failed),
            }
        }
        let daemon = start(&self.interfaces).map_err(failed)?;
        if let Some(info) = state.own.as_ref().and_then(|own| self.describe(own).transpose()) {
            daemon.register(info?).map_err(failed)?;
        }
        let done = act(&daemon).map_err(failed);
        state.daemon = Some(daemon);
        done
    }

    /// The advert as a DNS service; `None` if nobody elsewhere could dial it.
    fn describe(&self, advert: &Advert) -> Result<Option<ServiceInfo>, DiscoveryError> {
        let (Some(node), Some((port, entries))) = (advert.node, describe(advert)) else { return Ok(None) };
        let host = format!("{node}.local.");
        let info = ServiceInfo::new(SERVICE_TYPE, &node.to_string(), &host, (), port, &entries[..])
            .map_err(failed)?;
        // The daemon fills in the addresses, and announces anew when an interface comes back.
        let mut info = info.enable_addr_auto();
        info.set_interfaces(self.interfaces.iter().map(IfKind::from).collect());
        // Probing asks for 750 ms whether the name is taken. Ours are random 128-bit numbers.
        info.set_requires_probe(false);
        Ok(Some(info))
    }
}

impl std::fmt::Debug for Mdns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mdns").field("fabric", &self.fabric).field("interfaces", &self.interfaces).finish()
    }
}

impl Source for Mdns {
    fn name(&self) -> &'static str {
        "mdns"
    }

    fn announce(&self, advert: Advert) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move {
            if self.interfaces.is_empty() {
                return Ok(());
            }
            let info = self.describe(&advert)?;
            let before = lock(&self.state).own.replace(advert.clone());
            if before.as_ref().is_some_and(|before| before.node != advert.node || info.is_none()) {
                self.say_goodbye(before).await;
            }
            match info {
                Some(info) => self.with_daemon(|daemon| daemon.register(info.clone())),
                None => Ok(()),
            }
        })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async {
            let before = lock(&self.state).own.take();
            self.say_goodbye(before).await;
            Ok(())
        })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Changes, DiscoveryError>> {
        Box::pin(async {
            let (sender, changes) = mpsc::channel(CHANNEL);
            if self.interfaces.is_empty() {
                tokio::spawn(async move { sender.closed().await });
                return Ok(changes);
            }
            let (daemon, events) =
                self.with_daemon(|daemon| Ok((daemon.clone(), daemon.browse(SERVICE_TYPE)?)))?;
            tokio::spawn(follow(daemon, events, self.fabric.clone(), Arc::downgrade(&self.state), sender));
            Ok(changes)
        })
    }

    fn verify(&self, key: &Key) {
        if let (Key::Node(node), Some(daemon)) = (key, &lock(&self.state).daemon) {
            // A daemon too busy to take the hint gets another with the next failed dial.
            let _ = daemon.verify(format!("{node}.{SERVICE_TYPE}"), VERIFY);
        }
    }
}

impl Mdns {
    async fn say_goodbye(&self, before: Option<Advert>) {
        let Some(node) = before.and_then(|advert| advert.node) else { return };
        let Some(daemon) = lock(&self.state).daemon.clone() else { return };
        if let Ok(said) = daemon.unregister(&format!("{node}.{SERVICE_TYPE}")) {
            let _ = tokio::time::timeout(GOODBYE, said.recv_async()).await;
        }
    }
}

impl Drop for Mdns {
    fn drop(&mut self) {
        if let Some(daemon) = lock(&self.state).daemon.take() {
            // Says goodbye for what is still announced.
            let _ = daemon.shutdown();
        }
    }
}

fn start(interfaces: &[String]) -> mdns_sd::Result<ServiceDaemon> {
    let daemon = ServiceDaemon::new()?;
    daemon.disable_interface(IfKind::All)?;
    daemon.enable_interface(interfaces.iter().map(IfKind::from).collect::<Vec<_>>())?;
    daemon.set_ip_check_interval(INTERFACE_CHECK)?;
    Ok(daemon)
}

/// Passes on what the daemon sees. Returning closes the channel, and the directory watches anew.
async fn follow(
    daemon: ServiceDaemon,
    mut events: Receiver<ServiceEvent>,
    fabric: String,
    state: Weak<Mutex<State>>,
    sender: mpsc::Sender<Change>,
) {
    let mut known: HashMap<NodeId, Advert> = HashMap::new();
    let mut lost: HashMap<NodeId, Instant> = HashMap::new();
    let mut asked = Instant::now();
    let mut again = tokio::time::interval(ASK_FOR_THE_LOST);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let change = tokio::select! {
            event = events.recv_async() => match event {
                Ok(ServiceEvent::ServiceResolved(service)) => {
                    let Some((node, advert)) = understand(&service).filter(|(_, advert)| advert.fabric == fabric) else {
                        continue;
                    };
                    lost.remove(&node);
                    // A repetition is what the cache remembers, no sign of life.
                    if known.get(&node) == Some(&advert) {
                        continue;
                    }
                    if known.len() == MAX_PER_SOURCE && !known.contains_key(&node) {
                        tracing::warn!("more than {MAX_PER_SOURCE} nodes by mDNS: all are asked to say again who is there");
                        return forget(&daemon, &state);
                    }
                    known.insert(node, advert.clone());
                    Change::Up(advert)
                }
                Ok(ServiceEvent::ServiceRemoved(_, name)) => {
                    let Some(node) = node_of(&name) else { continue };
                    if known.remove(&node).is_some() {
                        lost.insert(node, Instant::now());
                    }
                    Change::Down(Key::Node(node))
                }
                Ok(_) => continue,
                // The daemon closes the channel of a reader that fell behind.
                Err(_) => return forget(&daemon, &state),
            },
            _ = again.tick() => {
                lost.retain(|_, since| since.elapsed() < MISSED);
                if asked.elapsed() >= if lost.is_empty() { ASK } else { ASK_FOR_THE_LOST } {
                    asked = Instant::now();
                    // Replaces the present subscription.
                    match daemon.browse(SERVICE_TYPE) {
                        Ok(anew) => events = anew,
                        Err(error) => tracing::debug!(%error, "the mDNS daemon could not be asked"),
                    }
                }
                continue;
            }
            () = sender.closed() => {
                let _ = daemon.stop_browse(SERVICE_TYPE);
                return;
            }
        };
        if sender.send(change).await.is_err() {
            return;
        }
    }
}

/// Ends a daemon whose cache was flooded: it would repeat all of it to a new reader, for as long as the forger said. The next
/// one has an empty cache, and who is there answers it.
fn forget(daemon: &ServiceDaemon, state: &Weak<Mutex<State>>) {
    if let Some(state) = state.upgrade()
        && lock(&state).daemon.take().is_some()
    {
        let _ = daemon.shutdown();
    }
}

/// The port and the TXT entries; `None` if no endpoint can be reached from other machines.
fn describe(advert: &Advert) -> Option<(u16, Vec<(String, String)>)> {
    let mut port = None;
    let mut entries = vec![
        ("txtvers".to_owned(), "1".to_owned()),
        ("fabric".to_owned(), advert.fabric.clone()),
        ("node".to_owned(), advert.node?.to_string()),
        ("epoch".to_owned(), advert.epoch.to_string()),
        ("service".to_owned(), advert.service.clone()),
        ("version".to_owned(), advert.version.clone()),
    ];
    let reachable = advert.endpoints.iter().filter(|endpoint| !endpoint.is_local());
    for (index, endpoint) in reachable.enumerate() {
        if let Some((_, here)) = endpoint.host_and_port() {
            port.get_or_insert(here);
            entries.push((format!("e{index}"), endpoint.to_string()));
        }
    }
    let mut size: usize = entries.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    let mut lines: Vec<String> = Vec::new();
    for root in &advert.roots {
        if size + root.len() + 8 > MAX_TXT {
            // Its hello tells the rest, once there is a link.
            tracing::warn!(
                root,
                "more roots than an mDNS record can carry; this one and those after it are left out"
            );
            break;
        }
        // A subject has no spaces. `r255=` is the longest key.
        match lines.last_mut().filter(|line| line.len() + 1 + root.len() + 5 <= MAX_ENTRY) {
            Some(line) => {
                line.push(' ');
                line.push_str(root);
                size += root.len() + 1;
            }
            None => {
                lines.push(root.clone());
                size += root.len() + 6;
            }
        }
    }
    entries.extend(lines.into_iter().enumerate().map(|(index, line)| (format!("r{index}"), line)));
    entries.retain(|(key, value)| key.len() + 1 + value.len() <= MAX_ENTRY);
    Some((port?, entries))
}

/// The advert in a TXT record; `None` if it is not one of ours. Its size is bounded by the packet it came in.
fn understand(service: &ResolvedService) -> Option<(NodeId, Advert)> {
    let text = |key: &str| service.get_property_val_str(key);
    // The name and the entry have to agree: a removal knows only the name.
    let node = node_of(&service.fullname)?;
    if text("node").and_then(|node| node.parse().ok()) != Some(node) {
        return None;
    }
    let mut advert = Advert::new(node, text("fabric")?, text("service")?);
    advert.epoch = text("epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    advert.version = text("version").unwrap_or_default().to_owned();
    advert.endpoints =
        (0..20).filter_map(|n| text(&format!("e{n}"))).filter_map(|e| e.parse().ok()).collect();
    // Somebody else's loopback is not where they are; nor are their files.
    advert.endpoints.retain(|endpoint| !endpoint.is_local());
    for line in (0..256).filter_map(|n| text(&format!("r{n}"))) {
        advert.roots.extend(line.split(' ').map(str::to_owned));
    }
    (advert.bound() && !advert.endpoints.is_empty()).then_some((node, advert))
}

fn node_of(fullname: &str) -> Option<NodeId> {
    fullname.strip_suffix(SERVICE_TYPE)?.strip_suffix('.')?.parse().ok()
}

fn failed(error: mdns_sd::Error) -> DiscoveryError {
    DiscoveryError::Source { source_name: "mdns", reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advert(roots: usize) -> Advert {
        let mut advert = Advert::new(NodeId::random(), "default", "pricing");
        advert.epoch = 7;
        advert.version = "1.10".into();
        advert.endpoints =
            vec!["tcp://192.168.1.5:5555".parse().unwrap(), "tcp://[fd00::5]:5556".parse().unwrap()];
        advert.roots = (0..roots).map(|n| format!("service-number-{n}")).collect();
        advert
    }

    /// Through the DNS record and back, without a network.
    fn there_and_back(advert: &Advert) -> Option<Advert> {
        let source = Mdns::new("default", vec!["eth0".into()]);
        let info = source.describe(advert).unwrap()?;
        understand(&info.as_resolved_service()).map(|(_, advert)| advert)
    }

    #[test]
    fn an_advert_survives_its_record() {
        for roots in [0, 1, 2, 100, 256] {
            let advert = advert(roots);
            assert_eq!(there_and_back(&advert).as_ref(), Some(&advert), "{roots} roots");
        }
    }

    #[test]
    fn roots_that_do_not_fit_are_left_out() {
        let mut fat = advert(0);
        fat.roots = (0..256).map(|n| format!("{n:0>200}")).collect();
        let back = there_and_back(&fat).unwrap();
        assert!(back.roots.len() > 20 && back.roots.len() < 40, "{}", back.roots.len());
        assert_eq!(back.roots[..], fat.roots[..back.roots.len()]);
    }

    #[test]
    fn what_only_this_machine_can_dial_is_not_told() {
        let mut local = advert(1);
        local.endpoints = vec!["tcp://127.0.0.1:5555".parse().unwrap(), "ipc:///tmp/a".parse().unwrap()];
        assert_eq!(there_and_back(&local), None);
        local.endpoints.push("tcp://10.0.0.7:1".parse().unwrap());
        assert_eq!(there_and_back(&local).unwrap().endpoints, ["tcp://10.0.0.7:1".parse().unwrap()]);
    }

    #[test]
    fn a_record_that_contradicts_itself_is_ignored() {
        let advert = advert(1);
        let (port, mut entries) = describe(&advert).unwrap();
        entries[2].1 = NodeId::random().to_string();
        let name = advert.node.unwrap().to_string();
        let info = ServiceInfo::new(SERVICE_TYPE, &name, "a.local.", "10.0.0.7", port, &entries[..]).unwrap();
        assert!(understand(&info.as_resolved_service()).is_none());
        assert!(node_of("what._ripstop._tcp.local.").is_none());
    }

    #[tokio::test]
    async fn without_interfaces_nothing_starts() {
        let source = Mdns::new("default", Vec::new());
        source.announce(advert(1)).await.unwrap();
        let mut changes = source.watch().await.unwrap();
        source.verify(&Key::Node(NodeId::random()));
        source.withdraw().await.unwrap();
        assert!(lock(&source.state).daemon.is_none());
        assert!(tokio::time::timeout(Duration::from_millis(20), changes.recv()).await.is_err());
    }
}
