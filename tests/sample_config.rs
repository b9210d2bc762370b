//! `examples/ripstop.toml` lists every key that there is, each with its default.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, time::Duration};

use ripstop::config::{
    AllowRule, Config, DurableConfig, GroupConfig, ObserveConfig, PeerConfig, ResilienceConfig,
    SecurityConfig, ServiceConfig,
};

const SAMPLE: &str = include_str!("../examples/ripstop.toml");

/// The sample with its examples switched on: `#key` becomes `key`, `# comment` stays one.
fn with_examples() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(code) if !code.starts_with(' ') => code,
        _ => line,
    };
    SAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The paths of all keys, such as `limits.max_message` and `peers.service`.
fn keys(value: &toml::Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                // What metadata is called is the user's affair.
                if path == "metadata" {
                    into.insert(path);
                } else {
                    keys(value, &path, into);
                }
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().for_each(|item| keys(item, path, into));
        }
        _ => {
            into.insert(path.to_owned());
        }
    }
}

fn keys_of(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(&toml::Value::Table(text.parse().unwrap()), "", &mut found);
    found
}

#[test]
fn what_it_says_are_the_defaults() {
    assert_eq!(Config::parse(SAMPLE).unwrap(), Config::default());
    // Not by leaving them out: every key that has a default is set.
    let mut with_default = keys_of(&toml::to_string(&Config::default()).unwrap());
    with_default.remove("peers");
    with_default.remove("allow");
    with_default.remove("durable.groups");
    with_default.remove("resilience.services");
    assert_eq!(keys_of(SAMPLE), with_default);
}

#[test]
fn every_key_is_there_and_the_examples_are_right() {
    let default = Config::default();
    let endpoint = "tcp://10.0.0.7:5555".parse().unwrap();
    // No `..Config::default()`: whoever adds a key to the configuration adds it to the sample, too.
    let everything = Config {
        fabric: default.fabric,
        service: Some("pricing".into()),
        version: default.version,
        listen: default.listen,
        advertise: default.advertise,
        data_dir: Some("/var/lib/pricing".into()),
        metadata: [("region".to_owned(), "eu-1".to_owned())].into(),
        peers: vec![PeerConfig { service: "ledger".into(), endpoint, roots: vec!["ledger".into()] }],
        discovery: default.discovery,
        security: SecurityConfig {
            dir: Some("keys".into()),
            ca: Some("/etc/pricing/ca.pem".into()),
            cert: Some("/etc/pricing/node.pem".into()),
            key: Some("/etc/pricing/node.key".into()),
            crl: Some("/etc/pricing/crl.pem".into()),
            curve_key: Some("/etc/pricing/curve.key".into()),
            curve_names: Some("/etc/pricing/curve.toml".into()),
            ..default.security
        },
        allow: vec![AllowRule {
            who: "billing".into(),
            call: Some(vec!["pricing.*".into()]),
            serve: Some(vec!["billing.>".into()]),
            publish: Some(vec!["billing.>".into()]),
            subscribe: Some(vec!["orders.>".into()]),
            push: Some(vec!["emails".into()]),
            pull: Some(vec!["bills".into()]),
            admin: false,
        }],
        limits: default.limits,
        timeouts: default.timeouts,
        resilience: ResilienceConfig {
            attempt_time: Some(Duration::from_secs(2)),
            services: vec![ServiceConfig {
                name: "reports".into(),
                deadline: Some(Duration::from_secs(30)),
                attempts: Some(2),
                attempt_time: Some(Duration::from_secs(10)),
                retry_percent: Some(10),
                retry_per_second: Some(1),
                in_flight: Some(16),
                waiting: Some(64),
                eject: Some(false),
            }],
            ..default.resilience
        },
        durable: DurableConfig { groups: vec![GroupConfig::new("billing", "orders.*")], ..default.durable },
        observe: ObserveConfig { listen: Some("127.0.0.1:9464".into()) },
    };
    let sample = with_examples();
    assert_eq!(Config::parse(&sample).unwrap(), everything);
    assert_eq!(keys_of(&sample), keys_of(&toml::to_string(&everything).unwrap()));
}
