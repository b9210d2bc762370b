//! What the fuzz targets check. `tests/fuzz_corpus.rs` replays the corpora through the same functions, and
//! `tests/zmtp_properties.rs` feeds them generated streams, so neither needs a fuzzer.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use ripstop::Message;
use ripstop::zmtp::command::{Control, properties};
use ripstop::zmtp::{
    Command, Config, Connection, Limits, Local, ProtocolError, Received, SocketType, State, frame,
};

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
