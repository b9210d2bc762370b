//! MESSAGE: one box per frame.
//!
//! ```text
//!    frame header      0         8          16        32      33
//!   ┌──────────────┬───────────┬──────────┬─────────┬───────┬────────┐   flags  bit 0  MORE
//!   │ 0x00 / 0x02… │ 7 MESSAGE │ nonce(8) │ tag(16) │ flags │ body … │          bit 1  COMMAND
//!   └──────────────┴───────────┴──────────┴─────────┴───────┴────────┘
//!                                                   └── encrypted ───┘
//! ```
//! Whoever sends leaves [`OVERHEAD`] bytes of room before each body and puts the flags into the last of them; then
//! sealing and opening need no other memory.

use bytes::{BufMut, BytesMut};

use super::boxes::{Many, TAG};
use crate::zmtp::ProtocolError;
use crate::zmtp::command::bad;
use crate::zmtp::frame;

/// A sealed frame's body is this much longer than what is in it.
pub(crate) const OVERHEAD: usize = NAME.len() + 8 + TAG + 1;

const NAME: &[u8; 8] = b"\x07MESSAGE";
const MORE: u8 = 1;
const COMMAND: u8 = 2;

/// Our direction of one connection: turns frames into MESSAGEs. Each seal takes the next nonce, so that frames must go
/// out in the order in which they were sealed.
pub(crate) struct Sealer {
    key: Many,
    next: u64,
}

impl Sealer {
    pub(super) fn new(key: &[u8; 32], prefix: &[u8; 16], next: u64) -> Self {
        Self { key: Many::new(key, prefix), next }
    }

    /// The flags of a frame, for the last byte of the room.
    pub(crate) const fn flags(more: bool, command: bool) -> u8 {
        (if more { MORE } else { 0 }) | (if command { COMMAND } else { 0 })
    }

    /// Seals a frame's body in place; it begins with the room. `false`: it is too short for that, and nothing was done.
    #[must_use]
    pub(crate) fn seal(&mut self, body: &mut [u8]) -> bool {
        let Some((room, content)) = split(body) else { return false };
        let nonce = self.take();
        let tag = self.key.seal(nonce, content);
        room.fill(nonce, &tag);
        true
    }

    /// The same when the body proper is elsewhere: returns it encrypted, in a buffer of its own.
    pub(crate) fn seal_apart(&mut self, room: &mut [u8], body: &[u8]) -> Option<Vec<u8>> {
        let (room, [flags]) = split(room)? else { return None };
        let mut content = Vec::with_capacity(1 + body.len());
        content.push(*flags);
        content.extend_from_slice(body);
        let nonce = self.take();
        let tag = self.key.seal(nonce, &mut content);
        *flags = content.first().copied()?;
        room.fill(nonce, &tag);
        Some(content)
    }

    /// Takes a seal of this connection back: the frame is to go out on another one.
    #[must_use]
    pub(crate) fn unseal(&self, body: &mut [u8]) -> bool {
        let Some((room, content)) = split(body) else { return false };
        self.key.open(room.nonce(), content, room.tag)
    }

    /// The same when the encrypted body proper is elsewhere; returns it decrypted.
    pub(crate) fn unseal_apart(&self, room: &mut [u8], body: &[u8]) -> Option<Vec<u8>> {
        let (room, [flags]) = split(room)? else { return None };
        let mut content = Vec::with_capacity(1 + body.len());
        content.push(*flags);
        content.extend_from_slice(body);
        if !self.key.open(room.nonce(), &mut content, room.tag) {
            return None;
        }
        *flags = content.first().copied()?;
        Some(content)
    }

    /// Appends plain frames to `out`, sealed: commands, and what is as small.
    pub(crate) fn put(&mut self, mut plain: &[u8], out: &mut impl BufMut) -> Result<(), ProtocolError> {
        let mut sealed = BytesMut::new();
        while let Some(head) = frame::parse(plain)? {
            let cut = bad("unnamed", "it is cut off");
            let (_, rest) = plain.split_at_checked(head.header).ok_or(cut.clone())?;
            let (body, rest) = rest.split_at_checked(head.len as usize).ok_or(cut.clone())?;
            sealed.clear();
            sealed.put_bytes(0, OVERHEAD - 1);
            sealed.put_u8(Self::flags(head.more, head.command));
            sealed.put_slice(body);
            if !self.seal(&mut sealed) {
                return Err(cut);
            }
            frame::put(out, false, false, &sealed);
            plain = rest;
        }
        Ok(())
    }

    fn take(&mut self) -> u64 {
        let nonce = self.next;
        // No connection lives for 2^64 frames.
        self.next = nonce.wrapping_add(1);
        nonce
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("next", &self.next).finish_non_exhaustive()
    }
}

/// The peer's direction of one connection.
pub(in crate::zmtp) struct Opener {
    key: Many,
    last: u64,
}

/// What was in a MESSAGE: its flags.
#[derive(Clone, Copy)]
pub(in crate::zmtp) struct Flags {
    pub(in crate::zmtp) more: bool,
    pub(in crate::zmtp) command: bool,
}

impl Opener {
    pub(super) fn new(key: &[u8; 32], prefix: &[u8; 16], last: u64) -> Self {
        Self { key: Many::new(key, prefix), last }
    }

    /// Opens a frame's body in place: what follows the first [`OVERHEAD`] bytes of it is then the body proper.
    ///
    /// Errors: the connection is over; nothing was changed, nor was the nonce counted.
    pub(in crate::zmtp) fn open(&mut self, body: &mut [u8]) -> Result<Flags, ProtocolError> {
        let (room, content) = split(body).ok_or(bad("MESSAGE", "it is too short"))?;
        if room.name != NAME {
            return Err(bad("MESSAGE", "it has another name"));
        }
        let nonce = room.nonce();
        if nonce <= self.last {
            return Err(ProtocolError::Replayed);
        }
        if !self.key.open(nonce, content, room.tag) {
            return Err(ProtocolError::CannotOpen("MESSAGE"));
        }
        self.last = nonce;
        let flags = content.first().copied().unwrap_or_default();
        let (more, command) = (flags & MORE != 0, flags & COMMAND != 0);
        if flags & !(MORE | COMMAND) != 0 || (more && command) {
            return Err(ProtocolError::BadFlags(flags));
        }
        Ok(Flags { more, command })
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("last", &self.last).finish_non_exhaustive()
    }
}

/// The room before a body, without the flags.
struct Room<'a> {
    name: &'a mut [u8; 8],
    nonce: &'a mut [u8; 8],
    tag: &'a mut [u8; TAG],
}

impl Room<'_> {
    fn nonce(&self) -> u64 {
        u64::from_be_bytes(*self.nonce)
    }

    fn fill(self, nonce: u64, tag: &[u8; TAG]) {
        *self.name = *NAME;
        *self.nonce = nonce.to_be_bytes();
        *self.tag = *tag;
    }
}

/// The room, and what is encrypted: flags and body.
fn split(body: &mut [u8]) -> Option<(Room<'_>, &mut [u8])> {
    let (name, rest) = body.split_first_chunk_mut()?;
    let (nonce, rest) = rest.split_first_chunk_mut()?;
    let (tag, content) = rest.split_first_chunk_mut()?;
    (!content.is_empty()).then_some((Room { name, nonce, tag }, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Sealer, Opener) {
        (Sealer::new(&[7; 32], b"CurveZMQMESSAGEC", 3), Opener::new(&[7; 32], b"CurveZMQMESSAGEC", 2))
    }

    fn sealed(sealer: &mut Sealer, more: bool, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; OVERHEAD];
        frame[OVERHEAD - 1] = Sealer::flags(more, false);
        frame.extend_from_slice(body);
        assert!(sealer.seal(&mut frame));
        frame
    }

    #[test]
    fn sealed_and_opened() {
        let (mut sealer, mut opener) = pair();
        for len in [0, 1, 100, 5000] {
            let body = vec![len as u8; len];
            let mut frame = sealed(&mut sealer, len == 1, &body);
            let flags = opener.open(&mut frame).unwrap();
            assert!(flags.more == (len == 1) && !flags.command && frame[OVERHEAD..] == body);
        }
    }

    #[test]
    fn every_flipped_bit_and_cut_is_refused_and_counts_for_nothing() {
        let (mut sealer, mut opener) = pair();
        let good = sealed(&mut sealer, false, b"hello");
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut frame = good.clone();
                frame[at] ^= 1 << bit;
                let changed = frame.clone();
                assert!(opener.open(&mut frame).is_err(), "byte {at}");
                assert_eq!(frame, changed);
            }
            assert!(opener.open(&mut good[..at].to_vec()).is_err());
        }
        opener.open(&mut good.clone()).unwrap();
    }

    #[test]
    fn replay_and_reordering_are_refused() {
        let (mut sealer, mut opener) = pair();
        let [a, b, c] = [(); 3].map(|()| sealed(&mut sealer, false, b"x"));
        opener.open(&mut a.clone()).unwrap();
        assert_eq!(opener.open(&mut a.clone()).err(), Some(ProtocolError::Replayed));
        opener.open(&mut c.clone()).unwrap(); // a gap is none of our business: TCP leaves none
        assert_eq!(opener.open(&mut b.clone()).err(), Some(ProtocolError::Replayed));
        // Our own direction is not the peer's: nothing can be sent back.
        let mut other = Opener::new(&[7; 32], b"CurveZMQMESSAGES", 2);
        assert_eq!(other.open(&mut a.clone()).err(), Some(ProtocolError::CannotOpen("MESSAGE")));
    }

    #[test]
    fn unknown_flags_are_refused() {
        for flags in 0..=255 {
            let (mut sealer, mut opener) = pair();
            let mut frame = vec![0; OVERHEAD];
            frame[OVERHEAD - 1] = flags;
            assert!(sealer.seal(&mut frame));
            assert_eq!(opener.open(&mut frame).is_ok(), flags < 3, "{flags}");
        }
    }

    #[test]
    fn a_seal_can_be_taken_back() {
        let (mut sealer, mut opener) = pair();
        let mut frame = sealed(&mut sealer, true, b"hello");
        assert!(sealer.unseal(&mut frame));
        assert_eq!((frame[OVERHEAD - 1], &frame[OVERHEAD..]), (1, &b"hello"[..]));

        let (head, body) = (&mut frame[..OVERHEAD].to_vec(), vec![8; 20_000]);
        let apart = sealer.seal_apart(head, &body).unwrap();
        let mut whole = [&head[..], &apart[1..]].concat();
        assert!(sealer.unseal_apart(head, &apart[1..]).unwrap()[1..] == body);
        assert_eq!(head[OVERHEAD - 1], 1);
        assert!(opener.open(&mut whole).unwrap().more && whole[OVERHEAD..] == body);
    }
}
