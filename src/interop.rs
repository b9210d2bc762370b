//! For services written on the `zeromq` crate (feature `zeromq`): its messages to ours and back, and the envelope for
//! its sockets.
//!
//! A `DealerSocket` or `ReqSocket` dials a node's one port and calls, a `SubSocket` subscribes, a `PushSocket` pushes,
//! a `PubSocket` publishes; see `examples/zeromq_peer.rs`. The crate speaks ZMTP 3.0, so its links have no heartbeats:
//! give each request a timeout.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeromq::ZmqMessage;

use crate::envelope::{
    DecodeError, EncodeError, ErrorBody, Header, Kind, Parts, SubjectError, check_subject, decode_body,
    encode_body, route,
};
use crate::{Code, Fault, Message};

impl From<&Message> for ZmqMessage {
    /// Shares the frames' memory.
    fn from(message: &Message) -> Self {
        let mut frames = (0..message.len()).map(|index| message.frame_bytes(index).unwrap_or_default());
        let mut converted = Self::from(frames.next().unwrap_or_default());
        frames.for_each(|frame| converted.push_back(frame));
        converted
    }
}

impl From<Message> for ZmqMessage {
    /// Shares the frames' memory.
    fn from(message: Message) -> Self {
        Self::from(&message)
    }
}

impl From<&ZmqMessage> for Message {
    /// Shares the memory of a single frame, copies several into one buffer. A `ZmqMessage` that has been emptied
    /// becomes one empty frame.
    fn from(message: &ZmqMessage) -> Self {
        match message.get(0) {
            Some(only) if message.len() == 1 => Self::from(only.clone()),
            _ => Self::from_frames(message.iter()),
        }
    }
}

impl From<ZmqMessage> for Message {
    /// Like the conversion from a reference.
    fn from(message: ZmqMessage) -> Self {
        Self::from(&message)
    }
}

/// A request for a `DealerSocket`: the delimiter, subject, header and body. `id` comes back in the answer, so that
/// several can be in flight; `timeout` travels as the deadline, for the handler's sake. (A `ReqSocket` adds the
/// delimiter itself: send it [`post`].)
///
/// # Errors
/// [`InteropError`] when the subject breaks a rule or the body can't be written.
///
/// ```
/// use std::time::Duration;
///
/// let request = ripstop::interop::request("pricing.quote", 1, Duration::from_secs(2), &3u64)?;
/// assert_eq!(request.len(), 4);
/// # Ok::<(), ripstop::interop::InteropError>(())
/// ```
pub fn request<Q: Serialize + ?Sized>(
    subject: &str,
    id: u64,
    timeout: Duration,
    body: &Q,
) -> Result<ZmqMessage, InteropError> {
    let mut header = Header::new(Kind::Call, id);
    header.fields.dl = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    let mut frame = Vec::new();
    header.encode(&mut frame);
    let mut request = post(subject, body)?;
    if let Some(body) = request.split_off(1).get(0) {
        request.push_front(bytes::Bytes::new());
        request.push_back(frame.into());
        request.push_back(body.clone());
    }
    Ok(request)
}

/// What a call came to.
///
/// ```
/// use ripstop::{envelope::ErrorBody, interop::Answer};
///
/// let refused = ErrorBody::new("RS0412", "pricing has no method pricing.qoute");
/// let answer: Answer<u64> = Answer { id: 7, subject: "pricing.qoute".into(), result: Err(refused) };
/// assert!(answer.result.is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<R> {
    /// The request's id; 0 when it had none.
    pub id: u64,
    /// The method's subject.
    pub subject: String,
    /// The reply, or why there is none.
    pub result: Result<R, ErrorBody>,
}

/// Reads what a `DealerSocket` or `ReqSocket` has received.
///
/// # Errors
/// [`InteropError`] when it isn't an answer, or its body doesn't fit `R`.
///
/// ```
/// use ripstop::{Message, interop::answer};
///
/// let received = Message::from_frames([&b""[..], b"pricing.quote", b"\x94\x01\x01\x07\x80", b"\xcd\x02\xee"]);
/// let answer = answer::<u64>(&received.into())?;
/// assert_eq!((answer.id, answer.result), (7, Ok(750)));
/// # Ok::<(), ripstop::interop::InteropError>(())
/// ```
pub fn answer<R: DeserializeOwned>(received: &ZmqMessage) -> Result<Answer<R>, InteropError> {
    let message = Message::from(received);
    let parts = Parts::read(&message, route(&message).ok_or(InteropError::NotAnAnswer)?)?;
    let header = parts.header.ok_or(InteropError::NotAnAnswer)?;
    let result = match header.kind {
        Kind::Reply => Ok(decode_body(parts.body)?),
        Kind::Error => Err(decode_body(parts.body)?),
        _ => return Err(InteropError::NotAnAnswer),
    };
    Ok(Answer { id: header.id, subject: parts.subject.to_owned(), result })
}

/// The two-frame form: an event for a `PubSocket`, work for a `PushSocket`, a request for a `ReqSocket`.
///
/// # Errors
/// [`InteropError`] when the subject breaks a rule or the body can't be written.
///
/// ```
/// let event = ripstop::interop::post("orders.created", &7u64)?;
/// assert_eq!(event.into_vec(), ["orders.created", "\u{7}"]);
/// # Ok::<(), ripstop::interop::InteropError>(())
/// ```
pub fn post<T: Serialize + ?Sized>(subject: &str, body: &T) -> Result<ZmqMessage, InteropError> {
    check_subject(subject)?;
    let mut encoded = Vec::new();
    encode_body(body, &mut encoded)?;
    let mut message = ZmqMessage::from(subject);
    message.push_back(encoded.into());
    Ok(message)
}

/// Reads what a `SubSocket` or `PullSocket` has received: its subject and body. `None` for what the node says about
/// the stream itself, such as a gap.
///
/// # Errors
/// [`InteropError`] when it isn't of that form, or its body doesn't fit `T`.
///
/// ```
/// use ripstop::interop::{posted, post};
///
/// let (subject, id) = posted::<u64>(&post("orders.created", &7u64)?)?.unwrap();
/// assert_eq!((subject.as_str(), id), ("orders.created", 7));
/// # Ok::<(), ripstop::interop::InteropError>(())
/// ```
pub fn posted<T: DeserializeOwned>(received: &ZmqMessage) -> Result<Option<(String, T)>, InteropError> {
    let message = Message::from(received);
    let parts = Parts::read(&message, 0)?;
    match parts.header.map(|header| header.kind) {
        None | Some(Kind::Event | Kind::Work) => {
            Ok(Some((parts.subject.to_owned(), decode_body(parts.body)?)))
        }
        Some(_) => Ok(None),
    }
}

/// Why a message for, or from, the `zeromq` crate's sockets couldn't be built or read.
///
/// ```
/// let error = ripstop::interop::post("orders.*", &1).unwrap_err();
/// assert_eq!(error.code().to_string(), "RS0320");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InteropError {
    /// The subject breaks a rule.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The body can't be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The message is malformed, or its body of another type.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The message is no answer to a call.
    #[error("not an answer to a call: kind reply or error, and a header, belong there")]
    NotAnAnswer,
}

impl InteropError {
    /// The stable code.
    ///
    /// ```
    /// assert_eq!(ripstop::interop::InteropError::NotAnAnswer.code().to_string(), "RS0330");
    /// ```
    pub fn code(&self) -> Code {
        match self {
            Self::Subject(error) => error.code(),
            Self::Encode(error) => error.code(),
            Self::Decode(error) => error.code(),
            Self::NotAnAnswer => Code::new(330),
        }
    }

    /// Whose fault it was.
    ///
    /// ```
    /// assert_eq!(ripstop::interop::InteropError::NotAnAnswer.fault(), ripstop::Fault::Peer);
    /// ```
    pub fn fault(&self) -> Fault {
        match self {
            Self::Subject(_) | Self::Encode(_) => Fault::Caller,
            Self::Decode(_) | Self::NotAnAnswer => Fault::Peer,
        }
    }

    /// Never: the same message fails again.
    ///
    /// ```
    /// assert!(!ripstop::interop::InteropError::NotAnAnswer.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for message in [Message::from("alone"), Message::from_frames(["", "b", ""]), Message::default()] {
            let theirs = ZmqMessage::from(&message);
            assert_eq!(theirs.len(), message.len());
            assert_eq!(Message::from(theirs), message);
        }
        let emptied = ZmqMessage::from("x").split_off(1);
        assert_eq!(Message::from(emptied), Message::default());
    }

    #[test]
    fn requests_are_what_a_node_reads() {
        let request = request("pricing.quote", 7, Duration::from_secs(2), &3u64).unwrap();
        let message = Message::from(request);
        let parts = Parts::read(&message, route(&message).unwrap()).unwrap();
        let header = parts.header.unwrap();
        assert_eq!(
            (parts.subject, header.kind, header.id, header.fields.dl),
            ("pricing.quote", Kind::Call, 7, Some(2000))
        );
        assert_eq!(parts.body, [3]);
    }

    #[test]
    fn answers_and_what_is_none() {
        let frames = |kind: Kind, body: &[u8]| {
            let mut header = Vec::new();
            Header::new(kind, 7).encode(&mut header);
            ZmqMessage::from(Message::from_frames([b"", &b"a.b"[..], &header, body]))
        };
        let mut body = Vec::new();
        encode_body(&ErrorBody::new("E7", "no"), &mut body).unwrap();
        let failed = answer::<u64>(&frames(Kind::Error, &body)).unwrap();
        assert_eq!(failed.result, Err(ErrorBody::new("E7", "no")));
        assert_eq!(answer::<u64>(&frames(Kind::Event, &[1])), Err(InteropError::NotAnAnswer));
        assert_eq!(answer::<u64>(&post("a.b", &1).unwrap()), Err(InteropError::NotAnAnswer));
        assert!(matches!(answer::<u64>(&frames(Kind::Reply, b"\xa1x")), Err(InteropError::Decode(_))));
        assert!(matches!(answer::<u64>(&ZmqMessage::from("x")), Err(InteropError::Decode(_))));

        let mut header = Vec::new();
        Header::new(Kind::Gap, 0).encode(&mut header);
        let gap = ZmqMessage::from(Message::from_frames([&b"a.b"[..], &header, &[3]]));
        assert_eq!(posted::<String>(&gap), Ok(None));
    }
}
