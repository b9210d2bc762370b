//! The keys that are in force, followed as their files change.

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::files::Places;
use super::{Keys, SecurityError};
use crate::config::SecurityConfig;
use crate::date::date;
use crate::sync::{lock, read, write};
use crate::watch::Touches;

/// A certificate that has no longer to live is spoken of once a day.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How often files are looked at that the system can't tell about.
const LOOK: Duration = Duration::from_secs(1);

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
    reminders: Mutex<Reminders>,
}

impl KeyStore {
    /// Reads all files. Relative paths begin at `base`, the directory of `ripstop.toml`.
    ///
    /// # Errors
    /// As [`Keys::load`]; also a certificate that has expired, was revoked, or is for one side of TLS only, since nobody
    /// would let this node in.
    ///
    /// ```
    /// use ripstop::{config::SecurityConfig, security::KeyStore};
    /// assert!(KeyStore::open(&SecurityConfig::default(), "".as_ref()).is_err());
    /// ```
    pub fn open(config: &SecurityConfig, base: &Path) -> Result<Arc<Self>, SecurityError> {
        let places = Places::new(config, base)?;
        let keys = Keys::read(&places)?;
        keys.check_own(SystemTime::now()).map_err(|refusal| own(&places, &refusal))?;
        let store = Self {
            places,
            current: RwLock::new(Arc::new(keys)),
            changed: watch::Sender::new(0),
            reminders: Mutex::default(),
        };
        store.remind(SystemTime::now());
        Ok(Arc::new(store))
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
    /// As [`Keys::load`]; also a certificate that is for another service, or that no CA in `ca` has issued, and lists that
    /// lack one that was there before.
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
        let (before, after) = (&old.trust, &new.trust);
        let mut trusted = after.anchors.iter().map(|anchor| &anchor.subject_public_key_info[..]);
        if trusted.any(|ca| before.lists.of.contains(ca) && !after.lists.of.contains(ca)) {
            let reason =
                "lacks the revocation list of a CA that had one: whoever is on it would be let in again";
            return Err(super::files::wrong(self.places.crl(), reason));
        }
        match new.check_own(SystemTime::now()) {
            // Whom else the lists name counts all the same; what becomes of us is up to the others.
            Err(refusal @ (super::Refusal::Revoked | super::Refusal::Expired { .. })) => {
                tracing::error!("{}", own(&self.places, &refusal));
            }
            checked => checked.map_err(|refusal| own(&self.places, &refusal))?,
        }
        *write(&self.current) = Arc::new(new);
        *lock(&self.reminders) = Reminders::default();
        self.changed.send_modify(|changed| *changed += 1);
        Ok(true)
    }

    /// Follows the files: what is good is put in force within a moment, what is not is told, and the old stays. Warns
    /// once a day from 7 days before the certificate runs out, and of a revocation list that was to be replaced by now;
    /// keeps the gauge `ripstop_certificate_expires_seconds`. Goes on for as long as it is polled; dropping it ends that.
    ///
    /// ```no_run
    /// # async fn f(store: std::sync::Arc<ripstop::security::KeyStore>) {
    /// tokio::spawn(store.watch());
    /// # }
    /// ```
    pub async fn watch(self: Arc<Self>) {
        let (mut touches, mut unwatched, mut unread) = (None, None, None);
        loop {
            if touches.is_none() {
                match Touches::of(self.places.all()) {
                    Ok(begun) => (touches, unwatched) = (Some(begun), None),
                    // The directory is away, or the system has no more watches to give.
                    Err(error) => {
                        let what = "cannot watch the keys, and so looks at them each second";
                        complain(&mut unwatched, error.to_string(), what);
                    }
                }
            }
            // After the watch has begun, so that no change falls between. A long list takes a while to read.
            let store = self.clone();
            let reloaded = tokio::task::spawn_blocking(move || store.reload()).await;
            match reloaded.map_err(|error| error.to_string()).and_then(|new| new.map_err(|e| e.to_string())) {
                Ok(new) => {
                    unread = None;
                    if new {
                        let keys = self.current();
                        tracing::info!(identity = %keys.identity(), expires = date(keys.expires()), "new keys are in force");
                        metrics::counter!("ripstop_keys_reloaded_total").increment(1);
                    }
                }
                Err(error) => complain(&mut unread, error, "the keys read before stay in force"),
            }
            self.remind(SystemTime::now());
            match &mut touches {
                Some(touches) => touches.next().await,
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Says what is due to be said at this time.
    pub(super) fn remind(&self, now: SystemTime) {
        lock(&self.reminders).look(&self.current(), now);
    }
}

/// Once for each mistake: the files are read again now and then.
fn complain(complained: &mut Option<String>, error: String, what: &str) {
    if complained.as_ref() != Some(&error) {
        tracing::error!(error, "{what}");
        *complained = Some(error);
    }
}

fn own(places: &Places, refusal: &super::Refusal) -> SecurityError {
    let what = "nobody in the fabric would let this node in";
    super::files::wrong(&places.cert, format!("{what}: {refusal}; issue a new one: ripstop keys issue"))
}

/// What is said once a day, however often it is seen: when it was said last.
#[derive(Debug, Default)]
struct Reminders {
    certificate: Option<SystemTime>,
    list: Option<SystemTime>,
    stray: Option<SystemTime>,
}

impl Reminders {
    fn look(&mut self, keys: &Keys, now: SystemTime) {
        let left = keys.expires().duration_since(now).unwrap_or_default();
        metrics::gauge!("ripstop_certificate_expires_seconds").set(left.as_secs_f64());
        let (identity, expires) = (keys.identity(), date(keys.expires()));
        if left < SOON && is_due(&mut self.certificate, now) {
            match left.is_zero() {
                true => {
                    tracing::error!(%identity, expires, "the certificate has run out: nobody lets this node in")
                }
                false => {
                    tracing::warn!(%identity, expires, "the certificate runs out soon: put a new one in its place")
                }
            }
        }
        let strays = keys.trust.lists.strays;
        if strays > 0 && is_due(&mut self.stray, now) {
            let what = "revocation lists are of no CA in `ca`: unless one of those has certified it, they shut nobody out";
            tracing::warn!(strays, "{what}");
        }
        if let Some(next) = keys.trust.lists.next_update
            && next <= now
            && is_due(&mut self.list, now)
        {
            let until = date(next);
            tracing::warn!(
                until,
                "a revocation list was to be replaced by now; it still counts, but may lack somebody"
            );
        }
    }
}

/// Whether it was not said within a day, and if so it is now.
fn is_due(said: &mut Option<SystemTime>, now: SystemTime) -> bool {
    // A clock that was set back is a reason, too.
    let due = said.is_none_or(|said| now.duration_since(said).map_or(true, |since| since >= DAY));
    if due {
        *said = Some(now);
    }
    due
}
