//! Where a socket listens or whom it dials: `tcp://`, `tls+tcp://`, `ipc://` and `inproc://` addresses.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::code::{Code, Fault};

/// One address, parsed from and printed as a URL.
///
/// | text | meaning |
/// | --- | --- |
/// | `tcp://127.0.0.1:5555`, `tcp://[::1]:5555` | an IP address and port; port 0 lets the system choose when binding |
/// | `tcp://*:5555` | every interface (binding only) |
/// | `tcp://eth0:5555` | the addresses of that interface (binding only) |
/// | `tcp://pricing.example:5555` | a host name, looked up when dialled |
/// | `tls+tcp://127.0.0.1:5555` | the same with TLS 1.3, and nothing without it |
/// | `ipc:///run/shop.sock` | a Unix socket in the file system |
/// | `ipc://@shop` | a Unix socket in Linux's abstract namespace |
/// | `inproc://shop` | a name within this process |
///
/// ```
/// use ripstop::Endpoint;
///
/// let endpoint: Endpoint = "tcp://[::1]:5555".parse()?;
/// assert_eq!(endpoint, Endpoint::Tcp { host: "::1".into(), port: 5555 });
/// assert_eq!(endpoint.to_string(), "tcp://[::1]:5555");
/// # Ok::<(), ripstop::endpoint::ParseEndpointError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Endpoint {
    /// TCP: an IP address (IPv6 without brackets), a host or interface name, or `*`.
    Tcp {
        /// Who.
        host: String,
        /// Which port.
        port: u16,
    },
    /// TCP that speaks TLS 1.3 and nothing else.
    Tls {
        /// Who; as for [`Tcp`](Self::Tcp).
        host: String,
        /// Which port.
        port: u16,
    },
    /// A Unix socket's path; one that begins with `@` is in the abstract namespace.
    Ipc(PathBuf),
    /// A name within this process.
    Inproc(String),
}

impl Endpoint {
    /// Whether only processes of this machine can reach it: loopback TCP, ipc, inproc. A host name other than
    /// `localhost` counts as beyond, because what it resolves to can change.
    ///
    /// ```
    /// let endpoint: ripstop::Endpoint = "tcp://127.0.0.1:0".parse()?;
    /// assert!(endpoint.is_local());
    /// assert!(!"tcp://*:0".parse::<ripstop::Endpoint>()?.is_local());
    /// # Ok::<(), ripstop::endpoint::ParseEndpointError>(())
    /// ```
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } | Self::Tls { host, .. } => {
                host == "localhost"
                    || host == "lo"
                    || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback())
            }
            Self::Ipc(_) | Self::Inproc(_) => true,
        }
    }

    /// Host and port, of those that have them.
    ///
    /// ```
    /// let endpoint: ripstop::Endpoint = "tls+tcp://127.0.0.1:5555".parse()?;
    /// assert_eq!(endpoint.host_and_port(), Some(("127.0.0.1", 5555)));
    /// # Ok::<(), ripstop::endpoint::ParseEndpointError>(())
    /// ```
    pub fn host_and_port(&self) -> Option<(&str, u16)> {
        match self {
            Self::Tcp { host, port } | Self::Tls { host, port } => Some((host, *port)),
            Self::Ipc(_) | Self::Inproc(_) => None,
        }
    }

    /// The same address, where TCP becomes TLS.
    pub(crate) fn with_tls(self) -> Self {
        match self {
            Self::Tcp { host, port } => Self::Tls { host, port },
            other => other,
        }
    }
}

/// The text is not an endpoint; the message says what to write.
///
/// ```
/// let error = "5555".parse::<ripstop::Endpoint>().unwrap_err();
/// assert!(error.to_string().contains("tcp://"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{text}` is not an endpoint: {problem}")]
pub struct ParseEndpointError {
    text: String,
    problem: &'static str,
}

impl ParseEndpointError {
    /// What was to be parsed.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// `RS0001`.
    ///
    /// ```
    /// let error = "5555".parse::<ripstop::Endpoint>().unwrap_err();
    /// assert_eq!(error.code().to_string(), "RS0001");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(1)
    }

    /// The caller's.
    ///
    /// ```
    /// let error = "5555".parse::<ripstop::Endpoint>().unwrap_err();
    /// assert_eq!(error.fault(), ripstop::Fault::Caller);
    /// ```
    pub fn fault(&self) -> Fault {
        Fault::Caller
    }

    /// Never: the same text fails again.
    ///
    /// ```
    /// assert!(!"5555".parse::<ripstop::Endpoint>().unwrap_err().is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        false
    }
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once("://") {
            Some(("tcp", rest)) => parse_tcp(rest),
            Some(("tls+tcp", rest)) => parse_tcp(rest).map(Endpoint::with_tls),
            Some(("ipc", rest)) => parse_ipc(rest),
            Some(("inproc", "")) => Err("write a name, such as inproc://shop"),
            Some(("inproc", name)) => Ok(Self::Inproc(name.to_owned())),
            Some(_) => Err("the transports are tcp://, tls+tcp://, ipc:// and inproc://"),
            None => Err("write a URL such as tcp://127.0.0.1:5555, ipc:///run/shop.sock or inproc://shop"),
        };
        parsed.map_err(|problem| ParseEndpointError { text: text.to_owned(), problem })
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = ParseEndpointError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<&String> for Endpoint {
    type Error = ParseEndpointError;

    fn try_from(text: &String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = ParseEndpointError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<&Endpoint> for Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        endpoint.clone()
    }
}

impl From<Infallible> for ParseEndpointError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn parse_tcp(rest: &str) -> Result<Endpoint, &'static str> {
    const PORT: &str = "write a port from 0 to 65535 at its end, such as tcp://127.0.0.1:5555";
    let (host, port) = rest.rsplit_once(':').ok_or(PORT)?;
    let port = match port {
        "*" => 0,
        _ if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().map_err(|_| PORT)?,
        _ => return Err(PORT),
    };
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => {
            let address = inner.split_once('%').map_or(inner, |(address, _zone)| address);
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "only an IPv6 address goes into brackets")?;
            inner
        }
        None if host.contains(':') => return Err("put an IPv6 address in brackets: tcp://[::1]:5555"),
        None => host,
    };
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"-_.*:%".contains(&b) || !b.is_ascii();
    if host.is_empty() || !host.bytes().all(ok) || (host.contains('*') && host != "*") {
        return Err("write an address, a host or interface name, or * for every interface, before the port");
    }
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

fn parse_ipc(rest: &str) -> Result<Endpoint, &'static str> {
    // sun_path holds 108 bytes, the closing zero included.
    match rest.len() {
        0 => Err("write a path, such as ipc:///run/shop.sock"),
        1..=107 if rest.contains('\0') => Err("a path can't contain a zero byte"),
        1..=107 => Ok(Endpoint::Ipc(Path::new(rest).to_owned())),
        _ => Err("a Unix socket's path has at most 107 bytes"),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write_tcp(f, "tcp", host, *port),
            Self::Tls { host, port } => write_tcp(f, "tls+tcp", host, *port),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Inproc(name) => write!(f, "inproc://{name}"),
        }
    }
}

fn write_tcp(f: &mut fmt::Formatter<'_>, scheme: &str, host: &str, port: u16) -> fmt::Result {
    match host.contains(':') {
        true => write!(f, "{scheme}://[{host}]:{port}"),
        false => write!(f, "{scheme}://{host}:{port}"),
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for text in [
            "tcp://127.0.0.1:5555",
            "tcp://[::1]:0",
            "tcp://[fe80::1%eth0]:7",
            "tcp://*:0",
            "tcp://eth0:5555",
            "tcp://a-b.example:1",
            "tls+tcp://a-b.example:1",
            "tls+tcp://[::1]:0",
            "ipc:///run/shop.sock",
            "ipc://@shop",
            "inproc://shop",
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
            let json = serde_json::to_string(&endpoint).unwrap();
            assert_eq!(serde_json::from_str::<Endpoint>(&json).unwrap(), endpoint);
        }
        assert_eq!("tcp://*:*".parse::<Endpoint>().unwrap().to_string(), "tcp://*:0");
    }

    #[test]
    fn says_what_to_write() {
        for (text, says) in [
            ("5555", "tcp://127.0.0.1:5555"),
            ("udp://a:1", "tcp://, tls+tcp://, ipc://"),
            ("tcp://a", "a port"),
            ("tcp://a:+1", "a port"),
            ("tcp://a:65536", "a port"),
            ("tcp://:1", "an address"),
            ("tcp://::1:1", "brackets"),
            ("tcp://[a]:1", "IPv6"),
            ("tcp://a b:1", "an address"),
            ("tcp://*.x:1", "an address"),
            ("ipc://", "a path"),
            ("inproc://", "a name"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(format!("ipc://{}", "x".repeat(108)).parse::<Endpoint>().is_err());
    }
}
