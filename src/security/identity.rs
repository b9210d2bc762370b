//! Who a peer has proven to be.

use std::fmt;
use std::str::FromStr;

use crate::config::check_token;

/// How long a SPIFFE ID may be, in bytes (SPIFFE-ID, section 2.3).
const MAX_ID: usize = 2048;
/// How long a fabric, a service or a CURVE name may be, in bytes. For fabrics it is the specification's bound on trust domains.
const MAX_NAME: usize = 255;
const SCHEME: &str = "spiffe://";
const CURVE: &str = "curve:";

/// A proven identity: out of a certificate, or enrolled under a CURVE public key.
///
/// It is written as a SPIFFE ID, `spiffe://FABRIC/service/NAME`, or as `curve:NAME`.
///
/// ```
/// use ripstop::security::Identity;
///
/// let billing: Identity = "spiffe://shop/service/billing".parse()?;
/// assert_eq!(billing, Identity::service("shop", "billing")?);
/// assert_eq!(billing.name(), "billing");
/// assert_eq!("curve:reports".parse::<Identity>()?.to_string(), "curve:reports");
/// # Ok::<(), ripstop::security::IdentityError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Identity {
    /// A service of a fabric, by certificate. The fabric is the trust domain of the SPIFFE ID.
    Service {
        /// The fabric.
        fabric: String,
        /// The service.
        service: String,
    },
    /// An enrolled CURVE public key.
    Curve {
        /// The name under which it is enrolled in `curve.toml`.
        name: String,
    },
}

impl Identity {
    /// The identity of a service.
    ///
    /// # Errors
    /// The fabric is no trust domain, or the service no path segment and first token of subjects.
    ///
    /// ```
    /// use ripstop::security::Identity;
    /// assert_eq!(Identity::service("shop", "billing")?.to_string(), "spiffe://shop/service/billing");
    /// assert!(Identity::service("Shop", "billing").is_err());
    /// # Ok::<(), ripstop::security::IdentityError>(())
    /// ```
    pub fn service(fabric: &str, service: &str) -> Result<Self, IdentityError> {
        let whole = || format!("{SCHEME}{fabric}/service/{service}");
        check_fabric(fabric).map_err(|reason| IdentityError { text: whole(), reason })?;
        check_service(service).map_err(|reason| IdentityError { text: whole(), reason })?;
        Ok(Self::Service { fabric: fabric.to_owned(), service: service.to_owned() })
    }

    /// The identity of an enrolled CURVE key.
    ///
    /// # Errors
    /// The name is empty, longer than 255 bytes, or has other characters than ASCII letters, digits, `-` and `_`.
    ///
    /// ```
    /// assert_eq!(ripstop::security::Identity::curve("reports")?.to_string(), "curve:reports");
    /// # Ok::<(), ripstop::security::IdentityError>(())
    /// ```
    pub fn curve(name: &str) -> Result<Self, IdentityError> {
        check_token(name)
            .map_err(|reason| IdentityError { text: format!("{CURVE}{name}"), reason: reason.into() })?;
        Ok(Self::Curve { name: name.to_owned() })
    }

    /// The name of the service or of the CURVE key: the first token of what it may serve, publish and pull by default.
    ///
    /// ```
    /// assert_eq!(ripstop::security::Identity::curve("reports")?.name(), "reports");
    /// # Ok::<(), ripstop::security::IdentityError>(())
    /// ```
    pub fn name(&self) -> &str {
        match self {
            Self::Service { service, .. } => service,
            Self::Curve { name } => name,
        }
    }

    /// The fabric that the certificate was issued for; a CURVE key belongs to none.
    ///
    /// ```
    /// assert_eq!(ripstop::security::Identity::service("shop", "billing")?.fabric(), Some("shop"));
    /// # Ok::<(), ripstop::security::IdentityError>(())
    /// ```
    pub fn fabric(&self) -> Option<&str> {
        match self {
            Self::Service { fabric, .. } => Some(fabric),
            Self::Curve { .. } => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { fabric, service } => write!(f, "{SCHEME}{fabric}/service/{service}"),
            Self::Curve { name } => write!(f, "{CURVE}{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason: String| IdentityError { text: shorten(text), reason };
        if text.len() > MAX_ID {
            return Err(refuse(format!("longer than {MAX_ID} bytes")));
        }
        if let Some(name) = text.strip_prefix(CURVE) {
            return Self::curve(name);
        }
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Err(refuse("it does not begin with spiffe://".into()));
        };
        let Some((fabric, path)) = rest.split_once('/') else {
            return Err(refuse("it has no path; spiffe://FABRIC/service/NAME is wanted".into()));
        };
        let service = match path.split_once('/') {
            Some(("service", service)) => service,
            _ => return Err(refuse("its path is not /service/NAME".into())),
        };
        check_fabric(fabric).map_err(refuse)?;
        check_service(service).map_err(refuse)?;
        Ok(Self::Service { fabric: fabric.to_owned(), service: service.to_owned() })
    }
}

/// What is wrong with an identity, in words.
///
/// ```
/// use ripstop::security::Identity;
/// let error = "spiffe://shop/ns/default".parse::<Identity>().unwrap_err();
/// assert_eq!(error.to_string(), "`spiffe://shop/ns/default` is no identity: its path is not /service/NAME");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{text}` is no identity: {reason}")]
pub struct IdentityError {
    text: String,
    reason: String,
}

impl IdentityError {
    /// What alone is wrong, without the text that it is wrong in.
    ///
    /// ```
    /// let error = ripstop::security::Identity::curve("").unwrap_err();
    /// assert_eq!(error.reason(), "a name is empty");
    /// ```
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Whether this can be the fabric in a certificate: a trust domain as SPIFFE-ID, section 2.1 has it.
pub(crate) fn check_fabric(fabric: &str) -> Result<(), String> {
    if fabric.is_empty() {
        return Err("the fabric is empty".into());
    }
    if fabric.len() > MAX_NAME {
        return Err(format!("the fabric is longer than {MAX_NAME} bytes"));
    }
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    match fabric.chars().find(|c| !fine(*c)) {
        Some(c) => Err(format!(
            "{c:?} in the fabric `{}`; a certificate's fabric has lower-case letters, digits, `.`, `-` and `_`",
            shorten(fabric)
        )),
        None => Ok(()),
    }
}

/// Whether this can be the service in a certificate: a path segment (SPIFFE-ID, section 2.2) and one token of a subject, so
/// no dot.
pub(crate) fn check_service(service: &str) -> Result<(), String> {
    check_token(service).map_err(|reason| format!("{reason} (service `{}`)", shorten(service)))
}

/// What others wrote, short enough for a log line.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_spiffe_id_of_ours() {
        for (text, wanted) in [
            ("", "does not begin with spiffe://"),
            ("https://shop/service/a", "does not begin"),
            ("SPIFFE://shop/service/a", "does not begin"),
            ("spiffe://shop", "no path"),
            ("spiffe:///service/a", "the fabric is empty"),
            ("spiffe://Shop/service/a", "'S' in the fabric"),
            ("spiffe://shop:80/service/a", "':' in the fabric"),
            ("spiffe://me@shop/service/a", "'@' in the fabric"),
            ("spiffe://sh%6fp/service/a", "'%' in the fabric"),
            ("spiffe://shop/service", "not /service/NAME"),
            ("spiffe://shop/service/", "a name is empty"),
            ("spiffe://shop/service/a/", "letters, digits"),
            ("spiffe://shop/service/a/b", "letters, digits"),
            ("spiffe://shop/service/..", "letters, digits"),
            ("spiffe://shop/service/a?x=1", "letters, digits"),
            ("spiffe://shop/service/a#x", "letters, digits"),
            ("spiffe://shop/service/a.b", "letters, digits"),
            ("spiffe://shop/service/*", "letters, digits"),
            ("spiffe://shop/service/ä", "letters, digits"),
            ("spiffe://shop//service/a", "not /service/NAME"),
            ("spiffe://shop/Service/a", "not /service/NAME"),
            ("curve:", "a name is empty"),
            ("curve:a:b", "letters, digits"),
        ] {
            let error = text.parse::<Identity>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let long = format!("spiffe://shop/service/{}", "a".repeat(MAX_ID));
        let error = long.parse::<Identity>().unwrap_err().to_string();
        assert!(error.contains("longer than 2048") && error.len() < 300, "{error}");
        assert!(
            Identity::service(&"a".repeat(256), "a").is_err() && Identity::curve(&"a".repeat(256)).is_err()
        );
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(text in "(spiffe://|curve:)?[a-z0-9._%/-]{0,40}(/service/)?[A-Za-z0-9._~-]{0,12}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }

        #[test]
        fn whatever_is_written_is_read_the_same(fabric in "[a-z0-9._-]{1,40}", service in "[A-Za-z0-9_-]{1,40}") {
            let identity = Identity::service(&fabric, &service).unwrap();
            prop_assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
        }

        #[test]
        fn any_text_is_an_answer(text in "\\PC*") {
            let _ = text.parse::<Identity>();
        }
    }
}
