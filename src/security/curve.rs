//! CURVE keys on the disk: a node's own, and who is enrolled under which name.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::ca::disk;
use super::{Identity, SecurityError};
use crate::zmtp::curve::{KeyPair, PublicKey, SecretKey};

/// Who is enrolled for CURVE: `curve.toml`, a line `NAME = "Z85 of the public key"` for each.
///
/// ```
/// use ripstop::{security::CurveNames, socket::curve_keys};
/// # let dir = tempfile::tempdir()?;
/// let path = dir.path().join("curve.toml");
/// let mut names = CurveNames::open(&path)?; // there is none yet
/// let reports = curve_keys()?;
/// names.enrol("reports", reports.public())?;
/// names.write(&path)?;
/// assert_eq!(CurveNames::open(&path)?.name_of(reports.public().as_bytes()), Some("reports"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CurveNames(BTreeMap<[u8; 32], String>);

impl CurveNames {
    /// Reads a file; one that is not there enrols nobody. Blocks.
    ///
    /// # Errors
    /// It can't be read, or is not as above, or has a key or a name twice.
    pub fn open(path: &Path) -> Result<Self, SecurityError> {
        let text = disk::get(path)?.unwrap_or_default();
        text.parse().map_err(|reason: String| disk::wrong(path, reason))
    }

    /// Under which name a public key is enrolled.
    ///
    /// ```
    /// assert_eq!(ripstop::security::CurveNames::default().name_of(&[7; 32]), None);
    /// ```
    pub fn name_of(&self, public: &[u8; 32]) -> Option<&str> {
        self.0.get(public).map(String::as_str)
    }

    /// The public key of a name.
    ///
    /// ```
    /// assert_eq!(ripstop::security::CurveNames::default().key_of("reports"), None);
    /// ```
    pub fn key_of(&self, name: &str) -> Option<PublicKey> {
        self.iter().find(|(theirs, _)| *theirs == name).map(|(_, key)| key)
    }

    /// Everybody, in no order that means anything.
    ///
    /// ```
    /// assert_eq!(ripstop::security::CurveNames::default().iter().count(), 0);
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&str, PublicKey)> {
        self.0.iter().map(|(key, name)| (name.as_str(), PublicKey::from_bytes(*key)))
    }

    /// Enrols a public key under a name, in the place of the one that the name had.
    ///
    /// # Errors
    /// It is no name (ASCII letters, digits, `-` and `_`), or the key is enrolled under another one.
    ///
    /// ```
    /// use ripstop::{security::CurveNames, zmtp::curve::PublicKey};
    /// let (mut names, key) = (CurveNames::default(), PublicKey::from_bytes([7; 32]));
    /// names.enrol("reports", key)?;
    /// assert!(names.enrol("billing", key).is_err());
    /// # Ok::<(), ripstop::security::SecurityError>(())
    /// ```
    pub fn enrol(&mut self, name: &str, key: PublicKey) -> Result<(), SecurityError> {
        Identity::curve(name)?;
        match self.name_of(key.as_bytes()) {
            Some(other) if other != name => Err(SecurityError::Setup {
                reason: format!("the key of {name} is enrolled as {other} already"),
            }),
            _ => {
                self.remove(name);
                self.0.insert(*key.as_bytes(), name.to_owned());
                Ok(())
            }
        }
    }

    /// Removes a name; false: it was not there.
    ///
    /// ```
    /// assert!(!ripstop::security::CurveNames::default().remove("reports"));
    /// ```
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|_, theirs| theirs != name);
        self.0.len() < before
    }

    /// Puts them in the place of what is in a file, in one step. Blocks.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path) -> Result<(), SecurityError> {
        let mut lines: Vec<_> = self.iter().map(|(name, key)| format!("{name} = \"{key}\"\n")).collect();
        lines.sort_unstable();
        let text = format!("# Who is enrolled for CURVE: names and public keys.\n{}", lines.concat());
        disk::put(path, text.as_bytes())
    }
}

impl FromStr for CurveNames {
    /// What is wrong, in words.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let table: BTreeMap<String, String> =
            toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let mut names = Self::default();
        for (name, key) in table {
            let key: PublicKey = key.parse().map_err(|error| format!("{name} is {error}"))?;
            names.enrol(&name, key).map_err(|error| error.to_string())?;
        }
        Ok(names)
    }
}

/// Reads a secret CURVE key: one line of Z85. `None`: there is no such file. Blocks.
///
/// # Errors
/// It can't be read, others can read it too, or it is no key.
///
/// ```
/// use ripstop::security::{make_curve_key, read_curve_key};
/// # let dir = tempfile::tempdir()?;
/// let path = dir.path().join("curve.key");
/// assert!(read_curve_key(&path)?.is_none());
/// let made = make_curve_key(&path)?;
/// assert_eq!(read_curve_key(&path)?.unwrap().public(), made.public());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_curve_key(path: &Path) -> Result<Option<KeyPair>, SecurityError> {
    let Some(text) = disk::get_secret(path)? else { return Ok(None) };
    let key: SecretKey = text
        .trim()
        .parse()
        .map_err(|error: crate::zmtp::curve::ParseKeyError| disk::wrong(path, error.to_string()))?;
    Ok(Some(key.into()))
}

/// Makes a new CURVE key and **replaces** what is in a file by its secret half, in one step; mode 0600. Blocks.
///
/// # Errors
/// The file can't be written, or the system has no random numbers.
///
/// See [`read_curve_key`] for an example.
pub fn make_curve_key(path: &Path) -> Result<KeyPair, SecurityError> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret)
        .map_err(|error| SecurityError::Setup { reason: format!("no random numbers to be had: {error}") })?;
    let keys = KeyPair::from(SecretKey::from_bytes(*secret));
    if let Some(dir) = path.parent() {
        disk::make_dir(dir)?;
    }
    let mut text = Zeroizing::new(keys.secret().expose_z85());
    text.push('\n');
    disk::put(path, text.as_bytes())?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curve.toml");
        let mut names = CurveNames::default();
        for byte in 0..20 {
            names.enrol(&format!("n-{byte}"), PublicKey::from_bytes([byte; 32])).unwrap();
        }
        names.write(&path).unwrap();
        assert_eq!(CurveNames::open(&path).unwrap(), names);
        names.enrol("n-3", PublicKey::from_bytes([99; 32])).unwrap();
        assert_eq!((names.name_of(&[3; 32]), names.name_of(&[99; 32])), (None, Some("n-3")));
        assert_eq!(names.iter().count(), 20);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let key = PublicKey::from_bytes([7; 32]);
        for (text, wanted) in [
            ("reports = \"short\"".into(), "reports is not a CURVE key: 5 bytes"),
            ("reports = 5".into(), "invalid type"),
            ("reports".into(), ""),
            (format!("\"a b\" = \"{key}\""), "letters, digits"),
            (format!("a = \"{key}\"\na = \"{key}\""), "duplicate key"),
            (format!("a = \"{key}\"\nb = \"{key}\""), "the key of b is enrolled as a already"),
        ] {
            let error = text.parse::<CurveNames>().unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn a_key_file_is_no_text_of_any_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/curve.key");
        let made = make_curve_key(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", made.secret().expose_z85()));
        disk::put(&path, b"-----BEGIN PRIVATE KEY-----\n").unwrap();
        let error = read_curve_key(&path).unwrap_err().to_string();
        assert!(error.contains("curve.key") && error.contains("40 characters of Z85"), "{error}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
            assert!(read_curve_key(&path).unwrap_err().to_string().contains("chmod 600"));
        }
    }
}
