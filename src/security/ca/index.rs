//! What a CA has issued: `issued.toml`.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The file: what certificates can't say themselves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    pub(super) fabric: String,
    /// Of the newest revocation list; each has a higher one (RFC 5280, section 5.2.3).
    pub(super) crl_number: u64,
    /// Serial numbers of CA certificates that a rotation has dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) dropped: Vec<String>,
    #[serde(default, rename = "certificate", skip_serializing_if = "Vec::is_empty")]
    pub(super) certificates: Vec<Record>,
}

impl Index {
    /// Forgets a CA certificate that nodes are to trust no more, and all that it signed.
    pub(super) fn drop_issuer(&mut self, serial: &str) {
        self.certificates.retain(|record| record.issuer != serial);
        if !self.dropped.iter().any(|dropped| dropped == serial) {
            self.dropped.push(serial.to_owned());
        }
    }

    /// The same for every CA certificate but these.
    pub(super) fn drop_all_but(&mut self, serials: &[String]) {
        while let Some(gone) = self.certificates.iter().find(|record| !serials.contains(&record.issuer)) {
            let serial = gone.issuer.clone();
            self.drop_issuer(&serial);
        }
    }
}

/// A certificate that a [`Ca`](super::Ca) has issued.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Record {
    /// Its serial number, 32 hex digits.
    pub serial: String,
    /// The service that it is for.
    pub service: String,
    /// When its validity begins.
    #[serde(with = "date")]
    pub from: SystemTime,
    /// When its validity ends.
    #[serde(with = "date")]
    pub to: SystemTime,
    /// The serial number of the CA certificate that signed it: during a rotation there are two.
    pub issuer: String,
    /// When it was revoked.
    #[serde(default, with = "maybe_date", skip_serializing_if = "Option::is_none")]
    pub revoked: Option<SystemTime>,
}

impl Record {
    /// In what state it is.
    ///
    /// ```
    /// use ripstop::security::{Ca, State};
    /// # use std::time::{Duration, SystemTime};
    /// let now = SystemTime::now();
    /// let mut ca = Ca::new("shop", now, 3650)?;
    /// ca.issue("billing", now, now + Duration::from_secs(3600))?;
    /// assert_eq!(ca.issued()[0].state(now), State::Valid);
    /// assert_eq!(ca.issued()[0].state(now + Duration::from_secs(7200)), State::Expired);
    /// # Ok::<(), ripstop::security::SecurityError>(())
    /// ```
    pub fn state(&self, now: SystemTime) -> State {
        if self.revoked.is_some() {
            State::Revoked
        } else if now > self.to {
            State::Expired
        } else if now < self.from {
            State::NotYetValid
        } else {
            State::Valid
        }
    }
}

/// Whether a certificate can be used.
///
/// ```
/// assert_eq!(ripstop::security::State::Revoked.to_string(), "revoked");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum State {
    /// Now.
    Valid,
    /// Later.
    NotYetValid,
    /// No more: its time is over.
    Expired,
    /// No more: it was revoked.
    Revoked,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Valid => "valid",
            Self::NotYetValid => "not yet valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        })
    }
}

/// 9999-12-31 23:59:59 UTC, the last date that a certificate can have (RFC 5280, section 4.1.2.5).
const LAST: u64 = 253_402_300_799;

/// Whole seconds since 1970, as far as a certificate's dates reach: earlier and later ones become the first and the last.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().min(LAST))
}

/// The same time as certificates have it.
pub(super) fn whole(time: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds(time))
}

mod date {
    use serde::de::Error;

    use super::{Deserialize, Deserializer, Serializer, SystemTime, whole};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_seconds(whole(*time)))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<SystemTime, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

mod maybe_date {
    use super::{Deserializer, Serializer, SystemTime, date};

    pub(super) fn serialize<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => date::serialize(time, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<SystemTime>, D::Error> {
        date::deserialize(from).map(Some)
    }
}
