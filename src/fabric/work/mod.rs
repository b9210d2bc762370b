//! Push-pull: the lane `work`, from both sides.
//!
//! Between our own nodes a puller grants credit for each queue, and a pusher sends no more than that: nothing piles up
//! at a slow worker, and a puller that stops is noticed by the credit that does not come.

mod answer;
pub(crate) mod delivery;
#[cfg(feature = "durable")]
pub(crate) mod outbox;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod worker;
