//! The greeting: 64 bytes from each side, before any frame.
//!
//! ```text
//!    0          1..9       9     10     11     12..32       32         33..64
//!   ┌──────┬────────────┬──────┬──────┬──────┬────────────┬───────────┬─────────┐
//!   │ 0xFF │ 8 padding  │ 0x7F │ 0x03 │ 0x01 │ mechanism  │ as-server │ zeroes  │
//!   └──────┴────────────┴──────┴──────┴──────┴────────────┴───────────┴─────────┘
//!    signature                  version 3.1   zero-padded
//! ```
//! (RFC 37/ZMTP 3.1.) libzmq sends the signature alone and waits for ours, then the version, then the rest; so
//! each part is judged as soon as it has come, and ours goes out at once.

use super::ProtocolError;

/// The length of a greeting, in bytes.
pub(super) const LEN: usize = 64;

/// What a TLS peer begins with.
const TLS: u8 = 0x16;
const SIGNATURE: usize = 10;
const MECHANISM: std::ops::Range<usize> = 12..32;
const AS_SERVER: usize = 32;

/// Our minor version of ZMTP 3.
const MINOR: u8 = 1;

/// What a peer's greeting says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
    /// The peer speaks ZMTP 3.`minor`.
    pub(super) minor: u8,
    /// It is the mechanism's server. libzmq's never say so, hence only "yes" means something.
    pub(super) as_server: bool,
}

/// Our greeting. `as_server` has a meaning only for mechanisms with roles; NULL requires zero.
pub(super) fn encode(mechanism: &'static str, as_server: bool) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    (bytes[0], bytes[9]) = (0xff, 0x7f);
    (bytes[10], bytes[11]) = (3, MINOR);
    for (to, from) in bytes[MECHANISM].iter_mut().zip(mechanism.bytes()) {
        *to = from;
    }
    bytes[AS_SERVER] = u8::from(as_server);
    bytes
}

/// Reads the peer's greeting from the start of `bytes`; `None`: more bytes are needed. Whatever has come so far is
/// judged at once, because a peer that is not ZMTP 3 will wait for us and never send 64 bytes.
pub(super) fn parse(bytes: &[u8], mechanism: &'static str) -> Result<Option<Greeting>, ProtocolError> {
    // The low bit of byte 9 is what libzmq looks at: in ZMTP 1 it would be the MORE flag of an identity frame.
    if bytes.first() == Some(&TLS) {
        return Err(ProtocolError::Tls);
    }
    if bytes.first().is_some_and(|b| *b != 0xff) || bytes.get(SIGNATURE - 1).is_some_and(|b| b & 1 == 0) {
        return Err(ProtocolError::NotZmtp);
    }
    let Some(&major) = bytes.get(SIGNATURE) else { return Ok(None) };
    if major < 3 {
        // On the wire ZMTP 1.0 is revision 0 and ZMTP 2.0 revision 1 (libzmq also uses 2 in between).
        return Err(ProtocolError::UnsupportedVersion(if major == 0 { 1 } else { 2 }));
    }
    let Some(greeting) = bytes.first_chunk::<LEN>() else { return Ok(None) };
    let theirs = &greeting[MECHANISM];
    let end = theirs.iter().position(|b| *b == 0).unwrap_or(theirs.len());
    let (name, padding) = theirs.split_at(end);
    let printable = || name.escape_ascii().to_string();
    if padding.iter().any(|b| *b != 0) {
        return Err(ProtocolError::UnknownMechanism(printable()));
    }
    if name != mechanism.as_bytes() {
        return Err(match name {
            b"NULL" | b"PLAIN" | b"CURVE" | b"GSSAPI" => {
                ProtocolError::MechanismMismatch { ours: mechanism, theirs: printable() }
            }
            _ => ProtocolError::UnknownMechanism(printable()),
        });
    }
    // Later major versions have to fall back to ours, which they have seen (as libzmq assumes).
    let minor = if major == 3 { greeting[11] } else { MINOR };
    Ok(Some(Greeting { minor, as_server: greeting[AS_SERVER] == 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_is_read_only_when_whole() {
        let bytes = encode("NULL", false);
        for cut in 0..LEN {
            assert_eq!(parse(&bytes[..cut], "NULL"), Ok(None), "cut at {cut}");
        }
        assert_eq!(parse(&bytes, "NULL"), Ok(Some(Greeting { minor: 1, as_server: false })));
    }

    #[test]
    fn judged_as_early_as_possible() {
        assert_eq!(parse(b"GET / HTTP/1.1", "NULL"), Err(ProtocolError::NotZmtp));
        assert_eq!(parse(&[0x16, 3, 1], "NULL"), Err(ProtocolError::Tls));
        assert_eq!(parse(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0], "NULL"), Err(ProtocolError::NotZmtp));
        let mut old = encode("NULL", false);
        old[10] = 1;
        assert_eq!(parse(&old[..11], "NULL"), Err(ProtocolError::UnsupportedVersion(2)));
    }

    #[test]
    fn mechanisms() {
        let mismatch = ProtocolError::MechanismMismatch { ours: "NULL", theirs: "CURVE".into() };
        assert_eq!(parse(&encode("CURVE", false), "NULL"), Err(mismatch));
        assert_eq!(parse(&encode("NUL", false), "NULL"), Err(ProtocolError::UnknownMechanism("NUL".into())));
        let mut dirty = encode("NULL", false);
        dirty[30] = b'x';
        assert_eq!(parse(&dirty, "NULL"), Err(ProtocolError::UnknownMechanism("NULL".into())));
    }

    #[test]
    fn the_server_says_so() {
        let bytes = encode("CURVE", true);
        assert_eq!(bytes[12..34], *b"CURVE\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0");
        assert_eq!(parse(&bytes, "CURVE"), Ok(Some(Greeting { minor: 1, as_server: true })));
    }

    #[test]
    fn other_versions() {
        let mut bytes = encode("NULL", false);
        for (major, minor, seen) in [(3, 0, 0), (3, 9, 9), (4, 0, 1)] {
            (bytes[10], bytes[11]) = (major, minor);
            assert_eq!(parse(&bytes, "NULL"), Ok(Some(Greeting { minor: seen, as_server: false })));
        }
    }
}
