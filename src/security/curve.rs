//! A node's CURVE key, and whose keys it knows: `curve.key` and `curve.toml`.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher;
use std::io;
use std::sync::Arc;

use super::files::{Places, read_secret, wrong};
use super::{Identity, SecurityError};
use crate::zmtp::curve::{KeyPair, PublicKey, SecretKey};

/// Who may speak CURVE with us, and who we are to them.
pub(super) struct Enrolled {
    pub(super) own: Option<Arc<KeyPair>>,
    /// By public key.
    pub(super) names: HashMap<[u8; 32], Identity>,
}

impl Enrolled {
    pub(super) fn read(places: &Places, print: &mut impl Hasher) -> Result<Self, SecurityError> {
        let mut own = None;
        if let Some(path) = places.curve_key.path.as_deref() {
            match read_secret(path) {
                Ok(text) => {
                    print.write(&text);
                    let key = std::str::from_utf8(&text)
                        .ok()
                        .and_then(|text| text.trim().parse::<SecretKey>().ok());
                    let reason = "holds no CURVE secret key: 40 characters of Z85, as ripstop keys issue --curve writes them";
                    own = Some(Arc::new(KeyPair::from(key.ok_or_else(|| wrong(path, reason))?)));
                }
                Err(SecurityError::Io { error, .. })
                    if !places.curve_key.named && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let mut names = HashMap::new();
        if let Some((path, bytes)) = places.curve_names.read()? {
            print.write(&bytes);
            let text = std::str::from_utf8(&bytes).map_err(|_| wrong(path, "is no UTF-8, and so no TOML"))?;
            let table: BTreeMap<String, String> = toml::from_str(text).map_err(|error| {
                wrong(
                    path,
                    format!("should have lines such as reports = \"Z85 public key\": {}", error.message()),
                )
            })?;
            for (name, key) in table {
                let identity =
                    Identity::curve(&name).map_err(|error| wrong(path, format!("{name}: {error}")))?;
                let key: PublicKey = key.parse().map_err(|error| wrong(path, format!("{name}: {error}")))?;
                if let Some(other) = names.insert(*key.as_bytes(), identity) {
                    return Err(wrong(path, format!("{name} and {} have the same key", other.name())));
                }
            }
        }
        Ok(Self { own, names })
    }
}
