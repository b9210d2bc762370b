//! Subjects and patterns: the dotted names of methods, topics and queues.

use std::fmt;
use std::str::FromStr;

use super::error::{SubjectError, SubjectProblem};
use super::group::is_group;

/// The longest subject or pattern, in bytes.
///
/// ```
/// assert!(ripstop::envelope::check_subject(&"a".repeat(ripstop::envelope::MAX_SUBJECT)).is_ok());
/// ```
pub const MAX_SUBJECT: usize = 255;

/// Checks a subject that a program has chosen: dotted tokens, none of them empty, no wildcards, white space or
/// control characters, at most 255 bytes, and neither `$` nor `@` in front.
///
/// # Errors
/// [`SubjectError`] says which rule it breaks.
///
/// ```
/// use ripstop::envelope::check_subject;
///
/// assert!(check_subject("orders.created").is_ok());
/// assert!(check_subject("orders.*").is_err());
/// assert!(check_subject("$node.ping").is_err());
/// ```
pub fn check_subject(subject: &str) -> Result<(), SubjectError> {
    check_wire_subject(subject)?;
    if is_reserved(subject) || is_group(subject) {
        return Err(SubjectError::new(subject, "subject", SubjectProblem::Reserved));
    }
    Ok(())
}

/// Checks a subject that came over the wire: like [`check_subject`], but the node's own subjects, which begin with
/// `$` or `@`, are allowed.
///
/// # Errors
/// [`SubjectError`] says which rule it breaks.
///
/// ```
/// assert!(ripstop::envelope::check_wire_subject("$node.ping").is_ok());
/// ```
pub fn check_wire_subject(subject: &str) -> Result<(), SubjectError> {
    problem(subject).map_or(Ok(()), |problem| Err(SubjectError::new(subject, "subject", problem)))
}

#[inline]
pub(super) fn problem(subject: &str) -> Option<SubjectProblem> {
    // Every message's subject comes by here: one pass without branches says whether to look closer.
    let (mut odd, mut dot) = (false, true);
    for &byte in subject.as_bytes() {
        let is_dot = byte == b'.';
        odd |= (is_dot & dot) | (byte <= b' ') | (byte >= 0x7f) | (byte == b'*') | (byte == b'>');
        dot = is_dot;
    }
    if odd | dot | (subject.len() > MAX_SUBJECT) { look_closer(subject) } else { None }
}

#[cold]
fn look_closer(subject: &str) -> Option<SubjectProblem> {
    if subject.is_empty() {
        Some(SubjectProblem::Empty)
    } else if subject.len() > MAX_SUBJECT {
        Some(SubjectProblem::TooLong)
    } else if subject.split('.').any(str::is_empty) {
        Some(SubjectProblem::EmptyToken)
    } else if subject.contains(['*', '>']) {
        Some(SubjectProblem::Wildcard)
    } else if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Some(SubjectProblem::Blank)
    } else {
        None
    }
}

/// Whether the subject is one of the node's own: it begins with `$`.
///
/// ```
/// assert!(ripstop::envelope::is_reserved("$node.ping"));
/// ```
#[inline]
pub fn is_reserved(subject: &str) -> bool {
    subject.starts_with('$')
}

/// The first token: the service of a method or topic.
///
/// ```
/// assert_eq!(ripstop::envelope::root("pricing.quote"), "pricing");
/// assert_eq!(ripstop::envelope::root("emails"), "emails");
/// ```
#[inline]
pub fn root(subject: &str) -> &str {
    split(subject).0
}

/// What a subscriber wants: a subject in which `*` stands for one token and a last `>` for one or more.
///
/// ```
/// use ripstop::envelope::Pattern;
///
/// let pattern = Pattern::parse("orders.*.paid")?;
/// assert!(pattern.matches("orders.7.paid"));
/// assert!(!pattern.matches("orders.7.8.paid"));
/// assert_eq!(pattern.prefix(), "orders.");
///
/// let rest: Pattern = "orders.>".parse()?;
/// assert!(rest.matches("orders.7.paid") && !rest.matches("orders"));
/// # Ok::<(), ripstop::envelope::SubjectError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pattern {
    text: Box<str>,
    /// The length of the literal prefix.
    literal: usize,
}

impl Pattern {
    /// Reads a pattern. A subject without wildcards is one too and matches only itself. A pattern that begins with
    /// a wildcard never matches the node's own subjects, which begin with `$`; write the `$` to have them.
    ///
    /// # Errors
    /// [`SubjectError`] says which rule it breaks.
    ///
    /// ```
    /// use ripstop::envelope::Pattern;
    ///
    /// assert!(Pattern::parse("*.created").is_ok());
    /// assert!(Pattern::parse("orders.>.paid").is_err());
    /// assert!(Pattern::parse("ord*").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        let refuse = |problem| Err(SubjectError::new(text, "pattern", problem));
        if text.is_empty() {
            return refuse(SubjectProblem::Empty);
        }
        if text.len() > MAX_SUBJECT {
            return refuse(SubjectProblem::TooLong);
        }
        let mut tokens = text.split('.').peekable();
        let (mut literal, mut at) = (None, 0);
        while let Some(token) = tokens.next() {
            match token {
                "*" => literal = literal.or(Some(at)),
                ">" if tokens.peek().is_none() => literal = literal.or(Some(at)),
                _ => {
                    if let Some(problem) = problem(token) {
                        let empty = problem == SubjectProblem::Empty;
                        return refuse(if empty { SubjectProblem::EmptyToken } else { problem });
                    }
                }
            }
            at += token.len() + 1;
        }
        Ok(Self { text: text.into(), literal: literal.unwrap_or(text.len()) })
    }

    /// Whether a subject is wanted. Allocates nothing.
    ///
    /// ```
    /// let pattern = ripstop::envelope::Pattern::parse(">")?;
    /// assert!(pattern.matches("orders.created") && !pattern.matches("$node.ping"));
    /// # Ok::<(), ripstop::envelope::SubjectError>(())
    /// ```
    pub fn matches(&self, subject: &str) -> bool {
        if self.is_literal() {
            return *self.text == *subject;
        }
        // The literal prefix decides most of the time.
        let Some(mut rest) = subject.strip_prefix(self.prefix()) else { return false };
        if self.literal == 0 && is_reserved(subject) {
            return false;
        }
        let mut wanted = self.text.get(self.literal..).unwrap_or_default();
        loop {
            if wanted == ">" {
                return !rest.is_empty();
            }
            let (token, more) = split(rest);
            let (want, wanted_more) = split(wanted);
            if token.is_empty() || (want != "*" && want != token) {
                return false;
            }
            match (more, wanted_more) {
                (None, None) => return true,
                (Some(more), Some(wanted_more)) => (rest, wanted) = (more, wanted_more),
                _ => return false,
            }
        }
    }

    /// The longest literal beginning, for the subscription on the wire; `matches` still has to be asked, because a
    /// prefix ends anywhere.
    ///
    /// ```
    /// use ripstop::envelope::Pattern;
    ///
    /// assert_eq!(Pattern::parse("orders.>")?.prefix(), "orders.");
    /// assert_eq!(Pattern::parse("orders.created")?.prefix(), "orders.created");
    /// assert_eq!(Pattern::parse("*")?.prefix(), "");
    /// # Ok::<(), ripstop::envelope::SubjectError>(())
    /// ```
    pub fn prefix(&self) -> &str {
        self.text.get(..self.literal).unwrap_or_default()
    }

    /// The first token, when it is literal: only nodes with this root can have what is wanted.
    ///
    /// ```
    /// use ripstop::envelope::Pattern;
    ///
    /// assert_eq!(Pattern::parse("orders.*")?.root(), Some("orders"));
    /// assert_eq!(Pattern::parse("*.created")?.root(), None);
    /// # Ok::<(), ripstop::envelope::SubjectError>(())
    /// ```
    pub fn root(&self) -> Option<&str> {
        (self.literal > 0).then(|| root(&self.text))
    }

    /// Whether there is no wildcard in it.
    ///
    /// ```
    /// assert!(ripstop::envelope::Pattern::parse("orders.created")?.is_literal());
    /// # Ok::<(), ripstop::envelope::SubjectError>(())
    /// ```
    pub fn is_literal(&self) -> bool {
        self.literal == self.text.len()
    }

    /// The pattern as it was written.
    ///
    /// ```
    /// assert_eq!(ripstop::envelope::Pattern::parse("orders.*")?.as_str(), "orders.*");
    /// # Ok::<(), ripstop::envelope::SubjectError>(())
    /// ```
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Like `split_once('.')`, without the set-up that its searcher costs on short text.
#[inline]
fn split(text: &str) -> (&str, Option<&str>) {
    match text.bytes().position(|byte| byte == b'.') {
        Some(dot) => (text.get(..dot).unwrap_or_default(), text.get(dot + 1..)),
        None => (text, None),
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Pattern {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
