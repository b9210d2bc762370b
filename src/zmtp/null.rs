//! The NULL mechanism: no security; each side sends READY, or ERROR, once (RFC 37, "The NULL Security Mechanism").

use super::ProtocolError;
use super::command::{Control, bad};
use super::handshake::Peer;

/// Its name in the greeting.
pub(super) const NAME: &str = "NULL";

/// Reads the one command that the peer may send before traffic. `minor`: what its greeting said.
pub(super) fn command(body: &[u8], minor: u8) -> Result<Peer, ProtocolError> {
    match Control::parse(body)? {
        Control::Ready(metadata) => Peer::from_metadata(metadata, minor),
        Control::Error(reason) => Err(ProtocolError::Refused(reason.escape_ascii().to_string())),
        _ => Err(bad("handshake", "NULL expects READY or ERROR")),
    }
}
