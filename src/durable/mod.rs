//! What is owed and what was done, on this node's own disk: no server, one file that anyone can open.
//!
//! ```text
//!   push(…).durable()          ack                     nack, the last one
//!        │                      │                        │
//!        ▼                      ▼                        ▼
//!   Journal: everything that waits becomes one transaction, and all of it is answered after one fsync
//!        │
//!        ▼
//!   Store: items (what this node owes others), letters (what could not be done), seen (what others need not do twice)
//! ```
//!
//! `Store` is the small blocking trait; `Sqlite` is what nodes use, `Memory` is for tests. Time is passed in.

mod error;
#[cfg(feature = "durable")]
mod file;
#[cfg(feature = "durable")]
mod journal;
#[cfg(all(test, feature = "durable"))]
mod memory;
#[cfg(feature = "durable")]
mod sqlite;
#[cfg(feature = "durable")]
mod store;
#[cfg(all(test, feature = "durable"))]
mod tests;

pub use error::StoreError;
#[cfg(feature = "durable")]
pub use file::{StoreCheck, StoreFile, StoreStats};
#[cfg(all(test, feature = "durable"))]
pub(crate) use memory::Memory;
#[cfg(feature = "durable")]
pub(crate) use {
    journal::Journal,
    sqlite::Sqlite,
    store::{
        Act, Depth, Doubt, Group, Id, Item, Labels, Letter, Limits, Millis, NewItem, NewLetter, RETAINED,
        Reason, ReplyKey, SeenKey, Store, Usage, Write,
    },
};
