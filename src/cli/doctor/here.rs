//! What can be seen from this machine alone.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use ripstop::{
    Endpoint,
    config::{Loaded, interfaces_of, is_beyond_loopback},
    fabric::PeerInfo,
};

use super::Finding;
use crate::{args::Common, join::Joined};

/// Descriptors that are not connections: files, the runtime, listeners, a margin.
const OTHERS: u64 = 64;
/// Where multicast DNS is spoken (RFC 6762).
const MDNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)), 5353);
/// How long a packet may take on this machine.
const HEARD: Duration = Duration::from_millis(500);

/// Whether there are enough descriptors for the connections that are allowed.
pub(super) fn descriptors(limit: Option<(u64, u64)>) -> Option<Finding> {
    let (soft, hard) = limit?;
    let wanted = ripstop::config::Limits::default().connections as u64 + OTHERS;
    let says = format!("{soft} files may be open at once");
    if soft >= wanted {
        return Some(Finding::ok("descriptors", says));
    }
    let says = format!(
        "{says}: with more than about {} connections, new ones are refused",
        soft.saturating_sub(OTHERS)
    );
    let fix = match hard >= wanted {
        true => format!("ulimit -n {wanted}, or LimitNOFILE={wanted} in the service's unit"),
        false => format!("LimitNOFILE={wanted} in the service's unit (the hard limit is {hard})"),
    };
    let grade = if soft < 2 * OTHERS { Finding::problem } else { Finding::warning };
    Some(grade("descriptors", says).fix(fix))
}

pub(super) fn config(loaded: &Loaded) -> Finding {
    let place = match &loaded.path {
        Some(path) => path.display().to_string(),
        None => "no ripstop.toml here: defaults".into(),
    };
    let service =
        loaded.config.service.as_deref().map(|name| format!(", service {name}")).unwrap_or_default();
    Finding::ok("config", format!("{place}; fabric {}{service}", loaded.config.fabric))
}

/// Whether the others would let us in.
#[cfg(feature = "tls")]
pub(super) fn keys(loaded: &Loaded) -> Vec<Finding> {
    use std::path::Path;

    use ripstop::security::Keys;

    let security = &loaded.config.security;
    if !security.has_keys() {
        let says = "none: whoever can reach a port of this node can call it, and read along";
        return vec![
            Finding::note("keys", says)
                .fix("ripstop keys init, ripstop keys issue SERVICE, [security] dir = \"…\""),
        ];
    }
    let base = loaded.path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    let now = std::time::SystemTime::now();
    let keys = match Keys::load(security, base) {
        Ok(keys) => keys,
        Err(error) => {
            return vec![
                Finding::problem("keys", error.to_string()).fix("ripstop keys verify DIR tells more"),
            ];
        }
    };
    let dir = security.dir.as_deref().map(|dir| base.join(dir)).unwrap_or_default();
    if let Err(refusal) = keys.check_own(now) {
        let fix = format!(
            "ripstop keys issue {} --renew --out {}; if the date there is right, see this machine's clock",
            keys.identity().name(),
            dir.display()
        );
        return vec![
            Finding::problem("keys", format!("the others would refuse this node: {refusal}")).fix(fix),
        ];
    }
    let mut findings = vec![Finding::ok("keys", format!("{}", keys.identity()))];
    let warnings = crate::keys::verify::warnings(&keys, &dir, now);
    findings.extend(warnings.into_iter().map(|warning| Finding::warning("keys", warning)));
    findings
}

/// The configured listeners; `Err`: there can be none.
pub(super) fn listeners(common: &Common, loaded: &Loaded) -> Result<Vec<Endpoint>, Box<Finding>> {
    let mut config = loaded.config.clone();
    if !common.listen.is_empty() {
        config.listen.clone_from(&common.listen);
    }
    config.listeners().map_err(|error| {
        let fix = "listen = [\"lan\"], the name of an interface, or an address, in ripstop.toml";
        Box::new(Finding::problem("listen", error.to_string()).fix(fix))
    })
}

/// Whether the ports are free, or taken by the service itself.
pub(super) fn ports(listeners: &[Endpoint], peers: &[PeerInfo], joined: &Joined) -> Vec<Finding> {
    let own = joined.config.service.as_deref();
    listeners.iter().filter_map(|listener| port(listener, peers, own)).collect()
}

fn port(listener: &Endpoint, peers: &[PeerInfo], own: Option<&str>) -> Option<Finding> {
    let (host, port) = listener.host_and_port()?;
    if port == 0 {
        return Some(Finding::ok("port", format!("{listener}: any that is free")));
    }
    let host = if host == "*" { "0.0.0.0" } else { host };
    let ip: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    let error = match TcpListener::bind((ip, port)) {
        Ok(_) => return Some(Finding::ok("port", format!("{listener} is free; nobody listens there now"))),
        Err(error) => error,
    };
    let holder = peers.iter().find(|peer| {
        peer.rtt.is_some()
            && peer.endpoints.iter().any(|theirs| theirs.host_and_port().is_some_and(|(_, at)| at == port))
    });
    let another = format!(
        "listen = [\"{}\"], or another port, in ripstop.toml",
        listener.to_string().replace(&format!(":{port}"), ":0")
    );
    Some(match (error.kind(), holder) {
        (ErrorKind::AddrInUse, Some(holder)) if own.is_none_or(|own| own == holder.service) => {
            let node = holder.node.map(|node| node.short()).unwrap_or_default();
            Finding::ok("port", format!("{listener}: {}/{node} listens there", holder.service))
        }
        (ErrorKind::AddrInUse, _) => {
            let says =
                format!("{listener} is taken by another program (ss -ltnp 'sport = :{port}' names it)");
            Finding::problem("port", says).fix(another)
        }
        (ErrorKind::AddrNotAvailable, _) => {
            let says = format!("{listener}: this machine has no such address");
            Finding::problem("port", says)
                .fix("listen = [\"lan\"], or the name of an interface, in ripstop.toml")
        }
        (ErrorKind::PermissionDenied, _) => {
            let says = format!("{listener}: ports below 1024 are the system's");
            Finding::problem("port", says).fix(another)
        }
        _ => Finding::problem("port", format!("{listener}: {error}")),
    })
}

/// Whether multicast DNS is spoken, and whether this machine lets it through.
pub(super) async fn multicast(joined: &Joined) -> Vec<Finding> {
    let endpoints = joined.node.endpoints();
    if !joined.uses_mdns() {
        let says = "off: ";
        let finding = match joined.config.discovery.mdns {
            _ if !cfg!(feature = "mdns") => Finding::note("mdns", format!("{says}it is not built in")),
            false => Finding::note("mdns", format!("{says}discovery.mdns is false, or --no-mdns was given")),
            true => Finding::note(
                "mdns",
                format!("{says}every listener is on loopback, where only this machine is"),
            )
            .fix("to be found by others: listen = [\"lan\"] in ripstop.toml"),
        };
        return vec![finding];
    }
    let interfaces = match joined.config.discovery.interfaces.as_slice() {
        [] => interfaces_of(&endpoints),
        named => named.to_vec(),
    };
    let addresses: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| is_beyond_loopback(endpoint))
        .filter_map(|endpoint| endpoint.host_and_port()?.0.parse::<Ipv4Addr>().ok())
        .collect();
    let mut findings = Vec::new();
    for address in addresses {
        let heard = tokio::task::spawn_blocking(move || echo(address)).await;
        let says = format!("{address} ({})", interfaces.join(", "));
        findings.push(match heard {
            Ok(Ok(true)) => Finding::ok("mdns", format!("multicast goes out and comes back at {says}")),
            Ok(Ok(false)) => Finding::problem(
                "mdns",
                format!("multicast goes out at {says}, and does not come back: a filter on this machine"),
            )
            .fix("let UDP port 5353 to 224.0.0.251 through, in and out; or name the others in [[peers]]"),
            Ok(Err(error)) => {
                Finding::problem("mdns", format!("multicast cannot be sent at {says}: {error}")).fix(
                    "discovery.interfaces = [\"…\"] in ripstop.toml, with one that has a route; or [[peers]]",
                )
            }
            Err(_) => continue,
        });
    }
    findings
}

/// Asks by multicast who is there, as a node does, and listens for the question itself.
fn echo(from: Ipv4Addr) -> std::io::Result<bool> {
    let Ipv4Addr { .. } = from;
    let IpAddr::V4(group) = MDNS.ip() else { return Ok(false) };
    let hear = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // Beside whoever speaks mDNS on this machine.
    hear.set_reuse_address(true)?;
    #[cfg(unix)]
    hear.set_reuse_port(true)?;
    hear.bind(&SocketAddr::new(IpAddr::V4(group), MDNS.port()).into())?;
    hear.join_multicast_v4(&group, &from)?;
    hear.set_read_timeout(Some(HEARD))?;
    let say = UdpSocket::bind((from, 0))?;
    let say = socket2::Socket::from(say);
    say.set_multicast_if_v4(&from)?;
    say.set_multicast_loop_v4(true)?;
    say.set_multicast_ttl_v4(255)?;
    let (say, hear) = (UdpSocket::from(say), UdpSocket::from(hear));
    let own = say.local_addr()?;
    say.send_to(&question(), MDNS)?;
    let mut buffer = [0; 1500];
    let until = std::time::Instant::now() + HEARD;
    while std::time::Instant::now() < until {
        match hear.recv_from(&mut buffer) {
            Ok((_, whose)) if whose == own => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// RFC 1035, 4.1: one question, the pointers to `_ripstop._tcp.local`.
fn question() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["_ripstop", "_tcp", "local"] {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 12, 0, 1]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn too_few_descriptors_are_told_with_what_to_do() {
        assert_eq!(descriptors(Some((1 << 20, 1 << 20))).unwrap().grade, Grade::Ok);
        let few = descriptors(Some((1024, 1 << 20))).unwrap();
        assert_eq!(few.grade, Grade::Warning);
        assert!(few.fix.unwrap().starts_with("ulimit -n 4160"), "the soft limit can be raised");
        let hard = descriptors(Some((64, 64))).unwrap();
        assert!(hard.grade == Grade::Problem && hard.fix.unwrap().contains("hard limit is 64"));
    }
}
