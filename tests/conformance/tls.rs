//! `tls+tcp://`: every message of every size, and nobody without keys.

use std::path::Path;
use std::time::{Duration, SystemTime};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use ripstop::config::SecurityConfig;
use ripstop::security::{Ca, Keys};
use ripstop::socket::{BindError, ConnectError, Event, Options, Pull, Push};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{event, quick};
use crate::soon;

/// Options of two members of one fabric.
fn members() -> (Options, Options) {
    let now = SystemTime::now();
    let mut ca = Ca::new("shop", now, 30).unwrap();
    let mut member = |service: &str| {
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        ca.issue(service, now - hour, now + hour).unwrap().write(&dir.path().join("keys")).unwrap();
        let config = SecurityConfig { dir: Some(dir.path().join("keys")), ..SecurityConfig::default() };
        let keys = Keys::load(&config, Path::new("")).unwrap();
        quick().tls(keys.server_config(), keys.client_config(None))
    };
    (member("pricing"), member("billing"))
}

#[tokio::test]
async fn messages_of_every_size_come_through() {
    soon(async {
        let (ours, theirs) = members();
        let (pull, push) = (Pull::with_options(ours), Push::with_options(theirs));
        let endpoint = pull.bind("tls+tcp://127.0.0.1:0").await.unwrap();
        assert!(endpoint.to_string().starts_with("tls+tcp://127.0.0.1:"));
        push.connect(endpoint).unwrap();
        let sizes: Vec<usize> = (0..400).map(|n| n * n * 7 % 70_000).chain([0, 1 << 20, 5 << 20]).collect();
        let sent = sizes.clone();
        let sending = tokio::spawn(async move {
            for (n, size) in sent.into_iter().enumerate() {
                push.send(vec![n as u8; size]).await.unwrap();
            }
            push.close().await;
        });
        for (n, size) in sizes.into_iter().enumerate() {
            let message = pull.recv().await.unwrap();
            assert_eq!(message.size(), size);
            assert!(message.frames().flatten().all(|byte| *byte == n as u8), "message {n}");
        }
        sending.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn plain_and_strange_peers_are_told_and_not_let_in() {
    soon(async {
        let (ours, _) = members();
        // A member, but of another fabric of the same name.
        let (stranger, _) = members();
        let pull = Pull::with_options(ours);
        let mut monitor = pull.monitor();
        let endpoint = pull.bind("tls+tcp://127.0.0.1:0").await.unwrap();
        let plain = endpoint.to_string().replace("tls+", "");
        for (options, endpoint, why) in [
            (quick(), plain, "does not encrypt"),
            (stranger, endpoint.to_string(), "the peer refused our certificate: it does not trust the CA"),
        ] {
            let push = Push::with_options(options);
            push.connect(endpoint.as_str()).unwrap();
            let reason = event(&mut monitor, |event| match event {
                Event::HandshakeFailed { reason, .. } => Some(reason.clone()),
                Event::Connected { .. } => panic!("it is in"),
                _ => None,
            });
            let reason = reason.await;
            assert!(reason.contains(why), "{reason}");
            push.close().await;
        }
    })
    .await;
}

#[tokio::test]
async fn without_keys_the_address_is_refused() {
    let pull = Pull::new();
    assert!(matches!(pull.bind("tls+tcp://127.0.0.1:0").await, Err(BindError::NoTls(_))));
    assert!(matches!(pull.connect("tls+tcp://127.0.0.1:1"), Err(ConnectError::NoTls(_))));
}

/// Whatever it began with: where there are keys, TLS is shaken before ZMTP.
#[tokio::test]
async fn a_handshake_that_hangs_is_given_up_and_counted() {
    let recorder = DebuggingRecorder::new();
    let _here = metrics::set_default_local_recorder(&recorder);
    soon(async {
        let (ours, theirs) = members();
        let brief = Duration::from_millis(200);
        let pull = Pull::with_options(ours.handshake_timeout(brief));
        let endpoint = pull.bind("tls+tcp://127.0.0.1:0").await.unwrap().to_string();
        for begins in [&b""[..], b"\x16", b"\x16\x03\x01\x01\x00\x01"] {
            let mut peer = TcpStream::connect(&endpoint["tls+tcp://".len()..]).await.unwrap();
            peer.write_all(begins).await.unwrap();
            assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "{begins:?}");
        }
        // And who dials somebody that says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let push = Push::with_options(theirs.handshake_timeout(brief));
        let mut monitor = push.monitor();
        push.connect(format!("tls+tcp://{}", silent.local_addr().unwrap())).unwrap();
        event(&mut monitor, |event| match event {
            Event::Retrying { reason, .. } => reason.contains("not finished in time").then_some(()),
            _ => None,
        })
        .await;
        push.close().await;
    })
    .await;
    let counted = recorder.snapshotter().snapshot().into_vec().into_iter().find_map(|(key, _, _, value)| {
        let late = key.key().labels().any(|label| label.value() == "handshake-timeout");
        late.then_some(value)
    });
    assert!(matches!(counted, Some(DebugValue::Counter(4..))), "{counted:?}");
}
