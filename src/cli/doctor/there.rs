//! Everyone who is known: whether they can be reached, and whether they would talk to us.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use ripstop::{
    Endpoint,
    config::is_beyond_loopback,
    fabric::{CallError, PeerInfo},
    zmtp::{Config, Connection, Local, Received, SocketType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    Finding, Grade,
    cause::{self, Case, Reach},
};
use crate::join::Joined;

/// A connection, and then a greeting, take no longer on any network that is fit for use.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Clocks that differ by more than this make certificates and times in dead letters doubtful, in milliseconds.
const SKEW: u64 = 2000;
/// Addresses of one peer that are tried.
const ADDRESSES: usize = 8;
/// What a node calls its fabric in READY.
const FABRIC: &str = "X-Ripstop-Fabric";

pub(super) async fn peers(joined: &Joined, peers: &[PeerInfo]) -> Vec<Finding> {
    if peers.is_empty() {
        let nobody = Finding::warning("peers", format!("nobody is known: {}", joined.why_nobody()));
        let fix = match joined.uses_mdns() {
            true => {
                "is one running in this fabric? Where multicast does not get through (other subnets, some Wi-Fi and clouds): [[peers]] in ripstop.toml"
            }
            false => {
                "is one running in this fabric? On other machines it takes listen = [\"lan\"], on both sides, or [[peers]] in ripstop.toml"
            }
        };
        return vec![nobody.fix(fix)];
    }
    let mut findings = Vec::new();
    let mut looks = tokio::task::JoinSet::new();
    for (index, peer) in peers.iter().enumerate() {
        match peer.rtt {
            Some(rtt) => findings.extend(answered(peer, rtt, peers, joined)),
            None => {
                let (peer, ours) = (peer.clone(), joined.node.fabric().to_owned());
                looks.spawn(async move { (index, unreachable(&peer, &ours).await) });
            }
        }
    }
    let mut unreachable = looks.join_all().await;
    unreachable.sort_by_key(|(index, _)| *index);
    findings.extend(unreachable.into_iter().map(|(_, finding)| finding));
    findings
}

fn name(peer: &PeerInfo) -> String {
    let service = if peer.service.is_empty() { "the peer" } else { &peer.service };
    peer.node.map_or_else(|| service.to_owned(), |node| format!("{service}/{}", node.short()))
}

/// What is to be said of one that answers.
fn answered(peer: &PeerInfo, rtt: Duration, peers: &[PeerInfo], joined: &Joined) -> Vec<Finding> {
    let name = name(peer);
    let sources = peer.sources.join(", ");
    let mut findings = vec![Finding::ok(
        "peer",
        format!("{name} answers in {:.1} ms, found by {sources}", rtt.as_secs_f64() * 1e3),
    )];
    findings.extend(peer.clock_ahead_ms.and_then(|ahead| skew(&name, ahead)));
    let beyond = peer.endpoints.iter().any(is_beyond_loopback);
    let by_mdns = peers.iter().any(|peer| peer.sources.contains(&"mdns"));
    if beyond && joined.uses_mdns() && !by_mdns && peer.sources == ["static"] {
        let says = format!(
            "{name} is reached by its address, and not found by multicast: it does not get through between the two"
        );
        let fix = "let multicast through (switches: IGMP snooping; Wi-Fi: isolation), or keep [[peers]]; there, discovery.mdns = true and listen = [\"lan\"]";
        findings.push(Finding::warning("mdns", says).fix(fix));
    }
    findings
}

fn skew(peer: &str, ahead: i64) -> Option<Finding> {
    let by = ahead.unsigned_abs();
    (by > SKEW).then(|| {
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        let by = humantime::format_duration(Duration::from_secs(by / 1000));
        Finding::warning("clock", format!("the clock of {peer} is {by} {side} the one here"))
            .fix("set both by NTP (timedatectl set-ntp true): certificates and scheduled work go by them")
    })
}

/// Why one does not answer.
async fn unreachable(peer: &PeerInfo, ours: &str) -> Finding {
    let name = name(peer);
    let error = peer.unreachable.as_deref().unwrap_or("no answer within 1 s");
    let mut last = None;
    for endpoint in peer.endpoints.iter().take(ADDRESSES) {
        let (reach, fabric) = probe(endpoint).await;
        let fabric = fabric.filter(|fabric| fabric != ours);
        let endpoint = endpoint.to_string();
        let advertised = peer.sources.iter().any(|source| *source != "static");
        let case = Case {
            peer: &name,
            endpoint: &endpoint,
            error,
            reach,
            fabric: fabric.as_deref(),
            ours,
            advertised,
        };
        let finding = cause::of_peer(&case);
        // One that connects tells more than those that do not.
        if matches!(reach, Reach::Zmtp | Reach::Other | Reach::Silent) {
            return finding;
        }
        last = Some(finding);
    }
    last.unwrap_or_else(|| Finding::new(Grade::Problem, "peer", format!("{name}: {error}")))
}

/// What answers at an address, and the fabric that it names.
async fn probe(endpoint: &Endpoint) -> (Reach, Option<String>) {
    let Some((host, port)) = endpoint.host_and_port() else { return (Reach::Unknown, None) };
    let host = host.trim_matches(['[', ']']);
    let stream = match timeout(PATIENCE, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return (Reach::Refused, None);
        }
        Ok(Err(_)) | Err(_) => return (Reach::Lost, None),
    };
    timeout(PATIENCE, greet(stream)).await.unwrap_or((Reach::Silent, None))
}

/// Says hello as any ZeroMQ program does, and looks at what comes back.
async fn greet(mut stream: TcpStream) -> (Reach, Option<String>) {
    let now = Instant::now();
    let config = Config { local: Some(Local::new(SocketType::Dealer)), ..Config::default() };
    let (mut connection, mut received) = (Connection::new(config, now), Received::default());
    let (mut bytes, mut first) = (BytesMut::new(), None);
    loop {
        let output = connection.output().split();
        if stream.write_all(&output).await.is_err() {
            break;
        }
        let read = match timeout(PATIENCE / 3, stream.read_buf(&mut bytes)).await {
            Ok(read) => read,
            // A program that reads lines says something when it has one that it does not understand.
            Err(_) if first.is_none() => match stream.write_all(b"\r\n\r\n").await {
                Ok(()) => stream.read_buf(&mut bytes).await,
                Err(error) => Err(error),
            },
            Err(_) => break,
        };
        match read {
            Ok(1..) => {}
            // Nothing at all before the end: what wants TLS first, or a stranger.
            _ => break,
        }
        first = first.or_else(|| bytes.first().copied());
        if connection.input(&mut bytes, now, &mut received).is_err() {
            break;
        }
        if let Some(peer) = connection.peer() {
            let fabric = peer.property(FABRIC).map(|fabric| String::from_utf8_lossy(fabric).into_owned());
            return (Reach::Zmtp, fabric);
        }
    }
    match first {
        // ZMTP's greeting begins so.
        Some(0xFF) | None => (Reach::Zmtp, None),
        Some(_) => (Reach::Other, None),
    }
}

/// Whether this node may call a method, and somebody has it. It is asked with no time left, so that nothing is run.
pub(super) async fn method(joined: &Joined, peers: &[PeerInfo], subject: &str) -> Vec<Finding> {
    let service = subject.split('.').next().unwrap_or_default();
    let theirs: Vec<_> = peers.iter().filter(|peer| peer.roots.iter().any(|root| root == service)).collect();
    if theirs.is_empty() {
        let nearest = joined.node.directory().nearest(service);
        let hint = nearest.map(|nearest| format!(": did you mean {nearest}?")).unwrap_or_default();
        let says = format!("nobody serves {service}.…{hint}");
        return vec![
            Finding::problem("method", says)
                .fix(format!("start it: ripstop serve {subject}, or node.serve in the service")),
        ];
    }
    let mut findings = Vec::new();
    for peer in theirs.into_iter().filter(|peer| peer.rtt.is_some()) {
        let Some(node) = peer.node else { continue };
        let name = name(peer);
        findings.push(match joined.node.may_call(subject, node).await {
            Ok(()) => Finding::ok("method", format!("{name} has {subject}, and this node may call it")),
            Err(CallError::NoSuchMethod { .. }) => {
                Finding::problem("method", format!("{name} has no method {subject}"))
                    .fix("the name as it is served there (ripstop stats), or the version that has it")
            }
            Err(CallError::Forbidden { reason, .. }) => {
                Finding::problem("permission", format!("{name}: {reason}")).fix(format!(
                    "[[allow]] with who = \"{}\" and call = [\"{subject}\"], in ripstop.toml there",
                    joined.node.service()
                ))
            }
            Err(error) => Finding::problem("method", format!("{name}: {error}")),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks() {
        assert_eq!(skew("a", 1500), None);
        assert_eq!(skew("a", -9000).unwrap().says, "the clock of a is 9s behind the one here");
        assert!(skew("a", i64::MAX).unwrap().says.contains("ahead of"));
    }
}
