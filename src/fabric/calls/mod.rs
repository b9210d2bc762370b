//! Request-reply: the lane `calls`, from both sides.

pub(crate) mod client;
pub(crate) mod fallback;
mod once;
mod outcome;
pub(crate) mod pending;
pub(crate) mod probe;
pub(crate) mod server;
#[cfg(feature = "tower")]
pub(crate) mod service;
pub(crate) mod stream;
