//! Conversations that services have over a Ripstop fabric, ready to use.
//!
//! A call asks one instance and an event asks nobody; what needs more than one message between more than two nodes is a
//! pattern. Each one is a small type over the public API of [`ripstop`]: nothing in here could not have been written by
//! its user, and a pattern that needs more has found a hole in that API.
//!
//! | pattern | conversation |
//! | --- | --- |
//! | [`Scatter`] | ask every live instance of a service, gather until a quorum or a deadline |
//!
//! `docs/patterns.md` says when to use which, when not, and what each guarantees.

mod scatter;

pub use scatter::{Gathered, Scatter, ScatterError};

/// The examples of the page are compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/patterns.md")]
struct Page;
