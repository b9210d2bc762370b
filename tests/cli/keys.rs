//! `ripstop keys`: a CA from its first day to its rotation, and everything that can be wrong with a node's directory.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use ripstop::security::Ca;
use serde_json::Value;

use crate::run::{Ended, Place};

const DAY: Duration = Duration::from_secs(86_400);

/// `ripstop keys …`.
fn keys(place: &Place, line: &str) -> Ended {
    let args: Vec<&str> = std::iter::once("keys").chain(line.split_whitespace()).collect();
    let ended = place.run(&args);
    assert!(!format!("{ended:?}").contains("PRIVATE KEY-"), "a private key was printed: {line}");
    ended
}

fn ok(place: &Place, line: &str) -> Ended {
    let ended = keys(place, line);
    assert_eq!(ended.code, Some(0), "keys {line}: {ended:?}");
    ended
}

/// Standard error, after checking the exit code and that nothing is on standard output.
fn fails(place: &Place, line: &str, code: i32) -> String {
    let ended = keys(place, line);
    assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "keys {line}: {ended:?}");
    ended.err
}

fn json(place: &Place, line: &str) -> Value {
    serde_json::from_str(&ok(place, &format!("{line} --json")).out).unwrap()
}

/// A place with a CA and the keys of billing.
fn shop() -> Place {
    let place = Place::new();
    ok(&place, "init --fabric shop");
    ok(&place, "issue billing");
    place
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn two_commands_make_a_node() {
    let place = Place::new();
    let made = ok(&place, "init --fabric shop");
    assert!(made.out.starts_with("CA of fabric shop in keys, valid until 20"), "{made:?}");
    let issued = ok(&place, "issue billing");
    assert!(issued.out.starts_with("spiffe://shop/service/billing in keys/billing"), "{issued:?}");
    assert!(issued.err.contains("dir = \"keys/billing\""), "{issued:?}");
    let verified = json(&place, "verify keys/billing");
    assert_eq!(verified["identity"], "spiffe://shop/service/billing");
    assert_eq!((&verified["days_left"], &verified["warnings"]), (&89.into(), &serde_json::json!([])));
    let dir = place.path().join("keys");
    for name in ["ca.pem", "ca.key", "crl.pem", "issued.toml"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    for name in ["ca.pem", "node.pem", "node.key", "crl.pem"] {
        assert_eq!(mode(&dir.join("billing").join(name)), 0o600, "{name}");
    }
    assert_eq!((mode(&dir), mode(&dir.join("billing"))), (0o700, 0o700));
}

#[test]
fn the_fabric_of_the_configuration_is_the_default() {
    let place = Place::new();
    fs::write(place.path().join("ripstop.toml"), "fabric = \"garden\"\n").unwrap();
    assert_eq!(json(&place, "init")["fabric"], "garden");
    assert_eq!(json(&place, "init --dir other --fabric shop")["fabric"], "shop");
    assert_eq!(json(&place, "issue a --dir other --out x")["identity"], "spiffe://shop/service/a");
    assert_eq!(json(&place, "list")["fabric"], "garden");
}

#[test]
fn wrong_use_says_what_to_do() {
    let place = Place::new();
    for command in ["issue billing", "list", "revoke billing", "rotate"] {
        let error = fails(&place, command, 2);
        assert!(error.contains("no CA here: run ripstop keys init --dir keys"), "{error}");
    }
    assert!(fails(&place, "init --fabric Shop", 2).contains("lower-case"));
    assert!(fails(&place, "init --days 0", 2).contains("0 is not in 1..=36500"));
    assert!(!place.path().join("keys").exists(), "a failure leaves nothing behind");

    ok(&place, "init --fabric shop");
    assert!(fails(&place, "init --fabric shop", 2).contains("holds a CA already"));
    assert!(fails(&place, "issue a.b", 2).contains("letters, digits"));
    assert!(fails(&place, "issue ../x", 2).contains("letters, digits"));
    assert!(fails(&place, "rotate --finish", 2).contains("ripstop keys rotate begins one"));
    assert!(fails(&place, "revoke billing", 1).contains("ripstop keys list"));
    assert!(
        fails(&place, "revoke 00112233445566778899aabbccddeeff", 1)
            .contains("has issued no certificate 0011")
    );
    assert!(fails(&place, "verify keys", 1).contains("keys/node.pem"));
    assert!(fails(&place, "show nothing", 1).contains("nothing"));
    fs::create_dir(place.path().join("empty")).unwrap();
    assert!(fails(&place, "show empty", 1).contains("has none of node.pem"));
    assert!(fails(&place, "show keys/issued.toml", 1).contains("-----BEGIN CERTIFICATE-----"));
    let error: Value = serde_json::from_str(&fails(&place, "issue a.b --json", 2)).unwrap();
    assert_eq!((&error["error"]["exit"], &error["error"]["code"]), (&2.into(), &"RS0505".into()));
}

#[test]
fn nothing_is_replaced_unasked() {
    let place = shop();
    let read = |name: &str| fs::read(place.path().join("keys/billing").join(name)).unwrap();
    let (key, certificate) = (read("node.key"), read("node.pem"));
    assert!(fails(&place, "issue billing", 2).contains("--renew"));
    assert!(
        fails(&place, "issue pricing --renew --out keys/billing", 2)
            .contains("is for spiffe://shop/service/billing")
    );
    assert_eq!((read("node.key"), read("node.pem")), (key.clone(), certificate.clone()));
    ok(&place, "issue billing --renew");
    assert!(read("node.key") != key && read("node.pem") != certificate);
    ok(&place, "verify keys/billing");
    assert_eq!(json(&place, "list")["certificates"].as_array().unwrap().len(), 2);
}

#[test]
fn several_at_once_are_all_listed() {
    let place = Place::new();
    ok(&place, "init --fabric shop");
    let children: Vec<_> =
        (0..8).map(|n| place.command(&["keys", "issue", &format!("node{n}")]).spawn().unwrap()).collect();
    for child in children {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
    }
    let list = json(&place, "list");
    let mut services: Vec<_> =
        list["certificates"].as_array().unwrap().iter().map(|one| one["service"].as_str().unwrap()).collect();
    services.sort_unstable();
    assert_eq!(services, ["node0", "node1", "node2", "node3", "node4", "node5", "node6", "node7"]);
}

#[test]
fn what_is_revoked_is_refused_where_the_list_is() {
    let place = shop();
    ok(&place, "issue pricing");
    let serial = json(&place, "issue billing --out second")["serial"].as_str().unwrap().to_owned();
    // One of two, as openssl writes serial numbers.
    let pairs: Vec<_> =
        serial.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap().to_uppercase()).collect();
    let done = json(&place, &format!("revoke {} --to second --to keys/billing", pairs.join(":")));
    assert_eq!(done["revoked"][0]["serial"], serial.as_str());
    assert_eq!(done["updated"], serde_json::json!(["second", "keys/billing"]));
    assert!(fails(&place, "verify second", 1).contains("was revoked"));
    ok(&place, "verify keys/billing");
    // By file; the list has not been handed out.
    ok(&place, "revoke keys/pricing/node.pem");
    ok(&place, "verify keys/pricing");
    // All of a service: only one is left.
    assert_eq!(ok(&place, "revoke billing").out.lines().count(), 1);
    assert!(fails(&place, "revoke billing", 1).contains("nothing to revoke"));
    let states: Vec<_> =
        ok(&place, "list").out.lines().skip(1).map(|line| line.contains("revoked")).collect();
    assert_eq!(states, [true, true, true]);
    let shown = ok(&place, "show keys/crl.pem").out;
    assert!(shown.contains("number     4") && shown.contains(&serial), "{shown}");
}

#[test]
fn one_directory_that_fails_does_not_stop_the_others() {
    let place = shop();
    ok(&place, "init --fabric shop --dir foreign");
    ok(&place, "issue pricing --dir foreign");
    let ended = keys(&place, "revoke billing --to foreign/pricing --to nowhere --to keys/billing --json");
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let done: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(done["updated"], serde_json::json!(["keys/billing"]));
    assert!(ended.err.contains("another CA") && ended.err.contains("nowhere"), "{ended:?}");
    assert!(fails(&place, "verify keys/billing", 1).contains("was revoked"));
    ok(&place, "verify foreign/pricing");

    // Again, for the one whose name was mistyped.
    ok(&place, "issue late");
    let serial = done["revoked"][0]["serial"].as_str().unwrap();
    assert!(fails(&place, "revoke billing", 1).contains("--to DIR"));
    fs::copy(place.path().join("foreign/crl.pem"), place.path().join("keys/late/crl.pem")).unwrap();
    assert_eq!(json(&place, "revoke billing --to keys/late")["updated"], serde_json::json!(["keys/late"]));
    assert!(ok(&place, "show keys/late/crl.pem").out.contains(serial));
}

#[test]
fn a_rotation_shuts_nobody_out() {
    let place = shop();
    ok(&place, "issue pricing");
    let begun = ok(&place, "rotate --to keys/billing --to keys/pricing");
    assert!(begun.out.starts_with("new CA beside the old one in keys"), "{begun:?}");
    assert!(fails(&place, "rotate", 2).contains("--finish"));
    // Old certificates are good at nodes that have both CAs, and new ones too.
    ok(&place, "verify keys/billing");
    ok(&place, "issue billing --renew");
    ok(&place, "verify keys/billing");
    let list = ok(&place, "list").out;
    assert_eq!(list.matches("valid, old CA").count(), 2, "{list}");
    let error = fails(&place, "rotate --finish", 1);
    assert!(error.contains("would be shut out: pricing\n"), "{error}");
    ok(&place, "issue pricing --renew");
    ok(&place, "rotate --finish --to keys/billing --to keys/pricing");
    ok(&place, "verify keys/billing");
    ok(&place, "verify keys/pricing");
    assert_eq!(ok(&place, "show keys/billing/ca.pem").out.matches("ca certificate").count(), 1);
    assert!(!place.path().join("keys/ca.old.key").exists());
}

#[test]
fn who_is_left_behind_by_force_is_refused() {
    let place = shop();
    ok(&place, "rotate");
    assert_eq!(keys(&place, "rotate --force").code, Some(2));
    ok(&place, "rotate --finish --force --to keys/billing");
    let error = fails(&place, "verify keys/billing", 1);
    assert!(error.contains("issued by another CA"), "{error}");
}

#[test]
fn verify_finds_what_is_wrong() {
    let place = shop();
    let node = place.path().join("keys/billing");
    let set =
        |name: &str, mode| fs::set_permissions(node.join(name), PermissionsExt::from_mode(mode)).unwrap();
    set("node.key", 0o644);
    let error = fails(&place, "verify keys/billing", 1);
    assert!(error.contains("mode 0644") && error.contains("chmod 600 keys/billing/node.key"), "{error}");
    assert!(ok(&place, "show keys/billing/node.key").out.contains("private    no"));
    set("node.key", 0o600);

    let crl = fs::read(node.join("crl.pem")).unwrap();
    fs::write(node.join("crl.pem"), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").unwrap();
    assert!(fails(&place, "verify keys/billing", 1).contains("keys/billing/crl.pem"));
    fs::remove_file(node.join("crl.pem")).unwrap();
    assert!(ok(&place, "verify keys/billing").err.contains("has no crl.pem"));
    fs::write(node.join("crl.pem"), crl).unwrap();

    fs::copy(place.path().join("keys/ca.key"), node.join("ca.key")).unwrap();
    assert!(ok(&place, "verify keys/billing").err.contains("can be any service"));

    ok(&place, "issue pricing");
    fs::copy(place.path().join("keys/pricing/node.key"), node.join("node.key")).unwrap();
    assert!(fails(&place, "verify keys/billing", 1).contains("is not the key of keys/billing/node.pem"));
    ok(&place, "init --dir foreign --fabric shop");
    fs::copy(place.path().join("foreign/ca.pem"), place.path().join("keys/pricing/ca.pem")).unwrap();
    assert!(fails(&place, "verify keys/pricing", 1).contains("another CA"));
    fs::set_permissions(place.path().join("keys/ca.key"), PermissionsExt::from_mode(0o604)).unwrap();
    assert!(fails(&place, "issue other", 2).contains("chmod 600 keys/ca.key"));
}

#[cfg(feature = "curve")]
#[test]
fn curve_keys_are_enrolled_and_removed() {
    use ripstop::security::{CurveNames, read_curve_key};
    let place = shop();
    let read = |path: &str| read_curve_key(&place.path().join(path)).unwrap().unwrap().public().to_string();
    let names = |path: &str| {
        let names = CurveNames::open(&place.path().join(path)).unwrap();
        names.iter().map(|(name, key)| (name.to_owned(), key.to_string())).collect::<Vec<_>>()
    };
    let made = json(&place, "issue --curve reports --to keys/billing");
    assert_eq!(made["public_key"], read("keys/curve/reports/curve.key"));
    assert_eq!(made["server_keys"]["keys/billing"], read("keys/billing/curve.key"));
    let enrolled = vec![("reports".to_owned(), read("keys/curve/reports/curve.key"))];
    assert_eq!((names("keys/curve.toml"), names("keys/billing/curve.toml")), (enrolled.clone(), enrolled));
    for path in ["keys/curve/reports/curve.key", "keys/billing/curve.key", "keys/billing/curve.toml"] {
        assert_eq!(mode(&place.path().join(path)), 0o600, "{path}");
    }
    let secret = fs::read_to_string(place.path().join("keys/curve/reports/curve.key")).unwrap();
    let shown = ok(&place, "show keys/curve/reports").out + &ok(&place, "show keys/billing").out;
    assert!(shown.contains(&read("keys/billing/curve.key")) && !shown.contains(secret.trim()), "{shown}");

    // The node keeps its key, and a name gets a new one only if that is asked for.
    assert!(fails(&place, "issue --curve reports", 2).contains("curve:reports is enrolled already"));
    let renewed = json(&place, "issue --curve reports --renew --to keys/billing");
    assert_ne!(renewed["public_key"], made["public_key"]);
    assert_eq!(renewed["server_keys"], made["server_keys"]);
    assert_eq!(names("keys/billing/curve.toml").len(), 1);

    assert!(fails(&place, "issue --curve x --to nowhere", 2).contains("nowhere has no node.pem"));
    assert!(fails(&place, "issue --curve x --out keys/billing", 2).contains("choose another --out"));
    assert!(fails(&place, "issue --curve a.b", 2).contains("letters, digits"));
    assert!(fails(&place, "issue", 2).contains("--curve <NAME>"));
    assert!(fails(&place, "issue pricing --to keys/billing", 2).contains("cannot be used"));
    assert!(!place.path().join("keys/curve/x").exists());

    let verified = json(&place, "verify keys/billing");
    assert_eq!(verified["curve_server_key"], made["server_keys"]["keys/billing"]);
    assert!(ok(&place, "verify keys/billing").out.contains("CURVE: server key"));
    assert!(ok(&place, "list").out.contains("curve:reports  enrolled"));
    ok(&place, "revoke curve:reports");
    assert_eq!((names("keys/curve.toml").len(), names("keys/billing/curve.toml").len()), (0, 1));
    assert!(fails(&place, "revoke curve:reports", 1).contains("has no reports"));
    // Again, for a node that was not reached.
    assert!(
        fails(&place, "revoke curve:reprots --to keys/billing", 1).contains("nobody has reprots enrolled")
    );
    ok(&place, "revoke curve:reports --to keys/billing");
    assert_eq!(names("keys/billing/curve.toml"), []);
    fs::write(place.path().join("keys/billing/curve.toml"), "a = 5").unwrap();
    assert!(fails(&place, "verify keys/billing", 1).contains("keys/billing/curve.toml"));
}

/// Dates are others' to choose: the library makes what the command can't.
#[test]
fn verify_knows_the_time() {
    let place = Place::new();
    let now = SystemTime::now();
    let mut ca = Ca::new("shop", now - DAY * 20, 100).unwrap();
    let mut issue =
        |name: &str, from, to| ca.issue(name, from, to).unwrap().write(&place.path().join(name)).unwrap();
    issue("soon", now - DAY, now + DAY * 6);
    issue("late", now - DAY * 10, now - DAY);
    issue("early", now + DAY, now + DAY * 9);
    ca.write(&place.path().join("keys")).unwrap();
    let soon = ok(&place, "verify soon");
    assert!(
        soon.err.contains("expires within 7 days") && soon.err.contains("issue soon --renew --out soon"),
        "{soon:?}"
    );
    assert!(fails(&place, "verify late", 1).contains("expired on 20"));
    assert!(fails(&place, "verify early", 1).contains("not valid before 20"));
    let states: Vec<String> = json(&place, "list")["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["valid", "expired", "not yet valid"]);
    let shortened = ok(&place, "issue long --days 200");
    assert!(shortened.err.contains("it ends with the CA"), "{shortened:?}");
}

/// Runs openssl in a place; false: it is not there, which is said, and in CI is a failure.
fn openssl(place: &Place, lines: &[&str]) -> bool {
    for line in lines {
        let mut command = Command::new("openssl");
        match command.args(line.split(' ')).current_dir(place.path()).output() {
            Ok(done) => {
                assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr))
            }
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "openssl is needed: {error}");
                // Past the capture of the test harness: a skip that nobody sees is a lie.
                let _ = writeln!(std::io::stderr(), "SKIPPED: openssl is not here");
                return false;
            }
        }
    }
    true
}

#[test]
fn openssl_agrees() {
    let place = shop();
    ok(&place, "issue pricing");
    ok(&place, "revoke pricing");
    let check = "verify -x509_strict -CAfile keys/ca.pem -crl_check -CRLfile keys/crl.pem";
    for purpose in ["sslclient", "sslserver"] {
        if !openssl(&place, &[&format!("{check} -purpose {purpose} keys/billing/node.pem")]) {
            return;
        }
    }
    let revoked = format!("{check} keys/pricing/node.pem");
    let done = Command::new("openssl").args(revoked.split(' ')).current_dir(place.path()).output().unwrap();
    assert!(!done.status.success() && String::from_utf8_lossy(&done.stderr).contains("revoked"), "{done:?}");
}

/// Keys of all kinds, by another CA with an intermediate.
#[test]
fn certificates_of_openssl_are_good_too() {
    let place = Place::new();
    let at = |name: &str| place.path().join(name);
    let san = "subjectAltName=URI:spiffe://shop/service/billing\nkeyUsage=digitalSignature\n";
    fs::write(at("both.ext"), format!("{san}extendedKeyUsage=serverAuth,clientAuth\n")).unwrap();
    fs::write(at("server.ext"), format!("{san}extendedKeyUsage=serverAuth\n")).unwrap();
    fs::write(at("sub.ext"), "basicConstraints=critical,CA:true\nkeyUsage=keyCertSign,cRLSign\n").unwrap();
    let ready = openssl(
        &place,
        &[
            "req -x509 -newkey rsa:2048 -nodes -keyout root.key -out ca.pem -subj /CN=root -days 30",
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout sub.key -out sub.csr -subj /CN=sub",
            "x509 -req -in sub.csr -CA ca.pem -CAkey root.key -CAcreateserial -days 20 -extfile sub.ext -out sub.pem",
        ],
    );
    if !ready {
        return;
    }
    for (kind, new) in [
        ("rsa", "-newkey rsa:2048"),
        ("ec", "-newkey ec -pkeyopt ec_paramgen_curve:P-256"),
        ("ed25519", "-newkey ed25519"),
    ] {
        openssl(&place, &[&format!("req {new} -nodes -keyout node.key -out node.csr -subj /CN=billing")]);
        for (extensions, fine) in [("both.ext", true), ("server.ext", false)] {
            openssl(
                &place,
                &[&format!(
                    "x509 -req -in node.csr -CA sub.pem -CAkey sub.key -CAcreateserial -days 10 -extfile {extensions} -out leaf.pem"
                )],
            );
            let chain =
                fs::read_to_string(at("leaf.pem")).unwrap() + &fs::read_to_string(at("sub.pem")).unwrap();
            let dir = at(kind);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("node.pem"), chain).unwrap();
            fs::copy(at("node.key"), dir.join("node.key")).unwrap();
            fs::set_permissions(dir.join("node.key"), PermissionsExt::from_mode(0o600)).unwrap();
            fs::copy(at("ca.pem"), dir.join("ca.pem")).unwrap();
            if fine {
                let verified = json(&place, &format!("verify {kind}"));
                assert_eq!(verified["days_left"], 9, "{kind}");
                assert!(verified["warnings"][0].as_str().unwrap().contains("no crl.pem"));
                ok(&place, &format!("show {kind}"));
            } else {
                assert!(
                    fails(&place, &format!("verify {kind}"), 1).contains("serverAuth and clientAuth"),
                    "{kind}"
                );
            }
        }
    }
}
