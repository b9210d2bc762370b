//! Pub-sub: the lane `events`, from both sides.

pub(crate) mod durable;
pub(crate) mod publisher;
pub(crate) mod subscription;
