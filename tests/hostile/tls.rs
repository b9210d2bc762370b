//! Attacks on a node with keys: strangers who trust whomever they meet, handshakes that lead nowhere, and a member gone
//! bad.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ripstop::Node;
use ripstop::config::SecurityConfig;
use ripstop::security::{Ca, Keys, make_curve_key};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::raw::{closed, command, dial, greeting};
use crate::victim::{Host, METHOD, PATIENCE, SERVE, Victim, alone, client};
use crate::{Growth, MIB, each};

const DAY: Duration = Duration::from_secs(86_400);
/// A handshake may take 5 s; the rest is for a machine that is busy.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// A secured victim whose good client is one, too.
struct Fort {
    host: Host,
    place: Arc<tempfile::TempDir>,
    ca: Ca,
    /// Of the victim, with its good client only.
    descriptors: usize,
}

impl Fort {
    async fn build() -> Self {
        let (place, now) = (Arc::new(tempfile::tempdir().unwrap()), SystemTime::now());
        let mut ca = Ca::new("shop", now, 30).unwrap();
        for service in ["hello", "orders"] {
            ca.issue(service, now - DAY, now + DAY).unwrap().write(&place.path().join(service)).unwrap();
        }
        make_curve_key(&place.path().join("hello/curve.key")).unwrap();
        let toml = format!("[security]\ndir = '{}'\n", place.path().join("hello").display());
        let victim = Victim::configured(&place, &toml, &SERVE);
        let beside = Victim::configured(&Arc::new(tempfile::tempdir().unwrap()), &toml, &SERVE);
        let keys = place.path().join("orders");
        let member = move |address| {
            let keys = keys.clone();
            async move {
                let endpoint = format!("tls+tcp://{address}").parse().unwrap();
                let node = Node::builder("orders").fabric("shop").local(false).mdns(false).keys(keys);
                node.peer("hello", endpoint, &["hello"]).start().await.unwrap()
            }
        };
        let called = client(member, |node: Node, n| async move {
            let echo: Result<u64, _> = node.call(METHOD, &n).await;
            assert_eq!(echo.expect("a good client's call failed"), n);
        });
        let host = Host::served(victim, beside, called).await;
        let descriptors = descriptors(host.victim.id());
        Self { host, place, ca, descriptors }
    }

    /// What a member dials with.
    fn member(&self) -> Arc<ClientConfig> {
        let config = SecurityConfig { dir: Some(self.place.path().join("orders")), ..Default::default() };
        Keys::load(&config, Path::new("")).unwrap().client_config(Some("hello"))
    }

    /// It lives, serves whoever is new, and holds nothing of the attackers any more.
    async fn stands(&mut self) {
        assert!(self.host.victim.is_alive());
        self.host.takes_newcomers().await;
        let (id, began) = (self.host.victim.id(), Instant::now());
        while descriptors(id) > self.descriptors {
            assert!(began.elapsed() < PATIENCE, "{} of {} descriptors", descriptors(id), self.descriptors);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Trusts whomever it meets, so that only the other side can refuse.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client with the keys in this directory, or with none.
fn stranger(keys: Option<&Path>) -> Arc<ClientConfig> {
    let trusting = ClientConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let Some(dir) = keys else { return Arc::new(trusting.with_no_client_auth()) };
    let chain = CertificateDer::pem_file_iter(dir.join("node.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(dir.join("node.key")).unwrap();
    Arc::new(trusting.with_client_auth_cert(chain, key).unwrap())
}

fn name() -> ServerName<'static> {
    "ripstop.invalid".try_into().unwrap()
}

async fn tls(stream: TcpStream, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(config.clone()).connect(name(), stream).await
}

/// The first flight of a TLS client.
fn client_hello() -> Vec<u8> {
    let mut client = ClientConnection::new(stranger(None), name()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Sends this and no more; whether the other side has nothing to say but an alert of TLS, and closes.
async fn comes_to_nothing(mut peer: TcpStream, bytes: &[u8]) -> bool {
    // It may have closed before all is written.
    let _ = peer.write_all(bytes).await;
    let _ = peer.shutdown().await;
    closed(&mut peer, HANDSHAKE).await
}

/// 300 strangers at once, each of whom would take any server: no certificate, an expired one, one of another CA of the
/// same name, one that it has signed itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_gets_no_word_out_of_it() {
    let _turn = alone().await;
    let mut fort = Fort::build().await;
    let now = SystemTime::now();
    let dir = |name: &str| fort.place.path().join(name);
    fort.ca.issue("orders", now - 2 * DAY, now - DAY).unwrap().write(&dir("expired")).unwrap();
    let mut other = Ca::new("shop", now, 30).unwrap();
    other.issue("orders", now - DAY, now + DAY).unwrap().write(&dir("other")).unwrap();
    let own = rcgen::generate_simple_self_signed(["orders".to_owned()]).unwrap();
    std::fs::create_dir(dir("own")).unwrap();
    std::fs::write(dir("own/node.pem"), own.cert.pem()).unwrap();
    std::fs::write(dir("own/node.key"), own.signing_key.serialize_pem()).unwrap();
    let strangers: Arc<[_]> = [None, Some("expired"), Some("other"), Some("own")]
        .map(|keys| stranger(keys.map(dir).as_deref()))
        .into();
    let (to, growth) = (fort.host.address, Growth::of(&fort.host));
    fort.host
        .attacked(move || {
            let strangers = strangers.clone();
            async move {
                let heard = each(300, move |n| {
                    let strangers = strangers.clone();
                    async move {
                        // Its own half of the handshake may be over before it is refused.
                        let Ok(mut stream) = tls(dial(to, n % 20).await, &strangers[n % 4]).await else {
                            return 0;
                        };
                        let _ = stream.write_all(&greeting("NULL")).await;
                        stream.read(&mut [0; 64]).await.unwrap_or(0)
                    }
                });
                assert_eq!(heard.await.iter().sum::<usize>(), 0, "somebody got a greeting");
            }
        })
        .await;
    for why in ["no certificate", "expired on", "issued by another CA"] {
        fort.host.victim.logged(why, 10);
    }
    growth.is_under(&fort.host, 40 * MIB);
    fort.stands().await;
}

/// A client that speaks TLS 1.2 at most hears that, by an alert, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_downgraded_handshake_is_refused() {
    let _turn = alone().await;
    let mut fort = Fort::build().await;
    // Suites, groups and signatures of the best that 1.2 has, and no word of 1.3.
    let extensions =
        b"\x00\x0a\x00\x04\x00\x02\x00\x1d\x00\x0d\x00\x04\x00\x02\x04\x03\x00\x0b\x00\x02\x01\x00";
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend(b"\x00\x00\x04\xc0\x2b\xc0\x2c\x01\x00");
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((hello.len() as u16).to_be_bytes());
    message.extend(hello);
    let mut record = vec![0x16, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    let (to, record) = (fort.host.address, Arc::new(record));
    let answers = fort
        .host
        .attacked(move || {
            let record = record.clone();
            each(40, move |n| {
                let record = record.clone();
                async move {
                    let mut peer = dial(to, n % 20).await;
                    peer.write_all(&record).await.unwrap();
                    let mut answer = Vec::new();
                    let _ = tokio::time::timeout(HANDSHAKE, peer.read_to_end(&mut answer)).await.unwrap();
                    answer
                }
            })
        })
        .await;
    // An alert, fatal, protocol_version (RFC 8446, section 6).
    assert!(answers.iter().all(|answer| answer.as_slice() == [0x15, 3, 3, 0, 2, 2, 70]), "{:?}", answers[0]);
    fort.stands().await;
}

/// 500 handshakes that begin well and then say nothing, of TLS and of CURVE.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_first_flights_is_bounded() {
    let _turn = alone().await;
    let mut fort = Fort::build().await;
    let curve = [greeting("CURVE"), command("HELLO", &[&[1, 0][..], &[0; 72], &[9; 120]].concat())].concat();
    let flights: Arc<[_]> = [client_hello(), curve].into();
    let (to, growth) = (fort.host.address, Growth::of(&fort.host));
    fort.host
        .attacked(move || {
            let flights = flights.clone();
            async move {
                let mut peers = each(500, move |n| {
                    let flights = flights.clone();
                    async move {
                        let mut peer = dial(to, n % 20).await;
                        let _ = peer.write_all(&flights[n % 2]).await;
                        peer
                    }
                })
                .await;
                for peer in &mut peers {
                    assert!(closed(peer, HANDSHAKE).await, "it stays");
                }
            }
        })
        .await;
    fort.host.victim.logged("the handshake was not finished in time", 20);
    growth.is_under(&fort.host, 60 * MIB);
    fort.stands().await;
}

/// A first flight that was cut or changed, records that can't be, ZMTP and noise behind the first byte of TLS.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_comes_to_nothing() {
    let _turn = alone().await;
    let mut fort = Fort::build().await;
    let hello = client_hello();
    let mut tries = Vec::new();
    for at in (0..hello.len()).step_by(hello.len() / 60) {
        tries.push(hello[..at].to_vec());
        let mut flipped = hello.clone();
        flipped[at] ^= 0x10;
        tries.push(flipped);
    }
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(20_000).collect();
    tries.push([&[0x16][..], &greeting("NULL")].concat());
    tries.push([&[0x16][..], &noise].concat());
    tries.push([&[0x16, 3, 1, 0xff, 0xff][..], &noise].concat());
    tries.push([0x16, 3, 1, 0, 0].repeat(50_000));
    // A message of 16 MiB, in records that are as long as they may be.
    tries.push([&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &noise[..16_380]].concat().repeat(20));
    let (to, growth, tries) = (fort.host.address, Growth::of(&fort.host), Arc::new(tries));
    fort.host
        .attacked(move || {
            let tries = tries.clone();
            async move {
                let all = each(tries.len(), move |n| {
                    let tries = tries.clone();
                    async move { comes_to_nothing(dial(to, n % 20).await, &tries[n]).await }
                });
                assert!(all.await.into_iter().all(|closed| closed));
            }
        })
        .await;
    growth.is_under(&fort.host, 40 * MIB);
    fort.stands().await;
}

/// Byte by byte, a handshake is not over in time, however long it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_flight_that_drips_is_cut_off() {
    let _turn = alone().await;
    let mut fort = Fort::build().await;
    let (to, hello) = (fort.host.address, Arc::new(client_hello()));
    fort.host
        .attacked(move || {
            let hello = hello.clone();
            async move {
                let lasted = each(20, move |n| {
                    let hello = hello.clone();
                    async move {
                        let (mut peer, began) = (dial(to, n).await, Instant::now());
                        for byte in &*hello {
                            // The pace of the attack.
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            if peer.write_all(&[*byte]).await.is_err() {
                                break;
                            }
                        }
                        began.elapsed()
                    }
                });
                assert!(lasted.await.into_iter().all(|lasted| lasted < HANDSHAKE));
            }
        })
        .await;
    fort.host.victim.logged("the handshake was not finished in time", 20);
    fort.stands().await;
}

/// A member whose certificate is good sends no ZMTP, or goes in the middle of a record.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_talks_nonsense_is_closed() {
    let _turn = alone().await;
    let mut fort = Fort::build().await;
    let (to, member) = (fort.host.address, fort.member());
    fort.host
        .attacked(move || {
            let member = member.clone();
            async move {
                let all = each(60, move |n| {
                    let member = member.clone();
                    async move {
                        let mut stream = tls(dial(to, n % 20).await, &member).await.unwrap();
                        if n % 2 == 0 {
                            let noise: Vec<u8> = std::iter::repeat_n(0x41, 60_000).collect();
                            let _ = stream.write_all(&noise).await;
                            let gone = async { while matches!(stream.read(&mut [0; 512]).await, Ok(1..)) {} };
                            return tokio::time::timeout(HANDSHAKE, gone).await.is_ok();
                        }
                        stream.write_all(&greeting("NULL")).await.unwrap();
                        stream.read_exact(&mut [0; 64]).await.unwrap();
                        let (mut tcp, _) = stream.into_inner();
                        tcp.write_all(&[0x17, 3, 3, 0x10, 0, 1, 2, 3]).await.unwrap();
                        tcp.set_zero_linger().unwrap();
                        true
                    }
                });
                assert!(all.await.into_iter().all(|closed| closed));
            }
        })
        .await;
    fort.stands().await;
}

/// A resumed session would skip the look at the certificate: no ticket is given, and each handshake is a whole one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_resumed() {
    let _turn = alone().await;
    let mut fort = Fort::build().await;
    let mut member = ClientConfig::clone(&stranger(Some(&fort.place.path().join("orders"))));
    member.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let (to, member) = (fort.host.address, Arc::new(member));
    fort.host
        .attacked(move || {
            let member = member.clone();
            async move {
                for n in 0..20 {
                    let mut stream = tls(dial(to, n).await, &member).await.unwrap();
                    stream.write_all(&greeting("NULL")).await.unwrap();
                    stream.read_exact(&mut [0; 64]).await.unwrap();
                    let (_, session) = stream.get_ref();
                    assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
                    assert_eq!(session.tls13_tickets_received(), 0);
                }
            }
        })
        .await;
    fort.stands().await;
}
