//! What the fuzz targets check. `tests/fuzz_corpus.rs` replays the corpora through the same functions, and
//! `tests/zmtp_properties.rs` feeds them generated streams, so neither needs a fuzzer.

#[cfg(feature = "curve")]
mod curve;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use ripstop::Message;
use ripstop::envelope::{
    CreditBody, ErrorBody, GapBody, Header, HelloBody, Limits as BodyLimits, MAX_HEADER, ManifestBody, Parts,
    Pattern, check, check_subject, decode_body, encode_body, route,
};
use ripstop::zmtp::command::{Control, properties};
use ripstop::zmtp::{
    Command, Config, Connection, Limits, Local, ProtocolError, Received, SocketType, State, frame,
};

#[cfg(feature = "curve")]
#[allow(unused_imports)] // by tests that need only the rest
pub use curve::{curve_client, curve_server};

/// Everything that one run of a connection brought.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub messages: Vec<Message>,
    pub commands: Vec<Command>,
    pub output: Vec<u8>,
    pub state: State,
    pub error: Option<ProtocolError>,
}

/// Limits that a short input can reach.
pub fn small_limits() -> Limits {
    Limits { max_message: 4096, max_frames: 16, max_command: 512, ..Limits::default() }
}

/// Feeds a connection of type `ours` with the pieces, one after the other. `held`: its READY is held back until
/// the peer's is there, as an accepting node does.
pub fn run<'a>(
    ours: SocketType,
    held: bool,
    limits: Limits,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Outcome {
    let mut now = Instant::now();
    let local = Local::new(ours);
    let config =
        Config { local: (!held).then(|| local.clone()), limits: limits.clone(), ..Config::default() };
    let mut connection = Connection::new(config, now);
    let mut buf = BytesMut::new();
    let mut received = Received::default();
    let mut error = None;
    for piece in pieces {
        buf.extend_from_slice(piece);
        let mut step = connection.input(&mut buf, now, &mut received);
        if connection.state() == State::AwaitingAnswer {
            step = connection
                .answer(local.clone())
                .and_then(|()| connection.input(&mut buf, now, &mut received));
        }
        // What is kept of an unfinished message has a bound, and so has what is asked for.
        assert!(connection.wanted() <= buf.len().max(64 << 10));
        if let Err(e) = step {
            assert_eq!(connection.state(), State::Closed);
            error = Some(e);
            break;
        }
        let most = limits.max_message + limits.max_command + 9 * (limits.max_frames + 1) + piece.len();
        assert!(buf.len() <= most, "{} bytes kept", buf.len());
    }
    for message in &received.messages {
        assert!(message.size() <= limits.max_message && message.len() <= limits.max_frames);
    }
    let output = connection.output().split().to_vec();
    let state = connection.state();
    // Time never makes it panic, and ends it if the peer is silent, or PINGs for ever (3.0 peers are left alone).
    for _ in 0..8 {
        let Some(deadline) = connection.deadline() else { break };
        now = deadline.max(now + Duration::from_millis(1));
        let _ = connection.timeout(now);
    }
    Outcome { messages: received.messages, commands: received.commands, output, state, error }
}

/// Target: the first byte chooses our socket type and whether our READY is held back, the second where the rest
/// is cut. However the stream is cut, the outcome is the same.
pub fn connection(data: &[u8]) {
    let [choice, cut, stream @ ..] = data else { return };
    let ours = SocketType::ALL[usize::from(choice >> 1) % SocketType::ALL.len()];
    let held = choice & 1 == 1;
    let whole = run(ours, held, small_limits(), std::iter::once(stream));
    let cut = run(ours, held, small_limits(), stream.chunks(usize::from(*cut).max(1)));
    assert_eq!(whole, cut);
}

/// Target: one frame header and one command, read and written again.
pub fn frames(data: &[u8]) {
    if let Ok(Some(head)) = frame::parse(data) {
        if let Ok(len) = usize::try_from(head.len) {
            let again = frame::parse(&frame::header(len, head.more, head.command));
            let again = again.expect("our own header").expect("a whole header");
            assert_eq!((again.more, again.command, again.len), (head.more, head.command, head.len));
        }
        for cut in 0..head.header {
            assert_eq!(frame::parse(&data[..cut]), Ok(None));
        }
    }
    let Ok(control) = Control::parse(data) else { return };
    let mut out = BytesMut::new();
    control.encode(&mut out);
    let head = frame::parse(&out).expect("our own frame").expect("a whole header");
    assert!(head.command && head.header + head.len as usize == out.len());
    assert_eq!(Control::parse(&out[head.header..]), Ok(control));
    if let Control::Ready(metadata) = control {
        let read: usize =
            properties(metadata).flatten().map(|(name, value)| 5 + name.len() + value.len()).sum();
        assert!(read <= metadata.len());
    }
}

/// A greeting of ZMTP 3.1 with NULL.
pub fn greeting_bytes() -> [u8; 64] {
    let mut bytes = [0; 64];
    (bytes[0], bytes[9], bytes[10], bytes[11]) = (0xff, 0x7f, 3, 1);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// Target: a good greeting with bytes changed: the first byte counts them, then come pairs of place and value; what
/// follows is sent behind it. The first byte that is not ZMTP's is refused alone, and however the greeting is cut the
/// outcome is the same.
pub fn greeting(data: &[u8]) {
    let [count, rest @ ..] = data else { return };
    let mut stream = greeting_bytes().to_vec();
    let changes = rest.chunks_exact(2).take(usize::from(*count % 8));
    let used = changes.len() * 2;
    for change in changes {
        stream[usize::from(change[0]) % 64] = change[1];
    }
    stream.extend_from_slice(&rest[used..]);

    let first = run(SocketType::Pull, false, small_limits(), stream.chunks(1).take(1));
    match stream[0] {
        0xff => assert_eq!((first.state, &first.error), (State::Handshaking, &None)),
        0x16 => assert_eq!(first.error, Some(ProtocolError::Tls)),
        _ => assert_eq!(first.error, Some(ProtocolError::NotZmtp)),
    }
    assert_eq!(first.output, greeting_bytes(), "ours never waits");
    let whole = run(SocketType::Pull, false, small_limits(), std::iter::once(&stream[..]));
    assert_eq!(whole, run(SocketType::Pull, false, small_limits(), stream.chunks(1)));
    // Our READY goes to nobody whose greeting was refused.
    if stream.len() <= 64 && whole.error.is_some() {
        assert_eq!(whole.output.len(), 64);
    }
}

/// Target: commands as a stranger sends them, each behind a length of its own: the first byte chooses our socket type,
/// then each piece is a length and as many bytes. A good greeting comes before, and a good READY if the second byte is
/// odd.
pub fn commands(data: &[u8]) {
    let [choice, ready, rest @ ..] = data else { return };
    let ours = SocketType::ALL[usize::from(*choice) % SocketType::ALL.len()];
    let mut stream = greeting_bytes().to_vec();
    if ready & 1 == 1 {
        let theirs = SocketType::ALL.into_iter().find(|theirs| ours.pairs_with(*theirs));
        let name = theirs.expect("every type has a pair").as_str().as_bytes();
        let length = 22 + name.len();
        stream.extend_from_slice(&[4, length as u8]);
        stream.extend_from_slice(b"\x05READY\x0bSocket-Type\0\0\0");
        stream.push(name.len() as u8);
        stream.extend_from_slice(name);
    }
    let mut rest = rest;
    while let [length, more @ ..] = rest {
        let body = &more[..usize::from(*length).min(more.len())];
        stream.extend_from_slice(&frame::header(body.len(), false, true));
        stream.extend_from_slice(body);
        rest = &more[body.len()..];
    }
    let whole = run(ours, false, small_limits(), std::iter::once(&stream[..]));
    if ready & 1 == 1 {
        assert!(!matches!(whole.error, Some(ProtocolError::IncompatiblePeer { .. })), "{:?}", whole.error);
        assert_ne!(whole.state, State::Handshaking);
    }
    assert_eq!(whole, run(ours, false, small_limits(), stream.chunks(7)));
}

/// Reads a body as `T`; what could be read can be written, and is then read as the same.
fn body<T>(data: &[u8])
where
    T: serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug,
{
    let Ok(value) = decode_body::<T>(data) else { return };
    assert_eq!(check(data, BodyLimits::default()), Ok(()));
    let mut again = Vec::new();
    encode_body(&value, &mut again).expect("what was read can be written");
    assert_eq!(decode_body::<T>(&again).expect("what was written can be read"), value);
}

/// Target: subject, header and body as they lie in a message. The first byte says how the rest is cut into frames.
pub fn envelope(data: &[u8]) {
    let [cuts, rest @ ..] = data else { return };
    body::<HelloBody>(rest);
    body::<ManifestBody>(rest);
    body::<ErrorBody>(rest);
    body::<CreditBody>(rest);
    body::<GapBody>(rest);
    body::<Vec<String>>(rest);
    body::<(u64, Option<String>, Vec<u8>)>(rest);
    let _ = decode_body::<serde::de::IgnoredAny>(rest);
    let tight = check(rest, BodyLimits { depth: 3, elements: 8 });
    assert!(tight.is_err() || check(rest, BodyLimits::default()).is_ok());
    if let Ok(header) = Header::decode(rest) {
        let mut again = Vec::new();
        header.encode(&mut again);
        assert!(again.len() <= MAX_HEADER.max(rest.len()));
        assert_eq!(Header::decode(&again), Ok(header));
    }
    // Stamping is for what `encode` has written; a stranger's header may say `dl` twice.
    if let Ok(mut header) = Header::decode(rest)
        && header.fields.dl.is_some()
    {
        let mut stamped = Vec::new();
        header.encode(&mut stamped);
        assert!(Header::stamp_deadline(&mut stamped, 1234));
        header.fields.dl = Some(1234);
        assert_eq!(Header::decode(&stamped), Ok(header));
    }
    Header::stamp_deadline(&mut rest.to_vec(), 1234);
    // Frames: each begins with its length.
    let mut frames = Vec::new();
    let mut left = rest;
    while let ([length, more @ ..], true) = (left, frames.len() < usize::from(*cuts % 16)) {
        let (frame, after) = more.split_at(usize::from(*length).min(more.len()));
        frames.push(frame);
        left = after;
    }
    frames.push(left);
    let message = Message::from_frames(&frames);
    assert!(message.frames().eq(frames.iter().copied()));
    let Some(skip) = route(&message) else { return };
    if let Ok(parts) = Parts::read(&message, skip) {
        assert!(!parts.subject.is_empty() && !parts.body.is_empty());
        if check_subject(parts.subject).is_ok() {
            let pattern = Pattern::parse(parts.subject).expect("a subject is a pattern");
            assert!(pattern.matches(parts.subject));
        }
    }
    if let Ok(Ok(pattern)) = std::str::from_utf8(left).map(Pattern::parse) {
        for subject in ["a", "a.b", "$node.ping", "orders.created.today"] {
            assert!(!pattern.matches(subject) || subject.starts_with(pattern.prefix()));
        }
    }
}

/// Target: `ripstop.toml`. What is accepted is written and read again as the same.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ripstop::config::Config::parse(text) {
        Ok(config) => config.check().expect("parsing has checked it"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
