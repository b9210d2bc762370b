//! What keeps one service's trouble its own, on the way of a call, always in this order:
//!
//! ```text
//! deadline ─▶ bulkhead ─▶ retry (budget) ─▶ balance ─▶ ejection ─▶ link
//! ```
//!
//! The rules are pure, time and chance passed in; `calls::client` acts on them.

pub(crate) mod bucket;
pub(crate) mod budget;
pub(crate) mod bulkhead;
pub(crate) mod ejection;
pub(crate) mod follow;
pub(crate) mod policy;
pub(crate) mod rates;
pub(crate) mod retry;
