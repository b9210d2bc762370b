//! What a node counts, and how it is seen: metrics, the endpoint for them, and what `$node` subjects say.
//!
//! ```text
//! histogram  how long things took, without a lock      series  the calls under one name
//! table      things by name, bounded                   flow    the events or items under one name
//! report     what a node says of itself                names   every metric there is
//! endpoint   GET /metrics, /healthz, /readyz
//! ```
//!
//! What answers on the wire is in `fabric`; nothing here knows of it. All that is counted goes through the
//! [`metrics`](https://docs.rs/metrics) facade, too: install a recorder **before** the first node is started, and it gets everything.
//! Where no program's own recorder is there, `[observe] listen` installs one and serves what it has.

#[cfg(feature = "observe")]
pub(crate) mod endpoint;
pub(crate) mod flow;
mod histogram;
pub(crate) mod names;
mod report;
pub(crate) mod series;
pub(crate) mod table;

pub use report::{CallStats, FlowStats, KeptStats, LinkStats, NodeHealth, NodeInfo, NodeStats};
