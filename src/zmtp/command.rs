//! Commands: what two engines say to each other between messages.
//!
//! ```text
//!   ┌──────────┬────────┬───────┐   READY      properties: name length (1), name, value length (4), value; repeated
//!   │ length(1)│  name  │ data… │   ERROR      reason length (1), reason
//!   └──────────┴────────┴───────┘   SUBSCRIBE  prefix                 (ZMTP 3.1)
//!    the body of a COMMAND frame    CANCEL     prefix                 (ZMTP 3.1)
//!                                   PING       time to live (2, tenths of a second), context (0 to 16)
//!                                   PONG       the PING's context
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::{ProtocolError, frame};

/// What a subscriber asks of a publisher, however it was put on the wire.
///
/// ```
/// use ripstop::zmtp::Command;
///
/// assert_ne!(Command::Subscribe("orders".into()), Command::Cancel("orders".into()));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Send messages that begin with this prefix. A buffer of its own, for keeping.
    Subscribe(Bytes),
    /// One subscription to this prefix less.
    Cancel(Bytes),
}

/// One command, borrowed from the frame's body.
///
/// ```
/// use ripstop::zmtp::command::Control;
///
/// let mut out = bytes::BytesMut::new();
/// Control::Pong(b"context").encode(&mut out);
/// assert_eq!(&out[..], b"\x04\x0c\x04PONGcontext");
/// assert_eq!(Control::parse(&out[2..]), Ok(Control::Pong(b"context")));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control<'a> {
    /// The handshake is done on the sender's side; its metadata, for [`properties`].
    Ready(&'a [u8]),
    /// A final refusal, and why: at most 255 bytes.
    Error(&'a [u8]),
    /// SUBSCRIBE with this prefix.
    Subscribe(&'a [u8]),
    /// CANCEL with this prefix.
    Cancel(&'a [u8]),
    /// Answer with a PONG.
    Ping {
        /// If not 0: without another sign of life for this long, in tenths of a second, the sender counts as dead.
        ttl: u16,
        /// To be echoed. More than 16 bytes are cut to 16, as libzmq does.
        context: &'a [u8],
    },
    /// The answer to a PING, with its context.
    Pong(&'a [u8]),
    /// A command of this name that we do not know: to be ignored outside the handshake.
    Unknown(&'a [u8]),
}

/// The most context of a PING that is echoed, in bytes (RFC 37).
const MAX_CONTEXT: usize = 16;

impl<'a> Control<'a> {
    /// Reads the body of a command frame.
    ///
    /// Errors: [`ProtocolError::BadCommand`] when a length inside does not agree with the body's.
    ///
    /// ```
    /// use ripstop::zmtp::command::Control;
    ///
    /// assert_eq!(Control::parse(b"\x06CANCELorders"), Ok(Control::Cancel(b"orders")));
    /// assert!(Control::parse(b"\x09PING").is_err());
    /// ```
    pub fn parse(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let (name, data) = short(body).ok_or(bad("unnamed", "its name is longer than the command"))?;
        Ok(match name {
            b"PING" => {
                let (ttl, context) = data.split_first_chunk().ok_or(bad("PING", "it has no time to live"))?;
                let context = context.get(..MAX_CONTEXT).unwrap_or(context);
                Self::Ping { ttl: u16::from_be_bytes(*ttl), context }
            }
            b"PONG" => Self::Pong(data),
            b"SUBSCRIBE" => Self::Subscribe(data),
            b"CANCEL" => Self::Cancel(data),
            b"READY" => Self::Ready(data),
            b"ERROR" => match short(data) {
                Some((reason, [])) => Self::Error(reason),
                _ => return Err(bad("ERROR", "the length of its reason is wrong")),
            },
            b"" => return Err(bad("unnamed", "its name is empty")),
            name => Self::Unknown(name),
        })
    }

    /// Appends the whole frame to `out`. An ERROR's reason is cut to 255 bytes, and so is an unknown name.
    ///
    /// ```
    /// let mut out = bytes::BytesMut::new();
    /// ripstop::zmtp::command::Control::Error(b"no").encode(&mut out);
    /// assert_eq!(&out[..], b"\x04\x09\x05ERROR\x02no");
    /// ```
    pub fn encode(&self, out: &mut BytesMut) {
        match *self {
            Self::Ready(properties) => put(out, b"READY", &[], properties),
            Self::Error(reason) => {
                let reason = reason.get(..255).unwrap_or(reason);
                put(out, b"ERROR", &[reason.len() as u8], reason);
            }
            Self::Subscribe(prefix) => put(out, b"SUBSCRIBE", &[], prefix),
            Self::Cancel(prefix) => put(out, b"CANCEL", &[], prefix),
            Self::Ping { ttl, context } => put(out, b"PING", &ttl.to_be_bytes(), context),
            Self::Pong(context) => put(out, b"PONG", &[], context),
            Self::Unknown(name) => put(out, name.get(..255).unwrap_or(name), &[], &[]),
        }
    }
}

/// The properties of a READY, in order.
///
/// Errors: [`ProtocolError::BadCommand`], in place of the property that is malformed; nothing follows it.
///
/// ```
/// use ripstop::zmtp::command::properties;
///
/// let one = properties(b"\x01k\x00\x00\x00\x01v").next();
/// assert_eq!(one, Some(Ok(("k", &b"v"[..]))));
/// ```
pub fn properties(mut metadata: &[u8]) -> impl Iterator<Item = Result<(&str, &[u8]), ProtocolError>> {
    std::iter::from_fn(move || {
        if metadata.is_empty() {
            return None;
        }
        let (property, rest) = match property(metadata) {
            Ok((name, value, rest)) => (Ok((name, value)), rest),
            Err(problem) => (Err(bad("READY", problem)), &[][..]),
        };
        metadata = rest;
        Some(property)
    })
}

fn property(metadata: &[u8]) -> Result<(&str, &[u8], &[u8]), &'static str> {
    let (name, rest) = short(metadata).ok_or("a property's name is cut off")?;
    let name = std::str::from_utf8(name).map_err(|_| "a property's name is not text")?;
    if name.is_empty() {
        return Err("a property has no name");
    }
    let cut = "a property's value is cut off";
    let (len, rest) = rest.split_first_chunk().ok_or(cut)?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or(cut)?;
    Ok((name, value, rest))
}

/// Appends one property of a READY. The caller has seen to it that the lengths fit.
pub(super) fn put_property(metadata: &mut Vec<u8>, name: &str, value: &[u8]) {
    metadata.put_u8(name.len() as u8);
    metadata.put_slice(name.as_bytes());
    metadata.put_u32(value.len() as u32);
    metadata.put_slice(value);
}

/// A [`ProtocolError::BadCommand`].
pub(super) const fn bad(command: &'static str, problem: &'static str) -> ProtocolError {
    ProtocolError::BadCommand { command, problem }
}

fn put(out: &mut BytesMut, name: &[u8], head: &[u8], data: &[u8]) {
    let len = 1 + name.len() + head.len() + data.len();
    out.extend_from_slice(&frame::header(len, false, true));
    out.put_u8(name.len() as u8);
    for part in [name, head, data] {
        out.extend_from_slice(part);
    }
}

/// Splits off what a one-byte length announces.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_round_trips() {
        let long = [b'x'; 300];
        for control in [
            Control::Ready(b"\x01k\x00\x00\x00\x01v"),
            Control::Error(b""),
            Control::Subscribe(&long),
            Control::Cancel(b""),
            Control::Ping { ttl: 60, context: b"0123456789abcdef" },
            Control::Pong(b"x"),
            Control::Unknown(b"LATER"),
        ] {
            let mut out = BytesMut::new();
            control.encode(&mut out);
            let head = frame::parse(&out).unwrap().unwrap();
            assert!(head.command && !head.more && out.len() == head.header + head.len as usize);
            assert_eq!(Control::parse(&out[head.header..]), Ok(control));
        }
    }

    #[test]
    fn long_context_is_cut() {
        let ping = Control::parse(b"\x04PING\x00\x3c0123456789abcdefghi");
        assert_eq!(ping, Ok(Control::Ping { ttl: 60, context: b"0123456789abcdef" }));
    }

    #[test]
    fn lengths_must_agree() {
        for body in
            [&b""[..], b"\0", b"\x05PING", b"\x04PING\0", b"\x05ERROR", b"\x05ERROR\x02n", b"\x05ERROR\x01no"]
        {
            assert!(matches!(Control::parse(body), Err(ProtocolError::BadCommand { .. })), "{body:?}");
        }
        for metadata in
            [&b"\0\0\0\0\0"[..], b"\x02k", b"\x01k\0\0\0", b"\x01k\0\0\0\x02v", b"\x01\xff\0\0\0\0"]
        {
            assert!(matches!(properties(metadata).next(), Some(Err(_))), "{metadata:?}");
            assert_eq!(properties(metadata).count(), 1);
        }
    }
}
