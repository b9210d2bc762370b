//! TCP, with Nagle's algorithm off: batches are made above.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use network_interface::{NetworkInterface, NetworkInterfaceConfig};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{PeerAddr, Stream};
use crate::endpoint::Endpoint;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;

pub(super) async fn connect(host: &str, port: u16) -> io::Result<(Stream, PeerAddr)> {
    let mut last = None;
    for addr in resolve(host, port).await? {
        match TcpStream::connect(addr).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok((Box::new(stream), peer(addr)));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Some(addr) = literal(host, port)? {
        return Ok(vec![addr]);
    }
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// An IP address, if `host` is one; an IPv6 one may have a zone (`fe80::1%eth0`).
fn literal(host: &str, port: u16) -> io::Result<Option<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Some(SocketAddr::new(ip, port)));
    }
    let Some((ip, zone)) = host.split_once('%') else { return Ok(None) };
    let Ok(ip) = ip.parse::<Ipv6Addr>() else { return Ok(None) };
    let index = match zone.parse() {
        Ok(index) => index,
        Err(_) => interfaces()?.into_iter().find(|i| i.name == zone).map(|i| i.index).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no interface `{zone}`"))
        })?,
    };
    Ok(Some(SocketAddrV6::new(ip, port, 0, index).into()))
}

fn peer(addr: SocketAddr) -> PeerAddr {
    PeerAddr { text: addr.to_string(), ip: Some(addr.ip().to_canonical()) }
}

fn interfaces() -> io::Result<Vec<NetworkInterface>> {
    NetworkInterface::show().map_err(io::Error::other)
}

#[derive(Debug)]
pub(crate) struct Listener {
    listener: TcpListener,
    host: String,
}

impl Listener {
    pub(super) async fn bind(host: &str, port: u16) -> io::Result<Self> {
        let mut last = None;
        for addr in bind_addresses(host, port).await? {
            match open(addr) {
                Ok(listener) => return Ok(Self { listener, host: host.to_owned() }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, PeerAddr)> {
        let (stream, addr) = self.listener.accept().await?;
        // Fails only for a connection that is gone again, which reading will tell.
        let _ = stream.set_nodelay(true);
        Ok((Box::new(stream), peer(addr)))
    }

    /// `*` stays `*`; every other host is the address that was bound.
    pub(super) fn endpoint(&self) -> Endpoint {
        let addr = self.listener.local_addr().ok();
        let host = match addr {
            _ if self.host == "*" => self.host.clone(),
            Some(SocketAddr::V6(v6)) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            Some(addr) => addr.ip().to_string(),
            None => self.host.clone(),
        };
        Endpoint::Tcp { host, port: addr.map_or(0, |addr| addr.port()) }
    }
}

/// `*`: every interface, IPv6 and IPv4 in one socket, or IPv4 alone where there is no IPv6. An interface name: its
/// addresses, IPv4 first.
async fn bind_addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host == "*" {
        return Ok(vec![(Ipv6Addr::UNSPECIFIED, port).into(), ([0, 0, 0, 0], port).into()]);
    }
    if let Some(addr) = literal(host, port)? {
        return Ok(vec![addr]);
    }
    if let Some(interface) = interfaces()?.into_iter().find(|i| i.name == host) {
        let mut addresses: Vec<SocketAddr> =
            interface.addr.iter().map(|addr| SocketAddr::new(addr.ip(), port)).collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        for addr in &mut addresses {
            if let SocketAddr::V6(v6) = addr
                && v6.ip().is_unicast_link_local()
            {
                v6.set_scope_id(interface.index);
            }
        }
        return Ok(addresses);
    }
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

fn open(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // Else a restarted service could not have its port back for a minute.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.bind(&addr.into())?;
    TcpSocket::from_std_stream(socket.into()).listen(BACKLOG)
}
