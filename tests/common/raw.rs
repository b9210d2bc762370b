//! A peer that sends whatever bytes it likes, from whatever loopback address it likes.

#![allow(dead_code, clippy::unwrap_used)] // shared by several test programs

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// One of many loopback addresses, all on this machine: caps per address see them as different hosts.
pub(crate) fn host(n: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 1 + (n / 200) as u8, 1 + (n % 200) as u8], 0))
}

/// Connects from `host(from)`. A full backlog is waited for.
pub(crate) async fn dial(to: SocketAddr, from: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(host(from)).unwrap();
    let stream = socket.connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A 3.1 greeting for this mechanism.
pub(crate) fn greeting(mechanism: &str) -> Vec<u8> {
    let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
    bytes.extend_from_slice(mechanism.as_bytes());
    bytes.resize(64, 0);
    bytes
}

pub(crate) fn property(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// A frame with these flags: 1 more, 4 command (2 long is added where it is needed).
pub(crate) fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = match u8::try_from(body.len()) {
        Ok(short) => vec![flags, short],
        Err(_) => header(flags, body.len() as u64),
    };
    bytes.extend_from_slice(body);
    bytes
}

/// The header of a long frame, whatever comes after it.
pub(crate) fn header(flags: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![flags | 2];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

pub(crate) fn command(name: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(body);
    frame(4, &bytes)
}

pub(crate) fn ready(socket_type: &str, properties: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = property("Socket-Type", socket_type.as_bytes());
    for (name, value) in properties {
        body.extend(property(name, value));
    }
    command("READY", &body)
}

/// Greeting and READY of a plain socket of this type.
pub(crate) fn hello(socket_type: &str) -> Vec<u8> {
    [greeting("NULL"), ready(socket_type, &[])].concat()
}

/// A call of `subject` in two frames, as a DEALER sends it.
pub(crate) fn call(subject: &str, body: &[u8]) -> Vec<u8> {
    [frame(1, subject.as_bytes()), frame(0, body)].concat()
}

/// Shakes hands as this type; returns when the other side's READY is there.
pub(crate) async fn shaken(to: SocketAddr, from: usize, socket_type: &str) -> TcpStream {
    let mut stream = dial(to, from).await;
    stream.write_all(&hello(socket_type)).await.unwrap();
    shake(&mut stream).await;
    stream
}

/// Reads greeting and READY.
pub(crate) async fn shake(stream: &mut TcpStream) {
    let mut greeting = [0; 64];
    stream.read_exact(&mut greeting).await.unwrap();
    let (flags, body) = read_frame(stream).await.unwrap();
    assert!(flags & 4 != 0 && body.starts_with(b"\x05READY"), "{}", body.escape_ascii());
}

/// The next frame's flags and body; `None`: the connection has ended.
pub(crate) async fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let flags = stream.read_u8().await.ok()?;
    let length = match flags & 2 {
        0 => u64::from(stream.read_u8().await.ok()?),
        _ => stream.read_u64().await.ok()?,
    };
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.ok()?;
    Some((flags, body))
}

/// The frames of the next message; commands are passed over.
pub(crate) async fn read_message(stream: &mut TcpStream) -> Option<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    loop {
        let (flags, body) = read_frame(stream).await?;
        if flags & 4 == 0 {
            frames.push(body);
            if flags & 1 == 0 {
                return Some(frames);
            }
        }
    }
}

/// Reads until the other side closes or resets; `false`: it did neither in this time.
pub(crate) async fn closed(stream: &mut TcpStream, within: Duration) -> bool {
    let mut buf = vec![0; 64 << 10];
    tokio::time::timeout(within, async { while matches!(stream.read(&mut buf).await, Ok(1..)) {} })
        .await
        .is_ok()
}
