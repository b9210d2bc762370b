//! Who may: identities, the permission table, keys and certificates.
//!
//! An [`Identity`] is what a peer has **proven**: a SPIFFE ID out of a certificate, or the name under which a CURVE public key is
//! enrolled. What that identity may do is in [`Permissions`], made from `[[allow]]` in `ripstop.toml`; an [`Authoriser`] of the
//! program's own may be asked as well. What a message says of itself counts for nothing.
//!
//! ```
//! use ripstop::security::{Action, Identity, Permissions};
//!
//! let table = Permissions::default();
//! let billing: Identity = "spiffe://shop/service/billing".parse()?;
//! assert!(table.allows(&billing, Action::Call, "pricing.quote"));
//! assert!(!table.allows(&billing, Action::Publish, "pricing.changed"));
//! # Ok::<(), ripstop::security::IdentityError>(())
//! ```

mod authorise;
#[cfg(feature = "tls")]
mod ca;
#[cfg(all(feature = "tls", feature = "curve"))]
mod curve;
mod error;
#[cfg(feature = "tls")]
mod files;
mod identity;
#[cfg(feature = "tls")]
mod keys;
mod permissions;
#[cfg(feature = "tls")]
mod store;
#[cfg(feature = "tls")]
mod trust;

pub use authorise::{AuthRequest, Authoriser, BoxFuture, Verdict};
#[cfg(feature = "tls")]
pub use ca::{Ca, Issued, Record, State};
#[cfg(all(feature = "tls", feature = "curve"))]
pub use curve::{CurveNames, make_curve_key, read_curve_key};
pub use error::{Refusal, SecurityError};
pub use identity::{Identity, IdentityError};
#[cfg(feature = "tls")]
pub use keys::Keys;
#[cfg(feature = "tls")]
pub(crate) use keys::not_after;
pub use permissions::{Action, Permissions};
#[cfg(feature = "tls")]
pub use store::KeyStore;
#[cfg(all(test, unix, feature = "tls"))]
mod tests;
