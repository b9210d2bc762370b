//! Ripstop: services find each other and talk directly.
//!
//! Ripstop cloth is woven so that one torn thread does not run. A service adds this crate, names itself, and from then
//! on calls other services by name, publishes events and pushes work, straight to its peers: there is no broker, no
//! sidecar and no required server.
//!
//! ```no_run
//! use ripstop::Node;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)] struct Ask { qty: u64 }
//! #[derive(Serialize, Deserialize)] struct Quote { cents: u64 }
//!
//! #[tokio::main]
//! async fn main() -> ripstop::Result<()> {
//!     let node = Node::start("pricing").await?;            // ripstop.toml and environment, if there
//!     node.serve("pricing.quote", |ask: Ask, _ctx| async move {
//!         Ok(Quote { cents: 250 * ask.qty })
//!     }).await?;
//!     let quote: Quote = node.call("pricing.quote", &Ask { qty: 3 }).await?;   // this instance or another
//!     println!("{}", quote.cents);
//!     node.run().await                                     // until SIGTERM or SIGINT, then drain
//! }
//! ```
//!
//! # Features
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `cli` | yes | the command line `ripstop` |
//! | `curve` | yes | CURVE, ZeroMQ's encryption: for sockets, and for foreign clients of a node with keys |
//! | `durable` | yes | work that waits on disk until it is processed; the build needs a C compiler, for SQLite |
//! | `mdns` | yes | discovery on a local network by multicast DNS |
//! | `observe` | yes | an endpoint for Prometheus and for health checks |
//! | `tls` | yes | TLS 1.3 between nodes, identities and permissions; the build needs a C compiler, for aws-lc |
//! | `tower` | no | `Node::client` as a `tower::Service`, and `Node::serve_service` for one |
//! | `zeromq` | no | module `interop`: for services written on the `zeromq` crate |
//!
//! # Map
//! | module | what is in it |
//! | --- | --- |
//! | [`fabric`] | [`Node`]: typed calls, events and work between named services |
//! | [`discovery`] | who is there: sources, adverts, the directory |
//! | [`durable`] | what is owed and what was done, on disk |
//! | [`config`] | `ripstop.toml` and the environment |
//! | [`security`] | who may: identities, keys, permissions |
//! | [`observe`] | what a node says of itself: calls, queues, health |
//! | [`envelope`] | what a message says: header, body, subjects |
//! | [`socket`] | ZeroMQ-style sockets, for their own sake |
//! | [`zmtp`] | the protocol, pure: bytes and time in, messages out |
//! | [`message`], [`endpoint`] | one message; one address |

pub mod code;
pub mod config;
mod date;
pub mod discovery;
pub mod durable;
pub mod endpoint;
pub mod envelope;
mod error;
pub mod fabric;
#[cfg(feature = "zeromq")]
pub mod interop;
pub mod message;
pub mod observe;
pub mod security;
pub mod socket;
mod sync;
mod transport;
mod watch;
pub mod zmtp;

pub use code::{Code, Fault};
pub use endpoint::Endpoint;
pub use error::{Error, Result};
pub use fabric::{Context, HandlerError, Node};
pub use message::Message;
#[cfg(feature = "durable")]
pub use rusqlite;
