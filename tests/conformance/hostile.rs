//! Peers that do not speak, speak nonsense, or say nothing at all; a good client is served meanwhile.

use std::time::{Duration, Instant};

use ripstop::Endpoint;
use ripstop::socket::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{
    common::{awaits, quick},
    soon,
};

async fn dial(endpoint: &Endpoint) -> TcpStream {
    let Endpoint::Tcp { host, port } = endpoint else { panic!("{endpoint} is not TCP") };
    TcpStream::connect((&host[..], *port)).await.unwrap()
}

async fn is_served(pull: &Pull, endpoint: &Endpoint) -> Duration {
    let began = Instant::now();
    let push = Push::with_options(quick());
    push.connect(endpoint).unwrap();
    push.send("good").await.unwrap();
    assert_eq!(soon(pull.recv()).await.unwrap(), "good".into());
    began.elapsed()
}

/// A 3.1 greeting and a READY as PUSH.
fn hello() -> Vec<u8> {
    let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
    bytes.extend_from_slice(b"NULL");
    bytes.resize(64, 0);
    bytes.extend_from_slice(b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH");
    bytes
}

#[tokio::test]
async fn nonsense_is_refused() {
    let pull = Pull::new();
    let mut seen = pull.monitor();
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.unwrap();
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 200], &[0; 64]] {
        let mut stream = dial(&endpoint).await;
        stream.write_all(nonsense).await.unwrap();
        soon(async { awaits!(seen, Event::HandshakeFailed { .. }) }).await;
        let mut rest = Vec::new();
        let _ = soon(stream.read_to_end(&mut rest)).await;
    }
    is_served(&pull, &endpoint).await;
}

#[tokio::test]
async fn a_silent_handshake_ends() {
    let pull = Pull::with_options(Options::new().handshake_timeout(Duration::from_millis(100)));
    let mut seen = pull.monitor();
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.unwrap();
    let _silent = dial(&endpoint).await;
    soon(async { awaits!(seen, Event::HandshakeFailed { reason, .. } if reason.contains("in time")) }).await;
}

/// A peer whose host vanished: it says nothing, but its connection is not closed either.
#[tokio::test]
async fn a_silent_peer_is_dead() {
    let beat = Some((Duration::from_millis(50), Duration::from_millis(200)));
    let pull = Pull::with_options(Options::new().heartbeat(beat));
    let mut seen = pull.monitor();
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut stream = dial(&endpoint).await;
    stream.write_all(&hello()).await.unwrap();
    soon(async {
        awaits!(seen, Event::Accepted { .. });
        let began = Instant::now();
        awaits!(seen, Event::Disconnected { reason, .. } if reason.contains("nothing was heard"));
        assert!(began.elapsed() < Duration::from_secs(2));
    })
    .await;
}

/// More silent connections than handshakes are allowed: the oldest give way, a good client is served at once.
#[tokio::test]
async fn silent_connections_do_not_crowd_out() {
    let pull = Pull::new();
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(dial(&endpoint).await);
    }
    let took = is_served(&pull, &endpoint).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// A header that announces 2^62 bytes ends the connection before anything is reserved.
#[tokio::test]
async fn an_announced_length_is_a_claim() {
    let pull = Pull::new();
    let mut seen = pull.monitor();
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut stream = dial(&endpoint).await;
    let mut bytes = hello();
    bytes.extend_from_slice(&[2, 0x40, 0, 0, 0, 0, 0, 0, 0]);
    stream.write_all(&bytes).await.unwrap();
    soon(async { awaits!(seen, Event::Disconnected { reason, .. } if reason.contains("at most")) }).await;
    is_served(&pull, &endpoint).await;
}

/// Messages right behind the READY, in the same write, are not lost; nor is what came before an error.
#[tokio::test]
async fn messages_behind_ready_and_before_an_error() {
    let pull = Pull::new();
    let mut seen = pull.monitor();
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut stream = dial(&endpoint).await;
    let mut bytes = hello();
    bytes.extend_from_slice(b"\x00\x01a\x00\x01b");
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(soon(pull.recv()).await.unwrap(), "a".into());
    assert_eq!(soon(pull.recv()).await.unwrap(), "b".into());
    stream.write_all(b"\x00\x01c\xff\xff").await.unwrap();
    assert_eq!(soon(pull.recv()).await.unwrap(), "c".into());
    soon(async { awaits!(seen, Event::Disconnected { .. }) }).await;
}

/// A ZMTP ERROR is final: no more dialling.
#[tokio::test]
async fn an_error_is_final() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let push = Push::with_options(quick());
    let mut seen = push.monitor();
    push.connect(format!("tcp://{}", listener.local_addr().unwrap())).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(&hello()[..64]).await.unwrap();
    stream.write_all(b"\x04\x0e\x05ERROR\x07go away").await.unwrap();
    soon(async { awaits!(seen, Event::GaveUp { reason, .. } if reason.contains("go away")) }).await;
    assert_eq!(push.try_send("x"), Err(SendError::Full), "there is nobody to send to any more");
}

/// The process that `few_descriptors` starts: echoes what it receives to standard output.
#[tokio::test]
async fn few_descriptors_child() {
    if std::env::var_os("RIPSTOP_TEST_CHILD").is_none() {
        return;
    }
    let pull = Pull::new();
    println!("at {}", pull.bind("tcp://127.0.0.1:0").await.unwrap());
    println!("got {:?}", pull.recv().await.unwrap());
}

/// Silent connections use up a process's descriptors: handshakes that hang give way to a good client.
#[tokio::test]
async fn few_descriptors() {
    use std::process::Stdio;
    use tokio::io::{AsyncBufReadExt, BufReader};

    let mut child = tokio::process::Command::new("sh")
        .args(["-c", "ulimit -n 60; exec \"$0\" --exact hostile::few_descriptors_child --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env("RIPSTOP_TEST_CHILD", "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = async |prefix: &str| loop {
        let line = soon(lines.next_line()).await.unwrap().expect("the child has ended");
        if let Some((_, rest)) = line.split_once(prefix) {
            return rest.to_owned();
        }
    };
    let endpoint: Endpoint = line("at ").await.parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(dial(&endpoint).await);
    }
    let push = Push::with_options(quick());
    push.connect(&endpoint).unwrap();
    let began = Instant::now();
    push.send("good").await.unwrap();
    assert_eq!(line("got ").await, r#"["good"]"#);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
