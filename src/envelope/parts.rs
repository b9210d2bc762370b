//! From the frames of a message to subject, header and body.

use crate::Message;

use super::error::{DecodeError, DecodeReason};
use super::header::Header;
use super::subject;

/// How many frames a routing envelope may have in front of its empty delimiter.
///
/// ```
/// assert_eq!(ripstop::envelope::MAX_ROUTE, 8);
/// ```
pub const MAX_ROUTE: usize = 8;

/// How many frames at the front of a message on the lane `calls` are routing envelope, which is everything through
/// the first empty frame, and is echoed in front of the answer. 0 when there is none, as from a plain DEALER:
/// subject, header and body are never empty. `None` when more than 8 frames come before the empty one.
///
/// ```
/// use ripstop::{Message, envelope::route};
///
/// assert_eq!(route(&Message::from_frames(["", "pricing.quote", "body"])), Some(1)); // from a REQ
/// assert_eq!(route(&Message::from_frames(["pricing.quote", "body"])), Some(0)); // from a DEALER
/// ```
pub fn route(message: &Message) -> Option<usize> {
    match message.frames().position(<[u8]>::is_empty) {
        None => Some(0),
        Some(empty) if empty <= MAX_ROUTE => Some(empty + 1),
        Some(_) => None,
    }
}

/// The two or three frames behind the routing envelope, borrowed from the message.
///
/// ```
/// use ripstop::{Message, envelope::Parts};
///
/// let message = Message::from_frames([&b""[..], b"pricing.quote", b"\x81\xa3qty\x03"]);
/// let parts = Parts::read(&message, 1)?;
/// assert_eq!(parts.subject, "pricing.quote");
/// assert!(parts.header.is_none()); // two frames: the kind follows from the lane
/// # Ok::<(), ripstop::envelope::DecodeError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts<'a> {
    /// Checked: a well-formed subject, `$` in front allowed.
    pub subject: &'a str,
    /// `None` in the two-frame form.
    pub header: Option<Header>,
    /// Not decoded, not empty.
    pub body: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Reads the frames from `skip` on; see [`route`].
    ///
    /// # Errors
    /// [`DecodeError`] when they are not two or three, or subject or header are malformed, or the body is empty.
    ///
    /// ```
    /// use ripstop::{Message, envelope::Parts};
    ///
    /// let error = Parts::read(&Message::from("alone"), 0).unwrap_err();
    /// assert!(error.to_string().starts_with("message: 1 frames"));
    /// ```
    pub fn read(message: &'a Message, skip: usize) -> Result<Self, DecodeError> {
        Repeated::default().read(message, skip)
    }
}

/// Reads messages that have much in common, as those of one read have: what is the same as in the one before is not
/// checked again.
#[derive(Default)]
pub(crate) struct Repeated<'a> {
    subject: Option<&'a str>,
    header: Option<(&'a [u8], Header)>,
}

impl<'a> Repeated<'a> {
    /// As [`Parts::read`].
    pub(crate) fn read(&mut self, message: &'a Message, skip: usize) -> Result<Parts<'a>, DecodeError> {
        // One walk over the frames: finding one by its number begins at the first.
        let mut frames = message.frames().skip(skip);
        let (subject, header, body) = match (frames.next(), frames.next(), frames.next(), frames.next()) {
            (Some(subject), Some(body), None, None) => (subject, None, body),
            (Some(subject), Some(header), Some(body), None) => (subject, Some(self.header(header)?), body),
            _ => {
                let count = message.len().saturating_sub(skip);
                return Err(DecodeError::new("message", None, DecodeReason::Frames(count)));
            }
        };
        let subject = self.subject(subject)?;
        if body.is_empty() {
            return Err(DecodeError::new("body", None, DecodeReason::Empty));
        }
        Ok(Parts { subject, header, body })
    }

    fn header(&mut self, bytes: &'a [u8]) -> Result<Header, DecodeError> {
        if let Some((before, header)) = &self.header
            && *before == bytes
        {
            return Ok(header.clone());
        }
        let header = Header::decode(bytes)?;
        self.header = Some((bytes, header.clone()));
        Ok(header)
    }

    fn subject(&mut self, bytes: &'a [u8]) -> Result<&'a str, DecodeError> {
        if let Some(before) = self.subject
            && before.as_bytes() == bytes
        {
            return Ok(before);
        }
        let subject = std::str::from_utf8(bytes)
            .map_err(|error| DecodeError::new("subject", error.valid_up_to(), DecodeReason::NotUtf8))?;
        if let Some(problem) = subject::problem(subject) {
            return Err(DecodeError::new("subject", None, DecodeReason::Subject(problem)));
        }
        self.subject = Some(subject);
        Ok(subject)
    }
}
