//! Lasting keys, and their spelling: Z85 (RFC 32), 40 characters for 32 bytes, as libzmq and its tools write them.

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, Zeroizing};

use super::boxes;
use crate::{Code, Fault};

/// The public half of a [`KeyPair`]. Printed and parsed as Z85.
///
/// ```
/// use ripstop::zmtp::curve::PublicKey;
///
/// let key: PublicKey = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID".parse()?;
/// assert_eq!(key.to_string(), "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID");
/// # Ok::<(), ripstop::zmtp::curve::ParseKeyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// A key that is known as bytes.
    ///
    /// ```
    /// assert_eq!(ripstop::zmtp::curve::PublicKey::from_bytes([7; 32]).as_bytes(), &[7; 32]);
    /// ```
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key as bytes.
    ///
    /// ```
    /// # let key = ripstop::zmtp::curve::PublicKey::from_bytes([7; 32]);
    /// assert_eq!(key.as_bytes().len(), 32);
    /// ```
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        encode(&self.0).iter().try_for_each(|c| write!(f, "{}", char::from(*c)))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

/// The secret half of a [`KeyPair`]. It is overwritten when dropped, and its `Debug` shows nothing of it. Parsed as Z85.
///
/// ```
/// use ripstop::zmtp::curve::SecretKey;
///
/// let key: SecretKey = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs".parse()?;
/// assert_eq!(key.public_key().to_string(), "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID");
/// assert_eq!(format!("{key:?}"), "SecretKey(..)");
/// # Ok::<(), ripstop::zmtp::curve::ParseKeyError>(())
/// ```
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// 32 random bytes make a key: any will do, if nobody else can know them.
    /// [`curve_keys`](crate::socket::curve_keys) draws some from the operating system.
    ///
    /// ```
    /// let key = ripstop::zmtp::curve::SecretKey::from_bytes([7; 32]);
    /// ```
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// The public key that belongs to it. This takes some 20 µs: [`KeyPair`] keeps it.
    ///
    /// ```
    /// use ripstop::zmtp::curve::SecretKey;
    ///
    /// let (one, other) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
    /// assert_ne!(one.public_key(), other.public_key());
    /// ```
    pub fn public_key(&self) -> PublicKey {
        PublicKey(boxes::public(&self.0))
    }

    /// Its spelling in Z85, for a key file that nobody else can read. Danger: the text is not overwritten when dropped.
    ///
    /// ```
    /// let key = ripstop::zmtp::curve::SecretKey::from_bytes([0; 32]);
    /// assert_eq!(key.expose_z85(), "0".repeat(40));
    /// ```
    pub fn expose_z85(&self) -> String {
        Zeroizing::new(encode(&self.0)).iter().copied().map(char::from).collect()
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl FromStr for SecretKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        decode(text).map(Self)
    }
}

/// A secret key and its public key. `Debug` shows the public one.
///
/// ```
/// use ripstop::zmtp::curve::{KeyPair, SecretKey};
///
/// let keys = KeyPair::from(SecretKey::from_bytes([7; 32]));
/// assert_eq!(keys.public(), keys.secret().public_key());
/// ```
#[derive(Clone, Debug)]
pub struct KeyPair {
    pub(super) public: PublicKey,
    pub(super) secret: SecretKey,
}

impl KeyPair {
    /// To be known by others.
    ///
    /// ```
    /// # use ripstop::zmtp::curve::{KeyPair, SecretKey};
    /// # let keys = KeyPair::from(SecretKey::from_bytes([7; 32]));
    /// println!("server key: {}", keys.public());
    /// ```
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// To be known by nobody else.
    ///
    /// ```
    /// # use ripstop::zmtp::curve::{KeyPair, SecretKey};
    /// # let keys = KeyPair::from(SecretKey::from_bytes([7; 32]));
    /// let secret = keys.secret();
    /// ```
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }
}

impl From<SecretKey> for KeyPair {
    fn from(secret: SecretKey) -> Self {
        Self { public: secret.public_key(), secret }
    }
}

/// A text is not a CURVE key. It does not repeat the text, which may be a secret.
///
/// ```
/// let error = "too short".parse::<ripstop::zmtp::curve::PublicKey>().unwrap_err();
/// assert_eq!(error.to_string(), "not a CURVE key: 9 bytes instead of 40 characters of Z85");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseKeyError {
    /// Other than 40 bytes of text.
    #[error("not a CURVE key: {0} bytes instead of 40 characters of Z85")]
    Length(usize),
    /// A character that Z85 does not have, or a group that stands for more than 32 bits.
    #[error("not a CURVE key: the five characters from number {0} on are not Z85")]
    NotZ85(usize),
}

impl ParseKeyError {
    /// The stable code.
    ///
    /// ```
    /// # use ripstop::zmtp::curve::ParseKeyError;
    /// assert_eq!(ParseKeyError::Length(3).code().to_string(), "RS0061");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(61)
    }

    /// Whose fault it was.
    ///
    /// ```
    /// # use ripstop::{Fault, zmtp::curve::ParseKeyError};
    /// assert_eq!(ParseKeyError::Length(3).fault(), Fault::Config);
    /// ```
    pub fn fault(&self) -> Fault {
        Fault::Config
    }

    /// Whether trying again may help: never.
    ///
    /// ```
    /// # use ripstop::zmtp::curve::ParseKeyError;
    /// assert!(!ParseKeyError::Length(3).is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        false
    }
}

const ALPHABET: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
const LEN: usize = 40;

fn encode(bytes: &[u8; 32]) -> [u8; LEN] {
    let mut text = [0; LEN];
    for (to, from) in text.chunks_exact_mut(5).zip(bytes.as_chunks::<4>().0) {
        let mut value = u32::from_be_bytes(*from);
        for to in to.iter_mut().rev() {
            *to = ALPHABET.get((value % 85) as usize).copied().unwrap_or_default();
            value /= 85;
        }
    }
    text
}

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, ParseKeyError> {
    if text.len() != LEN {
        return Err(ParseKeyError::Length(text.len()));
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (index, (to, from)) in bytes.chunks_exact_mut(4).zip(text.as_bytes().chunks_exact(5)).enumerate() {
        let digit = |c: &u8| ALPHABET.iter().position(|known| known == c).map(|i| i as u32);
        let value = from.iter().try_fold(0u32, |value, c| value.checked_mul(85)?.checked_add(digit(c)?));
        let value = value.ok_or(ParseKeyError::NotZ85(5 * index + 1))?;
        to.copy_from_slice(&value.to_be_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From RFC 32, repeated to the length of a key.
    #[test]
    fn the_rfcs_vector() {
        let bytes = [0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b].repeat(4);
        let key = PublicKey(bytes.try_into().unwrap());
        assert_eq!(key.to_string(), "HelloWorld".repeat(4));
        assert_eq!("HelloWorld".repeat(4).parse(), Ok(key));
    }

    #[test]
    fn what_is_not_a_key() {
        let bad = |text: &str| text.parse::<PublicKey>().unwrap_err();
        assert_eq!(bad(""), ParseKeyError::Length(0));
        assert_eq!(bad(&"0".repeat(41)), ParseKeyError::Length(41));
        assert_eq!(bad(&"0".repeat(39).replace("000", "00~")), ParseKeyError::Length(39));
        assert_eq!(bad(&format!("{}~", "0".repeat(39))), ParseKeyError::NotZ85(36));
        assert_eq!(bad(&format!("{}é", "0".repeat(38))), ParseKeyError::NotZ85(36));
        assert_eq!(bad(&"#".repeat(40)), ParseKeyError::NotZ85(1)); // more than 2^32 - 1
        let most = format!("{}%nSc0", "0".repeat(35));
        assert_eq!(most.parse::<PublicKey>().unwrap().0[28..], [0xff; 4]);
        assert_eq!(bad(&format!("{}%nSc1", "0".repeat(35))), ParseKeyError::NotZ85(36));
    }

    #[test]
    fn nothing_shows_a_secret() {
        let keys = KeyPair::from(SecretKey::from_bytes([7; 32]));
        let shown = format!("{keys:?} {:#?}", keys.secret());
        assert!(!shown.contains(&keys.secret().expose_z85()) && shown.contains(&keys.public().to_string()));
        assert!(!shown.contains("7, 7") && shown.contains("SecretKey(..)"));
    }
}
