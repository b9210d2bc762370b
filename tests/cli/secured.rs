//! A private fabric of real processes: who talks, who is refused and told why on both sides, and what the wire shows.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ripstop::security::Ca;

use crate::run::{Ended, Place, Running, finish};

const DAY: Duration = Duration::from_secs(86_400);
/// Long enough for anything that does not hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// A fabric with a CA, the keys of billing and orders, and billing at work.
struct Shop {
    place: Place,
    billing: Running,
    /// Where it listens.
    endpoint: String,
}

impl Shop {
    fn open() -> Self {
        let place = Place::new();
        for line in ["keys init --fabric shop", "keys issue billing", "keys issue orders"] {
            ok(&place, line);
        }
        let (billing, endpoint) = serve(&place, "keys/billing", "billing.double");
        Self { place, billing, endpoint }
    }

    fn port(&self) -> &str {
        self.endpoint.rsplit(':').next().unwrap()
    }

    /// The same for one without keys.
    fn plain(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port())
    }

    /// Calls as whoever has these keys.
    fn call(&self, keys: &str) -> Ended {
        with_keys(&self.place, keys, &["call", "billing.double", "21", "--timeout", "10s"])
    }

    fn honest_caller_is_served(&self) {
        let ended = self.call("keys/orders");
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), "42\n"), "{ended:?}");
    }

    /// Waits until the log of billing says this.
    fn logs(&self, text: &str) -> String {
        let began = Instant::now();
        let mut seen = Vec::new();
        while began.elapsed() < PATIENCE {
            seen.extend(self.billing.errors());
            if let Some(line) = seen.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("its log does not say `{text}`: {seen:#?}");
    }
}

fn ok(place: &Place, line: &str) -> Ended {
    let args: Vec<_> = line.split_whitespace().collect();
    let ended = place.run(&args);
    assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
    ended
}

/// Starts a service that doubles numbers; where it listens.
fn serve(place: &Place, keys: &str, subject: &str) -> (Running, String) {
    let served = begin(place, keys, &["serve", subject, "--command", "echo $(($(cat) * 2))", "--json"]);
    let state: serde_json::Value = serde_json::from_str(&served.line()).unwrap();
    let endpoint = state["endpoints"][0].as_str().unwrap().to_owned();
    (served, endpoint)
}

/// Starts the program with these keys; "": with none.
fn begin(place: &Place, keys: &str, args: &[&str]) -> Running {
    Running::of(command(place, keys, args))
}

fn with_keys(place: &Place, keys: &str, args: &[&str]) -> Ended {
    finish(command(place, keys, args).spawn().unwrap())
}

fn command(place: &Place, keys: &str, args: &[&str]) -> Command {
    let mut command = place.command(args);
    if !keys.is_empty() {
        command.env("RIPSTOP_SECURITY__DIR", keys);
    }
    command
}

fn refused(ended: &Ended, why: &str) {
    assert_eq!((ended.code, ended.out.as_str()), (Some(3), ""), "{ended:?}");
    assert!(ended.err.contains(why), "{}", ended.err);
}

#[test]
fn two_services_with_keys_talk_and_without_nobody_does() {
    let shop = Shop::open();
    assert!(shop.endpoint.starts_with("tls+tcp://127.0.0.1:"), "{}", shop.endpoint);
    shop.honest_caller_is_served();
    let ended = shop.place.run(&["--fabric", "shop", "call", "billing.double", "21"]);
    refused(&ended, "the peer wants encryption (CURVE), and this side has no keys");
    assert!(ended.err.contains("ripstop keys issue"), "{ended:?}");
    shop.logs("the peer does not encrypt, and this side has keys");
    // So hears one that just waits for events.
    let waits = begin(&shop.place, "", &["--fabric", "shop", "sub", "billing.>", "--peer", &shop.plain()]);
    let said = std::iter::repeat_with(|| waits.error_line()).find(|line| line.contains("dial failed"));
    assert!(said.unwrap().contains("the peer wants encryption (CURVE), and this side has no keys"));
    shop.honest_caller_is_served();
}

#[test]
fn whoever_is_of_another_ca_is_refused() {
    let shop = Shop::open();
    ok(&shop.place, "keys init --fabric shop --dir others");
    ok(&shop.place, "keys issue orders --dir others");
    refused(&shop.call("others/orders"), "the peer's certificate was issued by another CA");
    shop.logs("the peer refused our certificate: it does not trust the CA that issued it");
    // One that believes whatever it meets is refused all the same.
    assert!(!trusting(&shop, "others/orders"));
    shop.logs("issued by another CA");
    shop.honest_caller_is_served();
}

#[test]
fn an_expired_certificate_is_refused_on_either_side() {
    let shop = Shop::open();
    let mut ca = Ca::open(&shop.place.path().join("keys")).unwrap();
    let now = SystemTime::now();
    let old = ca.issue("orders", now - DAY * 2, now - DAY).unwrap();
    old.write(&shop.place.path().join("old")).unwrap();
    // It says so before anybody else does.
    let ended = shop.call("old");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("expired on") && ended.err.contains("ripstop keys issue"), "{}", ended.err);
    assert!(!trusting(&shop, "old"));
    let said = shop.logs("the peer's certificate expired on");
    assert!(said.contains("(it says that it is spiffe://shop/service/orders)"), "{said}");
    shop.honest_caller_is_served();
}

#[test]
fn who_claims_another_services_name_is_refused() {
    let shop = Shop::open();
    ok(&shop.place, "keys issue intern");
    // It says that it is billing.
    fs::write(shop.place.path().join("false.toml"), "service = 'billing'\n[security]\ndir = 'keys/intern'\n")
        .unwrap();
    let ended = shop.place.run(&["--config", "false.toml", "serve", "billing.double", "--echo"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains("is for service intern of fabric shop, and this node is service billing"),
        "{}",
        ended.err
    );
    // It is itself, and serves what is billing's.
    let ended = with_keys(&shop.place, "keys/intern", &["serve", "billing.double", "--echo"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains("this node is service intern, which may not serve billing.double"),
        "{}",
        ended.err
    );
    // Its address is given out as that of billing.
    let (intern, address) = serve(&shop.place, "keys/intern", "intern.double");
    let alone = Place::new();
    let keys = shop.place.path().join("keys/orders");
    let peers = format!("[[peers]]\nservice = 'billing'\nendpoint = '{address}'\n");
    fs::write(alone.path().join("ripstop.toml"), peers).unwrap();
    let ended =
        with_keys(&alone, keys.to_str().unwrap(), &["call", "billing.double", "21", "--timeout", "5s"]);
    refused(&ended, "is for service intern, and billing was dialled");
    let said = std::iter::repeat_with(|| intern.error_line()).find(|line| line.contains("not let in"));
    assert!(said.unwrap().contains("the peer refused our certificate"));
    shop.honest_caller_is_served();
}

#[test]
fn who_is_revoked_is_out() {
    let shop = Shop::open();
    ok(&shop.place, "keys issue reports");
    // A live connection: a caller that goes on.
    let mut reports = begin(&shop.place, "keys/reports", &["call", "billing.double", "-", "--timeout", "5s"]);
    let mut lines = reports.stdin.take().unwrap();
    writeln!(lines, "1").unwrap();
    assert_eq!(reports.line(), "2");
    ok(&shop.place, "keys revoke reports --to keys/billing");
    shop.logs("was revoked");
    writeln!(lines, "2").unwrap();
    drop(lines);
    assert_ne!(reports.end(), Some(0));
    refused(&shop.call("keys/reports"), "refused our certificate: it was revoked");
    shop.honest_caller_is_served();
}

#[test]
fn what_is_wrong_with_keys_is_said_at_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    for line in ["keys init --fabric shop", "keys issue billing", "keys issue orders"] {
        ok(&place, line);
    }
    let file = |name: &str| place.path().join(name);
    let says = |keys: &str, texts: &[&str]| {
        let ended = with_keys(&place, keys, &["serve", "billing.double", "--echo"]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
        texts.iter().for_each(|text| assert!(ended.err.contains(text), "{text}: {}", ended.err));
    };
    says("keys/nowhere", &["keys/nowhere/node.pem"]);
    let key = file("keys/billing/node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    says("keys/billing", &["keys/billing/node.key", "chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let good = fs::read(&key).unwrap();
    fs::write(&key, fs::read(file("keys/orders/node.key")).unwrap()).unwrap();
    says("keys/billing", &["keys/billing/node.key: is not the key of"]);
    fs::write(&key, &good[..good.len() / 2]).unwrap();
    says("keys/billing", &["keys/billing/node.key"]);
    fs::write(&key, good).unwrap();
    for name in ["node.pem", "ca.pem", "crl.pem"] {
        let before = fs::read(file("keys/billing").join(name)).ok();
        fs::write(file("keys/billing").join(name), "-----BEGIN CERTIFICATE-----\nnone\n").unwrap();
        says("keys/billing", &[&format!("keys/billing/{name}")]);
        match before {
            Some(before) => fs::write(file("keys/billing").join(name), before).unwrap(),
            None => fs::remove_file(file("keys/billing").join(name)).unwrap(),
        }
    }
}

/// Whether a TLS client with these keys, which trusts whomever it meets, gets a ZMTP greeting.
fn trusting(shop: &Shop, keys: &str) -> bool {
    let file = |name: &str| shop.place.path().join(keys).join(name);
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", shop.port())]);
    client.arg("-cert").arg(file("node.pem")).arg("-key").arg(file("node.key"));
    let ended = client.output().unwrap();
    ended.stdout.starts_with(&[0xff])
}

/// Passes everything on to a port and keeps it.
struct Wire {
    port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    fn to(port: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (here, to) = (listener.local_addr().unwrap().port(), format!("127.0.0.1:{port}"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = seen.clone();
        thread::spawn(move || {
            for dialled in listener.incoming().map_while(Result::ok) {
                let answering = TcpStream::connect(&to).unwrap();
                for (from, to) in [(&dialled, &answering), (&answering, &dialled)] {
                    let (from, to, all) = (from.try_clone().unwrap(), to.try_clone().unwrap(), all.clone());
                    thread::spawn(move || pass(from, to, &all));
                }
            }
        });
        Self { port: here, seen }
    }

    fn shows(&self, text: &str) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut part) {
        seen.lock().unwrap().extend_from_slice(&part[..read]);
        if to.write_all(&part[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[test]
fn nothing_readable_is_on_the_wire() {
    let place = Place::new();
    for line in ["keys init --fabric shop", "keys issue billing", "keys issue orders"] {
        ok(&place, line);
    }
    let orders = place.path().join("keys/orders");
    for keys in ["keys/billing", ""] {
        let server = begin(&place, keys, &["serve", "billing.tell", "--echo", "--json"]);
        let state: serde_json::Value = serde_json::from_str(&server.line()).unwrap();
        let endpoint = state["endpoints"][0].as_str().unwrap();
        let (scheme, port) = (endpoint.split("://").next().unwrap(), endpoint.rsplit(':').next().unwrap());
        let wire = Wire::to(port);
        let peer = format!("{scheme}://127.0.0.1:{}", wire.port);
        // It finds the server there, and nowhere else.
        let alone = Place::new();
        let args = ["call", "billing.tell", "\"open sesame\"", "--peer", &peer];
        let ended = with_keys(&alone, if keys.is_empty() { "" } else { orders.to_str().unwrap() }, &args);
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), "\"open sesame\"\n"), "{ended:?}");
        for text in ["open sesame", "billing", "READY", "Ripstop"] {
            assert_eq!(wire.shows(text), keys.is_empty(), "{text}, with {keys}");
        }
    }
}

/// Some key that is not the node's.
#[cfg(feature = "curve")]
const OTHER_SERVER: &str = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";

/// A client of pyzmq: asks once, and says what it was answered, or nothing.
#[cfg(feature = "curve")]
const PYZMQ: &str = r#"
import sys, zmq, msgpack
address, server, secret = sys.argv[1:4]
req = zmq.Context().socket(zmq.REQ)
req.linger = 0
if server:
    req.curve_serverkey = server.encode()
    secret = secret.encode()
    public = zmq.curve_public(secret)
    req.curve_publickey, req.curve_secretkey = public, secret
req.connect(address)
for line in sys.stdin:
    req.send_multipart([b"billing.double", msgpack.packb(int(line))])
    if not req.poll(int(sys.argv[4])):
        print("nothing", flush=True)
        break
    print(msgpack.unpackb(req.recv_multipart()[-1]), flush=True)
"#;

#[cfg(feature = "curve")]
#[test]
fn pyzmq_joins_with_an_issued_key() {
    let Some(python) = crate::python::python("pyzmq in a private fabric") else { return };
    let shop = Shop::open();
    let address = shop.plain();
    let issue = |name: &str, to: &str| {
        let made = ok(&shop.place, &format!("keys issue --curve {name} {to} --json"));
        let made: serde_json::Value = serde_json::from_str(&made.out).unwrap();
        made["server_keys"]["keys/billing"].as_str().map(str::to_owned)
    };
    let secret = |name: &str| {
        let file = shop.place.path().join("keys/curve").join(name).join("curve.key");
        fs::read_to_string(file).unwrap().trim().to_owned()
    };
    let client = |server: &str, secret: &str, patience: &str| {
        Client::start(python, &address, server, secret, patience)
    };
    // The node runs, and learns of the key.
    let server = issue("reports", "--to keys/billing").unwrap();
    let mut reports = client(&server, &secret("reports"), "20000");
    assert_eq!(reports.ask("21"), "42");
    // Another key, another server's key, none.
    issue("stranger", "");
    let stranger = secret("stranger");
    assert_eq!(client(&server, &stranger, "2000").ask("1"), "nothing");
    shop.logs("its CURVE key is not enrolled here");
    assert_eq!(client(OTHER_SERVER, &secret("reports"), "2000").ask("1"), "nothing");
    assert_eq!(client("", "", "2000").ask("1"), "nothing");
    // Revoked: the connection it has is closed, and it does not come back.
    assert_eq!(reports.ask("4"), "8");
    ok(&shop.place, "keys revoke curve:reports --to keys/billing");
    shop.logs("connection closed");
    assert_eq!(client(&server, &secret("reports"), "2000").ask("1"), "nothing");
    shop.honest_caller_is_served();
}

#[cfg(feature = "curve")]
struct Client(Running);

#[cfg(feature = "curve")]
impl Client {
    fn start(python: &Path, address: &str, server: &str, secret: &str, patience: &str) -> Self {
        let mut command = Command::new(python);
        command.args(["-c", PYZMQ, address, server, secret, patience]);
        Self(Running::of(command))
    }

    fn ask(&mut self, number: &str) -> String {
        writeln!(self.0.stdin.as_ref().unwrap(), "{number}").unwrap();
        self.0.line()
    }
}
