//! `ripstop doctor`: each fault is made to happen, and named, with the line that mends it.

use std::{fs, io::Write, net::TcpListener, process::Command};

use serde_json::Value;

use crate::run::{Ended, Place, Running};

/// What it finds, and how it ends.
fn findings(ended: &Ended) -> Vec<Value> {
    ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn doctor(place: &Place, args: &[&str]) -> (Vec<Value>, Ended) {
    let ended = place.run(&[&["doctor", "--json"][..], args].concat());
    (findings(&ended), ended)
}

/// Finds this, of this grade; its text, and the line that mends it.
#[track_caller]
fn found(findings: &[Value], grade: &str, what: &str, says: &str) -> String {
    let is = |finding: &&Value| {
        finding["grade"] == grade
            && finding["what"] == what
            && finding["says"].as_str().unwrap().contains(says)
    };
    let finding = findings.iter().find(is);
    let finding =
        finding.unwrap_or_else(|| panic!("no {grade} of {what} that says {says:?} in {findings:#?}"));
    finding["fix"].as_str().unwrap_or_default().to_owned()
}

fn serve(place: &Place, args: &[&str]) -> (Running, String) {
    let running =
        place.begin(&[&["serve"][..], args, &["--echo", "--json", "--listen", "tcp://127.0.0.1:0"]].concat());
    let line: Value = serde_json::from_str(&running.line()).unwrap();
    let endpoint = line["endpoints"][0].as_str().unwrap().to_owned();
    (running, endpoint)
}

fn keys(place: &Place, ca: &str, service: &str) -> String {
    let dir = format!("{ca}-{service}");
    if !place.path().join(ca).exists() {
        assert_eq!(place.run(&["keys", "init", "--dir", ca]).code, Some(0));
    }
    assert_eq!(place.run(&["keys", "issue", service, "--dir", ca, "--out", &dir]).code, Some(0));
    dir
}

fn config(place: &Place, name: &str, text: &str) -> String {
    fs::write(place.path().join(name), text).unwrap();
    name.to_owned()
}

#[test]
fn all_is_well() {
    let place = Place::new();
    let (_serving, _) = serve(&place, &["pricing.quote"]);
    let (findings, ended) = doctor(&place, &["pricing.quote"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    found(&findings, "ok", "peer", "pricing/");
    found(&findings, "ok", "method", "this node may call it");
    let ended = place.run(&["doctor"]);
    assert!(ended.out.ends_with("no problem found; all is well\n"), "{ended:?}");
    assert!(ended.out.lines().all(|line| line.chars().count() <= 200), "{ended:?}");
}

#[test]
fn a_wrong_file_a_wrong_interface_and_a_taken_port() {
    let place = Place::new();
    let bad = config(&place, "bad.toml", "fabrik = 'shop'\n");
    let (findings, ended) = doctor(&place, &["--config", &bad]);
    assert_eq!(ended.code, Some(1));
    found(&findings, "problem", "config", "bad.toml:1:1: unknown key `fabrik`: did you mean `fabric`?");

    let eth = config(&place, "eth.toml", "listen = ['eth77']\n");
    let (findings, ended) = doctor(&place, &["--config", &eth]);
    assert_eq!(ended.code, Some(1));
    assert!(found(&findings, "problem", "listen", "no interface `eth77`").starts_with("listen = "));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let own =
        config(&place, "own.toml", &format!("service = 'pricing'\nlisten = ['tcp://127.0.0.1:{port}']\n"));
    let (findings, ended) = doctor(&place, &["--config", &own]);
    assert_eq!(ended.code, Some(1));
    let fix = found(&findings, "problem", "port", &format!("127.0.0.1:{port} is taken by another program"));
    assert!(fix.starts_with("listen = "), "{fix}");
    // By the service itself it may be.
    drop(taken);
    let _serving = place.start(&["serve", "pricing.quote", "--echo", "--config", &own]);
    let (findings, ended) = doctor(&place, &["--config", &own]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    found(&findings, "ok", "port", "listens there");

    let else_where =
        config(&place, "else.toml", "listen = ['tcp://10.255.255.1:5555']\n[security]\ninsecure = true\n");
    let (findings, ended) = doctor(&place, &["--config", &else_where]);
    assert_eq!(ended.code, Some(1));
    let start = findings
        .iter()
        .any(|finding| finding["grade"] == "problem" && finding["fix"].as_str().unwrap().contains("listen"));
    assert!(start, "{findings:#?}");
}

#[test]
fn too_few_descriptors() {
    let place = Place::new();
    let program = place.command(&["doctor", "--json"]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 100; exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(program.get_args());
    limited.current_dir(place.path()).env("RIPSTOP_RUNTIME_DIR", place.path());
    let output = limited.output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let findings: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(found(&findings, "problem", "descriptors", "100 files").contains("LimitNOFILE="));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn another_fabric_nobody_there_another_program_and_a_stopped_one() {
    let place = Place::new();
    let (serving, endpoint) = serve(&place, &["pricing.quote", "--fabric", "shop"]);
    let (findings, _) = doctor(&place, &["--peer", &endpoint]);
    let fix = found(&findings, "problem", "fabric", "is of fabric shop, and this node of default");
    assert!(fix.starts_with("fabric = \"shop\" in ripstop.toml here"), "{fix}");

    serving.signal("STOP");
    let (findings, ended) = doctor(&place, &["--fabric", "shop", "--peer", &endpoint]);
    serving.signal("CONT");
    assert_eq!(ended.code, Some(1));
    found(&findings, "problem", "process", "takes connections and says nothing");

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (findings, _) = doctor(&place, &["--peer", &format!("tcp://{free}")]);
    assert!(found(&findings, "problem", "address", "nobody listens at").contains("[[peers]]"));

    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = web.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let (findings, _) = doctor(&place, &["--peer", &format!("tcp://{at}")]);
    found(&findings, "problem", "address", "another program answers");
}

#[test]
fn keys_on_one_side_of_another_ca_expired_and_a_rule_against_it() {
    let place = Place::new();
    let (pricing, shop, other) =
        (keys(&place, "ca", "pricing"), keys(&place, "ca", "shop"), keys(&place, "other", "shop"));
    let rule = "[security]\ndir = '{dir}'\n[[allow]]\nwho = 'shop'\ncall = ['pricing.list']\n";
    let theirs = config(&place, "pricing.toml", &rule.replace("{dir}", &pricing));
    let (_serving, endpoint) = serve(&place, &["pricing.quote", "--config", &theirs]);
    let with = |dir: &str| config(&place, &format!("{dir}.toml"), &format!("[security]\ndir = '{dir}'\n"));

    let (findings, _) = doctor(&place, &["--peer", &endpoint]);
    assert!(
        found(&findings, "problem", "keys", "has keys, and this node has none").starts_with("[security] dir")
    );
    let (findings, _) = doctor(&place, &["--config", &with(&other), "--peer", &endpoint]);
    assert!(
        found(&findings, "problem", "certificate", "CA that this node does not trust")
            .contains("security.ca")
    );

    let (findings, ended) = doctor(&place, &["pricing.quote", "--config", &with(&shop)]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    found(&findings, "ok", "peer", "pricing/");
    let fix = found(&findings, "problem", "permission", "may not call pricing.quote");
    assert!(fix.contains("[[allow]] with who = \"shop\" and call = [\"pricing.quote\"]"), "{fix}");
    let (findings, ended) = doctor(&place, &["pricing.list", "--config", &with(&shop)]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    found(&findings, "problem", "method", "has no method pricing.list");

    let serial = place.run(&["keys", "revoke", &format!("{shop}/node.pem"), "--dir", "ca"]);
    assert_eq!(serial.code, Some(0), "{serial:?}");
    fs::copy(place.path().join("ca/crl.pem"), place.path().join(&shop).join("crl.pem")).unwrap();
    let (findings, _) = doctor(&place, &["--config", &with(&shop)]);
    assert!(found(&findings, "problem", "keys", "revoked").contains("ripstop keys issue shop --renew"));

    let (_plain, plain) = serve(&place, &["plain.quote"]);
    let mailer = keys(&place, "ca", "mailer");
    let (findings, _) = doctor(&place, &["--config", &with(&mailer), "--peer", &plain]);
    found(&findings, "problem", "keys", "this node has keys, and");
}
