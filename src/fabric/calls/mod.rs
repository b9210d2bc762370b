//! Request-reply: the lane `calls`, from both sides.

pub(crate) mod client;
mod once;
pub(crate) mod pending;
pub(crate) mod server;
