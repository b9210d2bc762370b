//! `ripstop peers`: who is there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ripstop::fabric::{PeerEvent, PeerInfo};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    args::{Common, PeersArgs},
    exit::{Exit, Failure},
    join::{self, Joined},
    output::{Output, remark},
    stop::stop,
};

/// The list is taken once nothing new was heard for this long.
const QUIET: Duration = Duration::from_millis(250);
/// Answers by mDNS may take this long on a busy network.
const MDNS: Duration = Duration::from_millis(1500);
/// Waiting ends here, quiet or not.
pub(crate) const AT_MOST: Duration = Duration::from_secs(3);

pub(crate) async fn run(common: &Common, args: PeersArgs, mut out: Output) -> Result<(), Failure> {
    let joined = join::join(common, None, "").await?;
    let done = if args.watch {
        watch(&joined, common, &mut out).await
    } else {
        list(&joined, common, &mut out).await
    };
    joined.leave().await;
    done
}

async fn list(joined: &Joined, common: &Common, out: &mut Output) -> Result<(), Failure> {
    settle(joined, common.timeout.unwrap_or(AT_MOST)).await;
    let peers = joined.node.peers().await;
    let nobody = peers.iter().all(|peer| peer.rtt.is_none());
    if out.json {
        out.value(&json!({
            "fabric": joined.node.fabric(),
            "peers": peers.iter().map(describe).collect::<Vec<_>>(),
            "reason": nobody.then(|| joined.why_nobody()),
        }))?;
    } else if !peers.is_empty() {
        let header = ["SERVICE", "INSTANCE", "VERSION", "ADDRESS", "RTT", "SOURCE"];
        out.table(&header, peers.iter().map(row).collect())?;
    }
    out.flush()?;
    if nobody {
        return Err(Failure::new(Exit::Nobody, format!("no peers: {}", joined.why_nobody())));
    }
    Ok(())
}

/// Waits until the sources have said what they know.
pub(crate) async fn settle(joined: &Joined, at_most: Duration) {
    let start = Instant::now();
    let end = start + at_most;
    let mut changed = joined.node.directory().changed();
    let mut quiet = start + if joined.uses_mdns() { MDNS } else { QUIET };
    loop {
        tokio::select! {
            changed = changed.changed() => {
                if changed.is_err() {
                    return;
                }
                quiet = quiet.max(Instant::now() + QUIET);
            }
            () = tokio::time::sleep_until(quiet.min(end)) => return,
        }
    }
}

async fn watch(joined: &Joined, common: &Common, out: &mut Output) -> Result<(), Failure> {
    let mut events = joined.node.watch_peers();
    let stop = stop();
    tokio::pin!(stop);
    let end = join::deadline(common.timeout);
    tokio::pin!(end);
    let alone = tokio::time::sleep(if joined.uses_mdns() { MDNS } else { QUIET });
    tokio::pin!(alone);
    let mut said = false;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = &mut alone, if !said => {
                said = true;
                remark(format!("no peers yet: {}", joined.why_nobody()));
                continue;
            }
            () = &mut stop => return Ok(()),
            () = &mut end => return Ok(()),
        };
        said = true;
        let (word, peer) = match event {
            Some(PeerEvent::Joined(peer)) => ("joined", peer),
            Some(PeerEvent::Left(peer)) => ("left", peer),
            Some(_) => continue,
            None => return Ok(()),
        };
        if out.json {
            let mut value = describe(&peer);
            value["event"] = word.into();
            value["at"] = unix_ms().into();
            out.value(&value)?;
        } else {
            let [service, instance, version, address, _, source] = cells(&peer);
            out.line(
                format!("{word:<6}  {service:<16}  {instance}  {address:<24}  {source}  {version}")
                    .trim_end(),
            )?;
        }
        out.flush()?;
    }
}

fn describe(peer: &PeerInfo) -> Value {
    json!({
        "service": peer.service,
        "node": peer.node.map(|node| node.to_string()),
        "version": peer.version,
        "endpoints": peer.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "roots": peer.roots,
        "sources": peer.sources,
        "unreachable": peer.unreachable,
        "rtt_ms": peer.rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
    })
}

fn cells(peer: &PeerInfo) -> [String; 6] {
    let text = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let address = match peer.endpoints.as_slice() {
        [] => "-".to_owned(),
        [one] => one.to_string(),
        [first, more @ ..] => format!("{first} +{}", more.len()),
    };
    [
        text(&peer.service),
        peer.node.map_or("-".into(), |node| node.short()),
        text(&peer.version),
        address,
        peer.rtt.map_or("no answer".into(), |rtt| format!("{:.2} ms", rtt.as_secs_f64() * 1e3)),
        text(&peer.sources.join(", ")),
    ]
}

fn row(peer: &PeerInfo) -> Vec<String> {
    cells(peer).into()
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
