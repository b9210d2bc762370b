//! CURVE, either role, by a peer that has the keys and means harm.

use std::time::Instant;

use bytes::BytesMut;
use ripstop::zmtp::curve::{Client, SecretKey, Server};
use ripstop::zmtp::{Config, Connection, Local, Mechanism, Received, SocketType, State, frame};

use super::{Outcome, small_limits};

/// Target: we are the server. See `curve`.
pub fn curve_server(data: &[u8]) {
    curve(data, true);
}

/// Target: we are the client. See `curve`.
pub fn curve_client(data: &[u8]) {
    curve(data, false);
}

fn config(as_server: bool, local: Option<Local>) -> Config {
    let (server, client) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
    let mechanism = match as_server {
        true => Mechanism::CurveServer(Server::new(server.into(), [4; 96])),
        false => Mechanism::CurveClient(Client::new(server.public_key(), client.into(), [3; 48])),
    };
    Config { local, mechanism, limits: small_limits(), ..Config::default() }
}

/// The side under test.
struct Victim {
    connection: Connection,
    local: Local,
    buf: BytesMut,
    received: Received,
    outcome: Outcome,
}

impl Victim {
    fn new(as_server: bool, held: bool, local: Local) -> Self {
        let config = config(as_server, (!held).then(|| local.clone()));
        let connection = Connection::new(config, Instant::now());
        let (messages, commands, output) = Default::default();
        let outcome = Outcome { messages, commands, output, state: State::Handshaking, error: None };
        Self { connection, local, buf: BytesMut::new(), received: Received::default(), outcome }
    }

    /// Returns what it says to that.
    fn feed(&mut self, bytes: &[u8]) -> BytesMut {
        let now = Instant::now();
        let Self { connection, buf, received, .. } = self;
        buf.extend_from_slice(bytes);
        let mut step = connection.input(buf, now, received);
        if connection.state() == State::AwaitingAnswer {
            step = connection.answer(self.local.clone()).and_then(|()| connection.input(buf, now, received));
        }
        assert!(connection.wanted() <= buf.len().max(64 << 10));
        if let Err(error) = step {
            assert_eq!(connection.state(), State::Closed);
            self.outcome.error.get_or_insert(error);
        }
        let limits = small_limits();
        // Every frame has its room.
        let frames = (9 + 33) * (limits.max_frames + 1);
        let most = 2 * limits.max_command + limits.max_message + frames + bytes.len();
        assert!(buf.len() <= most, "{} bytes kept", buf.len());
        self.outcome.output.extend_from_slice(connection.output());
        connection.output().split()
    }

    fn outcome(mut self) -> Outcome {
        for message in &self.received.messages {
            let limits = small_limits();
            assert!(message.size() <= limits.max_message && message.len() <= limits.max_frames);
        }
        self.outcome.state = self.connection.state();
        (self.outcome.messages, self.outcome.commands) = (self.received.messages, self.received.commands);
        self.outcome
    }
}

/// The first bytes choose socket type and who holds back, where the stream is cut, and what of the handshake is changed:
/// which of the peer's commands, where, and by what. Then come deeds, each with a length and as many bytes: a frame or a
/// command sealed as it has to be, or one that is changed afterwards, sent twice, or not sealed at all. After the first of
/// those nothing more may come through, and however the stream is cut, the outcome is the same.
fn curve(data: &[u8], as_server: bool) {
    let [choice, cut, stage, place, change, rest @ ..] = data else { return };
    let ours = SocketType::ALL[usize::from(choice >> 1) % SocketType::ALL.len()];
    let theirs = SocketType::ALL.into_iter().find(|theirs| ours.pairs_with(*theirs));
    let theirs = Local::new(theirs.expect("every type has a pair"));
    let held = as_server && choice & 1 == 1;
    let fresh = || Victim::new(as_server, held, Local::new(ours));

    let (mut victim, mut stream) = (fresh(), Vec::new());
    let mut peer = Connection::new(config(!as_server, Some(theirs)), Instant::now());
    let mut answer = victim.feed(b"");
    let mut changed = false;
    for round in 0..3 {
        let mut said = peer.output().split();
        if round == stage % 4 && !said.is_empty() {
            let at = usize::from(*place) % said.len();
            said[at] ^= change;
            changed = round > 0 && *change != 0;
        }
        stream.extend_from_slice(&said);
        answer.unsplit(victim.feed(&said));
        if peer.input(&mut answer, Instant::now(), &mut Received::default()).is_err() {
            break;
        }
    }
    let ready = |connection: &Connection| connection.state() == State::Ready;
    // All that comes after the greeting is sealed.
    assert!(!changed || !ready(&victim.connection));
    if ready(&peer) && ready(&victim.connection) {
        deeds(rest, &mut peer, &mut victim, &mut stream);
    }
    let outcome = victim.outcome();
    for size in [stream.len(), usize::from(*cut)] {
        let mut again = fresh();
        again.feed(b"");
        for piece in stream.chunks(size.max(1)) {
            again.feed(piece);
        }
        assert_eq!(again.outcome(), outcome);
    }
}

fn deeds(mut rest: &[u8], peer: &mut Connection, victim: &mut Victim, stream: &mut Vec<u8>) {
    let mut before = None;
    let mut last = Vec::new();
    while let [deed, length, more @ ..] = rest {
        let (body, after) = more.split_at(usize::from(*length).min(more.len()));
        rest = after;
        let (mut plain, mut sealed) = (BytesMut::new(), BytesMut::new());
        let command = deed & 1 == 1;
        frame::put(&mut plain, deed & 2 == 2 && !command, command, body);
        let mut good = false;
        let bytes = match deed >> 2 {
            0 => plain.to_vec(),
            1 if !last.is_empty() => std::mem::take(&mut last),
            kind => {
                peer.seal(&plain, &mut sealed).expect("a whole frame");
                let mut sealed = sealed.to_vec();
                if kind == 2 {
                    let at = usize::from(body.first().copied().unwrap_or_default()) % sealed.len();
                    sealed[at] ^= 1 + (length & 0x7f);
                } else {
                    last.clone_from(&sealed);
                    good = true;
                }
                sealed
            }
        };
        if !good {
            before.get_or_insert(victim.received.messages.len() + victim.received.commands.len());
        }
        stream.extend_from_slice(&bytes);
        victim.feed(&bytes);
    }
    if let Some(before) = before {
        assert_eq!(victim.received.messages.len() + victim.received.commands.len(), before);
    }
}
