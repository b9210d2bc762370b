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
/// Full buffers kept in mind.
const RETIRED: usize = 12;

#[derive(Debug)]
pub(super) struct ReadBuf {
    pub(super) buf: BytesMut,
    /// How much room a read is to have.
    size: usize,
    /// What `buf` was before: empty, but each still holds on to its memory.
    retired: VecDeque<BytesMut>,
}

impl ReadBuf {
    pub(super) fn new() -> Self {
        Self { buf: BytesMut::new(), size: MIN, retired: VecDeque::new() }
    }

    /// Makes room for the next read: `wanted` bytes are missing of what has begun. Returns the room.
    pub(super) fn prepare(&mut self, wanted: usize) -> usize {
        let room = self.buf.capacity() - self.buf.len();
        if room < wanted.max(self.size / 4) {
            self.renew(wanted.max(self.size));
        }
        self.buf.capacity() - self.buf.len()
    }

    fn renew(&mut self, room: usize) {
        let needed = self.buf.len() + room;
        // All of this buffer's messages may be gone already.
        if needed > MAX || self.buf.try_reclaim(room) {
            return self.buf.reserve(room);
        }
        let again = self.retired.front_mut().is_some_and(|oldest| oldest.try_reclaim(needed));
        let oldest = if again { self.retired.pop_front() } else { None };
        let mut next = oldest.unwrap_or_else(|| BytesMut::with_capacity(needed));
        next.extend_from_slice(&self.buf);
        let mut old = std::mem::replace(&mut self.buf, next);
        old.clear();
        if self.size == MAX {
            self.retired.truncate(RETIRED - 1);
            self.retired.push_back(old);
        }
    }

    /// A read brought `n` of the `room` bytes there were.
    pub(super) fn filled(&mut self, n: usize, room: usize) {
        if n >= room {
            self.size = (self.size * 4).min(MAX);
        } else if n < self.size / 16 {
            self.size = (self.size / 2).max(MIN);
        }
    }

    /// Gives memory back: nothing happened for a while.
    pub(super) fn trim(&mut self) {
        self.size = MIN;
        self.retired = VecDeque::new();
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
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
        assert!(places.len() <= 20, "{} places", places.len());
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
