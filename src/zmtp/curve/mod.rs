//! The CURVE mechanism (RFC 26/CurveZMTP): both sides prove who they are, and nothing after the greeting can be read,
//! changed, repeated or reordered on the way.
//!
//! ```text
//!   client                                server
//!     HELLO     C', Box[0](C'→S)     ───▶            C, S    lasting keys
//!               ◀───  WELCOME  Box[S', cookie](S→C')  C', S'  keys of this one connection
//!     INITIATE  cookie, Box[C, vouch, metadata](C'→S')  ───▶
//!               ◀───  READY  Box[metadata](S'→C')    vouch = Box[C', S](C→S')
//!     MESSAGE   Box[flags, body]   ◀──▶   MESSAGE    one per frame
//! ```
//!
//! The server is proven by WELCOME, before anything of the client but a key of no meaning has been sent; the client
//! by the vouch in INITIATE. Keys of the connection are forgotten with it, so that what was recorded stays closed even
//! to who gets the lasting keys later.
//!
//! Randomness and keys come in as arguments, in [`Client`] and [`Server`]. Where the RFC is loose, this does as libzmq
//! does: MESSAGE travels as a data frame without flags (MORE and COMMAND are inside the box), and short nonces count
//! up by one from 1. Unlike libzmq, a nonce counts only once its box has opened, and the vouch must name the server
//! as well, as the RFC says.

mod boxes;
mod handshake;
mod keys;
mod salsa;
#[cfg(test)]
mod tests;
mod traffic;

pub use handshake::{Client, Server};
pub use keys::{KeyPair, ParseKeyError, PublicKey, SecretKey};

pub(super) use handshake::{Pending, Stage, Step};
pub(super) use traffic::{Flags, Opener};
pub(crate) use traffic::{OVERHEAD, Sealer};

/// Its name in the greeting.
pub(super) const NAME: &str = "CURVE";
