//! The fabric over real TCP: nodes of one process that find each other through the source `memory`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // the helpers too are tests

mod calls;
mod common;
mod drain;
#[cfg(feature = "durable")]
mod durable;
#[cfg(feature = "durable")]
mod durable_events;
#[cfg(feature = "durable")]
mod effects;
mod events;
mod foreign;
mod observe;
mod once;
mod peers;
#[cfg(feature = "tls")]
#[path = "../common/raw.rs"]
mod raw;
mod resilience;
#[cfg(feature = "tls")]
mod security;
mod streams;
mod work;
