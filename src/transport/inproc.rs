//! Connections within the process: a registry of names, and a pair of in-memory streams per connection.

use std::collections::HashMap;
use std::io;
use std::sync::{LazyLock, Mutex};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::{PeerAddr, Stream};
use crate::endpoint::Endpoint;
use crate::sync::lock;

/// What each direction holds before a writer waits.
const BUFFER: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

static NAMES: LazyLock<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>> = LazyLock::new(Default::default);

pub(super) fn connect(name: &str) -> io::Result<(Stream, PeerAddr)> {
    let Some(listener) = lock(&NAMES).get(name).cloned() else {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens under this name"));
    };
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    match listener.try_send(theirs) {
        Ok(()) => Ok((Box::new(ours), addr(name))),
        Err(_) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the listener accepts no more")),
    }
}

fn addr(name: &str) -> PeerAddr {
    PeerAddr { text: format!("inproc://{name}"), ip: None }
}

#[derive(Debug)]
pub(crate) struct Listener {
    name: String,
    incoming: mpsc::Receiver<DuplexStream>,
}

impl Listener {
    pub(super) fn bind(name: &str) -> io::Result<Self> {
        let mut names = lock(&NAMES);
        if names.contains_key(name) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, incoming) = mpsc::channel(BACKLOG);
        names.insert(name.to_owned(), sender);
        Ok(Self { name: name.to_owned(), incoming })
    }

    pub(super) async fn accept(&mut self) -> io::Result<(Stream, PeerAddr)> {
        match self.incoming.recv().await {
            Some(stream) => Ok((Box::new(stream), addr(&self.name))),
            // The registry holds a sender until this listener is dropped.
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::Inproc(self.name.clone())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        lock(&NAMES).remove(&self.name);
    }
}
