//! Two connections, and whoever sits between them.

use std::time::Instant;

use bytes::BytesMut;

use super::{Client, KeyPair, OVERHEAD, PublicKey, Sealer, SecretKey, Server};
use crate::Message;
use crate::zmtp::command::Control;
use crate::zmtp::{
    Config, Connection, Limits, Local, Mechanism, ProtocolError, Received, SocketType, State, frame,
};

fn keys(seed: u8) -> KeyPair {
    SecretKey::from_bytes([seed; 32]).into()
}

fn client(socket_type: SocketType) -> Config {
    client_of(keys(1).public(), socket_type)
}

fn client_of(server: PublicKey, socket_type: SocketType) -> Config {
    Config {
        local: Some(Local::new(socket_type)),
        mechanism: Mechanism::CurveClient(Client::new(server, keys(2), [3; 48])),
        ..Config::default()
    }
}

fn server(socket_type: Option<SocketType>) -> Config {
    Config {
        local: socket_type.map(Local::new),
        mechanism: Mechanism::CurveServer(Server::new(keys(1), [4; 96])),
        ..Config::default()
    }
}

/// One side of a connection.
struct Side {
    connection: Connection,
    buf: BytesMut,
    received: Received,
    now: Instant,
}

impl Side {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        let connection = Connection::new(config, now);
        Self { connection, buf: BytesMut::new(), received: Received::default(), now }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.buf.extend_from_slice(bytes);
        self.connection.input(&mut self.buf, self.now, &mut self.received)
    }

    fn said(&mut self) -> Vec<u8> {
        self.connection.output().split().to_vec()
    }

    fn sealed(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        self.connection.sealer().unwrap().put(plain, &mut out).unwrap();
        out.to_vec()
    }

    fn messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.received.messages)
    }
}

/// What each side said, in turn: greetings, HELLO, WELCOME, INITIATE, READY.
fn shaken(client: Config, server: Config) -> (Side, Side, Vec<Vec<u8>>) {
    let (mut client, mut server) = (Side::new(client), Side::new(server));
    let mut said = Vec::new();
    loop {
        let bytes = client.said();
        if bytes.is_empty() {
            break;
        }
        server.feed(&bytes).unwrap();
        said.push(bytes);
        if server.connection.state() == State::AwaitingAnswer {
            break;
        }
        let bytes = server.said();
        client.feed(&bytes).unwrap();
        said.push(bytes);
    }
    (client, server, said)
}

fn ready(ours: SocketType, theirs: SocketType) -> (Side, Side) {
    let (client, server, _) = shaken(client(ours), server(Some(theirs)));
    assert_eq!((client.connection.state(), server.connection.state()), (State::Ready, State::Ready));
    (client, server)
}

fn frames(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        frame::put(&mut out, i + 1 < parts.len(), false, part);
    }
    out
}

#[test]
fn both_sides_know_who_the_other_is() {
    let (client, server, said) = shaken(client(SocketType::Dealer), server(Some(SocketType::Router)));
    assert_eq!(client.connection.peer().unwrap().public_key, Some(*keys(1).public().as_bytes()));
    assert_eq!(server.connection.peer().unwrap().public_key, Some(*keys(2).public().as_bytes()));
    assert_eq!(server.connection.peer().unwrap().socket_type, SocketType::Dealer);
    // Greeting, greeting, HELLO (with what the client's greeting was answered by), WELCOME, INITIATE, READY.
    let lens: Vec<usize> = said.iter().map(Vec::len).collect();
    assert_eq!((said.len(), lens[0], lens[1], lens[2], lens[3]), (6, 64, 64, 202, 170));
    assert_eq!((said[0][32], said[1][32]), (0, 1), "as-server");
    assert_eq!(said[2][..10], *b"\x04\xc8\x05HELLO\x01\x00");
    assert_eq!(said[3][..10], *b"\x04\xa8\x07WELCOME");
    assert!(said[4].len() > 257 && said[5][2..8] == *b"\x05READY");
    for said in &said[2..] {
        assert!(!said.windows(6).any(|w| w == b"Socket" || w == b"DEALER" || w == b"ROUTER"));
    }
}

#[test]
fn every_cut_gives_the_same() {
    let (mut client_side, mut server_side, said) =
        shaken(client(SocketType::Push), server(Some(SocketType::Pull)));
    let mut stream: Vec<u8> = said.iter().step_by(2).flatten().copied().collect();
    stream.extend(client_side.sealed(&frames(&[b"one", &[7; 300], b""])));
    stream.extend(client_side.sealed(&frames(&[b"two"])));
    drop(server_side.messages());
    let expected = [Message::from_frames([&b"one"[..], &[7; 300], b""]), Message::from("two")];
    for cut in 1..stream.len() {
        let mut again = Side::new(server(Some(SocketType::Pull)));
        again.feed(&stream[..cut]).unwrap();
        again.feed(&stream[cut..]).unwrap();
        assert_eq!(again.messages(), expected, "cut at {cut}");
    }
    let mut again = Side::new(server(Some(SocketType::Pull)));
    for byte in &stream {
        again.feed(&[*byte]).unwrap();
    }
    assert_eq!(again.messages(), expected);
}

#[test]
fn every_flipped_byte_of_the_handshake_is_refused() {
    let (_, _, said) = shaken(client(SocketType::Push), server(Some(SocketType::Pull)));
    // To the server: greeting, HELLO, INITIATE. To the client: greeting, WELCOME, READY.
    for to_server in [true, false] {
        let said: Vec<&Vec<u8>> = said.iter().skip(usize::from(!to_server)).step_by(2).collect();
        let whole = said.iter().copied().flatten().copied().collect::<Vec<u8>>();
        let side = || {
            Side::new(match to_server {
                true => server(Some(SocketType::Pull)),
                false => client(SocketType::Push),
            })
        };
        for at in 64..whole.len() {
            for bit in [0, 3, 7] {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let mut side = side();
                let outcome = side.feed(&changed);
                let ready = side.connection.state() == State::Ready;
                // A length that was made larger may also just wait for more, until the handshake's time is over.
                assert!(!ready, "byte {at}, bit {bit}");
                assert!(outcome.is_err() || side.connection.state() == State::Handshaking);
            }
        }
        let mut side = side();
        side.feed(&whole).unwrap();
        assert_eq!(side.connection.state(), State::Ready);
    }
}

#[test]
fn wrong_keys_are_refused() {
    let refusal = |client: Config, server: Config| {
        let (mut client, mut server) = (Side::new(client), Side::new(server));
        for _ in 0..3 {
            let bytes = client.said();
            if let Err(error) = server.feed(&bytes) {
                return (true, error);
            }
            let bytes = server.said();
            if let Err(error) = client.feed(&bytes) {
                return (false, error);
            }
        }
        panic!("nobody was refused")
    };
    let server = || server(Some(SocketType::Pull));
    let wrong = client_of(keys(9).public(), SocketType::Push);
    assert_eq!(refusal(wrong, server()), (true, ProtocolError::CannotOpen("HELLO")));

    // Whoever names a lasting key without having its secret.
    let mut thief = client(SocketType::Push);
    let mixed = KeyPair { public: keys(8).public(), secret: keys(2).secret().clone() };
    thief.mechanism = Mechanism::CurveClient(Client::new(keys(1).public(), mixed, [3; 48]));
    assert_eq!(refusal(thief, server()), (true, ProtocolError::CannotOpen("INITIATE")));

    // Whoever claims to be the server without its secret: already HELLO says nothing to it, nor WELCOME to the client.
    let mut forger = server();
    let mixed = KeyPair { public: keys(1).public(), secret: keys(8).secret().clone() };
    forger.mechanism = Mechanism::CurveServer(Server::new(mixed, [4; 96]));
    assert_eq!(refusal(client(SocketType::Push), forger), (true, ProtocolError::CannotOpen("HELLO")));

    let low = client_of(PublicKey::from_bytes([0; 32]), SocketType::Push);
    let mut side = Side::new(low);
    assert_eq!(side.feed(&Side::new(server()).said()), Err(ProtocolError::WeakKey));

    let null = || Config { local: Some(Local::new(SocketType::Push)), ..Config::default() };
    let mismatch = |ours, theirs: &str| ProtocolError::MechanismMismatch { ours, theirs: theirs.into() };
    assert_eq!(refusal(null(), server()), (true, mismatch("CURVE", "NULL")));
    let pull = Config { local: Some(Local::new(SocketType::Pull)), ..Config::default() };
    assert_eq!(refusal(client(SocketType::Push), pull), (true, mismatch("NULL", "CURVE")));
    assert_eq!(refusal(server(), server()), (true, ProtocolError::TwoServers));
}

#[test]
fn low_order_points_are_refused_on_the_wire() {
    let (_, _, said) = shaken(client(SocketType::Push), server(Some(SocketType::Pull)));
    let mut hello = said[2].clone();
    hello[2 + 80..2 + 112].fill(0);
    let mut side = Side::new(server(Some(SocketType::Pull)));
    side.feed(&said[0]).unwrap();
    assert_eq!(side.feed(&hello), Err(ProtocolError::WeakKey));
    assert_eq!(side.said().len(), 64, "no WELCOME");
}

#[test]
fn replayed_handshakes_are_refused() {
    let (mut first, _, said) = shaken(client(SocketType::Push), server(Some(SocketType::Pull)));
    let message = first.sealed(&frames(&[b"pay 100"]));
    let to_server: Vec<u8> = [&said[0][..], &said[2], &said[4], &message].concat();
    // Another connection of the same server has other keys, so that what was recorded is of no use.
    let mut config = server(Some(SocketType::Pull));
    config.mechanism = Mechanism::CurveServer(Server::new(keys(1), [5; 96]));
    let mut side = Side::new(config);
    assert_eq!(side.feed(&to_server), Err(ProtocolError::CannotOpen("INITIATE")));
    assert!(side.messages().is_empty());
    // And within one connection nothing comes twice.
    for twice in [[0, 2, 2], [0, 2, 4]] {
        let mut side = Side::new(server(Some(SocketType::Pull)));
        let mut outcome = Ok(());
        for part in twice {
            outcome = outcome.and_then(|()| side.feed(&said[part]));
        }
        outcome = outcome.and_then(|()| side.feed(&said[4])).and_then(|()| side.feed(&said[4]));
        assert!(outcome.is_err() && side.messages().is_empty());
    }
    let mut side = Side::new(server(Some(SocketType::Pull)));
    side.feed(&[&to_server[..], &message].concat()).unwrap_err();
    assert_eq!(side.messages(), ["pay 100".into()], "once");
}

#[test]
fn the_answer_can_be_held_back() {
    let (mut asker, mut held, _) = shaken(client(SocketType::Dealer), server(None));
    assert_eq!(held.connection.state(), State::AwaitingAnswer);
    assert_eq!(held.connection.peer().unwrap().public_key, Some(*keys(2).public().as_bytes()));
    assert_eq!(asker.connection.state(), State::Handshaking);
    held.connection.answer(Local::new(SocketType::Router)).unwrap();
    asker.feed(&held.said()).unwrap();
    assert_eq!(asker.connection.state(), State::Ready);
    let bytes = asker.sealed(&frames(&[b"ask"]));
    held.feed(&bytes).unwrap();
    assert_eq!(held.messages(), ["ask".into()]);

    let (mut asker, mut held, _) = shaken(client(SocketType::Dealer), server(None));
    held.connection.refuse("not you");
    assert_eq!(asker.feed(&held.said()), Err(ProtocolError::Refused("not you".into())));
    let (_, mut held, _) = shaken(client(SocketType::Dealer), server(None));
    assert!(held.connection.answer(Local::new(SocketType::Pub)).is_err());
}

#[test]
fn who_has_not_proven_to_be_the_server_cannot_refuse_for_good() {
    let mut side = Side::new(client(SocketType::Push));
    side.feed(&Side::new(server(None)).said()).unwrap();
    let mut error = BytesMut::new();
    Control::Error(b"go away").encode(&mut error);
    assert!(matches!(side.feed(&error), Err(ProtocolError::BadCommand { command: "ERROR", .. })));
}

#[test]
fn limits_hold_before_trust() {
    let greeted = || {
        let mut side = Side::new(server(None));
        side.feed(&Side::new(client(SocketType::Push)).said()).unwrap();
        side
    };
    // The header alone is enough.
    let too_large = |max| ProtocolError::CommandTooLarge { size: 4000, max };
    assert_eq!(greeted().feed(&frame::header(4000, false, true)), Err(too_large(200)));
    let short = [&frame::header(6, false, true)[..], b"\x05HELLO"].concat();
    assert!(matches!(greeted().feed(&short), Err(ProtocolError::BadCommand { command: "HELLO", .. })));
    assert_eq!(greeted().feed(b"\x00\x01x"), Err(ProtocolError::EarlyMessage));
}

#[test]
fn messages_and_commands_under_curve() {
    let (mut publisher, mut subscriber) = ready(SocketType::Pub, SocketType::Sub);
    let mut plain = BytesMut::new();
    Control::Subscribe(b"a").encode(&mut plain);
    frame::put(&mut plain, false, false, b"\x01b"); // as peers of 3.0 say it
    let bytes = subscriber.sealed(&plain);
    publisher.feed(&bytes).unwrap();
    assert_eq!(publisher.received.commands.len(), 2);
    let long = vec![5; 70_000];
    let bytes = publisher.sealed(&frames(&[b"a", &long, b"c"]));
    subscriber.feed(&bytes).unwrap();
    assert_eq!(subscriber.messages(), [Message::from_frames([&b"a"[..], &long, b"c"])]);

    // Commands between two frames, and heartbeats.
    let mut mixed = Vec::new();
    frame::put(&mut mixed, true, false, b"first");
    frame::put(&mut mixed, false, true, b"\x04PING\x00\x3ccontext");
    frame::put(&mut mixed, false, false, b"last");
    let bytes = publisher.sealed(&mixed);
    subscriber.feed(&bytes).unwrap();
    assert_eq!(subscriber.messages(), [Message::from_frames(["first", "last"])]);
    let pong = subscriber.said();
    assert!(pong.starts_with(b"\x00") && !pong.windows(4).any(|w| w == b"PONG"));
    publisher.feed(&pong).unwrap();
    publisher.now = publisher.connection.deadline().unwrap();
    publisher.connection.timeout(publisher.now).unwrap();
    let ping = publisher.said();
    subscriber.feed(&ping).unwrap();
    assert!(!subscriber.said().is_empty());
}

#[test]
fn limits_hold_inside_boxes() {
    let limited = |change: fn(&mut Limits)| {
        let mut config = server(Some(SocketType::Pull));
        change(&mut config.limits);
        let (client, server, _) = shaken(client(SocketType::Push), config);
        (client, server)
    };
    let (mut push, mut pull) = limited(|limits| limits.max_message = 1000);
    pull.feed(&push.sealed(&frames(&[&[0; 600], &[0; 400]]))).unwrap();
    let large = push.sealed(&frames(&[&[0; 1001]]));
    let announced = Err(ProtocolError::FrameTooLarge { size: 1001, max: 1000 });
    assert_eq!(pull.feed(&large[..9]), announced, "before a byte of it has come");
    let (mut push, mut pull) = limited(|limits| limits.max_message = 1000);
    let two = pull.feed(&push.sealed(&frames(&[&[0; 600], &[0; 401]])));
    assert_eq!(two, Err(ProtocolError::MessageTooLarge { size: 1001, max: 1000 }));

    let (mut push, mut pull) = limited(|limits| limits.max_frames = 3);
    pull.feed(&push.sealed(&frames(&[&b""[..]; 3]))).unwrap();
    let many = pull.feed(&push.sealed(&frames(&[&b""[..]; 4])));
    assert_eq!(many, Err(ProtocolError::TooManyFrames { max: 3 }));

    let (mut push, mut pull) = limited(|limits| limits.max_command = 400);
    let mut command = Vec::new();
    frame::put(&mut command, false, true, &[&b"\x07UNKNOWN"[..], &[0; 393]].concat());
    let long = pull.feed(&push.sealed(&command));
    assert_eq!(long, Err(ProtocolError::CommandTooLarge { size: 401, max: 400 }));
}

#[test]
fn every_flipped_byte_of_a_message_is_refused() {
    let (mut push, _) = ready(SocketType::Push, SocketType::Pull);
    let good = push.sealed(&frames(&[b"first", b"second"]));
    for at in 0..good.len() {
        let (_, mut pull) = ready(SocketType::Push, SocketType::Pull);
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        let outcome = pull.feed(&bytes);
        // A length that was made larger waits for more; whatever comes next will not open.
        let outcome = outcome.and_then(|()| pull.feed(&[0; 64]));
        assert!(outcome.is_err() && pull.messages().is_empty(), "byte {at}");
    }
    // Plain frames are nothing that a CURVE peer can say, nor what is too short for a box.
    for plain in [&frames(&[b"hello"])[..], &frames(&[&[0; OVERHEAD]]), b"\x04\x06\x05ERROR\x00"] {
        let (_, mut pull) = ready(SocketType::Push, SocketType::Pull);
        assert!(pull.feed(plain).is_err());
    }
    let _ = Sealer::flags(false, false);
}
