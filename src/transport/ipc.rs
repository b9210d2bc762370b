//! Unix sockets, in the file system or (`@name`) in Linux's abstract namespace.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::{PeerAddr, Stream};
use crate::endpoint::Endpoint;

pub(super) async fn connect(path: &Path) -> io::Result<(Stream, PeerAddr)> {
    let stream = UnixStream::connect(native(path)).await?;
    Ok((Box::new(stream), addr(path)))
}

fn addr(path: &Path) -> PeerAddr {
    PeerAddr { text: format!("ipc://{}", path.display()), ip: None }
}

/// tokio takes a path that begins with a zero byte for an abstract name.
fn native(path: &Path) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_prefix('@')) {
        Some(name) => PathBuf::from(format!("\0{name}")),
        None => path.to_owned(),
    }
}

#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// A socket file that nobody listens on any more (a process was killed) is replaced.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let native = native(path);
        let listener = match UnixListener::bind(&native) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(&native)
            }
            other => other,
        }?;
        Ok(Self { listener, path: path.to_owned() })
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, PeerAddr)> {
        let (stream, _) = self.listener.accept().await?;
        Ok((Box::new(stream), addr(&self.path)))
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::Ipc(self.path.clone())
    }
}

fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.path.to_string_lossy().starts_with('@') {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
