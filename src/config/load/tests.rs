use super::*;

fn env(variables: &[(&str, &str)]) -> Result<Loaded, String> {
    with(None, variables)
}

fn with(path: Option<&Path>, variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(path, variables).map_err(|error| error.to_string())
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ripstop.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

const WHOLE: &str = r#"
fabric = "shop"
service = "pricing"
version = "1.10"
listen = ["lan", "tcp://127.0.0.1:5555"]
advertise = ["tcp://203.0.113.9:5555"]
data_dir = "/var/lib/pricing"

[metadata]
Zone = "eu-1"

[discovery]
local = false
mdns = false
interfaces = ["eth0"]

[security]
insecure = true
deny_by_default = true
dir = "keys"
ca = "a"
cert = "b"
key = "c"
crl = "d"
curve_key = "e"
curve_names = "f"

[limits]
max_message = "1MiB"
queue_messages = 10
queue_bytes = 65536
connections = 7
in_flight = 3

[timeouts]
call = "1m 30s"
drain = "1s"
discovery_wait = "0s"
handshake = "1s"
heartbeat = "500ms"
dead_after = "2s"
reconnect_min = "1ms"
reconnect_max = "1s"

[[peers]]
service = "ledger"
endpoint = "tcp://10.0.0.7:5555"
roots = ["ledger", "books"]

[[allow]]
who = "billing"
call = ["pricing.*"]
serve = []
publish = ["billing.>"]
subscribe = ["orders.>"]
push = ["emails"]
pull = ["bills"]
admin = true
"#;

#[test]
fn everything_can_be_set_and_written_back() {
    let (_dir, path) = file(WHOLE);
    let loaded = with(Some(&path), &[]).unwrap();
    let config = &loaded.config;
    assert_eq!(loaded.path.as_deref(), Some(path.as_path()));
    assert_eq!((config.limits.max_message, config.timeouts.call), (1 << 20, Duration::from_secs(90)));
    assert_eq!(config.metadata["Zone"], "eu-1");
    assert_eq!(config.peers[0].roots(), ["ledger", "books"]);
    assert_eq!((config.allow[0].serve.as_deref(), config.allow[0].admin), (Some(&[][..]), true));
    assert_eq!(config.version, "1.10");
    let json = serde_json::to_string(config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), *config);
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
    let json = serde_json::to_string(&Config::default()).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), Config::default());
}

#[test]
fn the_environment_lies_on_top_of_the_file() {
    let (_dir, path) = file(WHOLE);
    let loaded = with(
        Some(&path),
        &[
            ("RIPSTOP_FABRIC", "other"),
            ("RIPSTOP_VERSION", "2.10"),
            ("RIPSTOP_LISTEN", "lan, eth0:5"),
            ("RIPSTOP_LIMITS__MAX_MESSAGE", "2MiB"),
            ("RIPSTOP_LIMITS__IN_FLIGHT", "9"),
            ("RIPSTOP_TIMEOUTS__CALL", "3s"),
            ("RIPSTOP_DISCOVERY__MDNS", "true"),
            ("RIPSTOP_METADATA__RACK", "7"),
            ("RIPSTOP_LOG", "debug"),
            ("RIPSTOP_RUNTIME_DIR", "/tmp"),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!((config.fabric.as_str(), config.version.as_str()), ("other", "2.10"));
    assert_eq!(config.listen, ["lan", "eth0:5"]);
    assert_eq!((config.limits.max_message, config.limits.in_flight), (2 << 20, 9));
    assert_eq!(config.timeouts.call, Duration::from_secs(3));
    assert!(config.discovery.mdns && !config.discovery.local && config.security.insecure);
    assert_eq!(config.metadata["rack"], "7");
    assert_eq!(config.metadata["Zone"], "eu-1");
    assert_eq!(config.service.as_deref(), Some("pricing"));
    assert_eq!(loaded.from_environment.len(), 8);
}

#[test]
fn mistakes_in_the_file_are_named_with_line_column_and_cure() {
    for (text, wanted) in [
        ("\nlisten = []\nfabrik = 'a'", "ripstop.toml:3:1: unknown key `fabrik`: did you mean `fabric`?"),
        (
            "[limits]\nmax_mesage = 1",
            "ripstop.toml:2:1: unknown key `max_mesage`: did you mean `max_message`?",
        ),
        ("[limit]\nmax_message = 1", "ripstop.toml:1:2: unknown key `limit`: did you mean `limits`?"),
        (
            "[security]\nzzz = 1",
            "ripstop.toml:2:1: unknown key `zzz`; the keys here are dir, ca, cert, key, crl,",
        ),
        ("[security]\nsert = 'a'", "2:1: unknown key `sert`: did you mean `cert`?"),
        ("[[allow]]\nwho = 'a'\nsubscibe = []", "3:1: unknown key `subscibe`: did you mean `subscribe`?"),
        ("[[allow]]\ncall = []", "1:1: missing field `who`"),
        ("[[allow]]\nwho = 'a.b'", "2:7: `a.b` is nobody: write a service such as billing"),
        ("[[allow]]\nwho = '*'\n[[allow]]\nwho = 'a'\npush = ['a', 'b.>.c']", "5:14: "),
        (
            "[[allow]]\nwho = '*'\ncall = ['$node.>']",
            "3:9: `$node.>`: what begins with `$` takes admin = true",
        ),
        (
            "[[peers]]\nservice = 'a'\nendpont = 'tcp://a:1'",
            "3:1: unknown key `endpont`: did you mean `endpoint`?",
        ),
        (
            "[limits]\nmax_message = '1 parsec'",
            "2:15: invalid value: string \"1 parsec\", expected a size in bytes",
        ),
        ("[limits]\nmax_message = -1", "2:15: invalid value: integer `-1`, expected a size in bytes"),
        ("[limits]\nin_flight = 0", "2:13: 0 lets nothing through: write at least 1"),
        (
            "[timeouts]\ncall = 10",
            "2:8: invalid type: integer `10`, expected a duration with its unit, such as \"10s\"",
        ),
        ("[timeouts]\ncall = 'soon'", "2:8: invalid value: string \"soon\", expected a duration"),
        (
            "[timeouts]\nheartbeat = '9s'",
            "a peer would be dead before it is asked: write more than the heartbeat's 9s",
        ),
        ("fabric = 'two words'", "1:10: `two words` is no name"),
        ("service = 'a.b'", "1:11: `a.b` can't be the first token of a subject"),
        (
            "listen = ['tcp://127.0.0.1:0', 'what ever']",
            "1:32: `what ever` is not a place to listen: write lan",
        ),
        ("[[peers]]\nservice = 'a'\nendpoint = '10.0.0.7'", "3:12: `10.0.0.7` is not an endpoint"),
        ("[[peers]]\nservice = 'a'\nendpoint = 'tcp://*:5'", "3:12: tcp://*:5 can't be dialled"),
        ("[[peers]]\nservice = 'a'", "1:1: missing field `endpoint`"),
        ("discovery = 3", "1:13: invalid type: integer `3`"),
        ("ü = 'x", "1:"),
        ("fabric = ", "ripstop.toml:1:"),
    ] {
        let error = Config::parse(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text:?}\n  said  {error}\n  wants {wanted}");
        assert!(error.starts_with("ripstop.toml:"), "{error}");
    }
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    for (name, value, wanted) in [
        ("RIPSTOP_FABRIK", "a", "RIPSTOP_FABRIK: there is no such key: did you mean RIPSTOP_FABRIC?"),
        (
            "RIPSTOP_LIMITS__MAX_MESAGE",
            "1",
            "RIPSTOP_LIMITS__MAX_MESAGE: there is no such key: did you mean RIPSTOP_LIMITS__MAX_MESSAGE?",
        ),
        (
            "RIPSTOP_LIMITS__MAX_MESSAGE",
            "1 parsec",
            "RIPSTOP_LIMITS__MAX_MESSAGE: invalid value: string \"1 parsec\", expected a size",
        ),
        ("RIPSTOP_LIMITS__IN_FLIGHT", "many", "RIPSTOP_LIMITS__IN_FLIGHT: invalid type: string \"many\""),
        ("RIPSTOP_LIMITS__IN_FLIGHT", "0", "RIPSTOP_LIMITS__IN_FLIGHT: 0 lets nothing through"),
        (
            "RIPSTOP_TIMEOUTS__CALL",
            "10",
            "RIPSTOP_TIMEOUTS__CALL: invalid value: string \"10\", expected a duration",
        ),
        ("RIPSTOP_DISCOVERY__MDNS", "perhaps", "RIPSTOP_DISCOVERY__MDNS: invalid type: string \"perhaps\""),
        ("RIPSTOP_FABRIC", "", "RIPSTOP_FABRIC: `` is no name"),
        ("RIPSTOP_ADVERTISE", "10.0.0.7", "RIPSTOP_ADVERTISE: `10.0.0.7` is not an endpoint"),
    ] {
        let error = env(&[("RIPSTOP_SERVICE", "fine"), (name, value)]).unwrap_err();
        assert!(error.contains(wanted), "{name}={value}\n  said  {error}\n  wants {wanted}");
    }
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let error = with(Some(Path::new("/nonexistent/ripstop.toml")), &[]).unwrap_err();
    assert!(error.starts_with("cannot read /nonexistent/ripstop.toml: "), "{error}");
}
