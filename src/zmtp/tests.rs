//! A connection against scripted peers: time is moved, never slept.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::SocketType::*;
use super::command::Control;
use super::*;
use crate::Message;

/// A connection and the peer's end of it, by hand.
struct Bench {
    connection: Connection,
    buf: BytesMut,
    received: Received,
    now: Instant,
}

impl Bench {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        let mut connection = Connection::new(config, now);
        connection.output().clear();
        Self { connection, buf: BytesMut::new(), received: Received::default(), now }
    }

    /// A connection of type `ours` that has shaken hands with a peer of type `theirs` and ZMTP 3.`minor`.
    fn ready(ours: SocketType, theirs: SocketType, minor: u8) -> Self {
        Self::ready_with(local(ours), theirs, minor)
    }

    fn ready_with(config: Config, theirs: SocketType, minor: u8) -> Self {
        let mut bench = Self::new(config);
        bench.feed(&greeting(minor)).unwrap();
        bench.feed(&ready(theirs)).unwrap();
        assert_eq!(bench.connection.state(), State::Ready);
        bench.connection.output().clear();
        bench
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.buf.extend_from_slice(bytes);
        self.connection.input(&mut self.buf, self.now, &mut self.received)
    }

    fn feed_control(&mut self, control: Control<'_>) -> Result<(), ProtocolError> {
        self.feed(&wire(control))
    }

    fn messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.received.messages)
    }

    fn output(&mut self) -> Vec<u8> {
        self.connection.output().split().to_vec()
    }

    /// Lets time pass to the next deadline and gives the connection its turn.
    fn tick(&mut self) -> Result<(), ProtocolError> {
        self.now = self.connection.deadline().expect("a deadline");
        self.connection.timeout(self.now)
    }
}

fn local(socket_type: SocketType) -> Config {
    Config { local: Some(Local::new(socket_type)), ..Config::default() }
}

fn limited(change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = local(Pull);
    change(&mut config.limits);
    config
}

fn wire(control: Control<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    control.encode(&mut out);
    out.to_vec()
}

fn greeting(minor: u8) -> [u8; 64] {
    let mut bytes = super::greeting::encode("NULL", false);
    bytes[11] = minor;
    bytes
}

fn ready(socket_type: SocketType) -> Vec<u8> {
    let mut out = BytesMut::new();
    Local::new(socket_type).put_ready(&mut out).unwrap();
    out.to_vec()
}

fn frames(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        frame::put(&mut out, i + 1 < parts.len(), false, part);
    }
    out
}

#[test]
fn ready_goes_out_after_the_greeting_came() {
    let mut bench = Bench::new(local(Push));
    bench.feed(&greeting(1)[..63]).unwrap();
    assert_eq!(bench.output(), b"");
    bench.feed(&greeting(1)[63..]).unwrap();
    // Golden: what libzmq sends, byte for byte, but for its empty Identity.
    assert_eq!(bench.output(), b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH");
    bench.feed(&ready(Pull)).unwrap();
    assert_eq!(bench.output(), b"", "it goes out once");
}

#[test]
fn held_ready_waits_for_the_answer() {
    let mut bench = Bench::new(Config::default());
    let mut dealer = Local::new(Dealer);
    dealer.metadata = vec![("Identity".into(), "me".into()), ("X-Ripstop-Lane".into(), "calls".into())];
    let mut early = BytesMut::new();
    dealer.put_ready(&mut early).unwrap();
    early.extend_from_slice(&frames(&[b"", b"ask"]));
    bench.feed(&greeting(1)).unwrap();
    bench.feed(&early).unwrap();
    assert_eq!((bench.connection.state(), bench.output()), (State::AwaitingAnswer, vec![]));
    let peer = bench.connection.peer().unwrap();
    assert_eq!((peer.socket_type, &peer.identity[..]), (Dealer, &b"me"[..]));
    assert_eq!(peer.property("x-ripstop-LANE").map(|v| &v[..]), Some(&b"calls"[..]));

    bench.connection.answer(Local::new(Router)).unwrap();
    assert_eq!((bench.connection.state(), bench.output()), (State::Ready, ready(Router)));
    bench.feed(b"").unwrap();
    assert_eq!(bench.messages(), [Message::from_frames(["", "ask"])]);
}

#[test]
fn wrong_pairings_are_refused_on_both_ways() {
    let wrong = Err(ProtocolError::IncompatiblePeer { ours: Pull, theirs: Pub });
    let mut bench = Bench::new(local(Pull));
    bench.feed(&greeting(1)).unwrap();
    assert_eq!(bench.feed(&ready(Pub)), wrong);
    assert_eq!(bench.connection.state(), State::Closed);

    let mut bench = Bench::new(Config::default());
    bench.feed(&greeting(1)).unwrap();
    bench.feed(&ready(Pub)).unwrap();
    assert_eq!(bench.connection.answer(Local::new(Pull)), wrong);
    assert_eq!((bench.connection.state(), bench.output()), (State::Closed, vec![]));
}

#[test]
fn a_refusal_reaches_the_peer_and_is_final() {
    let mut bench = Bench::new(Config::default());
    bench.feed(&greeting(1)).unwrap();
    bench.feed(&ready(Req)).unwrap();
    bench.connection.refuse("no permission");
    bench.connection.refuse("again");
    let refusal = bench.output();
    bench.feed(b"whatever").unwrap();
    assert!(bench.buf.is_empty());

    let mut peer = Bench::new(local(Req));
    peer.feed(&greeting(1)).unwrap();
    let error = peer.feed(&refusal).unwrap_err();
    assert_eq!(error, ProtocolError::Refused("no permission".into()));
    assert!(!error.is_retryable());
}

#[test]
fn metadata_that_does_not_fit_is_our_own_error() {
    for name in [String::new(), "x".repeat(256)] {
        let mut config = local(Push);
        config.local.as_mut().unwrap().metadata.push((name.clone(), "v".into()));
        let error = Bench::new(config).feed(&greeting(1)).unwrap_err();
        assert_eq!((error.reason(), error.fault()), ("bad-metadata", crate::Fault::Caller));
    }
}

#[test]
fn handshake_commands_must_be_one_exact_ready() {
    let error = |bytes: &[u8]| {
        let mut bench = Bench::new(local(Pull));
        bench.feed(&greeting(1)).unwrap();
        bench.feed(bytes).unwrap_err().reason()
    };
    assert_eq!(error(&frames(&[b"early"])), "early-message");
    assert_eq!(error(b"\x06\0\0\0\0\0\x01\0\x01"), "command-too-large");
    assert_eq!(error(b"\x0c"), "bad-flags");
    assert_eq!(error(b"\x05"), "bad-flags");
    assert_eq!(error(&wire(Control::Ping { ttl: 0, context: b"" })), "bad-command");
    assert_eq!(error(&wire(Control::Ready(b""))), "bad-command");
    assert_eq!(error(&wire(Control::Ready(b"\x0bSocket-Type\0\0\0\x05PUSH"))), "bad-command");
    assert_eq!(error(&wire(Control::Ready(b"\x0bSocket-Type\0\0\0\x05RADIO"))), "unknown-socket-type");
    let twice = b"\x0bSocket-Type\0\0\0\x04PUSH\x0bSOCKET-TYPE\0\0\0\x03PUB";
    assert_eq!(error(&wire(Control::Ready(twice))), "bad-command");
    assert_eq!(error(&[ready(Push), ready(Push)].concat()), "bad-command");
    let many: Vec<u8> = (0..65u8).flat_map(|i| [2, b'a', i + 40, 0, 0, 0, 0]).collect();
    assert_eq!(error(&wire(Control::Ready(&many))), "bad-command");
    let identity = [&b"\x0bSocket-Type\0\0\0\x04PUSH\x08Identity\0\0\x01\0"[..], &[b'x'; 256]].concat();
    assert_eq!(error(&wire(Control::Ready(&identity))), "bad-command");
}

#[test]
fn handshake_has_one_deadline_for_all_of_it() {
    let mut bench = Bench::new(Config::default());
    let start = bench.now;
    bench.now += Duration::from_secs(4);
    bench.feed(&greeting(1)).unwrap();
    bench.feed(&ready(Req)).unwrap();
    assert_eq!(bench.connection.deadline(), Some(start + Duration::from_secs(5)));
    assert_eq!(bench.connection.timeout(bench.now), Ok(()));
    assert_eq!(bench.tick(), Err(ProtocolError::HandshakeTimeout));
    assert_eq!((bench.connection.state(), bench.connection.deadline()), (State::Closed, None));
}

#[test]
fn pings_then_death() {
    let mut bench = Bench::ready(Pull, Push, 1);
    let start = bench.now;
    for second in [2, 4] {
        bench.tick().unwrap();
        assert_eq!(bench.now, start + Duration::from_secs(second));
        assert_eq!(bench.output(), b"\x04\x07\x04PING\x00\x3c");
    }
    assert_eq!(bench.tick(), Err(ProtocolError::PeerDead));
    assert_eq!(bench.now, start + Duration::from_secs(6));
}

#[test]
fn any_byte_is_life_and_so_is_write_progress() {
    let mut bench = Bench::ready(Pull, Push, 1);
    for _ in 0..4 {
        bench.tick().unwrap();
        bench.feed(&[]).unwrap();
    }
    for _ in 0..4 {
        bench.tick().unwrap();
        bench.connection.wrote(bench.now);
    }
    bench.feed(&frames(&[b"x"])[..1]).unwrap();
    bench.tick().unwrap();
    bench.tick().unwrap();
    assert_eq!(bench.tick(), Err(ProtocolError::PeerDead));
}

#[test]
fn our_own_standstill_is_not_the_peers_death() {
    let mut bench = Bench::ready(Pull, Push, 1);
    bench.now += Duration::from_secs(60);
    bench.connection.timeout(bench.now).unwrap();
    bench.tick().unwrap();
    let stood = bench.now;
    assert_eq!(bench.tick(), Err(ProtocolError::PeerDead));
    assert!(bench.now <= stood + Duration::from_secs(3));
}

#[test]
fn times_without_sense_do_no_harm() {
    for time in [Duration::ZERO, Duration::MAX] {
        let mut config = local(Pull);
        config.limits.handshake = time;
        config.heartbeat = Some(Heartbeat { interval: time, timeout: Duration::MAX });
        let mut bench = Bench::ready_with(config, Push, 1);
        let before = bench.now;
        let _ = bench.tick();
        assert!(bench.now > before);
    }
}

#[test]
fn older_peers_get_no_ping_and_may_be_silent() {
    let mut bench = Bench::ready(Pull, Push, 0);
    assert_eq!(bench.connection.deadline(), None);
    bench.now += Duration::from_secs(3600);
    bench.connection.timeout(bench.now).unwrap();
    assert_eq!(bench.output(), b"");
}

#[test]
fn a_ping_is_answered_and_its_time_to_live_kept() {
    let mut config = local(Pull);
    config.heartbeat = None;
    let mut bench = Bench::ready_with(config, Push, 1);
    assert_eq!(bench.connection.deadline(), None);
    bench.feed_control(Control::Ping { ttl: 30, context: b"0123456789abcdef" }).unwrap();
    assert_eq!(bench.output(), b"\x04\x15\x04PONG0123456789abcdef");
    assert_eq!(bench.connection.deadline(), Some(bench.now + Duration::from_secs(3)));
    // Anything after it settles it, as in libzmq.
    bench.feed(&frames(&[b"x"])).unwrap();
    assert_eq!(bench.connection.deadline(), None);
    bench.feed_control(Control::Ping { ttl: 30, context: b"" }).unwrap();
    assert_eq!(bench.tick(), Err(ProtocolError::PeerDead));
}

#[test]
fn a_flood_of_pings_that_never_reads_the_answers_costs_nothing() {
    let mut bench = Bench::ready(Pull, Push, 1);
    let ping = wire(Control::Ping { ttl: 0, context: b"0123456789abcdef" });
    for _ in 0..100_000 {
        bench.feed(&ping).unwrap();
    }
    assert!(bench.connection.output().len() < 8192);
}

#[test]
fn subscriptions_of_both_forms_become_commands() {
    let expected =
        [Command::Subscribe("a".into()), Command::Subscribe("".into()), Command::Cancel("a".into())];
    for minor in [0, 1] {
        for (ours, theirs) in [(Pub, Sub), (XPub, XSub)] {
            let mut bench = Bench::ready(ours, theirs, minor);
            let mut out = BytesMut::new();
            encode_subscription(minor, true, b"a", &mut out);
            encode_subscription(minor, true, b"", &mut out);
            encode_subscription(minor, false, b"a", &mut out);
            out.extend_from_slice(&frames(&[b"\x02up"]));
            out.extend_from_slice(&frames(&[b"\x01x", b"y"]));
            bench.feed(&out).unwrap();
            assert_eq!(bench.received.commands, expected);
            assert_eq!(bench.messages(), [Message::from("\x02up"), Message::from_frames(["\x01x", "y"])]);
        }
    }
}

#[test]
fn only_publishers_take_subscriptions() {
    let mut bench = Bench::ready(Pull, Push, 1);
    bench.feed_control(Control::Subscribe(b"a")).unwrap();
    bench.feed_control(Control::Unknown(b"LATER")).unwrap();
    bench.feed(&frames(&[b"\x01a"])).unwrap();
    assert_eq!(bench.received.commands, []);
    assert_eq!(bench.messages(), [Message::from("\x01a")]);
}

#[test]
fn commands_between_the_frames_of_a_message() {
    let ping = wire(Control::Ping { ttl: 0, context: b"" });
    let message = frames(&[b"a", b"b", b"c"]);
    let stream = [&message[..3], &ping, &message[3..6], &ping, &ping, &message[6..], &message].concat();
    let mut bench = Bench::ready(Pull, Push, 1);
    for byte in stream {
        bench.feed(&[byte]).unwrap();
    }
    let expected = Message::from_frames(["a", "b", "c"]);
    assert_eq!(bench.messages(), [expected.clone(), expected]);
    assert!(bench.buf.is_empty());

    // They stay in memory until the message is whole, so there is an end to them; in each message anew.
    let mut bench = Bench::ready_with(limited(|l| l.max_command = 100), Push, 1);
    for _ in 0..100 {
        bench.feed(&[&message[..3], &ping, &message[3..]].concat()).unwrap();
    }
    bench.feed(&message[..3]).unwrap();
    let sent = (1..).find(|_| bench.feed(&ping).is_err());
    assert_eq!(sent, Some(12));
    assert_eq!(bench.connection.state(), State::Closed);
}

#[test]
fn announced_lengths_reserve_nothing() {
    for (bytes, reason) in [
        (&b"\x02\x40\0\0\0\0\0\0\0"[..], "frame-too-large"),
        (b"\x03\xff\xff\xff\xff\xff\xff\xff\xff", "frame-too-large"),
        (b"\x06\x7f\xff\xff\xff\xff\xff\xff\xff", "command-too-large"),
    ] {
        let mut bench = Bench::ready(Pull, Push, 1);
        let capacity = bench.buf.capacity();
        assert_eq!(bench.feed(bytes).unwrap_err().reason(), reason);
        assert!(bench.buf.capacity() <= capacity.max(64));
    }
    // One that is allowed: room is asked for only as bytes come.
    let mut bench = Bench::ready(Pull, Push, 1);
    let mut stream = Vec::new();
    frame::put(&mut stream, false, false, &vec![7; 16 << 20]);
    for part in stream.chunks(1 << 16) {
        bench.feed(part).unwrap();
        assert!(bench.connection.wanted() <= bench.buf.len().max(64 << 10));
    }
    assert_eq!(bench.messages().first().map(Message::size), Some(16 << 20));
    assert_eq!(bench.connection.wanted(), 0);
}

#[test]
fn sums_and_counts_of_frames_have_an_end() {
    let mut bench = Bench::ready_with(limited(|l| l.max_message = 10), Push, 1);
    bench.feed(&frames(&[b"12345", b"", b"67890"])).unwrap();
    bench.feed(&frames(&[b"1234567890"])).unwrap();
    assert_eq!(bench.messages().len(), 2);
    assert_eq!(bench.feed(&frames(&[b"12345", b"678901"])).unwrap_err().reason(), "message-too-large");

    let mut bench = Bench::ready_with(limited(|l| l.max_message = 10), Push, 1);
    assert_eq!(bench.feed(&frames(&[b"12345678901"])).unwrap_err().reason(), "frame-too-large");

    let mut bench = Bench::ready(Pull, Push, 1);
    bench.feed(&frames(&[&b""[..]; 1024])).unwrap();
    assert_eq!(bench.messages().first().map(Message::len), Some(1024));
    let sent = (1..).find(|_| bench.feed(b"\x01\x00").is_err());
    assert_eq!(sent, Some(1024));

    let mut bench = Bench::ready_with(limited(|l| l.max_frames = 1), Push, 1);
    bench.feed(&frames(&[b"one"])).unwrap();
    assert_eq!(bench.feed(b"\x01").and_then(|()| bench.feed(b"\0")).unwrap_err().reason(), "too-many-frames");
}

#[test]
fn a_long_subscription_is_refused_in_both_forms() {
    for minor in [0, 1] {
        let mut bench = Bench::ready(Pub, Sub, minor);
        let mut out = BytesMut::new();
        encode_subscription(minor, true, &vec![b'x'; (64 << 10) + 1], &mut out);
        assert_eq!(bench.feed(&out).unwrap_err().reason(), "command-too-large");
    }
}

#[test]
fn what_came_before_an_error_is_delivered() {
    let mut bench = Bench::ready(Pull, Push, 1);
    let stream = [frames(&[b"good"]), vec![0xff]].concat();
    assert_eq!(bench.feed(&stream), Err(ProtocolError::BadFlags(0xff)));
    assert_eq!(bench.messages(), [Message::from("good")]);
}

#[test]
fn one_frame_messages_share_the_read_buffer() {
    let mut bench = Bench::ready(Pull, Push, 1);
    bench.buf.reserve(1 << 12);
    let start = bench.buf.as_ptr() as usize;
    bench.feed(&[frames(&[b"one"]), frames(&[b"two", b"three"])].concat()).unwrap();
    let messages = bench.messages();
    let at = |m: usize, f: usize| messages[m].frame(f).unwrap().as_ptr() as usize - start;
    assert_eq!((at(0, 0), at(1, 0), at(1, 1)), (2, 7, 12));
}

#[test]
fn labels_and_codes_are_unique() {
    let errors = [
        ProtocolError::NotZmtp,
        ProtocolError::UnsupportedVersion(2),
        ProtocolError::UnknownMechanism(String::new()),
        ProtocolError::MechanismMismatch { ours: "NULL", theirs: String::new() },
        ProtocolError::HandshakeTimeout,
        ProtocolError::PeerDead,
        ProtocolError::BadFlags(8),
        ProtocolError::EarlyMessage,
        ProtocolError::CommandTooLarge { size: 1, max: 0 },
        ProtocolError::BadCommand { command: "READY", problem: "" },
        ProtocolError::UnknownSocketType(String::new()),
        ProtocolError::IncompatiblePeer { ours: Pub, theirs: Pull },
        ProtocolError::FrameTooLarge { size: 1, max: 0 },
        ProtocolError::MessageTooLarge { size: 1, max: 0 },
        ProtocolError::TooManyFrames { max: 0 },
        ProtocolError::Refused(String::new()),
        ProtocolError::BadMetadata(String::new()),
    ];
    let reasons: std::collections::HashSet<_> = errors.iter().map(ProtocolError::reason).collect();
    let codes: std::collections::HashSet<_> = errors.iter().map(ProtocolError::code).collect();
    assert_eq!((reasons.len(), codes.len()), (errors.len(), errors.len()));
}
