//! Two terminals: what one offers, the other finds.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::run::Place;

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn any_program_becomes_a_method() {
    let place = Place::new();
    let _server = place.start(&["serve", "hello.up", "--command", "tr a-z A-Z"]);
    let start = Instant::now();
    let ended = place.run(&["call", "hello.up", r#"{"name":"ada"}"#]);
    let took = start.elapsed();
    assert_eq!((ended.code, value(&ended.out)), (Some(0), json!({"NAME": "ADA"})), "{ended:?}");
    assert!(took < Duration::from_secs(1), "found and called in {took:?}");

    let _clock = place.start(&["serve", "clock.now", "--command", "echo noon"]);
    assert_eq!(value(&place.run(&["call", "clock.now"]).out), json!("noon"));
}

#[test]
fn a_command_that_fails_says_why_to_the_caller() {
    let place = Place::new();
    let _server = place.start(&["serve", "stock.take", "--command", "echo out of stock >&2; exit 3"]);
    let ended = place.run(&["call", "stock.take", "1"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("out of stock") && ended.err.contains("3"), "{ended:?}");
    let ended = place.run(&["call", "stock.give", "1"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("stock.give"), "{ended:?}");
}

#[test]
fn a_late_reply_is_a_deadline_and_the_command_is_killed() {
    let place = Place::new();
    let marker = place.path().join("marker");
    let command = format!("sleep 2; touch {}", marker.display());
    let _server = place.start(&["serve", "slow.one", "--command", &command]);
    let ended = place.run(&["call", "slow.one", "--timeout", "500ms"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    std::thread::sleep(Duration::from_millis(2500));
    assert!(!marker.exists(), "the command outlived its caller");
}

#[test]
fn lines_in_lines_out() {
    let place = Place::new();
    let _server = place.start(&["serve", "echo.back", "--echo"]);
    let ended = place.run_with(&["call", "echo.back", "-"], "1\n\n\"two\"\n[3]\n");
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "1\n\"two\"\n[3]\n"), "{ended:?}");
    let ended = place.run_with(&["call", "echo.back", "-"], "1\ntwo\n");
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), "1\n"), "{ended:?}");
    assert!(ended.err.contains("line 2 of standard input"), "{ended:?}");
}

#[test]
fn events_reach_every_subscriber() {
    let place = Place::new();
    let mut all = place.begin(&["sub", "orders.*", "--count", "3"]);
    let mut one = place.begin(&["sub", "orders.created", "--count", "2", "--json"]);
    let args = ["pub", "orders.created", "-", "--wait-subscribers", "2"];
    let ended = place.run_with(&args, "{\"id\":1}\n{\"id\":2}\n");
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "published 2 to 2 subscribers\n"), "{ended:?}");
    assert_eq!(place.run(&["pub", "orders.shipped", "3"]).code, Some(0));

    assert_eq!(one.end(), Some(0));
    let bodies: Vec<_> = one.rest().iter().map(|line| value(line)).collect();
    assert_eq!(bodies[0], json!({"subject": "orders.created", "body": {"id": 1}, "missed": 0}));
    assert_eq!(bodies[1]["body"], json!({"id": 2}));
    assert_eq!(all.end(), Some(0));
    assert_eq!(all.rest(), ["orders.created\t{\"id\":1}", "orders.created\t{\"id\":2}", "orders.shipped\t3"]);
}

#[test]
fn a_file_of_work_is_shared_out() {
    let place = Place::new();
    let mut pullers: Vec<_> = (0..2).map(|_| place.begin(&["pull", "emails"])).collect();
    let lines: String = (0..1000).map(|n| format!("{n}\n")).collect();
    let ended = place.run_with(&["push", "emails", "-"], &lines);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "pushed 1000\n"), "{ended:?}");
    let mut got: Vec<u32> = Vec::new();
    std::thread::sleep(Duration::from_millis(500));
    for puller in &mut pullers {
        puller.signal("INT");
        assert_eq!(puller.end(), Some(0));
        got.extend(puller.rest().iter().map(|line| line.parse::<u32>().unwrap()));
    }
    got.sort_unstable();
    assert!(got.into_iter().eq(0..1000), "every item exactly once");
}

#[test]
fn pull_takes_no_more_than_asked() {
    let place = Place::new();
    let mut first = place.begin(&["pull", "jobs", "--count", "2"]);
    let mut pusher = place.begin(&["push", "jobs", "-"]);
    let mut stdin = pusher.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n3\n4\n").unwrap();
    assert_eq!(first.end(), Some(0));
    let mut second = place.begin(&["pull", "jobs", "--count", "2"]);
    drop(stdin);
    assert_eq!(second.end(), Some(0));
    assert_eq!((first.rest(), second.rest()), (vec!["1".into(), "2".into()], vec!["3".into(), "4".into()]));
    assert_eq!(pusher.end(), Some(0));
}

#[test]
fn peers_are_listed_and_watched() {
    let place = Place::new();
    let watcher = place.begin(&["peers", "--watch", "--json"]);
    assert!(watcher.error_line().contains("no peers yet"));
    let mut server = place.start(&["serve", "hello.up", "--echo"]);
    let joined = value(&watcher.line());
    assert_eq!((&joined["event"], &joined["service"]), (&json!("joined"), &json!("hello")));

    let table = place.run(&["peers"]);
    assert_eq!(table.code, Some(0), "{table:?}");
    for text in ["SERVICE", "hello", "tcp://127.0.0.1:", " ms", "local"] {
        assert!(table.out.contains(text), "{text}: {table:?}");
    }
    let list = value(&place.run(&["peers", "--json"]).out);
    let peers = list["peers"].as_array().unwrap();
    let hello = peers.iter().find(|peer| peer["service"] == "hello").unwrap();
    assert_eq!(hello["sources"], json!(["local"]));
    assert_eq!(hello["roots"], json!(["hello"]));
    assert!(hello["rtt_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(hello["node"], joined["node"]);

    server.child.kill().unwrap();
    let left = std::iter::repeat_with(|| value(&watcher.line()))
        .find(|event| event["event"] == "left" && event["service"] == "hello");
    assert_eq!(left.unwrap()["node"], joined["node"]);
}

#[test]
fn peers_by_address_and_fabrics_apart() {
    let (here, there) = (Place::new(), Place::new());
    let server = there.begin(&["serve", "hello.up", "--echo", "--json"]);
    let state = value(&server.line());
    let address = state["endpoints"][0].as_str().unwrap();
    let ended = here.run(&["call", "hello.up", "5", "--peer", address]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "5\n"), "{ended:?}");
    let list = value(&here.run(&["peers", "--json", "--peer", address]).out);
    assert_eq!(list["peers"][0]["service"], "hello", "{list}");
    let ended = there.run(&["call", "hello.up", "5", "--fabric", "other"]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
}

#[test]
fn a_server_ends_on_sigterm() {
    let place = Place::new();
    let mut server = place.start(&["serve", "hello.up", "--echo"]);
    server.signal("TERM");
    assert_eq!(server.end(), Some(0));
    assert_eq!(place.run(&["call", "hello.up", "--timeout", "3s"]).code, Some(3));
}
