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
mod error;
mod identity;
pub(crate) mod permissions;

pub use authorise::{AuthRequest, Authoriser, BoxFuture, Verdict};
pub use error::{Refusal, SecurityError};
pub use identity::{Identity, IdentityError};
pub use permissions::{Action, Permissions};
#[cfg(feature = "tls")]
mod stub {
    use super::*;
    use std::sync::Arc;
    pub struct Keys;
    pub struct KeyStore;
    impl KeyStore {
        pub fn open(
            _: &crate::config::SecurityConfig,
            _: &std::path::Path,
        ) -> Result<Arc<Self>, SecurityError> {
            todo!()
        }
        pub async fn watch(self: Arc<Self>) {}
        pub fn current(&self) -> Arc<Keys> {
            Arc::new(Keys)
        }
        pub fn changed(&self) -> tokio::sync::watch::Receiver<u64> {
            unimplemented!()
        }
    }
    impl Keys {
        pub fn identity(&self) -> Option<&Identity> {
            None
        }
        pub fn server_config(&self) -> Arc<rustls::ServerConfig> {
            unimplemented!()
        }
        pub fn client_config(&self, _: Option<&str>) -> Arc<rustls::ClientConfig> {
            unimplemented!()
        }
        pub fn identify(
            &self,
            _: &[rustls::pki_types::CertificateDer<'_>],
        ) -> Result<Identity, SecurityError> {
            unimplemented!()
        }
        pub fn recheck(
            &self,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: std::time::SystemTime,
        ) -> Result<(), SecurityError> {
            Ok(())
        }
    }
}
#[cfg(feature = "tls")]
pub use stub::*;
