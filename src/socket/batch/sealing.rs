//! What CURVE needs of a batch: room before each body, and filling it when the batch is handed over.
//!
//! ```text
//!   plain      |flags|len| body                                 appended by NULL pipes
//!   with room  |0|len+33| 0 … 0, flags | body                   appended by CURVE pipes
//!   sealed     |0|len+33| MESSAGE, nonce, tag | flags and body  in place, once a chunk is taken; and back, if the
//!                                                               connection breaks and the queue is kept
//! ```
//! A large frame, which others may share, is copied when it is sealed.

use bytes::Bytes;

use super::{Chunk, Encoded, LARGE, Sending};
use crate::message::Frames;
use crate::zmtp::curve::{OVERHEAD, Sealer};
use crate::zmtp::frame;

/// Appends `frames` as one message with room for the seals.
pub(super) fn encode_with_room<F: Frames + ?Sized>(
    frames: &F,
    buf: &mut Vec<u8>,
    mut large: impl FnMut(usize, Bytes),
) {
    let count = frames.frame_count();
    if count == 0 {
        put_room(buf, 0, Sealer::flags(false, false));
    }
    for index in 0..count {
        let frame = frames.frame_at(index);
        let slice = frame.as_slice();
        put_room(buf, slice.len(), Sealer::flags(index + 1 < count, false));
        match super::is_apart(&frame, slice.len()) {
            false => buf.extend_from_slice(slice),
            true => large(buf.len(), super::shared(frame)),
        }
    }
}

fn put_room(buf: &mut Vec<u8>, len: usize, flags: u8) {
    buf.reserve(frame::MAX_HEADER + OVERHEAD + len.min(LARGE));
    buf.extend_from_slice(&frame::header(len + OVERHEAD, false, false));
    buf.extend_from_slice(&[0; OVERHEAD]);
    if let Some(last) = buf.last_mut() {
        *last = flags;
    }
}

/// Gives a message that was encoded without room what it lacks.
pub(super) fn push_with_room(message: &Encoded, buf: &mut Vec<u8>, mut large: impl FnMut(usize, Bytes)) {
    let mut larges = message.larges.iter().peekable();
    let mut at = 0;
    while let Some((head, body)) = next_frame(&message.buf, at) {
        put_room(buf, head.len as usize, Sealer::flags(head.more, head.command));
        at = match larges.next_if(|(place, _)| *place == body) {
            Some((_, bytes)) => {
                large(buf.len(), bytes.clone());
                body
            }
            None => {
                let end = body + head.len as usize;
                buf.extend_from_slice(message.buf.get(body..end).unwrap_or_default());
                end
            }
        };
    }
}

/// The frame at `at`, and where its body begins.
fn next_frame(buf: &[u8], at: usize) -> Option<(frame::Head, usize)> {
    let head = frame::parse(buf.get(at..)?).ok()??;
    Some((head, at + head.header))
}

impl Sending {
    /// Seals every frame that is to be written. `false`: it is not as it should be, and must not be written.
    #[must_use]
    pub(in crate::socket) fn seal(&mut self, sealer: &mut Sealer) -> bool {
        let start = self.at;
        self.chunk.each_frame(start, |room, apart| match apart {
            None => sealer.seal(room),
            Some(body) => replace(body, sealer.seal_apart(room, body)),
        })
    }

    /// Takes all seals back, so that what was not written can go out on another connection. `false`: it cannot.
    #[must_use]
    pub(in crate::socket) fn unseal(&mut self, sealer: &Sealer) -> bool {
        let start = self.chunk.start();
        self.chunk.each_frame(start, |room, apart| match apart {
            None => sealer.unseal(room),
            Some(body) => replace(body, sealer.unseal_apart(room, body)),
        })
    }
}

/// What comes back has the flags in front, which are in the room already.
fn replace(body: &mut Bytes, content: Option<Vec<u8>>) -> bool {
    let Some(content) = content.filter(|content| content.len() == body.len() + 1) else { return false };
    *body = Bytes::from(content).slice(1..);
    true
}

impl Chunk {
    /// Visits every frame's body from `at` on: the room and the rest, or the room and a large body that is elsewhere.
    fn each_frame(
        &mut self,
        mut at: usize,
        mut visit: impl FnMut(&mut [u8], Option<&mut Bytes>) -> bool,
    ) -> bool {
        let mut larges = self.larges.iter_mut().peekable();
        while at < self.buf.len() {
            let Some((head, body)) = next_frame(&self.buf, at) else { return false };
            let large = larges.next_if(|(place, _)| *place as usize == body + OVERHEAD);
            at = body + if large.is_some() { OVERHEAD } else { head.len as usize };
            let Some(room) = self.buf.get_mut(body..at) else { return false };
            if !visit(room, large.map(|(_, bytes)| bytes)) {
                return false;
            }
        }
        larges.next().is_none()
    }
}

#[cfg(feature = "curve")]
#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::time::Instant;

    use bytes::BytesMut;

    use super::super::Outgoing;
    use super::*;
    use crate::message::Message;
    use crate::zmtp::curve::{Client, SecretKey, Server};
    use crate::zmtp::{Config, Connection, Local, Mechanism, Received, SocketType};

    /// A connected pair: whose sealer we use, and who opens.
    fn pair() -> (Connection, Connection) {
        let (now, secret) = (Instant::now(), SecretKey::from_bytes([1; 32]));
        let client = Client::new(secret.public_key(), SecretKey::from_bytes([2; 32]).into(), [3; 48]);
        let server = Server::new(secret.into(), [4; 96]);
        let side = |socket_type, mechanism| {
            let local = Some(Local::new(socket_type));
            Connection::new(Config { local, mechanism, ..Config::default() }, now)
        };
        let mut push = side(SocketType::Push, Mechanism::CurveClient(client));
        let mut pull = side(SocketType::Pull, Mechanism::CurveServer(server));
        for _ in 0..3 {
            pull.input(push.output(), now, &mut Received::default()).unwrap();
            push.input(pull.output(), now, &mut Received::default()).unwrap();
        }
        (push, pull)
    }

    fn opened(pull: &mut Connection, bytes: &[u8]) -> Vec<Message> {
        let mut received = Received::default();
        pull.input(&mut BytesMut::from(bytes), Instant::now(), &mut received).unwrap();
        received.messages
    }

    fn sample() -> Vec<Vec<Bytes>> {
        vec![
            vec![Bytes::from_static(b"hello")],
            vec![Bytes::new(), Bytes::from(vec![1; 300]), Bytes::from(vec![2; LARGE + 1])],
            vec![Bytes::from(vec![3; LARGE + 2]), Bytes::from(vec![4; LARGE + 3]), Bytes::new()],
            vec![],
            vec![Bytes::from_static(b"bye")],
        ]
    }

    fn messages(sample: &[Vec<Bytes>]) -> Vec<Message> {
        sample.iter().map(|frames| Message::from_frames(frames.iter())).collect()
    }

    /// Writes up to `most` bytes, as the system may take them.
    fn write(sending: &mut Sending, most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !sending.is_done() && out.len() < most {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = sending.slices(&mut slices);
            let piece: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).collect();
            let piece = &piece[..piece.len().min(most - out.len())];
            out.extend_from_slice(piece);
            sending.advance(piece.len());
        }
        out
    }

    #[test]
    fn what_is_sealed_opens_on_the_other_side() {
        let (mut push, mut pull) = pair();
        let mut out = Outgoing::new(0, 0, true);
        let mut encoded = Encoded::default();
        for frames in &sample() {
            out.push(frames);
            encoded.set(frames);
            out.push_encoded(&encoded);
        }
        let expected = out.bytes;
        let (mut bytes, mut count) = (Vec::new(), 0);
        while let Some(mut sending) = out.take() {
            count += sending.messages();
            assert!(sending.seal(push.sealer().unwrap()));
            bytes.extend(write(&mut sending, usize::MAX));
            out.done(sending);
        }
        assert_eq!((bytes.len(), count), (expected, 10));
        let twice: Vec<Message> = messages(&sample()).into_iter().flat_map(|m| [m.clone(), m]).collect();
        assert_eq!(opened(&mut pull, &bytes), twice);
    }

    #[test]
    fn both_ways_of_making_room_are_one() {
        for frames in &sample() {
            let (mut one, mut other) = (Outgoing::new(0, 0, true), Outgoing::new(0, 0, true));
            let mut encoded = Encoded::default();
            encoded.set(frames);
            one.push(frames);
            other.push_encoded(&encoded);
            let [a, b] = [one.take(), other.take()].map(|s| write(&mut s.unwrap(), usize::MAX));
            assert!(a == b);
        }
    }

    #[test]
    fn a_break_at_any_byte_goes_on_elsewhere() {
        let all = {
            let (mut out, mut bytes) = (Outgoing::new(0, 0, true), 0);
            for frames in &sample() {
                out.push(frames);
            }
            while let Some(mut sending) = out.take() {
                bytes += write(&mut sending, usize::MAX).len();
            }
            bytes
        };
        for cut in (0..all).step_by(397).chain(0..120) {
            let mut out = Outgoing::new(0, 0, true);
            for frames in &sample() {
                out.push(frames);
            }
            assert!(out.drop_oldest());
            let (mut push, mut pull) = pair();
            let mut sending = out.take().unwrap();
            assert!(sending.seal(push.sealer().unwrap()));
            let came = opened(&mut pull, &write(&mut sending, cut));
            assert!(sending.unseal(push.sealer().unwrap()));
            let finished = out.restore(sending);
            assert_eq!(came.len(), finished, "cut at {cut}");

            let (mut push, mut pull) = pair();
            let mut sending = out.take().into_iter().collect::<Vec<_>>();
            let rest: Vec<Message> = sending
                .iter_mut()
                .flat_map(|sending| {
                    assert!(sending.seal(push.sealer().unwrap()));
                    opened(&mut pull, &write(sending, usize::MAX))
                })
                .collect();
            assert_eq!([came, rest].concat(), messages(&sample()[1..]), "cut at {cut}");
        }
    }
}
