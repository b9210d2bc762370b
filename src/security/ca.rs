//! A certificate authority in a directory, for those who have none: `ripstop keys` is thin over it.
//!
//! Keys are ECDSA on P-256: verifying and signing are fast, every TLS library has it, and so do the hardware and cloud key
//! stores that a key may move to later, which can't be said of Ed25519. (It has no part in how traffic is sealed: TLS agrees on
//! keys by a hybrid of X25519 and ML-KEM.)

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::{Identity, SecurityError, identity};
use authority::Authority;
use index::Index;
pub use index::{Record, State};

mod authority;
pub(super) mod disk;
mod index;

const CERTIFICATES: &str = "ca.pem";
const KEY: &str = "ca.key";
const OLD_KEY: &str = "ca.old.key";
const LIST: &str = "crl.pem";
const INDEX: &str = "issued.toml";

/// A certificate authority: it says who is which service of a fabric, and whose certificate counts no more.
///
/// Certificates of any other CA do as well, as long as they name the service as `spiffe://FABRIC/service/NAME`; this one is for
/// those who have none, for tests and for demonstrations. It lives in a directory (mode 0700) of `ca.pem`, `ca.key`,
/// `crl.pem` and `issued.toml`. Whoever reads `ca.key` can be any service, so it belongs on no node.
///
/// Keys are ECDSA on the curve P-256, which all TLS libraries and key stores have.
///
/// ```
/// use ripstop::security::Ca;
/// # use std::time::{Duration, SystemTime};
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let now = SystemTime::now();
/// let mut ca = Ca::new("shop", now, 3650)?;
/// let billing = ca.issue("billing", now, now + Duration::from_secs(90 * 86_400))?;
/// billing.write(&dir.join("billing"))?; // security.dir of the node
/// ca.write(&dir.join("ca"))?;
///
/// let mut ca = Ca::open(&dir.join("ca"))?;
/// ca.revoke(billing.serial(), now)?;
/// ca.write(&dir.join("ca"))?; // its crl.pem is for all nodes
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Ca {
    index: Index,
    current: Authority,
    /// What it takes over from, in the middle of a rotation.
    old: Option<Authority>,
    list: String,
}

impl Ca {
    /// How long before its first second a new certificate is valid already, for clocks that lag: 5 minutes.
    pub const SKEW: Duration = Duration::from_secs(300);

    /// A new CA with a new key, valid from [`Ca::SKEW`] before `now` to `days` after it. Nothing is on the disk before
    /// [`Ca::write`].
    ///
    /// # Errors
    /// `fabric` is no trust domain (lower-case letters, digits, `.`, `-` and `_`), `days` is 0, or the system has no random
    /// numbers.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// let ca = ripstop::security::Ca::new("shop", SystemTime::now(), 3650)?;
    /// assert_eq!(ca.fabric(), "shop");
    /// # Ok::<(), ripstop::security::SecurityError>(())
    /// ```
    pub fn new(fabric: &str, now: SystemTime, days: u32) -> Result<Self, SecurityError> {
        identity::check_fabric(fabric).map_err(|reason| SecurityError::Setup { reason })?;
        let current = Self::authority(fabric, now, days)?;
        let index =
            Index { fabric: fabric.to_owned(), crl_number: 0, dropped: Vec::new(), certificates: Vec::new() };
        let mut ca = Self { index, current, old: None, list: String::new() };
        ca.renew_list(now)?;
        Ok(ca)
    }

    fn authority(fabric: &str, now: SystemTime, days: u32) -> Result<Authority, SecurityError> {
        if days == 0 {
            return Err(SecurityError::Setup {
                reason: "a CA of 0 days can sign nothing: write 1 or more".into(),
            });
        }
        let to = index::whole(now) + Duration::from_secs(u64::from(days) * 86_400);
        let from = now.checked_sub(Self::SKEW).unwrap_or(SystemTime::UNIX_EPOCH);
        Authority::new(fabric, index::whole(from), index::whole(to))
    }

    /// The fabric whose services it vouches for.
    ///
    /// ```
    /// # fn f(ca: &ripstop::security::Ca) {
    /// println!("{}", ca.fabric());
    /// # }
    /// ```
    pub fn fabric(&self) -> &str {
        &self.index.fabric
    }

    /// When it can sign no more.
    ///
    /// ```
    /// # fn f(ca: &ripstop::security::Ca) {
    /// assert!(ca.expires() > std::time::SystemTime::now());
    /// # }
    /// ```
    pub fn expires(&self) -> SystemTime {
        self.current.to
    }

    /// What it has issued, oldest first.
    ///
    /// ```
    /// # fn f(ca: &ripstop::security::Ca) {
    /// for certificate in ca.issued() {
    ///     println!("{} {}", certificate.service, certificate.serial);
    /// }
    /// # }
    /// ```
    pub fn issued(&self) -> &[Record] {
        &self.index.certificates
    }

    /// What nodes trust, as PEM: this CA, and in the middle of a rotation the one before it.
    ///
    /// ```
    /// # fn f(ca: &ripstop::security::Ca) {
    /// assert!(ca.ca_pem().starts_with("-----BEGIN CERTIFICATE-----"));
    /// # }
    /// ```
    pub fn ca_pem(&self) -> String {
        self.authorities().map(|authority| authority.pem.as_str()).collect()
    }

    /// The revocation list, as PEM; two of them in the middle of a rotation. It is signed anew with each revocation.
    ///
    /// ```
    /// # fn f(ca: &ripstop::security::Ca) {
    /// assert!(ca.crl_pem().starts_with("-----BEGIN X509 CRL-----"));
    /// # }
    /// ```
    pub fn crl_pem(&self) -> &str {
        &self.list
    }

    fn authorities(&self) -> impl Iterator<Item = &Authority> {
        std::iter::once(&self.current).chain(&self.old)
    }

    /// A key and a certificate for a service of the fabric, valid in the whole seconds from `from` to `to`, but not longer
    /// than the CA: nobody looks at the dates of what he trusts already. Any number of them can be valid for the same
    /// service: one for each node, or a new one for a node before the old one expires.
    ///
    /// # Errors
    /// `service` can't be a service (letters, digits, `-` and `_`), it would end before it begins, or the system has no random
    /// numbers.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// let now = SystemTime::now();
    /// let mut ca = ripstop::security::Ca::new("shop", now, 3650)?;
    /// let issued = ca.issue("billing", now, now + Duration::from_secs(86_400))?;
    /// assert_eq!(issued.identity().to_string(), "spiffe://shop/service/billing");
    /// # Ok::<(), ripstop::security::SecurityError>(())
    /// ```
    pub fn issue(
        &mut self,
        service: &str,
        from: SystemTime,
        to: SystemTime,
    ) -> Result<Issued, SecurityError> {
        let identity = Identity::service(self.fabric(), service)?;
        let (from, to) = (index::whole(from), index::whole(to).min(self.current.to));
        if to <= from {
            let reason = format!("a certificate for {service} would end before it begins");
            return Err(SecurityError::Setup { reason });
        }
        let (serial, certificate, key) = self.current.sign(&identity.to_string(), service, from, to)?;
        let record = Record {
            serial,
            service: service.to_owned(),
            from,
            to,
            issuer: self.current.serial.clone(),
            revoked: None,
        };
        self.index.certificates.push(record.clone());
        let (ca, list) = (self.ca_pem(), self.list.clone());
        Ok(Issued { identity, record, certificate, key, ca, list })
    }

    /// Revokes a certificate that it issued, by its serial number in hex, and signs the revocation list anew. A second
    /// revocation changes nothing. Nodes take it up as soon as `crl.pem` in their directory is replaced: links of the
    /// certificate are closed, and no new ones come to be.
    ///
    /// # Errors
    /// It has issued no such certificate.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # let now = SystemTime::now();
    /// # let mut ca = ripstop::security::Ca::new("shop", now, 3650)?;
    /// let issued = ca.issue("billing", now, now + Duration::from_secs(86_400))?;
    /// ca.revoke(issued.serial(), now)?;
    /// assert!(ca.issued()[0].revoked.is_some());
    /// assert!(ca.revoke("00", now).is_err());
    /// # Ok::<(), ripstop::security::SecurityError>(())
    /// ```
    pub fn revoke(&mut self, serial: &str, now: SystemTime) -> Result<(), SecurityError> {
        let wanted = |record: &&mut Record| record.serial.eq_ignore_ascii_case(serial);
        let Some(record) = self.index.certificates.iter_mut().find(wanted) else {
            return Err(SecurityError::Setup {
                reason: format!("this CA has issued no certificate {serial}"),
            });
        };
        if record.revoked.is_none() {
            record.revoked = Some(index::whole(now));
            self.renew_list(now)?;
        }
        Ok(())
    }

    /// Begins a rotation: a new key signs from now on, and nodes that have the new `ca.pem` trust both. Give it to all of
    /// them, then new certificates, then end it with [`Ca::finish_rotation`].
    ///
    /// # Errors
    /// One is under way already, or as for [`Ca::new`].
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # let now = SystemTime::now();
    /// # let mut ca = ripstop::security::Ca::new("shop", now, 3650)?;
    /// ca.rotate(now, 3650)?;
    /// assert!(ca.is_rotating() && ca.rotate(now, 3650).is_err());
    /// ca.finish_rotation(now)?;
    /// assert!(!ca.is_rotating());
    /// # Ok::<(), ripstop::security::SecurityError>(())
    /// ```
    pub fn rotate(&mut self, now: SystemTime, days: u32) -> Result<(), SecurityError> {
        if self.old.is_some() {
            return Err(SecurityError::Setup {
                reason: "a rotation is under way already: ripstop keys rotate --finish ends it".into(),
            });
        }
        let new = Self::authority(self.fabric(), now, days)?;
        self.old = Some(std::mem::replace(&mut self.current, new));
        self.renew_list(now)
    }

    /// Ends a rotation: the old CA is dropped, and with it all that it signed.
    ///
    /// # Errors
    /// None is under way. See [`Ca::rotate`] for an example.
    pub fn finish_rotation(&mut self, now: SystemTime) -> Result<(), SecurityError> {
        let Some(old) = self.old.take() else {
            return Err(SecurityError::Setup {
                reason: "no rotation is under way: ripstop keys rotate begins one".into(),
            });
        };
        self.index.drop_issuer(&old.serial);
        self.renew_list(now)
    }

    /// Whether a rotation is under way. See [`Ca::rotate`].
    pub fn is_rotating(&self) -> bool {
        self.old.is_some()
    }

    /// Whether a certificate was signed by the newest key. All were, unless a rotation is under way.
    ///
    /// ```
    /// # fn f(ca: &ripstop::security::Ca) {
    /// let of_the_old_key = ca.issued().iter().filter(|one| !ca.is_current(one));
    /// # }
    /// ```
    pub fn is_current(&self, certificate: &Record) -> bool {
        certificate.issuer == self.current.serial
    }

    /// What the CA that a rotation takes over from has signed, and what is still in use for lack of a newer one: services
    /// whose nodes would be shut out by [`Ca::finish_rotation`].
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # let now = SystemTime::now();
    /// # let day = Duration::from_secs(86_400);
    /// # let mut ca = ripstop::security::Ca::new("shop", now, 3650)?;
    /// ca.issue("billing", now, now + day)?;
    /// ca.rotate(now, 3650)?;
    /// assert_eq!(ca.left_behind(now), ["billing"]);
    /// ca.issue("billing", now, now + day)?;
    /// assert!(ca.left_behind(now).is_empty());
    /// # Ok::<(), ripstop::security::SecurityError>(())
    /// ```
    pub fn left_behind(&self, now: SystemTime) -> Vec<&str> {
        let usable = |record: &&Record| matches!(record.state(now), State::Valid | State::NotYetValid);
        let (new, old): (Vec<_>, Vec<_>) =
            self.issued().iter().filter(usable).partition(|record| record.issuer == self.current.serial);
        let mut services: Vec<_> = old.iter().map(|record| record.service.as_str()).collect();
        services.retain(|service| !new.iter().any(|record| record.service == *service));
        services.sort_unstable();
        services.dedup();
        services
    }

    fn renew_list(&mut self, now: SystemTime) -> Result<(), SecurityError> {
        self.index.crl_number += 1;
        let lists = self.authorities().map(|authority| {
            authority.revocation_list(&self.index.certificates, self.index.crl_number, index::whole(now))
        });
        self.list = lists.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Reads the CA in a directory. Blocks.
    ///
    /// # Errors
    /// There is none, a file can't be read or is broken, or others can read `ca.key`.
    ///
    /// ```
    /// let error = ripstop::security::Ca::open("/nowhere".as_ref()).unwrap_err();
    /// assert!(error.to_string().contains("ripstop keys init"));
    /// ```
    pub fn open(dir: &Path) -> Result<Self, SecurityError> {
        let file = |name: &str| dir.join(name);
        let missing = |name: &str| disk::wrong(&file(name), "is missing, although the rest of a CA is there");
        let Some(pem) = disk::get(&file(CERTIFICATES))? else {
            let reason = format!("no CA here: run ripstop keys init --dir {}", dir.display());
            return Err(disk::wrong(dir, reason));
        };
        let mut keys = Vec::new();
        for name in [KEY, OLD_KEY] {
            keys.extend(disk::get_secret(&file(name))?.map(|key| (file(name), key)));
        }
        if keys.is_empty() {
            let reason = "is missing: it is where the CA was made, and is needed to sign anything";
            return Err(disk::wrong(&file(KEY), reason));
        }
        let Some(index) = disk::get(&file(INDEX))? else { return Err(missing(INDEX)) };
        let index: Index =
            toml::from_str(&index).map_err(|error| disk::wrong(&file(INDEX), error.message().to_owned()))?;
        identity::check_fabric(&index.fabric).map_err(|reason| disk::wrong(&file(INDEX), reason))?;
        let list = disk::get(&file(LIST))?.ok_or_else(|| missing(LIST))?.to_string();

        let certificates = authority::certificates(&pem, &file(CERTIFICATES))?;
        let (current, old) = match certificates.as_slice() {
            [current] => (current, None),
            [current, old] => (current, Some(old)),
            more => {
                let reason =
                    format!("has {} certificates: a CA has one, or two while it is rotated", more.len());
                return Err(disk::wrong(&file(CERTIFICATES), reason));
            }
        };
        let authority = |certificate| Authority::read(certificate, &file(CERTIFICATES), &keys);
        let (current, old) = (authority(current)?, old.map(authority).transpose()?);
        let mut ca = Self { index, current, old, list };
        // The power may have failed after a rotation had dropped a CA, and before the index said so.
        let there: Vec<_> = ca.authorities().map(|authority| authority.serial.clone()).collect();
        ca.index.drop_all_but(&there);
        Ok(ca)
    }

    /// Writes it into a directory, which is made if it is not there. What this CA has written before is replaced; each file at
    /// once, so that it is the old one or the new one if the power fails. Blocks.
    ///
    /// # Errors
    /// Another CA is there already, or what is left of one; or a file can't be written. Of several new CAs that are written
    /// into one directory at the same time, one gets there.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use ripstop::security::Ca;
    /// # let dir = tempfile::tempdir()?;
    /// # let now = SystemTime::now();
    /// Ca::new("shop", now, 3650)?.write(dir.path())?;
    /// assert!(Ca::new("shop", now, 3650)?.write(dir.path()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&self, dir: &Path) -> Result<(), SecurityError> {
        let file = |name: &str| dir.join(name);
        disk::make_dir(dir)?;
        let taken = |name| {
            disk::wrong(
                &file(name),
                "is here already, of another CA: choose another directory, or move it away",
            )
        };
        let mut is_first = false;
        if let Some(there) = disk::get(&file(CERTIFICATES))? {
            let there = authority::certificates(&there, &file(CERTIFICATES))?;
            let ours = authority::certificates(&self.ca_pem(), &file(CERTIFICATES))?;
            if !there.iter().any(|certificate| ours.contains(certificate)) {
                return Err(disk::wrong(
                    dir,
                    "holds a CA already: choose another directory, or move it away",
                ));
            }
        } else if let Some(left) = [KEY, OLD_KEY, LIST, INDEX].into_iter().find(|name| file(name).exists()) {
            return Err(taken(left));
        } else {
            is_first = true;
        }
        let index = toml::to_string(&self.index).map_err(|error| SecurityError::Setup {
            reason: format!("the index can't be written: {error}"),
        })?;
        let index = format!("# What this CA has issued. Written by ripstop keys.\n{index}");
        // Keys before what needs them, and none is lost: when the power fails in between, each certificate that is there
        // finds its key.
        if let Some(old) = &self.old {
            disk::put(&file(OLD_KEY), old.key_pem().as_bytes())?;
        }
        let key = self.current.key_pem();
        if !is_first {
            disk::put(&file(KEY), key.as_bytes())?;
        } else if !disk::put_new(&file(KEY), key.as_bytes())? {
            return Err(taken(KEY)); // somebody was faster
        }
        disk::put(&file(CERTIFICATES), self.ca_pem().as_bytes())?;
        disk::put(&file(LIST), self.list.as_bytes())?;
        disk::put(&file(INDEX), index.as_bytes())?;
        match self.old {
            Some(_) => Ok(()),
            None => disk::remove(&file(OLD_KEY)),
        }
    }

    /// Brings `ca.pem` and `crl.pem` in the directory of a node up to date, each at once; a node that runs takes them up.
    /// Blocks.
    ///
    /// # Errors
    /// The directory has no `ca.pem`, or one with certificates that never were this CA's: they would be lost. Or a file can't
    /// be written.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # let dir = tempfile::tempdir()?;
    /// # let now = SystemTime::now();
    /// # let mut ca = ripstop::security::Ca::new("shop", now, 3650)?;
    /// let issued = ca.issue("billing", now, now + Duration::from_secs(86_400))?;
    /// issued.write(dir.path())?;
    /// ca.revoke(issued.serial(), now)?;
    /// ca.update_node(dir.path())?;
    /// assert_eq!(std::fs::read_to_string(dir.path().join("crl.pem"))?, ca.crl_pem());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn update_node(&self, dir: &Path) -> Result<(), SecurityError> {
        let file = dir.join(CERTIFICATES);
        let Some(there) = disk::get(&file)? else {
            return Err(disk::wrong(dir, "has no ca.pem, so it is not the directory of a node"));
        };
        let known = |serial: String| {
            self.index.dropped.contains(&serial) || self.authorities().any(|one| one.serial == serial)
        };
        for certificate in authority::certificates(&there, &file)? {
            if !known(authority::serial_of(&certificate, &file)?) {
                let reason = "has certificates of another CA, which would be lost: put them together by hand";
                return Err(disk::wrong(&file, reason));
            }
        }
        disk::put(&file, self.ca_pem().as_bytes())?;
        disk::put(&dir.join(LIST), self.list.as_bytes())
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("fabric", &self.fabric())
            .field("issued", &self.issued().len())
            .finish_non_exhaustive()
    }
}

/// A key and a certificate that a [`Ca`] has issued, with all else that a node needs.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// # let dir = tempfile::tempdir()?;
/// # let now = SystemTime::now();
/// let mut ca = ripstop::security::Ca::new("shop", now, 3650)?;
/// let issued = ca.issue("billing", now, now + Duration::from_secs(86_400))?;
/// assert_eq!(issued.serial().len(), 32);
/// assert!(issued.expires() > now && issued.certificate_pem().contains("CERTIFICATE"));
/// issued.write(&dir.path().join("billing"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Issued {
    identity: Identity,
    record: Record,
    certificate: String,
    key: Zeroizing<String>,
    ca: String,
    list: String,
}

impl Issued {
    /// Who has it.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its serial number, 32 hex digits.
    pub fn serial(&self) -> &str {
        &self.record.serial
    }

    /// When its validity ends.
    pub fn expires(&self) -> SystemTime {
        self.record.to
    }

    /// The certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The private key, as PEM (PKCS #8). It is wiped from memory when this is dropped.
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// Writes `ca.pem`, `crl.pem`, `node.key` and `node.pem` into a directory, which is made if it is not there: `security.dir`
    /// of a node. Files of these names are **replaced**, each at once; a node that runs takes the new ones up. Blocks.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn write(&self, dir: &Path) -> Result<(), SecurityError> {
        disk::make_dir(dir)?;
        disk::put(&dir.join(CERTIFICATES), self.ca.as_bytes())?;
        disk::put(&dir.join(LIST), self.list.as_bytes())?;
        disk::put(&dir.join("node.key"), self.key.as_bytes())?;
        disk::put(&dir.join("node.pem"), self.certificate.as_bytes())
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("record", &self.record).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
