//! Wrong usage, configuration and input: exit code 2 (or 3, 4 where nobody is there), and an error that helps.

use std::process::Stdio;

use crate::run::Place;

/// Runs, and gives standard error after checking the exit code.
fn fails(args: &[&str], code: i32) -> String {
    let ended = Place::new().run(args);
    assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
    assert_eq!(ended.out, "", "nothing on standard output");
    ended.err
}

#[test]
fn bad_arguments() {
    assert!(fails(&["frobnicate"], 2).contains("unrecognized subcommand"));
    assert!(fails(&["serve", "a.b"], 2).contains("--command <CMD>|--echo"));
    assert!(fails(&["call", "a.b", "--timeout", "5"], 2).contains("500ms, 10s or 2m"));
    assert!(fails(&["socket", "push"], 2).contains("--bind tcp://127.0.0.1:5555"));
    assert!(fails(&["socket", "pull", "--bind", "tcp:/x"], 2).contains("tcp://"));
    assert!(fails(&["socket", "pull", "--bind", "ipc:///tmp/x", "--echo"], 2).contains("cannot send back"));
    assert!(fails(&["peers", "--peer", "nonsense"], 2).contains("--peer nonsense"));
    assert!(fails(&["call", "a b"], 2).contains("a b"));
    assert!(fails(&["sub", "a..b"], 2).contains("a..b"));
}

#[test]
fn what_is_not_json_shows_the_quoting() {
    assert!(fails(&["call", "a.b", "hello"], 2).contains(r#"ripstop call a.b '"hello"'"#));
    assert!(fails(&["push", "q", "{name:", "Ada}"], 2).contains(r#"ripstop push q '{"name":"Ada"}'"#));
}

#[test]
fn bad_configuration() {
    let place = Place::new();
    std::fs::write(place.path().join("ripstop.toml"), "fabric = \"shop\"\nlisen = [\"lan\"]\n").unwrap();
    let ended = place.run(&["peers"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("ripstop.toml") && ended.err.contains("listen"), "{ended:?}");
    assert_eq!(place.run(&["peers", "--config", "missing.toml"]).code, Some(2));
}

#[test]
fn nobody_there_says_why() {
    let error = fails(&["peers"], 3);
    assert!(error.contains("nobody else on this machine"), "{error}");
    assert!(error.contains("mDNS is off because every listener is on loopback"), "{error}");
    assert!(error.contains("no [[peers]] in ripstop.toml"), "{error}");
    assert!(fails(&["peers", "--no-mdns"], 3).contains("--no-mdns"));
    assert!(fails(&["call", "nobody.here", "--timeout", "300ms"], 3).contains("nobody"));
    assert!(fails(&["push", "nobody", "1", "--timeout", "300ms"], 3).contains("nobody pulls nobody"));
    assert!(fails(&["pub", "a.b", "1"], 3).contains("--wait-subscribers 0"));
    assert!(fails(&["sub", "a.b", "--count", "1", "--timeout", "100ms"], 4).contains("0 of 1"));
}

#[test]
fn errors_are_json_too() {
    let ended = Place::new().run(&["peers", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!(error["error"]["exit"], 3);
    let list: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(list["peers"], serde_json::json!([]));
    assert!(list["reason"].as_str().unwrap().contains("loopback"));
}

#[test]
fn help_and_completions() {
    let help = Place::new().run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for command in
        ["demo", "serve", "call", "pub", "sub", "push", "pull", "peers", "keys", "socket", "completions"]
    {
        assert!(help.out.contains(&format!("\n  {command}")), "{command}");
    }
    assert!(!help.out.contains("demo-role"), "the demo's own processes are nobody's business");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Place::new().run(&["completions", shell]);
        assert_eq!(script.code, Some(0));
        assert!(script.out.contains("wait-subscribers") && !script.out.contains("demo-role"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let place = Place::new();
    let mut child = place.command(&["completions", "bash"]).stdin(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}
