//! Properties of the protocol, over generated streams: whatever is sent comes out, wherever it is cut, and whatever
//! is damaged ends in a typed error.

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, clippy::expect_used)]
mod fuzz;

use std::time::Instant;

use bytes::BytesMut;
use proptest::prelude::*;
use ripstop::Message;
use ripstop::zmtp::command::Control;
use ripstop::zmtp::{
    Command, Config, Connection, Limits, Local, SocketType, State, encode_subscription, frame,
};

/// One thing a peer may put on the wire once the handshake is over.
#[derive(Clone, Debug)]
enum Sent {
    Message(Vec<Vec<u8>>),
    Ping(Vec<u8>),
    Subscription { minor: u8, subscribe: bool, prefix: Vec<u8> },
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 250..600),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        6 => prop::collection::vec(body(), 1..6).prop_map(Sent::Message),
        1 => prop::collection::vec(any::<u8>(), 0..=16).prop_map(Sent::Ping),
        1 => (0..2u8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(minor, subscribe, prefix)| Sent::Subscription { minor, subscribe, prefix }),
    ]
}

/// The stream of a peer of type `theirs`: greeting, READY, then all of `sent`. `long`: every header takes the long
/// form, which libzmq reads for short lengths too.
fn stream(theirs: SocketType, sent: &[Sent], long: bool) -> Vec<u8> {
    let mut out = Connection::new(Config::default(), Instant::now()).output().split();
    let ready = format!("\x0bSocket-Type\0\0\0{}{theirs}", char::from(theirs.as_str().len() as u8));
    Control::Ready(ready.as_bytes()).encode(&mut out);
    for sent in sent {
        match sent {
            Sent::Message(frames) => {
                for (i, body) in frames.iter().enumerate() {
                    let more = i + 1 < frames.len();
                    if long {
                        out.extend_from_slice(&[2 | u8::from(more)]);
                        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
                        out.extend_from_slice(body);
                    } else {
                        frame::put(&mut out, more, false, body);
                    }
                }
            }
            Sent::Ping(context) => Control::Ping { ttl: 0, context }.encode(&mut out),
            Sent::Subscription { minor, subscribe, prefix } => {
                encode_subscription(*minor, *subscribe, prefix, &mut out);
            }
        }
    }
    out.to_vec()
}

fn subscription(subscribe: bool, prefix: &[u8]) -> Command {
    let prefix = prefix.to_vec().into();
    if subscribe { Command::Subscribe(prefix) } else { Command::Cancel(prefix) }
}

/// What must come out of that stream: messages, commands, and how many PONGs. `publishes`: subscriptions are ours.
fn expected(sent: &[Sent], publishes: bool) -> (Vec<Message>, Vec<Command>, usize) {
    let (mut messages, mut commands, mut pongs) = (Vec::new(), Vec::new(), 0);
    for sent in sent {
        match sent {
            Sent::Message(frames) => match frames.as_slice() {
                [one] if publishes && matches!(one.first(), Some(0 | 1)) => {
                    commands.push(subscription(one[0] == 1, &one[1..]));
                }
                frames => messages.push(Message::from_frames(frames)),
            },
            Sent::Ping(_) => pongs += 1,
            Sent::Subscription { subscribe, prefix, .. } if publishes => {
                commands.push(subscription(*subscribe, prefix));
            }
            // To others a 3.0 subscription is a message like any other, and a 3.1 one nothing.
            Sent::Subscription { minor: 0, subscribe, prefix } => {
                messages.push(Message::from([&[u8::from(*subscribe)], &prefix[..]].concat()));
            }
            Sent::Subscription { .. } => {}
        }
    }
    (messages, commands, pongs)
}

/// Cuts `stream` into pieces of the given sizes, over and over.
fn cut<'a>(mut stream: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = (*sizes.next()?).min(stream.len());
        let (piece, rest) = stream.split_at(size);
        stream = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Runs the fuzz target: whole and cut, the outcome is the same, and within the limits.
fn attack(choice: u8, size: u8, stream: &[u8]) {
    fuzz::connection(&[&[choice, size], stream].concat());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_sent_comes_out(
        sent in prop::collection::vec(sent(), 0..20),
        sizes in prop::collection::vec(1..100usize, 1..8),
        publishes: bool,
        held: bool,
        long: bool,
    ) {
        let (ours, theirs) = match publishes {
            true => (SocketType::XPub, SocketType::XSub),
            false => (SocketType::Pull, SocketType::Push),
        };
        let stream = stream(theirs, &sent, long);
        let outcome = fuzz::run(ours, held, Limits::default(), cut(&stream, &sizes));
        let (messages, commands, pongs) = expected(&sent, publishes);
        prop_assert_eq!((outcome.error, outcome.state), (None, State::Ready));
        prop_assert_eq!((outcome.messages, outcome.commands), (messages, commands));
        prop_assert_eq!(outcome.output.windows(5).filter(|w| w == b"\x04PONG").count(), pongs);
    }

    #[test]
    fn damage_ends_in_an_error_or_in_other_messages(
        sent in prop::collection::vec(sent(), 1..8),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        choice: u8,
        size in 1..60u8,
    ) {
        let mut stream = stream(SocketType::Dealer, &sent, false);
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        attack(choice, size, &stream);
    }

    #[test]
    fn noise_is_no_harm(noise in prop::collection::vec(any::<u8>(), 0..300), choice: u8, size in 1..60u8) {
        attack(choice, size, &noise);
        for theirs in SocketType::ALL {
            attack(choice, size, &[&stream(theirs, &[], false), &noise[..]].concat());
        }
        fuzz::frames(&noise);
    }

    #[test]
    fn ready_round_trips(
        metadata in prop::collection::vec(("[A-Za-z0-9.+_-]{1,250}", prop::collection::vec(any::<u8>(), 0..300)), 0..8),
    ) {
        let now = Instant::now();
        let mut local = Local::new(SocketType::Dealer);
        for (i, (name, value)) in metadata.into_iter().enumerate() {
            local.metadata.push((format!("{i}{name}"), value.into()));
        }
        let mut dealer = Connection::new(Config { local: Some(local.clone()), ..Config::default() }, now);
        let mut router = Connection::new(Config::default(), now);
        let mut received = Default::default();
        dealer.input(&mut router.output().split(), now, &mut received).unwrap();
        router.input(&mut dealer.output().split(), now, &mut received).unwrap();
        let peer = router.peer().unwrap();
        prop_assert_eq!((peer.socket_type, peer.minor), (SocketType::Dealer, 1));
        prop_assert_eq!(&peer.metadata[1..], &local.metadata[..]);
    }
}

/// A stream with every kind of thing in it.
fn sample() -> Vec<Sent> {
    let subscription = |minor, subscribe| Sent::Subscription { minor, subscribe, prefix: b"orders".to_vec() };
    vec![
        Sent::Message(vec![b"one".to_vec()]),
        subscription(0, true),
        Sent::Message(vec![vec![], b"two".to_vec(), vec![b'x'; 300], vec![], b"five".to_vec()]),
        Sent::Ping(b"context".to_vec()),
        subscription(1, false),
        Sent::Message(vec![vec![]]),
    ]
}

#[test]
fn every_split_point() {
    for (ours, theirs) in [(SocketType::XPub, SocketType::Sub), (SocketType::Rep, SocketType::Dealer)] {
        let stream = stream(theirs, &sample(), false);
        for held in [false, true] {
            let whole = fuzz::run(ours, held, Limits::default(), std::iter::once(&stream[..]));
            assert_eq!((whole.state, &whole.error), (State::Ready, &None));
            assert!(!whole.messages.is_empty());
            for at in 1..stream.len() {
                let (a, b) = stream.split_at(at);
                let outcome = fuzz::run(ours, held, Limits::default(), [a, b].into_iter());
                assert_eq!(outcome, whole, "cut at {at}");
            }
            assert_eq!(fuzz::run(ours, held, Limits::default(), stream.chunks(1)), whole);
        }
    }
}

#[test]
fn every_byte_perturbed() {
    let good = stream(SocketType::Dealer, &sample(), false);
    for at in 0..good.len() {
        for byte in [0, 1, 2, 4, 5, 8, 0x7f, 0x80, 0xff, good[at] ^ 1, good[at].wrapping_add(1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            attack(ROUTER + u8::from(at % 2 == 0), 17, &bad);
        }
    }
}

/// The target's choice of a ROUTER; one more: with its READY held back.
const ROUTER: u8 = 6;

#[test]
fn a_stream_that_ends_anywhere_is_no_error() {
    let good = stream(SocketType::Dealer, &sample(), false);
    for end in 0..good.len() {
        let outcome = fuzz::run(SocketType::Router, true, Limits::default(), std::iter::once(&good[..end]));
        assert_eq!(outcome.error, None, "ended at {end}");
    }
}

/// Endless frames with MORE, empty or not, end at the limit on frames or on bytes, and so does memory.
#[test]
fn endless_more_frames_are_capped() {
    for (size, most) in [(0, 1024 * 2), (1000, 1024 * 1009), (60_000, 17 << 20)] {
        let mut endless = Vec::new();
        frame::put(&mut endless, true, false, &vec![0; size]);
        let mut connection = Connection::new(
            Config { local: Some(Local::new(SocketType::Pull)), ..Config::default() },
            Instant::now(),
        );
        let mut buf = BytesMut::from(&stream(SocketType::Push, &[], false)[..]);
        let mut received = Default::default();
        let mut sent = 0;
        while connection.input(&mut buf, Instant::now(), &mut received).is_ok() {
            buf.extend_from_slice(&endless);
            sent += endless.len();
            assert!(sent <= most, "{sent} bytes taken of frames of {size}");
        }
        assert_eq!(connection.state(), State::Closed);
    }
}

/// A message that comes in small pieces is not looked at again for each: the work is linear in its size.
#[test]
fn a_thousand_frames_in_tiny_pieces() {
    let frames = vec![vec![b'x'; 300]; 1000];
    let stream = stream(SocketType::Push, &[Sent::Message(frames.clone())], false);
    let outcome = fuzz::run(SocketType::Pull, false, Limits::default(), stream.chunks(3));
    assert_eq!(outcome.messages, [Message::from_frames(&frames)]);
}

/// What a header announces is never reserved: not in the buffer, not in what the link is asked to make room for.
#[test]
fn announced_lengths_cost_nothing() {
    for len in [1 << 20, (16 << 20) + 1, 1 << 31, 1 << 62, u64::MAX] {
        let local = Some(Local::new(SocketType::Pull));
        let mut connection = Connection::new(Config { local, ..Config::default() }, Instant::now());
        let mut buf = BytesMut::from(&stream(SocketType::Push, &[], false)[..]);
        buf.extend_from_slice(&[2]);
        buf.extend_from_slice(&len.to_be_bytes());
        let capacity = buf.capacity();
        let refused = connection.input(&mut buf, Instant::now(), &mut Default::default()).is_err();
        assert_eq!(refused, len > 16 << 20);
        assert!(buf.capacity() <= capacity && connection.wanted() <= 64 << 10);
    }
}
