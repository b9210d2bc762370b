//! Reading MessagePack without trusting it: a cursor that knows how many bytes are left.

use super::error::{DecodeError, DecodeReason};

/// What a MessagePack value may be at most, whatever type it is decoded into.
///
/// ```
/// use ripstop::envelope::Limits;
///
/// assert_eq!(Limits::default(), Limits { depth: 64, elements: 16 * 1024 * 1024 });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How many arrays and maps may be nested in each other. Default 64. A decoder recurses once a level, so more
    /// costs stack.
    pub depth: usize,
    /// How many values in all, map keys included. Default 16,777,216: as many as a message of the default size
    /// limit can hold, so that memory follows bytes.
    pub elements: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 64, elements: 16 * 1024 * 1024 }
    }
}

/// Checks that `bytes` are one whole, well-formed MessagePack value within `limits`, and nothing behind it. Text is
/// not checked for UTF-8. Allocates nothing unless it fails.
///
/// # Errors
/// The first thing that is wrong, with its offset.
///
/// ```
/// use ripstop::envelope::{DecodeReason, Limits, check};
///
/// check(&[0x93, 1, 2, 0xc0], Limits::default())?; // [1, 2, nil]
/// let claim = check(&[0xdd, 0xff, 0xff, 0xff, 0xff], Limits::default()).unwrap_err();
/// assert_eq!(claim.reason, DecodeReason::ClaimsTooMuch { claimed: 4_294_967_295, remaining: 0 });
/// # Ok::<(), ripstop::envelope::DecodeError>(())
/// ```
pub fn check(bytes: &[u8], limits: Limits) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    if bytes.is_empty() {
        return Err(reader.error(DecodeReason::Empty));
    }
    let Some(mut budget) = limits.elements.checked_sub(1) else {
        return Err(reader.error(DecodeReason::TooMany { limit: 0 }));
    };
    let checked = reader.skip(1, limits.depth, &mut budget).map_err(|reason| match reason {
        // `skip` counts down, so it doesn't know where it began.
        DecodeReason::TooDeep { .. } => DecodeReason::TooDeep { limit: limits.depth },
        DecodeReason::TooMany { .. } => DecodeReason::TooMany { limit: limits.elements },
        other => other,
    });
    checked.and_then(|()| reader.end()).map_err(|reason| reader.error(reason))
}

/// A cursor over MessagePack.
pub(super) struct Reader<'a> {
    buf: &'a [u8],
    at: usize,
}

type Read<T> = Result<T, DecodeReason>;

impl<'a> Reader<'a> {
    pub(super) fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The error `reason` at the current place.
    #[cold]
    pub(super) fn error(&self, reason: DecodeReason) -> DecodeError {
        DecodeError::new("", self.at, reason)
    }

    pub(super) fn end(&self) -> Read<()> {
        match self.buf.len() - self.at {
            0 => Ok(()),
            more => Err(DecodeReason::Trailing(more)),
        }
    }

    #[inline]
    fn peek(&self) -> Read<u8> {
        self.buf.get(self.at).copied().ok_or(DecodeReason::Truncated)
    }

    #[inline]
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let rest = self.buf.get(self.at..).unwrap_or_default();
        let Some(taken) = rest.get(..count) else {
            return Err(DecodeReason::Truncated);
        };
        self.at += count;
        Ok(taken)
    }

    #[inline]
    fn big_endian(&mut self, width: usize) -> Read<u64> {
        Ok(self.take(width)?.iter().fold(0, |n, &byte| (n << 8) | u64::from(byte)))
    }

    /// `count` things of at least `size` bytes each must still fit into what is left.
    #[inline]
    fn claim(&self, count: u64, size: u64) -> Read<usize> {
        let remaining = self.buf.len() - self.at;
        if count.saturating_mul(size) > remaining as u64 {
            return Err(DecodeReason::ClaimsTooMuch { claimed: count, remaining });
        }
        Ok(count as usize)
    }

    /// An integer that is not negative, in any of its encodings.
    #[inline]
    pub(super) fn uint(&mut self) -> Read<u64> {
        const EXPECTED: DecodeReason = DecodeReason::Expected { expected: "an integer of 0 or more" };
        let marker = self.peek()?;
        let width = match marker {
            0x00..=0x7f => {
                self.at += 1;
                return Ok(u64::from(marker));
            }
            0xcc..=0xcf => 1 << (marker - 0xcc),
            0xd0..=0xd3 => 1 << (marker - 0xd0),
            _ => return Err(EXPECTED),
        };
        let start = self.at;
        self.at += 1;
        let value = self.big_endian(width).inspect_err(|_| self.at = start)?;
        if marker >= 0xd0 && value >> (8 * width - 1) == 1 {
            self.at = start;
            return Err(EXPECTED);
        }
        Ok(value)
    }

    /// The number of entries of an array.
    pub(super) fn array(&mut self) -> Read<usize> {
        let marker = self.peek()?;
        let width = match marker {
            0x90..=0x9f => 0,
            0xdc => 2,
            0xdd => 4,
            _ => return Err(DecodeReason::Expected { expected: "an array" }),
        };
        self.at += 1;
        let count = if width == 0 { u64::from(marker & 0x0f) } else { self.big_endian(width)? };
        self.claim(count, 1)
    }

    /// The number of pairs of a map.
    pub(super) fn map(&mut self) -> Read<usize> {
        let marker = self.peek()?;
        let width = match marker {
            0x80..=0x8f => 0,
            0xde => 2,
            0xdf => 4,
            _ => return Err(DecodeReason::Expected { expected: "a map" }),
        };
        self.at += 1;
        let count = if width == 0 { u64::from(marker & 0x0f) } else { self.big_endian(width)? };
        self.claim(count, 2)
    }

    /// The bytes of a string; `None`, and nothing consumed, when it is none.
    #[inline]
    pub(super) fn text(&mut self) -> Read<Option<&'a [u8]>> {
        let marker = self.peek()?;
        let width = match marker {
            0xa0..=0xbf => 0,
            0xd9 => 1,
            0xda => 2,
            0xdb => 4,
            _ => return Ok(None),
        };
        self.at += 1;
        let length = if width == 0 { u64::from(marker & 0x1f) } else { self.big_endian(width)? };
        let length = self.claim(length, 1)?;
        self.take(length).map(Some)
    }

    /// Consumes a nil, if there is one.
    pub(super) fn nil(&mut self) -> Read<bool> {
        let nil = self.peek()? == 0xc0;
        self.at += usize::from(nil);
        Ok(nil)
    }

    /// Skips `count` values nested at most `depth` levels, taking the values inside them from `budget`.
    pub(super) fn skip(&mut self, count: usize, depth: usize, budget: &mut usize) -> Read<()> {
        let mut at = self.at;
        for _ in 0..count {
            let Some(&marker) = self.buf.get(at) else {
                self.at = at.min(self.buf.len());
                return Err(DecodeReason::Truncated);
            };
            // Whether that many bytes are there is seen when the next value, or the end, is looked for.
            let size = SIZES[usize::from(marker)];
            if size != 0 {
                at += usize::from(size);
                continue;
            }
            self.at = at;
            self.skip_counted(marker, depth, budget)?;
            at = self.at;
        }
        self.at = at.min(self.buf.len());
        if at == self.at { Ok(()) } else { Err(DecodeReason::Truncated) }
    }

    /// Skips one value that begins with `marker` and says itself how long it is.
    fn skip_counted(&mut self, marker: u8, depth: usize, budget: &mut usize) -> Read<()> {
        let start = self.at;
        self.at += 1;
        let (count, each) = match marker {
            0x80..=0x8f => (u64::from(marker & 0x0f), 2),
            0x90..=0x9f => (u64::from(marker & 0x0f), 1),
            0xdc => (self.big_endian(2)?, 1),
            0xdd => (self.big_endian(4)?, 1),
            0xde => (self.big_endian(2)?, 2),
            0xdf => (self.big_endian(4)?, 2),
            0xc4 | 0xd9 => return self.jump(1, 0),
            0xc5 | 0xda => return self.jump(2, 0),
            0xc6 | 0xdb => return self.jump(4, 0),
            0xc7 => return self.jump(1, 1), // an extension's type
            0xc8 => return self.jump(2, 1),
            0xc9 => return self.jump(4, 1),
            _ => {
                self.at = start;
                return Err(DecodeReason::NotMessagePack);
            }
        };
        let count = self.claim(count, each)? * each as usize;
        let Some(depth) = depth.checked_sub(1) else {
            self.at = start;
            return Err(DecodeReason::TooDeep { limit: 0 });
        };
        *budget = budget.checked_sub(count).ok_or(DecodeReason::TooMany { limit: 0 })?;
        self.skip(count, depth, budget)
    }

    /// Skips a length of `width` bytes, and as many bytes and `extra` more.
    fn jump(&mut self, width: usize, extra: u64) -> Read<()> {
        let count = self.big_endian(width)?;
        self.at += self.claim(count + extra, 1)?;
        Ok(())
    }
}

/// How many bytes a value takes, by its first byte; 0 when that alone doesn't say.
const SIZES: [u8; 256] = {
    let mut sizes = [1; 256]; // small integers, nil, booleans
    let mut marker = 0x80;
    while marker <= 0xdf {
        sizes[marker] = match marker {
            0xa0..=0xbf => marker as u8 - 0xa0 + 1,
            0xc0 | 0xc2 | 0xc3 => 1,
            0xcc | 0xd0 => 2,
            0xcd | 0xd1 => 3,
            0xca | 0xce | 0xd2 => 5,
            0xcb | 0xcf | 0xd3 => 9,
            0xd4..=0xd8 => 2 + (1 << (marker - 0xd4)), // extensions of a fixed size: a type, then 1 to 16 bytes
            _ => 0,
        };
        marker += 1;
    }
    sizes
};
