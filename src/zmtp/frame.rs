//! Frames: the one shape that everything after the greeting has.
//!
//! ```text
//!   ┌───────┬────────────────┬─────────┐    flags  bit 0 MORE     another frame of this message follows
//!   │ flags │ length (1 or 8)│ body …  │           bit 1 LONG     the length has 8 bytes, most significant first
//!   └───────┴────────────────┴─────────┘           bit 2 COMMAND  the body is a command, not part of a message
//!                                                  bits 3-7       must be zero
//! ```
//! (RFC 23/ZMTP, "Framing".)

use bytes::BufMut;

use super::ProtocolError;

const MORE: u8 = 1;
const LONG: u8 = 2;
pub(super) const COMMAND: u8 = 4;

/// The longest frame header, in bytes.
///
/// ```
/// assert_eq!(ripstop::zmtp::frame::MAX_HEADER, 9);
/// ```
pub const MAX_HEADER: usize = 9;

/// An encoded frame header: 2 bytes for a body of up to 255 bytes, else 9.
///
/// ```
/// let header = ripstop::zmtp::frame::header(300, false, false);
/// assert_eq!(&header[..], [2, 0, 0, 0, 0, 0, 0, 1, 44]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; MAX_HEADER],
    len: u8,
}

impl std::ops::Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The header of a frame whose body has `len` bytes. `more`: another frame of the same message follows.
///
/// ```
/// assert_eq!(&ripstop::zmtp::frame::header(5, true, false)[..], [1, 5]);
/// ```
#[inline]
pub fn header(len: usize, more: bool, command: bool) -> Header {
    let flags = u8::from(more) | u8::from(command) << 2;
    let mut bytes = [0; MAX_HEADER];
    if let Ok(short) = u8::try_from(len) {
        (bytes[0], bytes[1]) = (flags, short);
        return Header { bytes, len: 2 };
    }
    bytes[0] = flags | LONG;
    bytes[1..].copy_from_slice(&(len as u64).to_be_bytes());
    Header { bytes, len: 9 }
}

/// Appends a whole frame to `out`.
///
/// ```
/// let mut out = Vec::new();
/// ripstop::zmtp::frame::put(&mut out, false, false, b"hi");
/// assert_eq!(out, b"\x00\x02hi");
/// ```
#[inline]
pub fn put(out: &mut impl BufMut, more: bool, command: bool, body: &[u8]) {
    out.put_slice(&header(body.len(), more, command));
    out.put_slice(body);
}

/// What a frame header says. The length is only a claim until that many bytes have come.
///
/// ```
/// let head = ripstop::zmtp::frame::parse(b"\x01\x03")?.ok_or("incomplete")?;
/// assert!(head.more && head.len == 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Another frame of this message follows.
    pub more: bool,
    /// The body is a command.
    pub command: bool,
    /// Bytes of the header itself: 2 or 9.
    pub header: usize,
    /// Bytes of body announced.
    pub len: u64,
}

/// Reads a frame header from the start of `bytes`; `None`: more bytes are needed.
///
/// Errors: [`ProtocolError::BadFlags`] as soon as the first byte is wrong: a reserved bit set, or a command that
/// claims to be continued. A long header with a short length is accepted, as libzmq does.
///
/// ```
/// use ripstop::zmtp::frame;
///
/// assert_eq!(frame::parse(b"\x00")?, None);
/// assert!(frame::parse(b"\x08\x00").is_err());
/// # Ok::<(), ripstop::zmtp::ProtocolError>(())
/// ```
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, ProtocolError> {
    let Some((&flags, rest)) = bytes.split_first() else { return Ok(None) };
    let (more, command) = (flags & MORE != 0, flags & COMMAND != 0);
    if flags & !(MORE | LONG | COMMAND) != 0 || (more && command) {
        return Err(ProtocolError::BadFlags(flags));
    }
    if flags & LONG == 0 {
        return Ok(rest.first().map(|&len| Head { more, command, header: 2, len: u64::from(len) }));
    }
    Ok(rest.first_chunk().map(|len| Head { more, command, header: 9, len: u64::from_be_bytes(*len) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_headers() {
        assert_eq!(&header(0, false, false)[..], [0, 0]);
        assert_eq!(&header(255, true, false)[..], [1, 255]);
        assert_eq!(&header(256, false, true)[..], [6, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(&header(1 << 32, true, false)[..], [3, 0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn every_first_byte() {
        for flags in 0..=255u8 {
            let good = flags < 8 && flags & 5 != 5;
            assert_eq!(parse(&[flags, 0, 0, 0, 0, 0, 0, 0, 7]).is_ok(), good, "{flags}");
            assert_eq!(parse(&[flags]).is_ok(), good, "{flags}");
        }
    }

    #[test]
    fn long_form_of_a_short_length_is_read() {
        let head = parse(&[2, 0, 0, 0, 0, 0, 0, 0, 7]).unwrap();
        assert_eq!(head, Some(Head { more: false, command: false, header: 9, len: 7 }));
    }
}
