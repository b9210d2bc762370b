//! Bytes only: TCP, Unix sockets and connections within the process, behind one stream type; and TLS over any of them.

mod inproc;
mod ipc;
mod tcp;
pub(crate) mod tls;

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::endpoint::Endpoint;

/// A byte stream in both directions.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One connection.
pub(crate) type Stream = Box<dyn Io>;

/// The other end's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerAddr {
    /// For people.
    pub(crate) text: String,
    /// For caps per address; `None` for peers of this machine that have none.
    pub(crate) ip: Option<IpAddr>,
}

/// Connects once. A host name's addresses are tried one after the other.
pub(crate) async fn connect(endpoint: &Endpoint) -> io::Result<(Stream, PeerAddr)> {
    match endpoint {
        Endpoint::Tcp { host, port } | Endpoint::Tls { host, port } => tcp::connect(host, *port).await,
        Endpoint::Ipc(path) => ipc::connect(path).await,
        Endpoint::Inproc(name) => inproc::connect(name),
    }
}

/// Something that accepts connections.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(tcp::Listener),
    Ipc(ipc::Listener),
    Inproc(inproc::Listener),
}

impl Listener {
    pub(crate) async fn bind(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(match endpoint {
            Endpoint::Tcp { host, port } | Endpoint::Tls { host, port } => {
                Self::Tcp(tcp::Listener::bind(host, *port).await?)
            }
            Endpoint::Ipc(path) => Self::Ipc(ipc::Listener::bind(path)?),
            Endpoint::Inproc(name) => Self::Inproc(inproc::Listener::bind(name)?),
        })
    }

    /// Cancel safe.
    pub(crate) async fn accept(&mut self) -> io::Result<(Stream, PeerAddr)> {
        match self {
            Self::Tcp(listener) => listener.accept().await,
            Self::Ipc(listener) => listener.accept().await,
            Self::Inproc(listener) => listener.accept().await,
        }
    }

    /// The actual endpoint: with the port that the system chose.
    pub(crate) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Tcp(listener) => listener.endpoint(),
            Self::Ipc(listener) => listener.endpoint(),
            Self::Inproc(listener) => listener.endpoint(),
        }
    }
}
