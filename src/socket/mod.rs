//! ZeroMQ-style sockets, all async, over one engine.
//!
//! | socket | sends to | receives | talks to |
//! | --- | --- | --- | --- |
//! | [`Req`] | one peer, in turn | the answer | [`Rep`], [`Router`] |
//! | [`Rep`] | who asked | requests, in turn | [`Req`], [`Dealer`] |
//! | [`Dealer`] | one peer, in turn | all, in turn | [`Router`], [`Rep`], [`Dealer`] |
//! | [`Router`] | whom the first frame names | all, in turn | [`Dealer`], [`Req`], [`Router`] |
//! | [`Pub`] | whoever subscribed | | [`Sub`], [`XSub`] |
//! | [`XPub`] | whoever subscribed | subscriptions | [`Sub`], [`XSub`] |
//! | [`Sub`] | | what it subscribed to | [`Pub`], [`XPub`] |
//! | [`XSub`] | all (subscriptions) | what it subscribed to | [`Pub`], [`XPub`] |
//! | [`Push`] | one peer, in turn | | [`Pull`] |
//! | [`Pull`] | | all, in turn | [`Push`] |
//! | [`Pair`] | its one peer | from it | [`Pair`] |
//!
//! Connections are plain by default. With the feature `curve`,
//! [`Options::curve_server`](Options) asks who dials for ZeroMQ's CURVE, and [`ConnectOptions`] dials with it; the keys
//! are in [`zmtp`](crate::zmtp). One socket can bind and dial, each with keys of its own.
//!
//! A message's way out: `send` encodes it straight into the chosen connection's batch (`batch.rs`, behind `pipe.rs`);
//! the connection's task (`link.rs`) takes the batch and writes it in one system call. And back: one read's messages
//! are handed over at once (`inbound.rs`). `policy.rs` is the table that tells the types apart.

pub(crate) mod account;
pub(crate) mod batch;
pub(crate) mod core;
pub(crate) mod dial;
mod error;
pub(crate) mod gate;
mod handle;
mod inbound;
mod limit;
mod link;
pub(crate) mod listen;
pub(crate) mod mechanism;
pub(crate) mod monitor;
mod options;
pub(crate) mod pipe;
mod pipeline;
mod policy;
mod publish;
mod readbuf;
mod rep;
mod req;
mod router;
mod shared;
mod subscribe;
pub(crate) mod subscriptions;

pub use error::{BindError, ConnectError, NoSuchEndpoint, RecvError, SendError};
pub use limit::Limit;
pub use mechanism::ConnectOptions;
#[cfg(feature = "curve")]
pub use mechanism::curve_keys;
pub use monitor::{Event, Monitor};
pub use options::{Options, WhenFull};
pub use pipeline::{Dealer, Pair, Pull, Push};
pub use publish::{Pub, XPub};
pub use rep::Rep;
pub use req::Req;
pub use router::Router;
pub use subscribe::{Sub, XSub};
