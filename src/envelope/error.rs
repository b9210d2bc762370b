//! What can be wrong with a subject, a header or a body, and where.

use std::fmt;

use crate::{Code, Fault};

/// A value could not be written as MessagePack. Nothing of it remains in the buffer.
///
/// ```
/// use ripstop::envelope::encode_body;
/// use std::cell::RefCell;
///
/// let cell = RefCell::new(1);
/// let _held = cell.borrow_mut(); // serde refuses a cell that is borrowed
/// let error = encode_body(&cell, &mut Vec::new()).unwrap_err();
/// assert_eq!(error.code().to_string(), "RS0300");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The type's own `Serialize` refused, or serde has no way to write it.
    #[error("cannot be written as MessagePack: {0}")]
    Unserializable(String),
    /// Nested deeper than a receiver would accept.
    #[error("nested deeper than {limit} levels, which no receiver accepts")]
    TooDeep {
        /// The most levels that are allowed.
        limit: usize,
    },
}

impl EncodeError {
    /// The stable code.
    ///
    /// ```
    /// let error = ripstop::envelope::EncodeError::TooDeep { limit: 64 };
    /// assert_eq!(error.code().to_string(), "RS0301");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(match self {
            Self::Unserializable(_) => 300,
            Self::TooDeep { .. } => 301,
        })
    }

    /// Always the caller's: it chose the value.
    ///
    /// ```
    /// let error = ripstop::envelope::EncodeError::TooDeep { limit: 64 };
    /// assert_eq!(error.fault(), ripstop::Fault::Caller);
    /// ```
    pub fn fault(&self) -> Fault {
        Fault::Caller
    }

    /// Never: the same value fails again.
    ///
    /// ```
    /// assert!(!ripstop::envelope::EncodeError::TooDeep { limit: 64 }.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// Bytes that are not what they should be: where, and why.
///
/// ```
/// #[derive(serde::Deserialize, Debug)]
/// struct Order {
///     #[allow(dead_code)]
///     qty: u64,
/// }
///
/// let bytes = b"\x92\x81\xa3qty\x03\x80"; // [{"qty": 3}, {}]
/// let error = ripstop::envelope::decode_body::<Vec<Order>>(bytes).unwrap_err();
/// assert_eq!(error.path, "[1].qty");
/// assert_eq!(error.to_string(), "[1].qty: missing field `qty`");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodeError {
    /// Where in the value, such as `items[3].qty`; for a header `header.id` or `header.fields.dl`; empty for the whole.
    pub path: String,
    /// The byte in the frame at which it went wrong, counted from 0, when known.
    pub offset: Option<usize>,
    /// What is wrong.
    pub reason: DecodeReason,
}

/// What is wrong with the bytes.
///
/// ```
/// use ripstop::envelope::{DecodeReason, Limits, check};
///
/// let reason = check(&[0x92, 0x01], Limits::default()).unwrap_err().reason;
/// assert_eq!(reason, DecodeReason::ClaimsTooMuch { claimed: 2, remaining: 1 });
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeReason {
    /// The frame is empty, or missing.
    #[error("empty, where a value belongs")]
    Empty,
    /// The bytes end inside a value.
    #[error("ends inside a value")]
    Truncated,
    /// An array, map, string or byte string claims more than the bytes that are left could hold.
    #[error("claims {claimed} entries or bytes with only {remaining} bytes left")]
    ClaimsTooMuch {
        /// What the length says.
        claimed: u64,
        /// The bytes behind it.
        remaining: usize,
    },
    /// Bytes behind the value.
    #[error("{0} bytes too many behind the value")]
    Trailing(usize),
    /// The byte 0xc1, which MessagePack never uses.
    #[error("not MessagePack (byte 0xc1)")]
    NotMessagePack,
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8")]
    NotUtf8,
    /// Nested too deep.
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// The most levels that are allowed.
        limit: usize,
    },
    /// More values than allowed.
    #[error("more than {limit} values")]
    TooMany {
        /// The most values that are allowed.
        limit: usize,
    },
    /// Longer than allowed.
    #[error("{length} bytes, more than the {limit} allowed")]
    TooLong {
        /// How long it is, in bytes.
        length: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// Another type than the one that belongs here.
    #[error("expected {expected}")]
    Expected {
        /// What belongs here.
        expected: &'static str,
    },
    /// The header is of a version that this release doesn't speak.
    #[error("header version {0}; this release speaks version 1")]
    Version(u64),
    /// A kind that this release doesn't know.
    #[error("unknown kind {0}")]
    Kind(u64),
    /// The message has the wrong number of frames behind its routing envelope.
    #[error("{0} frames, where subject and body, or subject, header and body belong")]
    Frames(usize),
    /// The subject breaks a rule.
    #[error(transparent)]
    Subject(SubjectProblem),
    /// Well-formed, but not of the type that was asked for; serde's words.
    #[error("{0}")]
    Mismatch(String),
}

impl DecodeReason {
    /// A short label that never changes: the `reason` of `ripstop_bodies_refused_total`. One of `malformed`,
    /// `claims-too-much`, `too-deep`, `too-many`, `too-long`, `mismatch` and `version`.
    ///
    /// ```
    /// use ripstop::envelope::DecodeReason;
    ///
    /// assert_eq!(DecodeReason::TooDeep { limit: 64 }.label(), "too-deep");
    /// ```
    pub fn label(&self) -> &'static str {
        match self {
            Self::Empty
            | Self::Truncated
            | Self::Trailing(_)
            | Self::NotMessagePack
            | Self::NotUtf8
            | Self::Frames(_)
            | Self::Subject(_) => "malformed",
            Self::ClaimsTooMuch { .. } => "claims-too-much",
            Self::TooDeep { .. } => "too-deep",
            Self::TooMany { .. } => "too-many",
            Self::TooLong { .. } => "too-long",
            Self::Expected { .. } | Self::Mismatch(_) => "mismatch",
            Self::Version(_) | Self::Kind(_) => "version",
        }
    }
}

impl DecodeError {
    pub(crate) fn new(
        path: impl Into<String>,
        offset: impl Into<Option<usize>>,
        reason: DecodeReason,
    ) -> Self {
        Self { path: path.into(), offset: offset.into(), reason }
    }

    /// The stable code: RS0310 malformed, RS0311 over a limit, RS0312 another type, RS0313 version or kind not known.
    ///
    /// ```
    /// let error = ripstop::envelope::decode_body::<u8>(&[]).unwrap_err();
    /// assert_eq!(error.code().to_string(), "RS0310");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(match self.reason {
            DecodeReason::Empty
            | DecodeReason::Truncated
            | DecodeReason::ClaimsTooMuch { .. }
            | DecodeReason::Trailing(_)
            | DecodeReason::NotMessagePack
            | DecodeReason::NotUtf8
            | DecodeReason::Frames(_)
            | DecodeReason::Subject(_) => 310,
            DecodeReason::TooDeep { .. } | DecodeReason::TooMany { .. } | DecodeReason::TooLong { .. } => 311,
            DecodeReason::Expected { .. } | DecodeReason::Mismatch(_) => 312,
            DecodeReason::Version(_) | DecodeReason::Kind(_) => 313,
        })
    }

    /// Always the peer's: it chose the bytes.
    ///
    /// ```
    /// let error = ripstop::envelope::decode_body::<u8>(&[]).unwrap_err();
    /// assert_eq!(error.fault(), ripstop::Fault::Peer);
    /// ```
    pub fn fault(&self) -> Fault {
        Fault::Peer
    }

    /// Never: the same bytes fail again.
    ///
    /// ```
    /// assert!(!ripstop::envelope::decode_body::<u8>(&[]).unwrap_err().is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        false
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.reason)?;
        match self.offset {
            Some(offset) => write!(f, " (at byte {offset})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A subject or pattern that breaks a rule, and which.
///
/// ```
/// let error = ripstop::envelope::check_subject("orders..created").unwrap_err();
/// assert_eq!(error.to_string(), r#""orders..created" is not a subject: two dots in a row, or one at an end"#);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not a {what}: {problem}")]
pub struct SubjectError {
    /// The offending text, cut to 64 characters.
    pub text: String,
    /// "subject" or "pattern".
    pub what: &'static str,
    /// The rule that is broken.
    pub problem: SubjectProblem,
}

/// The rule that a subject or pattern breaks.
///
/// ```
/// use ripstop::envelope::{SubjectProblem, check_subject};
///
/// assert_eq!(check_subject("").unwrap_err().problem, SubjectProblem::Empty);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectProblem {
    /// No characters at all.
    #[error("it is empty")]
    Empty,
    /// More than 255 bytes.
    #[error("it is longer than 255 bytes")]
    TooLong,
    /// An empty token.
    #[error("two dots in a row, or one at an end")]
    EmptyToken,
    /// White space or a control character.
    #[error("white space or control characters")]
    Blank,
    /// `*` or `>` in a subject, or not as a whole token, or `>` before the end of a pattern.
    #[error("`*` stands only for a whole token of a pattern, `>` only for the rest at its end")]
    Wildcard,
    /// It begins with `$`.
    #[error("names that begin with `$` or `@` belong to the node itself")]
    Reserved,
}

impl SubjectError {
    pub(crate) fn new(text: &str, what: &'static str, problem: SubjectProblem) -> Self {
        Self { text: text.chars().take(64).collect(), what, problem }
    }

    /// The stable code.
    ///
    /// ```
    /// assert_eq!(ripstop::envelope::check_subject("").unwrap_err().code().to_string(), "RS0320");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(320)
    }

    /// Always the caller's: it chose the name.
    ///
    /// ```
    /// let error = ripstop::envelope::check_subject("").unwrap_err();
    /// assert_eq!(error.fault(), ripstop::Fault::Caller);
    /// ```
    pub fn fault(&self) -> Fault {
        Fault::Caller
    }

    /// Never: the same name fails again.
    ///
    /// ```
    /// assert!(!ripstop::envelope::check_subject("").unwrap_err().is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        false
    }
}
