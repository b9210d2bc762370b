//! The keys that are in force, followed as their files change.

use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::files::Places;
use super::{Keys, SecurityError};
use crate::config::SecurityConfig;
use crate::date::date;
use crate::sync::{read, write};
use crate::watch::Touches;

/// A certificate that has no longer to live is spoken of once a day.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Where a node's keys come from. [`watch`](Self::watch) reads them again when a file changes.
///
/// ```no_run
/// # fn f() -> Result<(), ripstop::security::SecurityError> {
/// use ripstop::{config::SecurityConfig, security::KeyStore};
/// let config = SecurityConfig { dir: Some("keys/pricing".into()), ..SecurityConfig::default() };
/// let store = KeyStore::open(&config, "".as_ref())?;
/// println!("{}", store.current().identity());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct KeyStore {
    places: Places,
    current: RwLock<Arc<Keys>>,
    changed: watch::Sender<u64>,
}

impl KeyStore {
    /// Reads all files. Relative paths begin at `base`, the directory of `ripstop.toml`.
    ///
    /// # Errors
    /// As [`Keys::load`]; also a certificate that has expired or was revoked, since nobody would let this node in.
    ///
    /// ```
    /// use ripstop::{config::SecurityConfig, security::KeyStore};
    /// assert!(KeyStore::open(&SecurityConfig::default(), "".as_ref()).is_err());
    /// ```
    pub fn open(config: &SecurityConfig, base: &Path) -> Result<Arc<Self>, SecurityError> {
        let places = Places::new(config, base)?;
        let keys = Keys::read(&places)?;
        keys.check_own(SystemTime::now()).map_err(|refusal| own(&places, &refusal))?;
        tell_expiry(&keys, SystemTime::now());
        Ok(Arc::new(Self { places, current: RwLock::new(Arc::new(keys)), changed: watch::Sender::new(0) }))
    }

    /// The keys in force.
    ///
    /// ```no_run
    /// # fn f(store: &ripstop::security::KeyStore) {
    /// let keys = store.current();
    /// # }
    /// ```
    pub fn current(&self) -> Arc<Keys> {
        read(&self.current).clone()
    }

    /// A number that rises with every change, after the new keys are in force.
    ///
    /// ```no_run
    /// # async fn f(store: &ripstop::security::KeyStore) {
    /// let mut changed = store.changed();
    /// while changed.changed().await.is_ok() {
    ///     println!("now {}", store.current().identity());
    /// }
    /// # }
    /// ```
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads the files again, and puts them in force if they are good and new: whether they were new. What is not good
    /// changes nothing.
    ///
    /// # Errors
    /// As [`Keys::load`]; also a certificate that is for another service, or that no CA in `ca` has issued.
    ///
    /// ```no_run
    /// # fn f(store: &ripstop::security::KeyStore) -> Result<(), ripstop::security::SecurityError> {
    /// let new = store.reload()?;
    /// # Ok(()) }
    /// ```
    pub fn reload(&self) -> Result<bool, SecurityError> {
        let (old, new) = (self.current(), Keys::read(&self.places)?);
        if new.print() == old.print() {
            return Ok(false);
        }
        if new.identity() != old.identity() {
            let reason = format!("is for {}, and this node is {}", new.identity(), old.identity());
            return Err(super::files::wrong(&self.places.cert, reason));
        }
        match new.check_own(SystemTime::now()) {
            // Whom else the lists name counts all the same; what becomes of us is up to the others.
            Err(refusal @ (super::Refusal::Revoked | super::Refusal::Expired { .. })) => {
                tracing::error!("{}", own(&self.places, &refusal));
            }
            checked => checked.map_err(|refusal| own(&self.places, &refusal))?,
        }
        *write(&self.current) = Arc::new(new);
        self.changed.send_modify(|changed| *changed += 1);
        Ok(true)
    }

    /// Follows the files: what is good is put in force within a moment, what is not is told, and the old stays. Warns
    /// once a day from 7 days before the certificate runs out, and keeps the gauge
    /// `ripstop_certificate_expires_seconds`. Goes on for as long as it is polled.
    ///
    /// ```no_run
    /// # async fn f(store: std::sync::Arc<ripstop::security::KeyStore>) {
    /// tokio::spawn(store.watch());
    /// # }
    /// ```
    pub async fn watch(self: Arc<Self>) {
        let mut touches = match Touches::of(self.places.all()) {
            Ok(touches) => touches,
            Err(error) => {
                tracing::error!(%error, "cannot watch the keys: new ones take a restart");
                return std::future::pending().await;
            }
        };
        let (mut complained, mut warned) = (None, None);
        loop {
            match self.reload() {
                Ok(new) => {
                    complained = None;
                    if new {
                        let keys = self.current();
                        tracing::info!(identity = %keys.identity(), expires = date(keys.expires()), "new keys are in force");
                        metrics::counter!("ripstop_keys_reloaded_total").increment(1);
                        warned = None;
                    }
                }
                // Once for each mistake: the files are read again now and then.
                Err(error) => {
                    let error = error.to_string();
                    if complained.as_ref() != Some(&error) {
                        tracing::error!(error, "the keys read before stay in force");
                        complained = Some(error);
                    }
                }
            }
            let now = SystemTime::now();
            let keys = self.current();
            let left = tell_expiry(&keys, now);
            if left < SOON && is_due(warned, now) {
                tracing::warn!(identity = %keys.identity(), expires = date(keys.expires()), "the certificate runs out soon");
                warned = Some(now);
            }
            touches.next().await;
        }
    }
}

fn own(places: &Places, refusal: &super::Refusal) -> SecurityError {
    let what = "nobody in the fabric would let this node in";
    super::files::wrong(&places.cert, format!("{what}: {refusal}; issue a new one: ripstop keys issue"))
}

/// The time that the certificate is still good for.
fn tell_expiry(keys: &Keys, now: SystemTime) -> Duration {
    let left = keys.expires().duration_since(now).unwrap_or_default();
    metrics::gauge!("ripstop_certificate_expires_seconds").set(left.as_secs_f64());
    left
}

fn is_due(warned: Option<SystemTime>, now: SystemTime) -> bool {
    // A clock that was set back is a reason, too.
    warned.is_none_or(|warned| now.duration_since(warned).is_ok_and(|since| since >= DAY))
}
