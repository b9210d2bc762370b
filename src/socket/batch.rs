//! A connection's outgoing messages, already encoded: what `send` appends to and the connection's task swaps out.
//!
//! ```text
//!   full  ┌ Chunk ┐┌ Chunk ┐   sealed: over 128 KiB          active ┌ Chunk ┐  ← put
//!         └───────┘└───────┘                                        └───────┘
//!           ↓ taken whole by the connection's task, written, cleared, and put back as a spare
//!
//!   Chunk  buf     |2 5 hello|2 3 abc|0x02 len|          |...    ends: where each message ends in `buf`
//!          larges                             ^ Bytes goes here   (frames over 8 KiB are not copied)
//! ```
//!
//! In steady state nothing here allocates, and because `ends` knows the messages' borders, drop-oldest and
//! reconnect cut whole messages.

mod sealing;

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use crate::message::{Frame, Frames};

/// A chunk of this size is sealed: enough for a cheap system call per message, small enough for a processor's cache.
const CHUNK: usize = 128 * 1024;
/// Shared frames above this are referenced and written vectored.
pub(super) const LARGE: usize = 8 * 1024;
/// Slices, which would have to be copied into a buffer of their own, only above this.
const LARGE_SLICE: usize = 64 * 1024;
/// Emptied chunks kept for reuse.
const SPARES: usize = 32;
/// A message's encoded size must fit the 32-bit offsets with room to spare.
pub(super) const MAX_MESSAGE: usize = 1 << 31;

const MORE: u8 = 1;
const LONG: u8 = 2;

/// The bytes a message takes on the wire.
#[inline]
pub(super) fn encoded_size<F: Frames + ?Sized>(frames: &F) -> usize {
    let one = |len: usize| len + if len < 256 { 2 } else { 9 };
    match frames.frame_count() {
        0 => 2,
        count => (0..count).map(|i| one(frames.frame_at(i).as_slice().len())).sum(),
    }
}

/// Whether a frame is not copied into the batch.
#[inline]
fn is_apart(frame: &Frame<'_>, len: usize) -> bool {
    len > LARGE && (len > LARGE_SLICE || !matches!(frame, Frame::Slice(_)))
}

/// Appends `frames` as one message; frames that are `apart` go to `large` with their place in `buf`.
#[inline]
fn encode<F: Frames + ?Sized>(
    frames: &F,
    buf: &mut Vec<u8>,
    apart: impl Fn(&Frame<'_>, usize) -> bool,
    mut large: impl FnMut(usize, Bytes),
) {
    let count = frames.frame_count();
    if count == 0 {
        buf.extend_from_slice(&[0, 0]);
        return;
    }
    for index in 0..count {
        let more = if index + 1 < count { MORE } else { 0 };
        let frame = frames.frame_at(index);
        let slice = frame.as_slice();
        if slice.len() < 256 {
            buf.reserve(slice.len() + 2);
            buf.extend_from_slice(&[more, slice.len() as u8]);
            buf.extend_from_slice(slice);
            continue;
        }
        let mut header = [more | LONG, 0, 0, 0, 0, 0, 0, 0, 0];
        header[1..].copy_from_slice(&(slice.len() as u64).to_be_bytes());
        buf.extend_from_slice(&header);
        if apart(&frame, slice.len()) {
            large(buf.len(), shared(frame));
        } else {
            buf.extend_from_slice(slice);
        }
    }
}

/// A borrowed frame is copied once, into a buffer of its own: a chunk's buffer, which is kept, stays small.
fn shared(frame: Frame<'_>) -> Bytes {
    frame.to_bytes()
}

/// One message encoded once, for many pipes.
#[derive(Default)]
pub(crate) struct Encoded {
    buf: Vec<u8>,
    larges: Vec<(usize, Bytes)>,
    size: usize,
}

impl Encoded {
    /// Replaces what was encoded before, keeping its memory.
    pub(crate) fn set<F: Frames + ?Sized>(&mut self, frames: &F) {
        self.buf.clear();
        self.larges.clear();
        let larges = &mut self.larges;
        // Copied once rather than into every pipe.
        let apart = |_: &Frame<'_>, len| len > LARGE;
        encode(frames, &mut self.buf, apart, |at, bytes| larges.push((at, bytes)));
        self.size = self.buf.len() + self.larges.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    }

    /// The bytes it takes on the wire.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

/// Up to 128 KiB of encoded messages.
#[derive(Default)]
pub(super) struct Chunk {
    buf: Vec<u8>,
    /// Where each message ends in `buf`.
    ends: Vec<u32>,
    /// Frames that belong into `buf` at the given place. A large frame never comes before its own header, so one
    /// at `at` belongs to the message with `start < at <= end`.
    larges: VecDeque<(u32, Bytes)>,
    /// Everything put in, with the large frames.
    bytes: usize,
    /// Dropped from the front: messages, and their bytes.
    head: usize,
    head_bytes: usize,
}

impl Chunk {
    pub(super) fn messages(&self) -> usize {
        self.ends.len() - self.head
    }

    fn live_bytes(&self) -> usize {
        self.bytes - self.head_bytes
    }

    fn start(&self) -> usize {
        self.head.checked_sub(1).and_then(|i| self.ends.get(i)).map_or(0, |end| *end as usize)
    }

    /// Returns the bytes the message takes. `room`: for seals.
    #[inline]
    fn push<F: Frames + ?Sized>(&mut self, frames: &F, room: bool) -> usize {
        let start = self.buf.len();
        let mut large_bytes = 0;
        let larges = &mut self.larges;
        let large = |at, bytes: Bytes| {
            large_bytes += bytes.len();
            larges.push_back((at as u32, bytes));
        };
        match room {
            false => encode(frames, &mut self.buf, is_apart, large),
            true => sealing::encode_with_room(frames, &mut self.buf, large),
        }
        self.ends.push(self.buf.len() as u32);
        let size = self.buf.len() - start + large_bytes;
        self.bytes += size;
        size
    }

    fn push_encoded(&mut self, message: &Encoded, room: bool) -> usize {
        let start = self.buf.len();
        if room {
            let mut size = 0;
            let larges = &mut self.larges;
            sealing::push_with_room(message, &mut self.buf, |at, bytes| {
                size += bytes.len();
                larges.push_back((at as u32, bytes));
            });
            self.ends.push(self.buf.len() as u32);
            size += self.buf.len() - start;
            self.bytes += size;
            return size;
        }
        self.buf.extend_from_slice(&message.buf);
        self.larges.extend(message.larges.iter().map(|(at, bytes)| ((start + at) as u32, bytes.clone())));
        self.ends.push(self.buf.len() as u32);
        self.bytes += message.size;
        message.size
    }

    /// Drops the oldest message; returns its bytes, or `None` when there is none.
    fn drop_oldest(&mut self) -> Option<usize> {
        let start = self.start();
        let end = *self.ends.get(self.head)? as usize;
        let mut size = end - start;
        while self.larges.front().is_some_and(|(at, _)| *at as usize <= end) {
            size += self.larges.pop_front().map_or(0, |(_, bytes)| bytes.len());
        }
        self.head += 1;
        self.head_bytes += size;
        Some(size)
    }

    fn clear(&mut self) {
        self.buf.clear();
        // Many messages just under `LARGE` can make a buffer outgrow the chunk size for good.
        self.buf.shrink_to(2 * CHUNK);
        self.ends.clear();
        self.larges.clear();
        self.bytes = 0;
        self.head = 0;
        self.head_bytes = 0;
    }
}

/// A chunk that is being written, and how far.
pub(super) struct Sending {
    chunk: Chunk,
    /// Written of `buf`.
    at: usize,
    /// Large frames written whole, and bytes written of the next.
    large: usize,
    large_at: usize,
}

impl Sending {
    fn new(chunk: Chunk) -> Self {
        Self { at: chunk.start(), chunk, large: 0, large_at: 0 }
    }

    pub(super) fn messages(&self) -> usize {
        self.chunk.messages()
    }

    pub(super) fn is_done(&self) -> bool {
        self.at == self.chunk.buf.len() && self.large == self.chunk.larges.len()
    }

    /// The rest, when it is one piece.
    pub(super) fn single(&self) -> Option<&[u8]> {
        if self.chunk.larges.is_empty() { self.chunk.buf.get(self.at..) } else { None }
    }

    /// Fills `slices` with as much of the rest as they take; returns how many are filled.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut put = |piece: &'a [u8]| {
            if !piece.is_empty()
                && let Some(slot) = slices.get_mut(filled)
            {
                *slot = IoSlice::new(piece);
                filled += 1;
            }
        };
        let mut at = self.at;
        let mut skip = self.large_at;
        for (place, bytes) in self.chunk.larges.range(self.large..) {
            let place = *place as usize;
            put(self.chunk.buf.get(at..place).unwrap_or_default());
            put(bytes.get(skip..).unwrap_or_default());
            skip = 0;
            at = place;
        }
        put(self.chunk.buf.get(at..).unwrap_or_default());
        filled
    }

    /// `written` more bytes went out.
    pub(super) fn advance(&mut self, mut written: usize) {
        while let Some((place, bytes)) = self.chunk.larges.get(self.large) {
            let before = (*place as usize).saturating_sub(self.at).min(written);
            self.at += before;
            written -= before;
            let of_large = (bytes.len() - self.large_at).min(written);
            self.large_at += of_large;
            written -= of_large;
            if self.at < *place as usize || self.large_at < bytes.len() {
                return;
            }
            self.large += 1;
            self.large_at = 0;
        }
        self.at = (self.at + written).min(self.chunk.buf.len());
    }

    /// How many messages were written whole.
    fn finished(&self) -> usize {
        let unwritten = self.chunk.larges.get(self.large).map_or(usize::MAX, |(place, _)| *place as usize);
        let live = self.chunk.ends.get(self.chunk.head..).unwrap_or_default();
        live.partition_point(|end| *end as usize <= self.at && unwritten > *end as usize)
    }
}

/// Everything queued for one connection, and its marks.
pub(super) struct Outgoing {
    active: Chunk,
    full: VecDeque<Chunk>,
    spare: Vec<Chunk>,
    /// Encoded frames that go ahead of all messages.
    pub(super) control: Vec<u8>,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    hwm_messages: usize,
    hwm_bytes: usize,
    /// Messages get room for seals.
    room: bool,
}

impl Outgoing {
    /// A mark of 0 is no limit. `room`: what is taken will be sealed.
    pub(super) fn new(hwm_messages: usize, hwm_bytes: usize, room: bool) -> Self {
        let or_max = |mark: usize| if mark == 0 { usize::MAX } else { mark };
        Self {
            active: Chunk::default(),
            full: VecDeque::new(),
            spare: Vec::new(),
            control: Vec::new(),
            messages: 0,
            bytes: 0,
            hwm_messages: or_max(hwm_messages),
            hwm_bytes: or_max(hwm_bytes),
            room,
        }
    }

    /// Whether a message of this encoded size stays below the marks. An empty queue takes any.
    #[inline]
    pub(super) fn has_room(&self, size: usize) -> bool {
        self.messages == 0
            || (self.messages < self.hwm_messages && self.bytes.saturating_add(size) <= self.hwm_bytes)
    }

    /// How many messages and bytes are missed to the marks.
    pub(super) fn room(&self) -> (usize, usize) {
        (self.hwm_messages.saturating_sub(self.messages), self.hwm_bytes.saturating_sub(self.bytes))
    }

    /// What it takes of memory, about.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.bytes + self.control.len()
    }

    pub(super) fn is_half_empty(&self) -> bool {
        self.messages <= self.hwm_messages / 2 && self.bytes <= self.hwm_bytes / 2
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// `true`: that filled a chunk.
    #[inline]
    pub(super) fn push<F: Frames + ?Sized>(&mut self, frames: &F) -> bool {
        let size = self.active.push(frames, self.room);
        self.pushed(size)
    }

    /// `true`: that filled a chunk.
    pub(super) fn push_encoded(&mut self, message: &Encoded) -> bool {
        let size = self.active.push_encoded(message, self.room);
        self.pushed(size)
    }

    #[inline]
    fn pushed(&mut self, size: usize) -> bool {
        self.messages += 1;
        self.bytes += size;
        let filled = self.active.bytes >= CHUNK;
        if filled {
            self.fill();
        }
        filled
    }

    #[cold]
    fn fill(&mut self) {
        let next = self.spare.pop().unwrap_or_default();
        self.full.push_back(std::mem::replace(&mut self.active, next));
    }

    /// Appends `frames` to the control bytes.
    pub(super) fn push_control<F: Frames + ?Sized>(&mut self, frames: &F) {
        encode(frames, &mut self.control, |_, _| false, |_, _| {});
    }

    /// Drops the oldest message; `false` when there is none.
    pub(super) fn drop_oldest(&mut self) -> bool {
        loop {
            let front = self.full.front_mut().unwrap_or(&mut self.active);
            if let Some(size) = front.drop_oldest() {
                self.messages -= 1;
                self.bytes -= size;
                return true;
            }
            match self.full.pop_front() {
                Some(spent) => self.recycle(spent),
                None => return false,
            }
        }
    }

    /// Hands over the oldest chunk that has messages.
    pub(super) fn take(&mut self) -> Option<Sending> {
        loop {
            let chunk = match self.full.pop_front() {
                Some(chunk) => chunk,
                None if self.active.messages() == 0 => return None,
                None => {
                    let next = self.spare.pop().unwrap_or_default();
                    std::mem::replace(&mut self.active, next)
                }
            };
            if chunk.messages() > 0 {
                self.messages -= chunk.messages();
                self.bytes -= chunk.live_bytes();
                return Some(Sending::new(chunk));
            }
            self.recycle(chunk);
        }
    }

    /// Takes a written chunk back for reuse.
    pub(super) fn done(&mut self, sent: Sending) {
        self.recycle(sent.chunk);
    }

    fn recycle(&mut self, mut chunk: Chunk) {
        if self.spare.len() < SPARES {
            chunk.clear();
            self.spare.push(chunk);
        }
    }

    /// The connection broke while `sent` was being written: what had not gone out whole is queued again, in front.
    /// Returns how many messages had gone out.
    pub(super) fn restore(&mut self, sent: Sending) -> usize {
        let finished = sent.finished();
        let mut chunk = sent.chunk;
        for _ in 0..finished {
            chunk.drop_oldest();
        }
        self.messages += chunk.messages();
        self.bytes += chunk.live_bytes();
        self.full.push_front(chunk);
        finished
    }

    /// Forgets everything queued; returns how many messages that were.
    pub(super) fn clear(&mut self) -> usize {
        self.full.clear();
        self.active = Chunk::default();
        self.control = Vec::new();
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }

    /// Gives memory back: nothing happened for a while.
    pub(super) fn trim(&mut self) {
        self.spare = Vec::new();
        if self.active.messages() == 0 {
            self.active = Chunk::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(sending: &mut Sending, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !sending.is_done() {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = sending.slices(&mut slices);
            let before = out.len();
            for slice in &slices[..filled] {
                let left = step - (out.len() - before);
                out.extend_from_slice(&slice[..left.min(slice.len())]);
            }
            sending.advance(out.len() - before);
        }
        out
    }

    fn plain(messages: &[Vec<Bytes>]) -> Vec<u8> {
        let mut buf = Vec::new();
        for message in messages {
            encode(message, &mut buf, |_, _| false, |_, _| {});
        }
        buf
    }

    fn sample() -> Vec<Vec<Bytes>> {
        vec![
            vec![Bytes::from_static(b"hello")],
            vec![Bytes::new(), Bytes::from(vec![1; 300]), Bytes::from(vec![2; LARGE + 1])],
            vec![Bytes::from(vec![3; LARGE + 2]), Bytes::from(vec![4; LARGE + 3])],
            vec![Bytes::from_static(b"bye")],
        ]
    }

    #[test]
    fn golden() {
        assert_eq!(plain(&[vec!["a".into(), Bytes::new()]]), [1, 1, b'a', 0, 0]);
        let long = plain(&[vec![Bytes::from(vec![7; 256])]]);
        assert_eq!(long[..9], [2, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(long.len(), 265);
    }

    #[test]
    fn any_write_size_gives_the_same_bytes() {
        let messages = sample();
        for step in [1, 7, 1000, LARGE, usize::MAX] {
            let mut out = Outgoing::new(0, 0, false);
            let mut once = Outgoing::new(0, 0, false);
            let mut encoded = Encoded::default();
            for message in &messages {
                out.push(message);
                encoded.set(message);
                assert_eq!(encoded.size(), encoded_size(message));
                once.push_encoded(&encoded);
            }
            assert_eq!(out.bytes, plain(&messages).len());
            assert_eq!(written(&mut out.take().unwrap(), step), plain(&messages));
            assert_eq!(written(&mut once.take().unwrap(), step), plain(&messages));
            assert_eq!((out.messages, out.bytes), (0, 0));
        }
    }

    #[test]
    fn dropping_oldest_cuts_whole_messages() {
        let messages = sample();
        for dropped in 0..=messages.len() {
            let mut out = Outgoing::new(0, 0, false);
            for message in &messages {
                out.push(message);
            }
            for _ in 0..dropped {
                assert!(out.drop_oldest());
            }
            let rest = &messages[dropped..];
            assert_eq!((out.messages, out.bytes), (rest.len(), plain(rest).len()));
            let bytes = out.take().map(|mut s| written(&mut s, usize::MAX)).unwrap_or_default();
            assert_eq!(bytes, plain(rest));
        }
    }

    #[test]
    fn a_break_at_any_byte_queues_the_unfinished_again() {
        let messages = sample();
        let all = plain(&messages);
        let mut ends = Vec::new();
        for n in 1..=messages.len() {
            ends.push(plain(&messages[..n]).len());
        }
        for cut in (0..all.len()).step_by(97).chain(ends.iter().copied()).chain(ends.iter().map(|e| e - 1)) {
            let mut out = Outgoing::new(0, 0, false);
            for message in &messages {
                out.push(message);
            }
            let mut sending = out.take().unwrap();
            sending.advance(cut);
            out.push(&messages[0]);
            let finished = out.restore(sending);
            assert_eq!(finished, ends.iter().filter(|e| **e <= cut).count(), "cut at {cut}");
            let mut rest = messages[finished..].to_vec();
            rest.push(messages[0].clone());
            assert_eq!((out.messages, out.bytes), (rest.len(), plain(&rest).len()));
            let mut bytes = Vec::new();
            while let Some(mut sending) = out.take() {
                bytes.extend(written(&mut sending, usize::MAX));
            }
            assert_eq!(bytes, plain(&rest));
        }
    }

    #[test]
    fn marks() {
        let mut out = Outgoing::new(2, 10, false);
        assert!(out.has_room(1000), "an empty queue takes any message");
        out.push("abc");
        assert!(out.has_room(5) && !out.has_room(6));
        out.push("abc");
        assert!(!out.has_room(0));
        let first = out.take().unwrap();
        assert!(out.has_room(1000));
        out.done(first);
        assert!(out.take().is_none());
    }

    #[test]
    fn chunks_are_sealed_and_reused() {
        let mut out = Outgoing::new(0, 0, false);
        let message = [0u8; 1000];
        for _ in 0..300 {
            out.push(&message);
        }
        assert_eq!(out.full.len(), 2);
        let mut count = 0;
        while let Some(sending) = out.take() {
            count += sending.messages();
            out.done(sending);
        }
        assert_eq!(count, 300);
        assert!(out.spare.len() >= 2);
        assert!(out.spare.iter().any(|c| c.buf.capacity() >= CHUNK));
    }
}
