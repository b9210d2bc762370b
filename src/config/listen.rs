//! What `listen` means on this machine.

use std::net::{IpAddr, SocketAddr};

use network_interface::{NetworkInterface, NetworkInterfaceConfig};

use super::{Config, ConfigError};
use crate::endpoint::Endpoint;

/// An interface and its addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
}

/// One entry of `listen`, understood but not yet looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Listen {
    Lan(u16),
    Endpoint(Endpoint),
    Interface(String, u16),
}

/// Whether this endpoint can be reached from other machines. An interface counts as beyond unless all its addresses are
/// loopback, and so does every host name but `localhost`.
///
/// ```
/// use ripstop::config::is_beyond_loopback;
/// assert!(!is_beyond_loopback(&"tcp://127.0.0.1:5555".parse().unwrap()));
/// assert!(is_beyond_loopback(&"tcp://*:5555".parse().unwrap()));
/// ```
pub fn is_beyond_loopback(endpoint: &Endpoint) -> bool {
    if endpoint.is_local() {
        return false;
    }
    let Some((host, _)) = endpoint.host_and_port() else { return false };
    let interfaces = interfaces();
    let Some(interface) = interfaces.iter().find(|interface| interface.name == host) else { return true };
    interface.addresses.is_empty() || !interface.addresses.iter().all(IpAddr::is_loopback)
}

/// What to tell others for these bound listeners: `tcp://*:PORT` and interface names become addresses, and the widest reach
/// comes first.
///
/// ```
/// let bound = ["tcp://127.0.0.1:5555".parse().unwrap()];
/// assert_eq!(ripstop::config::advertised(&bound), bound);
/// ```
pub fn advertised(listeners: &[Endpoint]) -> Vec<Endpoint> {
    expand(listeners, &interfaces())
}

/// The interfaces that these listeners are bound to, loopback left out: where mDNS may speak.
///
/// ```
/// assert!(ripstop::config::interfaces_of(&["tcp://127.0.0.1:5555".parse().unwrap()]).is_empty());
/// ```
pub fn interfaces_of(listeners: &[Endpoint]) -> Vec<String> {
    bound_to(listeners, &interfaces())
}

/// The interfaces of this machine; none if the system does not tell.
pub(super) fn interfaces() -> Vec<Interface> {
    let shown = NetworkInterface::show().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the network interfaces");
        Vec::new()
    });
    shown
        .into_iter()
        .map(|interface| Interface {
            name: interface.name,
            addresses: interface.addr.into_iter().map(network_interface::Addr::ip).collect(),
        })
        .collect()
}

/// Understands one entry of `listen`.
pub(super) fn parse(entry: &str) -> Result<Listen, String> {
    let entry = entry.trim();
    if entry.contains("://") {
        return entry.parse().map(Listen::Endpoint).map_err(|error| format!("{error}"));
    }
    let tcp = |ip: IpAddr, port| Listen::Endpoint(Endpoint::Tcp { host: ip.to_string(), port });
    if let Ok(ip) = entry.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(tcp(ip, 0));
    }
    if let Ok(address) = entry.parse::<SocketAddr>() {
        return Ok(tcp(address.ip(), address.port()));
    }
    let wrong = || {
        format!(
            "`{entry}` is not a place to listen: write lan, an interface such as eth0, an address such as 10.0.0.7:5555, \
             or an endpoint such as tcp://127.0.0.1:0"
        )
    };
    let (name, port) = match entry.split_once(':') {
        Some((name, port)) => (name, port.parse().map_err(|_| wrong())?),
        None => (entry, 0),
    };
    // Linux takes 15 bytes, others somewhat more; neither takes spaces or slashes.
    if name.is_empty() || name.len() > 64 || name.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(wrong());
    }
    if name == "*" {
        return Ok(Listen::Endpoint(Endpoint::Tcp { host: "*".into(), port }));
    }
    Ok(if name == "lan" { Listen::Lan(port) } else { Listen::Interface(name.to_owned(), port) })
}

pub(super) fn listeners(config: &Config, interfaces: &[Interface]) -> Result<Vec<Endpoint>, ConfigError> {
    let wrong = |reason| ConfigError::Value { place: "listen".into(), reason };
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for entry in &config.listen {
        let more = match parse(entry).map_err(wrong)? {
            Listen::Endpoint(endpoint) => vec![endpoint],
            Listen::Lan(port) => {
                let private = interfaces.iter().flat_map(|i| &i.addresses).copied().filter(is_private);
                let endpoints: Vec<_> = private.map(|ip| tcp(ip, port)).collect();
                if endpoints.is_empty() {
                    return Err(wrong(format!(
                        "no interface has an address in a private range, so `lan` means nothing here; there are {}",
                        list(interfaces)
                    )));
                }
                endpoints
            }
            Listen::Interface(name, port) => {
                let Some(interface) = interfaces.iter().find(|interface| interface.name == name) else {
                    return Err(wrong(format!(
                        "there is no interface `{name}`; there are {}",
                        list(interfaces)
                    )));
                };
                interface.addresses.iter().filter(|ip| !is_link_local(ip)).map(|ip| tcp(*ip, port)).collect()
            }
        };
        for endpoint in more {
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
    }
    let closed = config.security.insecure || config.security.has_keys();
    if let (false, Some(open)) = (closed, endpoints.iter().find(|e| is_beyond_loopback(e))) {
        return Err(wrong(format!(
            "{open} can be reached from other machines, where anybody could call this node and read along: make keys with \
             `ripstop keys init` and `ripstop keys issue SERVICE` and add\n\n    [security]\n    dir = \"SERVICE\"\n\nto \
             ripstop.toml (or set RIPSTOP_SECURITY__DIR); or write insecure = true there if that is meant, or listen on \
             tcp://127.0.0.1:0"
        )));
    }
    Ok(endpoints)
}

fn expand(listeners: &[Endpoint], interfaces: &[Interface]) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for endpoint in listeners {
        let Some((host, port)) = endpoint.host_and_port() else {
            endpoints.push(endpoint.clone());
            continue;
        };
        let tls = matches!(endpoint, Endpoint::Tls { .. });
        let same = |plain: Endpoint| if tls { plain.with_tls() } else { plain };
        let every = |wanted: &dyn Fn(&Interface, &IpAddr) -> bool| {
            let mut found = Vec::new();
            for interface in interfaces {
                let wanted =
                    interface.addresses.iter().filter(|ip| !is_link_local(ip) && wanted(interface, ip));
                found.extend(wanted.map(|ip| same(tcp(*ip, port))));
            }
            found
        };
        endpoints.extend(match host {
            "*" | "::" => every(&|_, _| true),
            "0.0.0.0" => every(&|_, ip| ip.is_ipv4()),
            name if interfaces.iter().any(|interface| interface.name == name) => {
                every(&|i, _| i.name == name)
            }
            _ => vec![endpoint.clone()],
        });
    }
    // Others on this machine can use any of them, others elsewhere only the wide ones.
    endpoints.sort_by_key(Endpoint::is_local);
    endpoints.dedup();
    endpoints
}

fn bound_to(listeners: &[Endpoint], interfaces: &[Interface]) -> Vec<String> {
    let beyond = interfaces.iter().filter(|i| !i.addresses.iter().all(IpAddr::is_loopback));
    beyond
        .filter(|interface| {
            listeners.iter().any(|listener| match listener.host_and_port() {
                Some((host, _)) => match host.parse::<IpAddr>() {
                    Ok(ip) if ip.is_unspecified() => true,
                    Ok(ip) => interface.addresses.contains(&ip),
                    Err(_) => host == "*" || host == interface.name,
                },
                None => false,
            })
        })
        .map(|interface| interface.name.clone())
        .collect()
}

fn tcp(ip: IpAddr, port: u16) -> Endpoint {
    Endpoint::Tcp { host: ip.to_string(), port }
}

fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// IPv6 link-local addresses mean nothing without the interface's number, which endpoints don't carry.
fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn list(interfaces: &[Interface]) -> String {
    let shown: Vec<String> = interfaces
        .iter()
        .map(|i| {
            format!(
                "{} ({})",
                i.name,
                i.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            )
        })
        .collect();
    if shown.is_empty() { "none".into() } else { shown.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<Interface> {
        let interface = |name: &str, addresses: &[&str]| Interface {
            name: name.into(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        };
        vec![
            interface("lo", &["127.0.0.1", "::1"]),
            interface("eth0", &["192.168.1.5", "fe80::5", "fd00::5"]),
            interface("wan", &["203.0.113.9"]),
        ]
    }

    fn meaning(listen: &[&str]) -> Result<Vec<String>, String> {
        let mut config = Config { listen: listen.iter().map(|s| (*s).into()).collect(), ..Config::default() };
        config.security.insecure = true;
        let endpoints = listeners(&config, &machine()).map_err(|error| error.to_string())?;
        Ok(endpoints.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn entries_mean_addresses() {
        assert_eq!(meaning(&["lan"]).unwrap(), ["tcp://192.168.1.5:0", "tcp://[fd00::5]:0"]);
        assert_eq!(meaning(&["lan:7", "eth0:7"]).unwrap(), ["tcp://192.168.1.5:7", "tcp://[fd00::5]:7"]);
        assert_eq!(meaning(&["wan"]).unwrap(), ["tcp://203.0.113.9:0"]);
        assert_eq!(meaning(&["10.0.0.7", "10.0.0.7:5"]).unwrap(), ["tcp://10.0.0.7:0", "tcp://10.0.0.7:5"]);
        assert_eq!(meaning(&["::1", "[::1]:5"]).unwrap(), ["tcp://[::1]:0", "tcp://[::1]:5"]);
        assert_eq!(meaning(&["*:5", "ipc:///tmp/a"]).unwrap(), ["tcp://*:5", "ipc:///tmp/a"]);
    }

    #[test]
    fn errors_say_what_to_write() {
        let error = meaning(&["eth1"]).unwrap_err();
        assert!(error.contains("no interface `eth1`") && error.contains("eth0 (192.168.1.5"), "{error}");
        for entry in ["eth0:x", "", "two words", "tcp://", "http://a:1"] {
            let error = meaning(&[entry]).unwrap_err();
            assert!(error.contains("write") || error.contains("tcp://"), "{entry}: {error}");
        }
    }

    #[test]
    fn beyond_loopback_needs_a_word() {
        for open in ["tcp://*:0", "0.0.0.0", "10.0.0.7", "lan", "tcp://example.com:5"] {
            let config = Config { listen: vec![open.into()], ..Config::default() };
            let error = listeners(&config, &machine()).unwrap_err().to_string();
            assert!(error.contains("insecure = true"), "{open}: {error}");
        }
        let mut keys = Config { listen: vec!["tcp://*:0".into()], ..Config::default() };
        keys.security.dir = Some("keys".into());
        assert!(listeners(&keys, &machine()).is_ok());
        for closed in ["127.0.0.1", "::1", "tcp://localhost:5", "ipc:///tmp/a", "inproc://a", "lo"] {
            let config = Config { listen: vec![closed.into()], ..Config::default() };
            assert!(listeners(&config, &machine()).is_ok(), "{closed}");
        }
    }

    #[test]
    fn wildcards_are_told_as_addresses() {
        let bound = ["tcp://0.0.0.0:5".parse().unwrap(), "ipc:///tmp/a".parse().unwrap()];
        let told: Vec<_> = expand(&bound, &machine()).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["tcp://192.168.1.5:5", "tcp://203.0.113.9:5", "tcp://127.0.0.1:5", "ipc:///tmp/a"]);
        assert_eq!(bound_to(&bound, &machine()), ["eth0", "wan"]);
        assert_eq!(bound_to(&["tcp://192.168.1.5:5".parse().unwrap()], &machine()), ["eth0"]);
        assert!(bound_to(&["tcp://127.0.0.1:5".parse().unwrap()], &machine()).is_empty());
    }
}
