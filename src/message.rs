//! One message: a single buffer, in which the frames lie as they came.
//!
//! ```text
//!   buf     ┌──┬─────────┬──┬────────────┬──┬──────┐   one reference-counted buffer, usually a slice of what
//!           │hd│ frame 0 │hd│  frame 1   │hd│ f. 2 │   one read from the kernel brought, with the ZMTP frame headers
//!           └──┴─────────┴──┴────────────┴──┴──────┘   where they were
//!
//!           ┌──────────────────────────────────────┐
//!           │ frame 0                              │   or one frame without its header
//!           └──────────────────────────────────────┘
//! ```
//!
//! A message therefore costs one reference count however many frames it has, decoding copies nothing, and 40 bytes say
//! it all: moving a table of offsets along with each small message took as long as everything else that receiving does.
//! Finding frame `n` walks over the `n` headers before it.

use std::fmt;

use bytes::{Buf, Bytes};

/// Flags of a frame header (RFC 23): see `zmtp::frame`.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// How many bytes a frame takes with its header.
pub(crate) fn on_wire(frame: &[u8]) -> usize {
    frame.len() + if frame.len() <= usize::from(u8::MAX) { 2 } else { 9 }
}

/// One message of one or more frames. Cloning is cheap: it adds one reference to the shared buffer.
///
/// ```
/// use ripstop::Message;
///
/// let message = Message::from_frames(["orders.created", "{}"]);
/// assert_eq!(message.len(), 2);
/// assert_eq!(message.frame(0), Some(&b"orders.created"[..]));
/// assert_eq!(message.size(), 16);
/// ```
#[derive(Clone, Default)]
pub struct Message {
    buf: Bytes,
    /// `buf` is whole ZMTP frames with their headers, at least one; else it is the one frame itself.
    framed: bool,
}

impl Message {
    /// A message of the given frames, copied into one buffer. No frames give one empty frame, because an empty
    /// message does not exist on the wire.
    ///
    /// ```
    /// let message = ripstop::Message::from_frames([&b"key"[..], &[0, 1, 2]]);
    /// assert_eq!(message.frames().map(<[u8]>::len).collect::<Vec<_>>(), [3, 3]);
    /// ```
    pub fn from_frames<F: AsRef<[u8]>>(frames: impl IntoIterator<Item = F>) -> Self {
        Self::with_capacity(0, frames)
    }

    /// The same in one block of memory, when it is known how many bytes it takes: [`on_wire`] of each frame.
    pub(crate) fn with_capacity<F: AsRef<[u8]>>(bytes: usize, frames: impl IntoIterator<Item = F>) -> Self {
        let mut buf = Vec::with_capacity(bytes);
        let mut last = None;
        for frame in frames {
            let frame = frame.as_ref();
            last = Some(buf.len());
            match u8::try_from(frame.len()) {
                Ok(len) => buf.extend_from_slice(&[MORE, len]),
                Err(_) => {
                    buf.push(MORE | LONG);
                    buf.extend_from_slice(&(frame.len() as u64).to_be_bytes());
                }
            }
            buf.extend_from_slice(frame);
        }
        let Some(last) = last else { return Self::default() };
        buf[last] &= !MORE;
        Self::from_wire(buf.into())
    }

    /// The engine's way in: `buf` is the whole frames of one message with their headers; commands between them are
    /// passed over.
    pub(crate) fn from_wire(buf: Bytes) -> Self {
        debug_assert!(frame_after(&buf, 0).is_some());
        Self { buf, framed: true }
    }

    /// How many frames there are; at least one.
    ///
    /// ```
    /// assert_eq!(ripstop::Message::from("hello").len(), 1);
    /// ```
    #[allow(clippy::len_without_is_empty)] // a message always has a frame
    pub fn len(&self) -> usize {
        self.frames().len()
    }

    /// The sum of the frames' lengths, in bytes.
    ///
    /// ```
    /// assert_eq!(ripstop::Message::from("hello").size(), 5);
    /// ```
    #[inline]
    pub fn size(&self) -> usize {
        if self.framed { self.spans().map(|(start, end)| end - start).sum() } else { self.buf.len() }
    }

    /// Frame `index`, counted from 0.
    ///
    /// ```
    /// let message = ripstop::Message::from_frames(["a", "b"]);
    /// assert_eq!(message.frame(1), Some(&b"b"[..]));
    /// assert_eq!(message.frame(2), None);
    /// ```
    pub fn frame(&self, index: usize) -> Option<&[u8]> {
        let (start, end) = self.span(index)?;
        self.buf.get(start..end)
    }

    /// Frame `index` as a buffer of its own that shares this message's memory (one more reference count).
    ///
    /// ```
    /// let body = ripstop::Message::from_frames(["subject", "body"]).frame_bytes(1);
    /// assert_eq!(body.as_deref(), Some(&b"body"[..]));
    /// ```
    pub fn frame_bytes(&self, index: usize) -> Option<Bytes> {
        let (start, end) = self.span(index)?;
        Some(self.buf.slice(start..end))
    }

    /// The frames, first to last.
    ///
    /// ```
    /// let message = ripstop::Message::from_frames(["a", "b"]);
    /// assert!(message.frames().eq([b"a", b"b"]));
    /// ```
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        let left = if self.framed { self.spans().count() } else { 1 };
        FrameIter { message: self, at: 0, left }
    }

    /// Where the frames are, of a framed message.
    fn spans(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let span = frame_after(&self.buf, at)?;
            at = span.1;
            Some(span)
        })
    }

    fn span(&self, index: usize) -> Option<(usize, usize)> {
        match self.framed {
            true => self.spans().nth(index),
            false => (index == 0).then_some((0, self.buf.len())),
        }
    }

    /// This message without its first `count` frames, sharing the buffer; `None` when nothing would remain.
    ///
    /// ```
    /// let message = ripstop::Message::from_frames(["identity", "", "ask"]).skip(2);
    /// assert_eq!(message.and_then(|m| m.frame(0).map(<[u8]>::to_vec)), Some(b"ask".to_vec()));
    /// ```
    pub fn skip(mut self, count: usize) -> Option<Self> {
        if let Some(last) = count.checked_sub(1) {
            let (_, end) = self.span(last)?;
            self.buf.advance(end);
        }
        (count == 0 || self.framed && frame_after(&self.buf, 0).is_some()).then_some(self)
    }

    /// A copy in a buffer of its own, of exactly its size. A received message keeps the whole read buffer alive
    /// (up to 256 KiB); call this for a small one that is kept for long.
    ///
    /// ```
    /// let kept = ripstop::Message::from_frames(["a", "b"]).to_owned_buffer();
    /// assert_eq!(kept.len(), 2);
    /// ```
    #[must_use]
    pub fn to_owned_buffer(&self) -> Self {
        Self { buf: Bytes::copy_from_slice(&self.buf), framed: self.framed }
    }
}

/// The next frame of `buf` at or after the header at `at`: its start and end.
#[inline]
fn frame_after(buf: &[u8], mut at: usize) -> Option<(usize, usize)> {
    loop {
        let flags = *buf.get(at)?;
        let (start, len) = match flags & LONG {
            0 => (at + 2, u64::from(*buf.get(at + 1)?)),
            _ => (at + 9, u64::from_be_bytes(*buf.get(at + 1..)?.first_chunk()?)),
        };
        let end = start.checked_add(usize::try_from(len).ok()?).filter(|end| *end <= buf.len())?;
        if flags & COMMAND == 0 {
            return Some((start, end));
        }
        at = end;
    }
}

/// See [`Message::frames`].
#[derive(Clone)]
struct FrameIter<'a> {
    message: &'a Message,
    at: usize,
    left: usize,
}

impl<'a> Iterator for FrameIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let buf = &self.message.buf;
        let (start, end) = if self.message.framed { frame_after(buf, self.at)? } else { (0, buf.len()) };
        self.at = end;
        buf.get(start..end)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for FrameIter<'_> {}

impl PartialEq for Message {
    /// Two messages are equal when their frames are.
    fn eq(&self, other: &Self) -> bool {
        self.frames().eq(other.frames())
    }
}

impl Eq for Message {}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.frames().map(|frame| frame.escape_ascii().to_string())).finish()
    }
}

impl From<Bytes> for Message {
    #[inline]
    fn from(buf: Bytes) -> Self {
        Self { buf, framed: false }
    }
}

impl From<Vec<u8>> for Message {
    fn from(buf: Vec<u8>) -> Self {
        Bytes::from(buf).into()
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&[u8]> for Message {
    fn from(buf: &[u8]) -> Self {
        Bytes::copy_from_slice(buf).into()
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

/// One frame on its way out: borrowed, or shared so that a large one need not be copied.
///
/// ```
/// use ripstop::message::Frame;
///
/// assert_eq!(Frame::Slice(b"abc").as_slice(), b"abc");
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    /// Copied into the outgoing batch, or, over 64 KiB, into a buffer of its own.
    Slice(&'a [u8]),
    /// Copied when small; referenced and written vectored when over 8 KiB.
    Shared(&'a Bytes),
    /// Frame `1` of message `0`: like `Shared`.
    Part(&'a Message, usize),
}

impl<'a> Frame<'a> {
    /// The frame's bytes.
    ///
    /// ```
    /// let bytes = bytes::Bytes::from_static(b"abc");
    /// assert_eq!(ripstop::message::Frame::Shared(&bytes).as_slice(), b"abc");
    /// ```
    #[inline]
    pub fn as_slice(&self) -> &'a [u8] {
        match self {
            Self::Slice(slice) => slice,
            Self::Shared(bytes) => bytes,
            Self::Part(message, index) => message.frame(*index).unwrap_or_default(),
        }
    }

    /// The frame as shared bytes: free for the shared kinds, one copy for a slice.
    ///
    /// ```
    /// assert_eq!(ripstop::message::Frame::Slice(b"abc").to_bytes(), "abc");
    /// ```
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Slice(slice) => Bytes::copy_from_slice(slice),
            Self::Shared(bytes) => (*bytes).clone(),
            Self::Part(message, index) => message.frame_bytes(*index).unwrap_or_default(),
        }
    }
}

/// One value that is one frame: a slice, a string, shared bytes.
///
/// ```
/// use ripstop::message::AsFrame;
///
/// assert_eq!("abc".as_frame().as_slice(), b"abc");
/// ```
pub trait AsFrame {
    /// The frame.
    fn as_frame(&self) -> Frame<'_>;
}

impl AsFrame for [u8] {
    #[inline]
    fn as_frame(&self) -> Frame<'_> {
        Frame::Slice(self)
    }
}

impl<const N: usize> AsFrame for [u8; N] {
    #[inline]
    fn as_frame(&self) -> Frame<'_> {
        Frame::Slice(self)
    }
}

impl AsFrame for str {
    #[inline]
    fn as_frame(&self) -> Frame<'_> {
        Frame::Slice(self.as_bytes())
    }
}

impl AsFrame for Vec<u8> {
    #[inline]
    fn as_frame(&self) -> Frame<'_> {
        Frame::Slice(self)
    }
}

impl AsFrame for String {
    #[inline]
    fn as_frame(&self) -> Frame<'_> {
        Frame::Slice(self.as_bytes())
    }
}

impl AsFrame for Bytes {
    #[inline]
    fn as_frame(&self) -> Frame<'_> {
        Frame::Shared(self)
    }
}

impl<T: AsFrame + ?Sized> AsFrame for &T {
    #[inline]
    fn as_frame(&self) -> Frame<'_> {
        (**self).as_frame()
    }
}

/// What a socket can send: one frame (`"hello"`, `&[u8]`, `Vec<u8>`, `Bytes`), several (an array, slice or `Vec`
/// of those), or a [`Message`] that came in. Pass a reference to keep the value if the send fails.
///
/// ```
/// use ripstop::message::Frames;
///
/// assert_eq!("hello".frame_count(), 1);
/// assert_eq!(["identity", "", "hello"].frame_count(), 3);
/// ```
pub trait Frames {
    /// How many frames; 0 is sent as one empty frame.
    fn frame_count(&self) -> usize;

    /// Frame `index`, below `frame_count`.
    fn frame_at(&self, index: usize) -> Frame<'_>;
}

impl Frames for Message {
    #[inline]
    fn frame_count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn frame_at(&self, index: usize) -> Frame<'_> {
        Frame::Part(self, index)
    }
}

macro_rules! one_frame {
    ($($type:ty),*) => {$(
        impl Frames for $type {
            #[inline]
            fn frame_count(&self) -> usize {
                1
            }

            #[inline]
            fn frame_at(&self, _index: usize) -> Frame<'_> {
                self.as_frame()
            }
        }
    )*};
}
one_frame!([u8], str, Vec<u8>, String, Bytes);

macro_rules! many_frames {
    ($([$($generics:tt)*] $type:ty),*) => {$(
        impl<T: AsFrame, $($generics)*> Frames for $type {
            #[inline]
            fn frame_count(&self) -> usize {
                self.len()
            }

            #[inline]
            fn frame_at(&self, index: usize) -> Frame<'_> {
                self.get(index).map_or(Frame::Slice(&[]), AsFrame::as_frame)
            }
        }
    )*};
}
many_frames!([] [T], [const N: usize] [T; N], [] Vec<T>);

/// A byte string literal is one frame.
impl<const N: usize> Frames for [u8; N] {
    #[inline]
    fn frame_count(&self) -> usize {
        1
    }

    #[inline]
    fn frame_at(&self, _index: usize) -> Frame<'_> {
        Frame::Slice(self)
    }
}

impl<T: Frames + ?Sized> Frames for &T {
    #[inline]
    fn frame_count(&self) -> usize {
        (**self).frame_count()
    }

    #[inline]
    fn frame_at(&self, index: usize) -> Frame<'_> {
        (**self).frame_at(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_shape() {
        assert_eq!(b"abc".frame_count(), 1);
        assert_eq!(vec![1u8, 2].frame_count(), 1);
        assert_eq!(vec!["a", "b"].frame_count(), 2);
        assert_eq!([Bytes::from_static(b"a"), Bytes::new()].frame_at(0).as_slice(), b"a");
        let message = Message::from_frames(["a", "b"]);
        assert_eq!(message.frame_at(1).to_bytes(), "b");
    }

    #[test]
    fn skip_shares_and_ends() {
        let message = Message::from_frames(["a", "b"]);
        assert_eq!(message.clone().skip(1), Some(Message::from("b")));
        assert_eq!(message.skip(2), None);
        assert_eq!(Message::from("x").skip(0), Some(Message::from("x")));
        assert_eq!(Message::from("x").skip(1), None);
    }

    #[test]
    fn commands_between_frames_are_passed_over() {
        let wire = b"\x01\x01a\x04\x05\x04PING\x01\x00\x04\x00\x00\x02bc";
        let message = Message::from_wire(Bytes::from_static(wire));
        assert_eq!(message, Message::from_frames(["a", "", "bc"]));
        assert_eq!((message.len(), message.size()), (3, 3));
        assert_eq!(message.frame_bytes(2), Some("bc".into()));
        assert_eq!(message.clone().skip(1), Some(Message::from_frames(["", "bc"])));
        assert_eq!(message.skip(3), None);
        assert_eq!(std::mem::size_of::<Message>(), 40);
    }

    #[test]
    fn long_frames() {
        let long = [7; 300];
        let message = Message::from_frames([&long[..], b"x"]);
        assert_eq!((message.len(), message.size()), (2, 301));
        assert_eq!(message.frame(0), Some(&long[..]));
        assert_eq!(message.skip(1), Some(Message::from("x")));
        assert_eq!(Message::from_frames([""; 0]), Message::from(""));
    }

    #[test]
    fn owned_copy_equals() {
        let message = Message::from_frames([&b"a"[..], b""]);
        assert_eq!(message.to_owned_buffer(), message);
        assert_eq!(format!("{message:?}"), r#"["a", ""]"#);
    }
}
