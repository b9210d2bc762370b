//! Real peers on the other side: libzmq (by pyzmq) for every socket pair, and the `zeromq` crate for the pairs it has.

#![allow(clippy::unwrap_used, clippy::expect_used)] // the helpers are tests, too

#[cfg(feature = "cli")]
mod cli_socket;
#[cfg(feature = "curve")]
mod curve;
mod ours;
mod pairs;
mod peer;
#[path = "../common/python.rs"]
mod python;
mod quirks;
mod zeromq_crate;
