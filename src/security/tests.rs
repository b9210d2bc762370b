//! Certificates good and bad, shown to real handshakes.
#![allow(clippy::unwrap_used)] // the helpers are tests, too

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose as Use, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::keys::{client_config, server_config};
use super::{KeyStore, Keys, SecurityError, files};
use crate::config::SecurityConfig;
use crate::transport::tls::explain;

const DAY: Duration = Duration::from_secs(24 * 3600);
const PRICING: &str = "spiffe://shop/service/pricing";
const BILLING: &str = "spiffe://shop/service/billing";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// Certificates between it and the root, itself first.
    between: String,
}

struct Leaf {
    names: Vec<&'static str>,
    from: SystemTime,
    to: SystemTime,
    serial: u64,
    uses: Vec<Use>,
    key: KeyPair,
}

fn leaf(name: &'static str) -> Leaf {
    let now = SystemTime::now();
    Leaf {
        names: vec![name],
        from: now - DAY,
        to: now + DAY * 30,
        serial: 7,
        uses: vec![Use::ServerAuth, Use::ClientAuth],
        key: KeyPair::generate().unwrap(),
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    fn new(name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem, between: String::new() }
    }

    fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
        let between = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem: self.pem.clone(), between: between + &self.between }
    }

    /// A node's directory.
    fn issue(&self, leaf: Leaf) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.issue_into(leaf, dir.path());
        dir
    }

    fn issue_into(&self, leaf: Leaf, dir: &Path) {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            leaf.names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
        params.not_before = leaf.from.into();
        params.not_after = leaf.to.into();
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        params.extended_key_usages = leaf.uses;
        let cert = params.signed_by(&leaf.key, &self.issuer).unwrap();
        fs::write(dir.join("ca.pem"), &self.pem).unwrap();
        fs::write(dir.join("node.pem"), cert.pem() + &self.between).unwrap();
        write_key(&dir.join("node.key"), &leaf.key.serialize_pem());
    }

    fn revoke(&self, serial: u64, next_update: SystemTime) -> String {
        let now = SystemTime::now();
        let params = CertificateRevocationListParams {
            this_update: (now - DAY * 2).into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: now.into(),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn write_key(path: &Path, pem: &str) {
    fs::write(path, pem).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn config(dir: &Path) -> SecurityConfig {
    SecurityConfig { dir: Some(dir.to_owned()), ..SecurityConfig::default() }
}

fn load(dir: &tempfile::TempDir) -> Keys {
    Keys::load(&config(dir.path()), Path::new("")).unwrap()
}

fn open(dir: &Path) -> Result<Arc<KeyStore>, SecurityError> {
    KeyStore::open(&config(dir), Path::new(""))
}

/// What the client and the server say of their handshake, each with one byte read after it.
async fn meet(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (Result<u8, String>, Result<u8, String>) {
    let (ours, theirs) = duplex(1 << 20);
    let name = "ripstop.invalid".try_into().unwrap();
    let dial = async {
        let mut stream = tokio_rustls::TlsConnector::from(client).connect(name, ours).await?;
        stream.write_all(&[1]).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let answer = async {
        let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(theirs).await?;
        stream.write_all(&[2]).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let (dialled, answered) = tokio::join!(dial, answer);
    (dialled.map_err(|error| explain(&error)), answered.map_err(|error| explain(&error)))
}

/// The client with these keys dials `pricing`.
async fn dial(client: &Keys, server: &Keys) -> (Result<u8, String>, Result<u8, String>) {
    meet(client.client_config(Some("pricing")), server.server_config()).await
}

/// Shows what is in this directory, and believes what `keys` do.
fn stranger(dir: &Path, keys: &Keys) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = files::certificates(&dir.join("node.pem")).unwrap();
    let own = CertifiedKey::from_der(chain, files::private_key(&dir.join("node.key")).unwrap(), &provider);
    let own = Arc::new(SingleCertAndKey::from(own.unwrap()));
    let server = server_config(&provider, &keys.trust, &own).unwrap();
    (Arc::new(client_config(provider, &keys.trust, own).unwrap()), Arc::new(server))
}

fn says(result: &Result<u8, String>, what: &str) {
    let said = result.as_ref().unwrap_err();
    assert!(said.contains(what), "{said:?} does not say {what:?}");
}

#[tokio::test]
async fn members_meet_whatever_their_keys_are_made_of() {
    let root = Authority::new("shop CA");
    let between = root.intermediate("shop nodes");
    let pricing = load(&root.issue(leaf(PRICING)));
    assert_eq!(pricing.identity().to_string(), PRICING);
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    for key in [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        rsa,
    ] {
        let keys = load(&between.issue(Leaf { key, ..leaf(BILLING) }));
        assert_eq!(dial(&keys, &pricing).await, (Ok(2), Ok(1)));
    }
    let without_uses = load(&root.issue(Leaf { uses: Vec::new(), ..leaf(BILLING) }));
    assert_eq!(dial(&without_uses, &pricing).await, (Ok(2), Ok(1)));
}

#[tokio::test]
async fn every_stranger_is_refused_and_both_sides_say_why() {
    let (root, other) = (Authority::new("shop CA"), Authority::new("another CA"));
    // The same name, another key: what an attacker would make.
    let forged = Authority::new("shop CA");
    let now = SystemTime::now();
    let pricing = load(&root.issue(leaf(PRICING)));
    let expired = || Leaf { from: now - DAY * 9, to: now - DAY, ..leaf(PRICING) };
    let future = || Leaf { from: now + DAY, ..leaf(PRICING) };
    let cases = [
        (root.issue(expired()), "expired on 20", "it has expired"),
        (root.issue(future()), "is not valid before 20", "not valid yet"),
        (other.issue(leaf(PRICING)), "issued by another CA", "does not trust the CA"),
        (forged.issue(leaf(PRICING)), "issued by another CA", "does not trust the CA"),
        (
            root.issue(leaf("spiffe://bank/service/pricing")),
            "is for fabric bank, and this is fabric shop",
            "not for this fabric",
        ),
    ];
    for (dir, why, told) in cases {
        let (as_client, as_server) = stranger(dir.path(), &pricing);
        let (client, server) = meet(as_client, pricing.server_config()).await;
        says(&server, why);
        says(&client, told);
        let (client, server) = meet(pricing.client_config(Some("pricing")), as_server).await;
        says(&client, why);
        says(&server, told);
    }
    // A CA that is over has no members.
    let mut params = ca_params("old CA");
    params.not_after = (now - DAY).into();
    let key = KeyPair::generate().unwrap();
    let old_pem = params.self_signed(&key).unwrap().pem();
    let old = Authority {
        issuer: Issuer::new(params, key),
        pem: old_pem.clone() + &root.pem,
        between: String::new(),
    };
    let both = root.issue(leaf(PRICING));
    fs::write(both.path().join("ca.pem"), root.pem.clone() + &old_pem).unwrap();
    says(&dial(&load(&old.issue(leaf(BILLING))), &load(&both)).await.1, "expired on 20");
    // A member, but not the one that was dialled.
    let billing = load(&root.issue(leaf(BILLING)));
    let (client, server) = dial(&pricing, &billing).await;
    says(&client, "is for service billing, and pricing was dialled");
    says(&server, "not for the service that was dialled");
    // Only for servers, only for clients.
    let server_only = load(&root.issue(Leaf { uses: vec![Use::ServerAuth], ..leaf(BILLING) }));
    says(&dial(&server_only, &pricing).await.1, "is not meant for this");
    let client_only = load(&root.issue(Leaf { uses: vec![Use::ClientAuth], ..leaf(PRICING) }));
    says(&dial(&billing, &client_only).await.0, "is not meant for this");
}

#[tokio::test]
async fn without_a_certificate_or_tls_13_nobody_gets_in() {
    let root = Authority::new("shop CA");
    let pricing = load(&root.issue(leaf(PRICING)));
    let judge = Arc::new(super::trust::Dialled { trust: pricing.trust.clone(), service: None });
    let nobody = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(judge)
        .with_no_client_auth();
    let (client, server) = meet(Arc::new(nobody), pricing.server_config()).await;
    says(&server, "the peer showed no certificate");
    says(&client, "the peer wants a certificate, and this side showed none");
    // A ClientHello of TLS 1.2 and nothing newer: record, handshake, version 3.3, random, no session, one suite, no
    // compression, two extensions (signature algorithms, groups).
    let extensions = [0, 0x0d, 0, 4, 0, 2, 4, 3, 0, 0x0a, 0, 4, 0, 2, 0, 0x17];
    let hello = [
        &[0x16, 3, 1, 0, 63, 1, 0, 0, 59, 3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 16],
        &extensions,
    ];
    let hello = hello.concat();
    let (mut ours, theirs) = duplex(1 << 16);
    ours.write_all(&hello).await.unwrap();
    let accepted = tokio_rustls::TlsAcceptor::from(pricing.server_config()).accept(theirs).await;
    assert_eq!(explain(&accepted.err().unwrap()), "the peer does not speak TLS 1.3");
}

#[tokio::test]
async fn the_exchange_withstands_quanta_and_no_ticket_is_given() {
    let root = Authority::new("shop CA");
    let (pricing, billing) = (load(&root.issue(leaf(PRICING))), load(&root.issue(leaf(BILLING))));
    for _ in 0..2 {
        let (ours, theirs) = duplex(1 << 20);
        let name = "ripstop.invalid".try_into().unwrap();
        let client = billing.client_config(None);
        let (dialled, answered) = tokio::join!(
            tokio_rustls::TlsConnector::from(client).connect(name, ours),
            tokio_rustls::TlsAcceptor::from(pricing.server_config()).accept(theirs),
        );
        let (mut dialled, mut answered) = (dialled.unwrap(), answered.unwrap());
        answered.write_all(&[2]).await.unwrap();
        answered.flush().await.unwrap();
        assert_eq!(dialled.read_u8().await.unwrap(), 2);
        let (_, state) = dialled.get_ref();
        assert_eq!(state.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
        assert_eq!(state.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(state.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn whoever_is_on_the_list_is_out() {
    let root = Authority::new("shop CA");
    let dir = root.issue(leaf(PRICING));
    let billing = load(&root.issue(Leaf { serial: 8, ..leaf(BILLING) }));
    // A list that is past its next update still counts.
    for next_update in [SystemTime::now() + DAY, SystemTime::now() - DAY] {
        fs::write(dir.path().join("crl.pem"), root.revoke(8, next_update)).unwrap();
        let (client, server) = dial(&billing, &load(&dir)).await;
        says(&server, "was revoked");
        says(&client, "it was revoked");
    }
    // The list of a root names an intermediate: all that it has issued are out.
    let mut params = ca_params("shop nodes");
    params.serial_number = Some(SerialNumber::from(99u64));
    let key = KeyPair::generate().unwrap();
    let between = params.signed_by(&key, &root.issuer).unwrap().pem();
    let between = Authority { issuer: Issuer::new(params, key), pem: root.pem.clone(), between };
    let emails = load(&between.issue(leaf("spiffe://shop/service/emails")));
    assert_eq!(dial(&emails, &load(&dir)).await, (Ok(2), Ok(1)));
    fs::write(dir.path().join("crl.pem"), root.revoke(99, SystemTime::now() + DAY)).unwrap();
    says(&dial(&emails, &load(&dir)).await.1, "was revoked");
    // Nobody else is.
    assert_eq!(dial(&billing, &load(&dir)).await, (Ok(2), Ok(1)));
}

#[test]
fn mistakes_are_told_with_the_file_and_what_to_do() {
    let root = Authority::new("shop CA");
    let failing = |change: &dyn Fn(&Path), says: &str| {
        let dir = root.issue(leaf(PRICING));
        change(dir.path());
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(&*dir.path().to_string_lossy()), "{error}");
    };
    let key = |dir: &Path| dir.join("node.key");
    failing(&|dir| fs::remove_file(dir.join("ca.pem")).unwrap(), "cannot read");
    failing(&|dir| fs::write(dir.join("ca.pem"), "").unwrap(), "has no certificate");
    failing(
        &|dir| fs::set_permissions(key(dir), fs::Permissions::from_mode(0o640)).unwrap(),
        "can be read by others (mode 0640), so it is no secret: chmod 600 /",
    );
    failing(&|dir| write_key(&key(dir), &KeyPair::generate().unwrap().serialize_pem()), "is not the key of");
    failing(&|dir| write_key(&key(dir), "nothing"), "has no private key");
    failing(
        &|dir| {
            write_key(
                &key(dir),
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            )
        },
        "encrypted",
    );
    failing(
        &|dir| {
            fs::write(dir.join("crl.pem"), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
                .unwrap()
        },
        "crl.pem",
    );
    failing(
        &|dir| fs::write(dir.join("ca.pem"), Authority::new("shop CA").pem).unwrap(),
        "issued by another CA",
    );
    failing(&|dir| root.issue_into(Leaf { names: vec![], ..leaf(PRICING) }, dir), "no URI among its names");
    failing(
        &|dir| root.issue_into(Leaf { names: vec![PRICING, BILLING], ..leaf(PRICING) }, dir),
        "more than one URI",
    );
    failing(&|dir| root.issue_into(leaf("spiffe://shop/ns/pricing"), dir), "names no service");
    let yesterday = SystemTime::now() - DAY;
    failing(
        &|dir| root.issue_into(Leaf { from: yesterday - DAY, to: yesterday, ..leaf(PRICING) }, dir),
        "issue a new one: ripstop keys issue",
    );
}

/// Follows the files until the end of the test. Once this has seen one change, it waits for the system's word on the
/// next, and looks by itself only after 5 s.
struct Watched {
    changed: tokio::sync::watch::Receiver<u64>,
    watch: tokio::task::JoinHandle<()>,
}

impl Watched {
    fn new(store: &Arc<KeyStore>) -> Self {
        Self { changed: store.changed(), watch: tokio::spawn(store.clone().watch()) }
    }

    /// Whether there are other keys at once.
    async fn at_once(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(3), self.changed.changed())
            .await
            .is_ok_and(|seen| seen.is_ok())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

#[tokio::test]
async fn changed_files_are_put_in_force_and_broken_ones_are_not() {
    let root = Authority::new("shop CA");
    let dir = root.issue(leaf(PRICING));
    let store = open(dir.path()).unwrap();
    assert!(!store.reload().unwrap(), "nothing is new");
    let before = store.current();
    // Broken: the old stays.
    write_key(&dir.path().join("node.key"), "half a k");
    assert!(store.reload().unwrap_err().to_string().contains("node.key"));
    assert!(Arc::ptr_eq(&before, &store.current()));
    root.issue_into(leaf(BILLING), dir.path());
    assert!(store.reload().unwrap_err().to_string().contains("is for spiffe://shop/service/billing"));
    // New ones, while it is watched.
    let mut watched = Watched::new(&store);
    for serial in [9, 10, 11] {
        root.issue_into(Leaf { serial, ..leaf(PRICING) }, dir.path());
        assert!(watched.at_once().await, "{serial}");
    }
    assert!(!Arc::ptr_eq(&before, &store.current()));
    // Broken while it is watched: the old stays, and what comes then is seen all the same.
    let before = store.current();
    write_key(&dir.path().join("node.key"), "half a k");
    assert!(!watched.at_once().await);
    assert!(Arc::ptr_eq(&before, &store.current()));
    root.issue_into(Leaf { serial: 12, ..leaf(PRICING) }, dir.path());
    assert!(watched.at_once().await);
}

#[tokio::test]
async fn a_mounted_secret_is_swapped_at_once() {
    // As Kubernetes mounts secrets: names are links into `..data`, which is a link that is replaced.
    let root = Authority::new("shop CA");
    let mount = tempfile::tempdir().unwrap();
    let version = |n: u64| -> PathBuf {
        let dir = mount.path().join(format!("..v{n}"));
        fs::create_dir(&dir).unwrap();
        root.issue_into(Leaf { serial: n, ..leaf(PRICING) }, &dir);
        let link = mount.path().join("..new");
        symlink(&dir, &link).unwrap();
        link
    };
    fs::rename(version(1), mount.path().join("..data")).unwrap();
    for name in ["ca.pem", "node.pem", "node.key"] {
        symlink(Path::new("..data").join(name), mount.path().join(name)).unwrap();
    }
    let store = open(mount.path()).unwrap();
    let mut watched = Watched::new(&store);
    for n in 2..5 {
        fs::rename(version(n), mount.path().join("..data")).unwrap();
        assert!(watched.at_once().await, "{n}");
    }
}

/// What is logged while this runs, and the gauge afterwards.
fn reminded(store: &KeyStore, now: SystemTime) -> (String, f64) {
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let gauges = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        tracing::subscriber::with_default(subscriber, || store.remind(now));
    });
    let gauge = gauges.snapshot().into_vec().into_iter().find_map(|(key, _, _, value)| match value {
        metrics_util::debugging::DebugValue::Gauge(value)
            if key.key().name() == "ripstop_certificate_expires_seconds" =>
        {
            Some(value.0)
        }
        _ => None,
    });
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (logged, gauge.unwrap())
}

#[test]
fn the_end_of_a_certificate_is_told_in_time() {
    let root = Authority::new("shop CA");
    let dir = root.issue(leaf(PRICING));
    fs::write(dir.path().join("crl.pem"), root.revoke(1, SystemTime::now() + DAY * 10)).unwrap();
    let store = open(dir.path()).unwrap();
    let end = store.current().expires();
    let (logged, left) = reminded(&store, end - DAY * 8);
    assert_eq!((logged.contains("certificate"), left), (false, 8.0 * 86_400.0), "{logged}");
    // Once a day.
    let (logged, left) = reminded(&store, end - DAY * 6);
    assert!(logged.contains("WARN") && logged.contains("the certificate runs out soon"), "{logged}");
    assert_eq!(left, 6.0 * 86_400.0);
    let (logged, _) = reminded(&store, end - DAY * 6 + DAY / 2);
    assert!(!logged.contains("certificate"), "{logged}");
    let (logged, _) = reminded(&store, end - DAY * 5);
    assert!(logged.contains("the certificate runs out soon"), "{logged}");
    let (logged, left) = reminded(&store, end + DAY);
    assert!(logged.contains("ERROR") && logged.contains("the certificate has run out"), "{logged}");
    assert_eq!(left, 0.0);
    // The list that was to be replaced.
    let store = open(dir.path()).unwrap();
    assert!(!reminded(&store, SystemTime::now()).0.contains("revocation list"));
    let (logged, _) = reminded(&store, SystemTime::now() + DAY * 11);
    assert!(logged.contains("a revocation list was to be replaced by now"), "{logged}");
}

#[test]
fn a_list_that_would_shut_nobody_out_is_no_list() {
    let (root, other) = (Authority::new("shop CA"), Authority::new("other CA"));
    let dir = root.issue(leaf(PRICING));
    let list = dir.path().join("crl.pem");
    let soon = SystemTime::now() + DAY;
    let write = |pem: &str| fs::write(&list, pem).unwrap();
    let good = root.revoke(8, soon);
    // Flips a bit of the signature, which comes last.
    let mut der = pem::parse(&good).unwrap().into_contents();
    *der.last_mut().unwrap() ^= 1;
    let damaged = pem::encode(&pem::Pem::new("X509 CRL", der));
    for (pem, why) in [
        ("", "has no revocation list"),
        (&good[..good.len() / 2], "crl.pem"),
        (&damaged, "the CA that it names has not signed it"),
    ] {
        write(pem);
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("crl.pem") && error.contains(why), "{error}");
    }
    // Once there was one it has to stay, and that of somebody else is none.
    write(&good);
    let store = open(dir.path()).unwrap();
    assert!(!reminded(&store, SystemTime::now()).0.contains("are of no CA"));
    fs::remove_file(&list).unwrap();
    assert!(
        store.reload().unwrap_err().to_string().contains("lacks the revocation list of a CA that had one")
    );
    write(&other.revoke(8, soon));
    assert!(store.reload().is_err());
    write(&(other.revoke(8, soon) + &good));
    assert!(store.reload().unwrap());
    assert!(reminded(&store, SystemTime::now()).0.contains("are of no CA"));
}

#[tokio::test]
async fn a_ca_that_was_renewed_with_its_key_is_good_until_the_later_end() {
    let root = Authority::new("shop CA");
    let renewed = |to| {
        let mut params = ca_params("shop CA");
        params.not_after = to;
        params.self_signed(root.issuer.key()).unwrap().pem()
    };
    let dir = root.issue(leaf(PRICING));
    let billing = load(&root.issue(leaf(BILLING)));
    let now = SystemTime::now();
    let (over, later) = (renewed((now - DAY).into()), renewed((now + DAY).into()));
    for pem in [over.clone() + &later, later + &over] {
        fs::write(dir.path().join("ca.pem"), pem).unwrap();
        assert_eq!(dial(&billing, &load(&dir)).await, (Ok(2), Ok(1)));
    }
    fs::write(dir.path().join("ca.pem"), over).unwrap();
    says(&dial(&billing, &load(&dir)).await.1, "expired");
}

#[tokio::test]
async fn every_list_of_an_issuer_counts() {
    let root = Authority::new("shop CA");
    let dir = root.issue(leaf(PRICING));
    let billing = load(&root.issue(Leaf { serial: 8, ..leaf(BILLING) }));
    let soon = SystemTime::now() + DAY;
    // Who keeps old lists must not lose what a later one says.
    fs::write(dir.path().join("crl.pem"), root.revoke(1, soon) + &root.revoke(8, soon)).unwrap();
    let (client, server) = dial(&billing, &load(&dir)).await;
    says(&server, "was revoked");
    says(&client, "it was revoked");
}

#[tokio::test]
async fn a_root_may_be_replaced_under_its_own_name() {
    let (old, new) = (Authority::new("shop CA"), Authority::new("shop CA"));
    let dir = new.issue(leaf(PRICING));
    fs::write(dir.path().join("ca.pem"), old.pem.clone() + &new.pem).unwrap();
    // The list of the old one has a number that the new one has given to somebody else.
    let soon = SystemTime::now() + DAY;
    fs::write(dir.path().join("crl.pem"), old.revoke(8, soon)).unwrap();
    let pricing = load(&dir);
    let meets = async |from: &Authority, serial| {
        let dir = from.issue(Leaf { serial, ..leaf(BILLING) });
        fs::write(dir.path().join("ca.pem"), old.pem.clone() + &new.pem).unwrap();
        dial(&load(&dir), &pricing).await
    };
    assert_eq!(meets(&old, 9).await, (Ok(2), Ok(1)));
    assert_eq!(meets(&new, 9).await, (Ok(2), Ok(1)));
    assert_eq!(meets(&new, 8).await, (Ok(2), Ok(1)));
    says(&meets(&old, 8).await.1, "was revoked");
}
