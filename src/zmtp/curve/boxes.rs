//! The only place that touches cryptography: X25519 and XSalsa20-Poly1305, from crates but for `salsa.rs`.
//!
//! There are three ways to the same box, for none is good for all lengths. Short ones, among them the whole handshake, are
//! Salsa20 of the crate `salsa20`; those of a few KiB that of `salsa.rs`, eight blocks at once; both with the Poly1305 of
//! `cryptoxide`, which begins at once. That of `salsabox` takes microseconds to get going, but is then the fastest.
//! Measured side by side, per box:
//!
//! | body | these | salsabox | crypto_secretbox | dryoc |
//! | --- | --- | --- | --- | --- |
//! | 64 B | 1 | 5.5 | 5.2 | 1.1 |
//! | 1 KiB | 1 | 1.9 | 2.7 | 2.0 |
//! | 16 KiB | 1 | 1 | 2.6 | 2.8 |

use cryptoxide::poly1305::Poly1305;
use salsa20::Salsa20;
use salsa20::cipher::consts::U10;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::{PublicKey, SecretKey};
use super::salsa::Stream;

/// A box is this much longer than what is in it.
pub(super) const TAG: usize = 16;
/// Up to this, and more than this, other ways are better than `salsa.rs`.
const SHORT: usize = 128;
const LONG: usize = 3072;

pub(super) type Key = Zeroizing<[u8; 32]>;

/// `u` times `secret`, or `None` when it comes to nothing, as it does for the points of low order: whoever sends one
/// would know the shared key without a secret.
pub(super) fn agree(secret: &SecretKey, public: &PublicKey) -> Option<Key> {
    let shared = Zeroizing::new(x25519_dalek::x25519(*secret.bytes(), *public.as_bytes()));
    let nothing = bool::from(shared.ct_eq(&[0; 32]));
    (!nothing).then(|| hsalsa(&shared, &[0; 16]))
}

/// The public key of `secret`.
pub(super) fn public(secret: &[u8; 32]) -> [u8; 32] {
    x25519_dalek::x25519(*secret, x25519_dalek::X25519_BASEPOINT_BYTES)
}

fn hsalsa(key: &[u8; 32], input: &[u8; 16]) -> Key {
    Zeroizing::new(salsa20::hsalsa::<U10>(&(*key).into(), &(*input).into()).into())
}

/// Encrypts `data` in place and gives its tag: NaCl's `secretbox`, or `box` with an agreed key.
pub(super) fn seal(key: &[u8; 32], nonce: &[u8; 24], data: &mut [u8]) -> [u8; TAG] {
    let (prefix, short) = halves(nonce);
    seal_short(&hsalsa(key, &prefix), &short, data)
}

/// Decrypts `data` in place if the tag is right; else it is left as it is, and `false`.
#[must_use]
pub(super) fn open(key: &[u8; 32], nonce: &[u8; 24], data: &mut [u8], tag: &[u8; TAG]) -> bool {
    let (prefix, short) = halves(nonce);
    open_short(&hsalsa(key, &prefix), &short, data, tag)
}

/// A nonce's first 16 bytes and last 8.
fn halves(nonce: &[u8; 24]) -> ([u8; 16], [u8; 8]) {
    let (mut prefix, mut short) = ([0; 16], [0; 8]);
    prefix.copy_from_slice(&nonce[..16]);
    short.copy_from_slice(&nonce[16..]);
    (prefix, short)
}

fn seal_short(subkey: &[u8; 32], nonce: &[u8; 8], data: &mut [u8]) -> [u8; TAG] {
    let (mut stream, poly) = begin(subkey, nonce);
    stream.apply_keystream(data);
    tag(&poly, data)
}

fn open_short(subkey: &[u8; 32], nonce: &[u8; 8], data: &mut [u8], expected: &[u8; TAG]) -> bool {
    let (mut stream, poly) = begin(subkey, nonce);
    let right = bool::from(tag(&poly, data).ct_eq(expected));
    if right {
        stream.apply_keystream(data);
    }
    right
}

/// The stream from its 33rd byte on; the 32 before it are the key of the tag.
fn begin(subkey: &[u8; 32], nonce: &[u8; 8]) -> (Salsa20, Key) {
    let mut stream = Salsa20::new(&(*subkey).into(), &(*nonce).into());
    let mut poly = Zeroizing::new([0; 32]);
    stream.apply_keystream(&mut *poly);
    (stream, poly)
}

fn tag(key: &[u8; 32], data: &[u8]) -> [u8; TAG] {
    let mut poly = Poly1305::new(key);
    poly.update_mut(data);
    poly.finalize().0
}

/// A key for many boxes whose nonces begin alike: the first half of XSalsa20 is done once.
pub(super) struct Many {
    prefix: [u8; 16],
    subkey: Key,
    long: salsabox::SecretBox,
}

impl Many {
    pub(super) fn new(key: &[u8; 32], prefix: &[u8; 16]) -> Self {
        Self { prefix: *prefix, subkey: hsalsa(key, prefix), long: salsabox::SecretBox::from_key(key) }
    }

    pub(super) fn seal(&self, nonce: u64, data: &mut [u8]) -> [u8; TAG] {
        match data.len() {
            0..=SHORT => seal_short(&self.subkey, &nonce.to_be_bytes(), data),
            _ if data.len() <= LONG => seal_middle(&self.subkey, &nonce.to_be_bytes(), data),
            _ => self.long.encrypt_detached(&self.nonce(nonce), data),
        }
    }

    #[must_use]
    pub(super) fn open(&self, nonce: u64, data: &mut [u8], expected: &[u8; TAG]) -> bool {
        match data.len() {
            0..=SHORT => open_short(&self.subkey, &nonce.to_be_bytes(), data, expected),
            _ if data.len() <= LONG => open_middle(&self.subkey, &nonce.to_be_bytes(), data, expected),
            _ => self.long.decrypt_detached(&self.nonce(nonce), data, expected).is_ok(),
        }
    }

    fn nonce(&self, short: u64) -> [u8; 24] {
        join(&self.prefix, &short.to_be_bytes())
    }
}

fn seal_middle(subkey: &[u8; 32], nonce: &[u8; 8], data: &mut [u8]) -> [u8; TAG] {
    let stream = Stream::new(subkey, nonce);
    let key = poly_key(&stream);
    stream.apply(data);
    tag(&key, data)
}

fn open_middle(subkey: &[u8; 32], nonce: &[u8; 8], data: &mut [u8], expected: &[u8; TAG]) -> bool {
    let stream = Stream::new(subkey, nonce);
    let right = bool::from(tag(&poly_key(&stream), data).ct_eq(expected));
    if right {
        stream.apply(data);
    }
    right
}

fn poly_key(stream: &Stream) -> Key {
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(stream.key());
    key
}

/// A nonce: a name, then what makes it unique.
pub(super) fn join<const A: usize, const B: usize>(prefix: &[u8; A], rest: &[u8; B]) -> [u8; 24] {
    const { assert!(A + B == 24) }
    let mut nonce = [0; 24];
    for (to, from) in nonce.iter_mut().zip(prefix.iter().chain(rest)) {
        *to = *from;
    }
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_make_the_same_box() {
        let (key, prefix) = ([7; 32], b"CurveZMQMESSAGEC");
        let many = Many::new(&key, prefix);
        let subkey = hsalsa(&key, prefix);
        for len in (0..320).chain(470..560).chain(980..1060).chain([1503, 1504, 1505, LONG, LONG + 1, 9000]) {
            let number = len as u64 + 1;
            let (nonce, short) = (join(prefix, &number.to_be_bytes()), number.to_be_bytes());
            let plain: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
            let (mut a, mut b, mut c) = (plain.clone(), plain.clone(), plain.clone());
            let tag = many.seal(number, &mut a);
            assert_eq!(seal(&key, &nonce, &mut b), tag);
            assert_eq!(seal_middle(&subkey, &short, &mut c), tag);
            assert!(a == b && b == c, "{len}");
            let mut wrong = tag;
            wrong[15] ^= 1;
            let bad = [many.open(number, &mut a, &wrong), many.open(number + 1, &mut a, &tag)];
            assert!(bad == [false; 2] && !open_middle(&subkey, &short, &mut c, &wrong));
            assert!(a == b && b == c, "they are left as they are");
            assert!(many.open(number, &mut a, &tag) && open(&key, &nonce, &mut b, &tag));
            assert!(open_middle(&subkey, &short, &mut c, &tag) && a == plain && b == plain && c == plain);
        }
    }

    /// The vector of NaCl's own tests (`tests/secretbox.c`).
    #[test]
    fn nacls_vector() {
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = bytes("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37").try_into().unwrap();
        let plain = bytes(concat!(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c6129",
            "6cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde",
            "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705",
        ));
        let sealed = bytes(concat!(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a",
            "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae",
            "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74",
            "e355a5",
        ));
        let mut content = plain.clone();
        let tag = seal(&key, &nonce, &mut content);
        assert!(tag == sealed[..TAG] && content == sealed[TAG..]);
        assert!(open(&key, &nonce, &mut content, &tag) && content == plain);
    }

    /// The points of order 1, 2, 4 and 8 and their other spellings, as RFC 7748 warns of them.
    #[test]
    fn low_order_points_agree_on_nothing() {
        let secret = SecretKey::from_bytes([9; 32]);
        assert!(agree(&secret, &secret.public_key()).is_some());
        for point in LOW_ORDER {
            for top in [0, 0x80] {
                let mut point = hex(point);
                point[31] |= top; // which X25519 does not look at
                assert!(agree(&secret, &PublicKey::from_bytes(point)).is_none(), "{point:?}");
            }
        }
    }

    fn hex(text: &str) -> [u8; 32] {
        bytes(text).try_into().unwrap()
    }

    fn bytes(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    const LOW_ORDER: [&str; 7] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
}
