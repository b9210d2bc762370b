//! Who is there: adverts, the sources that find them, and the directory that merges them.
//!
//! A [`Source`] is one way of finding others: [`Local`] (same machine), [`StaticFile`] (`[[peers]]` in
//! `ripstop.toml`), `Mdns` (same network, feature `mdns`), [`Memory`] (same process, for tests). The [`Directory`] merges what they say.
//! An advert is a **hint**: it says where to dial, and only the hello of an authenticated link says who is really there.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ripstop::discovery::DiscoveryError> {
//! use ripstop::discovery::{Advert, Directory, Memory, NodeId};
//! use std::sync::Arc;
//!
//! let lan = Memory::new();
//! let (here, there) = (Directory::new("default", NodeId::random()), NodeId::random());
//! here.add_source(Arc::new(lan.source()));
//! let mut changed = here.changed();
//!
//! let other = lan.source();
//! let advert = Advert::new(there, "default", "pricing")
//!     .endpoint("tcp://127.0.0.1:5555".parse().unwrap())
//!     .root("pricing");
//! ripstop::discovery::Source::announce(&other, advert).await?;
//!
//! changed.changed().await.ok();
//! assert_eq!(here.by_root("pricing").len(), 1);
//! # Ok(()) }
//! ```

mod advert;
mod directory;
mod error;
mod local;
#[cfg(feature = "mdns")]
mod mdns;
mod memory;
mod static_file;
mod table;

use std::future::Future;
use std::pin::Pin;

pub use advert::{Advert, Change, Changes, Key, NodeId, ParseNodeIdError};
pub use directory::{Directory, DirectoryEvent, Instance, State};
pub use error::DiscoveryError;
pub use local::Local;
#[cfg(feature = "mdns")]
pub use mdns::Mdns;
pub use memory::{Memory, MemorySource};
pub use static_file::{Static, StaticFile};

/// A boxed future, as the methods of [`Source`] return it.
///
/// ```
/// let ready: ripstop::discovery::BoxFuture<'_, u8> = Box::pin(async { 1 });
/// # drop(ready);
/// ```
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One way of finding other nodes and of being found.
///
/// Methods are called by the [`Directory`], from its tasks; they may wait but must not block the thread. No lock is
/// held while they run. Dropping a source withdraws what it announced, as far as that is possible without waiting.
///
/// ```
/// use ripstop::discovery::{Advert, BoxFuture, Changes, DiscoveryError, Source};
///
/// /// Finds nobody.
/// struct Nobody;
///
/// impl Source for Nobody {
///     fn name(&self) -> &'static str {
///         "nobody"
///     }
///     fn announce(&self, _: Advert) -> BoxFuture<'_, Result<(), DiscoveryError>> {
///         Box::pin(async { Ok(()) })
///     }
///     fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
///         Box::pin(async { Ok(()) })
///     }
///     fn watch(&self) -> BoxFuture<'_, Result<Changes, DiscoveryError>> {
///         Box::pin(async { Ok(tokio::sync::mpsc::channel(1).1) })
///     }
/// }
/// ```
pub trait Source: Send + Sync + 'static {
    /// A short name for tables, logs and metrics: `local`, `static`, `mdns`.
    fn name(&self) -> &'static str;

    /// Makes this node visible; a second call replaces the first. Sources that only read do nothing.
    ///
    /// # Errors
    /// What kept the advert from being published. The directory tries again when it reopens the source.
    fn announce(&self, advert: Advert) -> BoxFuture<'_, Result<(), DiscoveryError>>;

    /// Takes the advert back, with a goodbye where the source has one. Without an advert it does nothing.
    ///
    /// # Errors
    /// What kept the advert from being withdrawn.
    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>>;

    /// Starts to watch. The channel first yields everything known, then changes, and may repeat itself. When it closes or
    /// falls behind the source closes it, and the directory calls `watch` again.
    ///
    /// # Errors
    /// What kept the source from watching; the directory tries again with a growing pause.
    fn watch(&self) -> BoxFuture<'_, Result<Changes, DiscoveryError>>;

    /// A hint that this peer seems dead: check now, and report [`Change::Down`] if it is. Must return at once. Does nothing
    /// where there is nothing to check.
    fn verify(&self, _key: &Key) {}
}
