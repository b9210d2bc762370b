//! The buffer that a connection reads into.
//!
//! Received messages are slices of it, so that a new one is needed whenever it is full and some of its messages are
//! still there. The old ones are kept in mind until their messages are gone, and used again: while messages are taken as
//! fast as they come, nothing is allocated.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Reads begin with this size, which is also what an idle connection keeps at most.
const MIN: usize = 4 * 1024;
/// And grow to this while each read fills what there is. Larger ones save few system calls, and what they bring does
/// not stay in a processor's cache.
const MAX: usize = 128 * 1024;
/// For larger messages they are as large as those, up to this: then each has a buffer to itself, and nothing of it is
/// ever moved.
const LARGEST: usize = 1 << 20;
/// Full buffers kept in mind, in bytes.
const RETIRED: usize = 3 << 20;

#[derive(Debug)]
pub(super) struct ReadBuf {
    pub(super) buf: BytesMut,
    /// How large the memory is that `buf` is part of.
    whole: usize,
    /// How much room a read is to have.
    size: usize,
    /// What `buf` was before, and how large: empty, but each still holds on to its memory.
    retired: VecDeque<(BytesMut, usize)>,
    retired_bytes: usize,
}

impl ReadBuf {
    pub(super) fn new() -> Self {
        Self { buf: BytesMut::new(), whole: 0, size: MIN, retired: VecDeque::new(), retired_bytes: 0 }
    }

    /// Makes room for the next read: `wanted` bytes are missing of what has begun. Returns the room.
    pub(super) fn prepare(&mut self, wanted: usize) -> usize {
        let (len, room) = (self.buf.len(), self.buf.capacity() - self.buf.len());
        let message = len + wanted;
        if message > MAX {
            self.size = self.size.max(message.min(LARGEST));
        }
        // What has come of a large message stays where it is.
        let enough = if len > MAX { wanted } else { wanted.max(self.size.min(MAX) / 4) };
        if room < enough {
            let rest = if message > MAX { self.size.saturating_sub(len) } else { self.size };
            self.renew(wanted.max(rest));
        }
        self.buf.capacity() - self.buf.len()
    }

    fn renew(&mut self, room: usize) {
        let needed = self.buf.len() + room;
        // All of this buffer's messages may be gone already.
        if self.buf.try_reclaim(room) {
            return;
        }
        if needed > LARGEST {
            self.buf.reserve(room);
            self.whole = self.buf.capacity();
            return;
        }
        // Those from before messages became larger are in the way of the others.
        while self.retired.front().is_some_and(|(_, whole)| *whole < needed) {
            self.pop_retired();
        }
        let again = self.retired.front_mut().is_some_and(|(oldest, _)| oldest.try_reclaim(needed));
        let (mut next, whole) = if again { self.pop_retired() } else { None }
            .unwrap_or_else(|| (BytesMut::with_capacity(needed), needed));
        next.extend_from_slice(&self.buf);
        let mut old = std::mem::replace(&mut self.buf, next);
        let old_whole = std::mem::replace(&mut self.whole, whole);
        if (MIN..=LARGEST).contains(&old_whole) {
            old.clear();
            while self.retired_bytes + old_whole > RETIRED && self.pop_retired().is_some() {}
            self.retired.push_back((old, old_whole));
            self.retired_bytes += old_whole;
        }
    }

    fn pop_retired(&mut self) -> Option<(BytesMut, usize)> {
        let oldest = self.retired.pop_front()?;
        self.retired_bytes -= oldest.1;
        Some(oldest)
    }

    /// A read brought `n` of the `room` bytes there were.
    pub(super) fn filled(&mut self, n: usize, room: usize) {
        if n >= room {
            self.size = self.size.max((self.size * 4).min(MAX));
        } else if n < self.size / 16 {
            self.size = (self.size / 2).max(MIN);
        }
    }

    /// Gives memory back: nothing happened for a while.
    pub(super) fn trim(&mut self) {
        self.size = MIN;
        (self.retired, self.retired_bytes) = (VecDeque::new(), 0);
        if self.buf.is_empty() {
            (self.buf, self.whole) = (BytesMut::new(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One read of `n` bytes, all of it messages.
    fn read(reads: &mut ReadBuf, n: usize) -> bytes::Bytes {
        let room = reads.prepare(0);
        let n = n.min(room);
        reads.buf.extend_from_slice(&vec![1; n]);
        reads.filled(n, room);
        reads.buf.split().freeze()
    }

    #[test]
    fn grows_shrinks_and_gives_back() {
        let mut reads = ReadBuf::new();
        assert_eq!(reads.prepare(0), MIN);
        for _ in 0..4 {
            read(&mut reads, MAX);
        }
        assert_eq!(reads.size, MAX);
        for _ in 0..8 {
            read(&mut reads, 100);
        }
        assert_eq!(reads.size, MIN);
        reads.trim();
        assert_eq!(reads.buf.capacity(), 0);
    }

    #[test]
    fn buffers_come_round_again() {
        let mut reads = ReadBuf::new();
        let mut held = VecDeque::new();
        let mut places = std::collections::HashSet::new();
        for round in 0..200 {
            let message = read(&mut reads, MAX);
            if round > 50 {
                places.insert(message.as_ptr() as usize);
            }
            held.push_back(message);
            // The receiver is five reads behind.
            if held.len() > 5 {
                held.pop_front();
            }
        }
        assert!(places.len() <= 8, "{} places", places.len());
    }

    /// A message that comes whole with the header before it, told as the decoder would.
    fn large(reads: &mut ReadBuf, size: usize) -> bytes::Bytes {
        while reads.buf.len() < size {
            let (len, missing) = (reads.buf.len(), size - reads.buf.len());
            let wanted = if len == 0 { 0 } else { missing.min(len.max(64 << 10)) };
            let room = reads.prepare(wanted);
            let n = room.min(missing);
            reads.buf.extend_from_slice(&vec![1; n]);
            reads.filled(n, room);
        }
        reads.buf.split().freeze()
    }

    #[test]
    fn large_messages_get_buffers_of_their_size() {
        const SIZE: usize = (256 << 10) + 9;
        let mut reads = ReadBuf::new();
        let mut held = VecDeque::new();
        let mut places = std::collections::HashSet::new();
        for round in 0..100 {
            let message = large(&mut reads, SIZE);
            if round > 20 {
                places.insert(message.as_ptr() as usize);
                assert_eq!(reads.whole, SIZE, "nothing but the message");
            }
            held.push_back(message);
            if held.len() > 3 {
                held.pop_front();
            }
        }
        assert!(places.len() <= 6, "{} places", places.len());
    }

    #[test]
    fn an_unfinished_message_moves_along() {
        let mut reads = ReadBuf::new();
        reads.prepare(0);
        reads.buf.extend_from_slice(&[7; MIN]);
        let first = reads.buf.split_to(MIN - 3).freeze();
        assert!(reads.prepare(10 * MAX) >= 10 * MAX);
        assert_eq!((&reads.buf[..], first.len()), (&[7; 3][..], MIN - 3));
    }
}
