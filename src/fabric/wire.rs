//! Between typed values and frames: the three frames of design section 4, written and taken apart.

use std::cell::Cell;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Message,
    code::Code,
    envelope::{self, DecodeError, EncodeError, ErrorBody, Header, Kind, MAX_ROUTE, Parts, Repeated, route},
    message::{Frame, Frames},
    socket::pipe::{Pipe, Put},
};

/// READY properties by which our own nodes know each other.
pub(crate) mod property {
    pub(crate) const LANE: &str = "X-Ripstop-Lane";
    pub(crate) const FABRIC: &str = "X-Ripstop-Fabric";
    pub(crate) const NODE: &str = "X-Ripstop-Node";
    pub(crate) const SERVICE: &str = "X-Ripstop-Service";
    pub(crate) const EPOCH: &str = "X-Ripstop-Epoch";
}

/// Subjects of the node itself.
pub(crate) mod own {
    pub(crate) const HELLO: &str = "$node.hello";
    pub(crate) const GOAWAY: &str = "$node.goaway";
    pub(crate) const PING: &str = "$node.ping";
    pub(crate) const INFO: &str = "$node.info";
    pub(crate) const STATS: &str = "$node.stats";
    pub(crate) const HEALTH: &str = "$node.health";
    pub(crate) const CONFIG: &str = "$node.config";
    #[cfg(feature = "durable")]
    pub(crate) const STORE: &str = "$node.store";
}

/// What every refusal for want of permission is called.
pub(crate) const FORBIDDEN: Code = Code::new(440);

/// Decodes a body that came over this lane, within the node's limits, and counts it by reason when that fails.
pub(crate) fn decoded<T: DeserializeOwned>(
    bytes: &[u8],
    limits: envelope::Limits,
    lane: &'static str,
) -> Result<T, DecodeError> {
    envelope::decode_body_within(bytes, limits).inspect_err(|error| {
        let reason = error.reason.label();
        metrics::counter!("ripstop_bodies_refused_total", "lane" => lane, "reason" => reason).increment(1);
    })
}

/// Above this a body is handed over by reference instead of being copied into the batch.
const LARGE: usize = 16 * 1024;

thread_local! {
    /// One buffer a thread for header and body, so that typed sends allocate nothing. Taken out while in use:
    /// a `Serialize` that itself sends gets a fresh one.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// One message on its way out: routing envelope (with its empty delimiter), subject, header, body.
pub(crate) struct Outgoing<'a> {
    pub(crate) envelope: Envelope<'a>,
    pub(crate) subject: &'a str,
    pub(crate) header: &'a [u8],
    pub(crate) body: Frame<'a>,
}

/// What stands before the subject.
#[derive(Clone, Copy)]
pub(crate) enum Envelope<'a> {
    /// Nothing: lanes `events` and `work`.
    None,
    /// The empty delimiter: lane `calls` between our own nodes.
    Delimiter,
    /// The first `1` frames of a request, echoed.
    Echo(&'a Message, usize),
}

impl Envelope<'_> {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Delimiter => 1,
            Self::Echo(_, frames) => *frames,
        }
    }
}

impl Frames for Outgoing<'_> {
    fn frame_count(&self) -> usize {
        self.envelope.len() + 3
    }

    fn frame_at(&self, index: usize) -> Frame<'_> {
        let envelope = self.envelope.len();
        match (index.checked_sub(envelope), self.envelope) {
            (Some(0), _) => Frame::Slice(self.subject.as_bytes()),
            (Some(1), _) => Frame::Slice(self.header),
            (Some(_), _) => self.body,
            (None, Envelope::Echo(message, _)) => Frame::Part(message, index),
            (None, _) => Frame::Slice(&[]),
        }
    }
}

/// Writes `body` into this thread's buffer and lends it to `put`.
///
/// User code (`Serialize`) runs here, before any lock of ours is taken.
pub(crate) fn encoded<T, R>(body: &T, put: impl FnOnce(Frame<'_>) -> R) -> Result<R, EncodeError>
where
    T: Serialize + ?Sized,
{
    let mut scratch = SCRATCH.take();
    scratch.clear();
    if let Err(error) = envelope::encode_body(body, &mut scratch) {
        SCRATCH.set(scratch);
        return Err(error);
    }
    if scratch.len() > LARGE {
        // Given away as it is: the connection writes a large frame from where it lies.
        return Ok(put(Frame::Shared(&Bytes::from(scratch))));
    }
    let result = put(Frame::Slice(&scratch));
    SCRATCH.set(scratch);
    Ok(result)
}

/// An encoded header.
pub(crate) fn header(header: &Header) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(24);
    header.encode(&mut encoded);
    encoded
}

/// Puts a message of the node's own, ahead of what is queued: cancel, goaway, credit.
pub(crate) fn urgent<T: Serialize>(
    pipe: &Pipe,
    envelope: Envelope<'_>,
    subject: &str,
    kind: Header,
    body: &T,
) {
    own_message(envelope, subject, kind, body, |message| pipe.put_urgent(message));
}

/// Puts a message of the node's own behind everything that is queued.
pub(crate) fn last<T: Serialize>(pipe: &Pipe, envelope: Envelope<'_>, subject: &str, kind: Header, body: &T) {
    own_message(envelope, subject, kind, body, |message| pipe.put_last(message));
}

/// Tells one of our own nodes that it may not have what it asks for on the lanes `events` and `work`. Nothing on the wire
/// would tell a foreign one.
pub(crate) fn refused(pipe: &Pipe, subject: &str, reason: &str) {
    let ours = pipe.peer().is_some_and(|peer| peer.property(property::LANE).is_some());
    if ours {
        let body = ErrorBody::new(FORBIDDEN.to_string(), reason);
        urgent(pipe, Envelope::None, subject, Header::new(Kind::Error, 0), &body);
    }
}

fn own_message<T: Serialize>(
    envelope: Envelope<'_>,
    subject: &str,
    kind: Header,
    body: &T,
    put: impl FnOnce(&Outgoing<'_>) -> Put,
) {
    let header = header(&kind);
    let put = encoded(body, |body| put(&Outgoing { envelope, subject, header: &header, body }));
    // A closed connection needs no such word any more; the bodies are plain numbers and lists and can be written.
    if let Err(error) = put {
        tracing::error!(%error, subject, "a message of the node's own could not be written");
    }
}

/// A body in bytes of its own, for what may have to wait or to be sent twice.
pub(crate) fn body<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, EncodeError> {
    encoded(value, |body| body.to_bytes())
}

/// Takes a message of lane `calls` apart; the first value is how many frames its routing envelope has.
pub(crate) fn parse_delimited(message: &Message) -> Result<(usize, Parts<'_>), String> {
    let skip = route(message).ok_or_else(|| format!("more than {MAX_ROUTE} frames of routing envelope"))?;
    Ok((skip, Parts::read(message, skip).map_err(|error| error.to_string())?))
}

/// Takes a message of the lanes `events` and `work` apart.
pub(crate) fn parse(message: &Message) -> Result<Parts<'_>, String> {
    Parser::default().parse(message)
}

/// The same for the messages of one read.
#[derive(Default)]
pub(crate) struct Parser<'a>(Repeated<'a>);

impl<'a> Parser<'a> {
    pub(crate) fn parse(&mut self, message: &'a Message) -> Result<Parts<'a>, String> {
        self.0.read(message, 0).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_of_a_foreign_envelope() {
        let request = Message::from_frames(["hop", "", "pricing.quote", "\u{1}"]);
        let (skip, parsed) = parse_delimited(&request).unwrap();
        assert_eq!((skip, parsed.subject), (2, "pricing.quote"));
        assert!(parsed.header.is_none());
        let reply = Outgoing {
            envelope: Envelope::Echo(&request, skip),
            subject: parsed.subject,
            header: b"h",
            body: Frame::Slice(b"b"),
        };
        let frames: Vec<_> =
            (0..reply.frame_count()).map(|i| reply.frame_at(i).as_slice().to_vec()).collect();
        assert_eq!(frames, [&b"hop"[..], b"", b"pricing.quote", b"h", b"b"]);
    }

    #[test]
    fn scratch_is_reused_and_large_bodies_are_shared() {
        let small = encoded(&7u8, |body| matches!(body, Frame::Slice(_))).unwrap();
        let large = encoded(&"x".repeat(40_000), |body| matches!(body, Frame::Shared(_))).unwrap();
        assert!(small && large);
    }
}
