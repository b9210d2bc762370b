//! What is kept on disk, from the command line.

use std::{fs, io::Write, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use crate::run::Place;

fn values(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// As the issue tells it: nobody is there, the sender goes, a worker comes.
#[test]
fn it_waits_for_a_worker_and_outlives_the_sender() {
    let place = Place::new();
    let ended = place.run(&["push", "emails", "{\"to\":\"ada\"}", "--durable", "--no-wait"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "kept 1\n"), "{ended:?}");
    assert!(ended.err.contains("1 wait in ") && ended.err.contains("outbox flush"), "{ended:?}");
    let ended = place.run_with(&["push", "emails", "-", "--durable", "--timeout", "1ms", "--json"], "1\n2\n");
    assert_eq!(values(&ended.out), [json!({"kept": 2, "processed": 0, "dead": 0})], "{ended:?}");

    let queues = values(&place.run(&["outbox", "list", "--json"]).out);
    assert_eq!((queues.len(), &queues[0]["items"], &queues[0]["queue"]), (1, &json!(3), &json!("emails")));
    let mut worker = place.begin(&["pull", "emails", "--count", "3"]);
    let ended = place.run(&["outbox", "flush", "--json"]);
    assert_eq!(values(&ended.out)[0]["waiting_here"], json!(0), "{ended:?}");
    assert_eq!(worker.end(), Some(0));
    assert_eq!(worker.rest(), ["{\"to\":\"ada\"}", "1", "2"]);
    assert_eq!(place.run(&["outbox", "list"]).out, "nothing waits\n");
}

/// What fails five times is a letter with its error, and a replay after the fix does it once.
#[test]
fn a_letter_is_told_and_replayed_after_the_fix() {
    let place = Place::new();
    fs::write(place.path().join("ripstop.toml"), "[durable]\nretry_min = '5ms'\nretry_max = '10ms'\n")
        .unwrap();
    let script = place.path().join("mail");
    fs::write(
        &script,
        "#!/bin/sh\n[ -e fixed ] && { echo once >> sent; exit; }\necho no server >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let _worker = place.begin(&["pull", "emails", "--command", "./mail"]);
    let ended = place.run(&["push", "emails", "7", "--durable", "--key", "ada", "--timeout", "50s"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), "kept 1, processed 0\n"), "{ended:?}");
    assert!(ended.err.contains("no server") && ended.err.contains("ripstop dlq list"), "{ended:?}");

    let letters = values(&place.run(&["dlq", "list", "--json", "--filter", "queue=emails"]).out);
    let letter = &letters[0];
    assert_eq!(
        (&letter["attempts"], &letter["reason"], &letter["body"]),
        (&json!(5), &json!("attempts"), &json!(7))
    );
    assert!(letter["error"].as_str().unwrap().contains("no server"), "{letter}");
    let id = letter["id"].as_str().unwrap();
    assert!(place.run(&["dlq", "list"]).out.contains(id));
    assert_eq!(place.run(&["dlq", "list", "--filter", "error~timed out"]).out, "no dead letters\n");
    assert!(place.run(&["dlq", "show", id]).out.contains("\"key\":\"ada\""));

    let dry = place.run(&["dlq", "replay", "--all", "--dry-run"]);
    assert!(dry.out.contains(id) && dry.out.contains("1 would be replayed"), "{dry:?}");
    assert!(!place.path().join("sent").exists());
    fs::write(place.path().join("fixed"), "").unwrap();
    let ended = place.run(&["dlq", "replay", id]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "replayed 1\n"), "{ended:?}");
    assert_eq!(fs::read_to_string(place.path().join("sent")).unwrap(), "once\n");
    assert_eq!(place.run(&["dlq", "list"]).out, "no dead letters\n");
    assert_eq!(place.run(&["dlq", "replay", id]).code, Some(1));
}

/// A key whose item cannot be done holds up what has the same key, and nothing else, until that item is a letter.
#[test]
fn a_poisoned_key_stops_only_itself() {
    let place = Place::new();
    fs::write(place.path().join("ripstop.toml"), "[durable]\nretry_min = '300ms'\nretry_max = '300ms'\n")
        .unwrap();
    let push = |key: &str, items: &str| {
        let args = ["push", "bookings", "-", "--durable", "--no-wait", "--key", key];
        let ended = place.run_with(&args, items);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    };
    push("bad", "0\n1\n2\n");
    push("good", "3\n4\n5\n");
    let command = "read -r item; echo $item >> tried; [ $item != 0 ] || { echo poison >&2; exit 1; }";
    let _worker = place.begin(&["pull", "bookings", "--command", command]);
    let ended = place.run(&["outbox", "flush", "--timeout", "50s", "--json"]);
    assert_eq!(values(&ended.out)[0]["waiting_here"], json!(0), "{ended:?}");

    let tried = fs::read_to_string(place.path().join("tried")).unwrap();
    let tried: Vec<_> = tried.lines().collect();
    let of = |items: &[&str]| tried.iter().copied().filter(|item| items.contains(item)).collect::<Vec<_>>();
    assert_eq!(of(&["0", "1", "2"]), ["0", "0", "0", "0", "0", "1", "2"], "{tried:?}");
    assert_eq!(of(&["3", "4", "5"]), ["3", "4", "5"], "{tried:?}");
    // Those of the other key did not wait until it was given up.
    let last = tried.iter().rposition(|item| *item == "0").unwrap();
    assert!(tried[..last].contains(&"5"), "{tried:?}");
    let letters = values(&place.run(&["dlq", "list", "--json"]).out);
    let told = (letters.len(), &letters[0]["body"], &letters[0]["key"], &letters[0]["attempts"]);
    assert_eq!(told, (1, &json!(0), &json!("bad"), &json!(5)), "{letters:?}");
}

#[test]
fn what_waits_is_shown_cancelled_and_hurried() {
    let place = Place::new();
    for key in ["a", "b"] {
        let args = ["push", "later", "1", "--durable", "--no-wait", "--after", "1h", "--key", key];
        assert_eq!(place.run(&args).code, Some(0));
    }
    let items = values(&place.run(&["outbox", "list", "later", "--json"]).out);
    let ids: Vec<_> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert!(place.run(&["outbox", "show", ids[0]]).out.contains("\"key\":\"a\""));
    assert_eq!(place.run(&["outbox", "cancel", ids[0]]).out, "cancelled 1\n");
    let gone = place.run(&["outbox", "cancel", ids[0]]);
    assert!(gone.code == Some(1) && gone.err.contains("did not wait"), "{gone:?}");
    assert_eq!(place.run(&["outbox", "show", ids[0]]).code, Some(1));
    let mut worker = place.begin(&["pull", "later", "--count", "1"]);
    assert_eq!(place.run(&["outbox", "flush", ids[1]]).out, "flushed 1\n");
    assert_eq!((worker.end(), worker.rest()), (Some(0), vec!["1".to_owned()]));
}

#[test]
fn events_are_kept_for_a_name() {
    let place = Place::new();
    let alone = place.run(&["pub", "orders.created", "1", "--durable", "--timeout", "100ms"]);
    assert!(alone.code == Some(1) && alone.err.contains("RS0609"), "{alone:?}");
    let mut first = place.begin(&["sub", "orders.*", "--durable", "billing", "--count", "1"]);
    let ended = place.run(&["pub", "orders.created", "1", "--durable"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "kept 1, processed 1\n"), "{ended:?}");
    assert_eq!((first.end(), first.rest()), (Some(0), vec!["orders.created\t1".to_owned()]));
    // While nobody of that name is there.
    assert_eq!(place.run(&["pub", "orders.shipped", "2", "--durable", "--no-wait"]).code, Some(0));
    let groups = values(&place.run(&["groups", "list", "--json"]).out);
    assert_eq!((&groups[0]["name"], &groups[0]["waiting"]), (&json!("billing"), &json!(1)), "{groups:?}");
    let mut second = place.begin(&["sub", "orders.*", "--durable", "billing", "--count", "1", "--json"]);
    assert_eq!(place.run(&["outbox", "flush"]).code, Some(0));
    assert_eq!(second.end(), Some(0));
    assert_eq!(values(&second.rest()[0]), [json!({"subject": "orders.shipped", "body": 2, "attempt": 1})]);
    assert!(place.run(&["groups", "remove", "billing"]).out.contains("removed billing from 1 nodes"));
    assert_eq!(place.run(&["groups", "remove", "billing"]).code, Some(1));
}

#[test]
fn a_store_is_looked_after_and_wrong_usage_is_told() {
    let place = Place::new();
    assert_eq!(place.run(&["push", "q", "1", "--durable", "--no-wait", "--data-dir", "d"]).code, Some(0));
    assert!(place.run(&["store", "check", "--data-dir", "d"]).out.starts_with("whole: 1 items"));
    assert!(place.run(&["store", "stats", "--data-dir", "d"]).out.contains("items"));
    assert_eq!(place.run(&["store", "compact", "--data-dir", "d"]).code, Some(0));
    let running =
        place.begin(&["push", "q", "2", "--durable", "--data-dir", "d", "--json", "--timeout", "30s"]);
    while !place.path().join("d/store.db-wal").exists() {
        std::thread::yield_now();
    }
    let busy = place.run(&["store", "compact", "--data-dir", "d"]);
    assert!(busy.code == Some(2) && busy.err.contains("a node uses it"), "{busy:?}");
    let busy = place.run(&["push", "q", "3", "--durable", "--data-dir", "d"]);
    assert!(busy.code == Some(1) && busy.err.contains("another process uses it"), "{busy:?}");
    // Another command sees what the running one owes, and does not need its directory.
    assert!(place.run(&["outbox", "list", "q", "--json"]).out.contains("\"body\":1"));
    drop(running);
    for (args, code, said) in [
        (&["store", "check"][..], 2, "there is no store"),
        (&["outbox", "list", "--data-dir", "nowhere"], 2, "there is no store"),
        (&["outbox", "list"], 3, "no node with a store"),
        (&["dlq", "list"], 3, "no node with a store"),
        (&["outbox", "show", "x"], 2, "is no id"),
        (&["dlq", "replay"], 2, "say which"),
        (&["dlq", "purge", "a-1", "--all"], 2, "not both"),
        (&["dlq", "list", "--filter", "colour=red"], 2, "the fields are"),
        (&["push", "q", "1", "--key", "k"], 2, "--durable"),
        (&["pull", "q", "--command", "cat", "--count", "1"], 2, "cannot be used with"),
    ] {
        let ended = place.run(args);
        assert!(ended.code == Some(code) && ended.err.contains(said), "{args:?}: {ended:?}");
    }
    fs::write(
        place.path().join("d/store.db"),
        "not a database, though it is long enough to look like a file",
    )
    .unwrap();
    let other = place.run(&["store", "check", "--data-dir", "d"]);
    assert!(other.code == Some(2) && other.err.contains("RS0601"), "{other:?}");
}

/// A command hears of it when a threshold is passed, and when it is not any more.
#[test]
fn a_threshold_that_is_passed_runs_a_command() {
    let place = Place::new();
    let dir = place.path().join("shop").display().to_string();
    let mut waits =
        place.begin(&["push", "emails", "-", "--durable", "--timeout", "50s", "--data-dir", &dir]);
    waits.stdin.take().unwrap().write_all(b"1\n2\n").unwrap();
    let watch = ["outbox", "watch", "--items", "1", "--age", "1h", "--letters", "0", "--json"];
    let watching = place.begin(&[&watch[..], &["--every", "20ms", "--run", "cat >> told"]].concat());
    let over: Value = serde_json::from_str(&watching.line()).unwrap();
    assert_eq!(
        (&over["alert"], &over["queue"], &over["what"]),
        (&json!("over"), &json!("emails"), &json!("items"))
    );
    assert_eq!((&over["value"], &over["limit"]), (&json!(2), &json!(1)));
    let once = place.run(&["outbox", "watch", "--items", "1", "--once"]);
    assert!(once.code == Some(1) && once.out.contains("emails: items 2, over 1"), "{once:?}");
    let once = place.run(&["outbox", "watch", "--items", "2", "--letters", "0", "--once"]);
    assert_eq!((once.code, once.out.as_str()), (Some(0), ""), "{once:?}");

    assert_eq!(place.run(&["pull", "emails", "--count", "1"]).code, Some(0));
    let back: Value = serde_json::from_str(&watching.line()).unwrap();
    assert_eq!(
        (&back["alert"], &back["what"], &back["node"]),
        (&json!("back"), &json!("items"), &over["node"])
    );
    // It says so, and then has the command run; the next look comes after that.
    let told = loop {
        let told = fs::read_to_string(place.path().join("told")).unwrap();
        if told.lines().count() == 2 {
            break told;
        }
        std::thread::yield_now();
    };
    assert_eq!(values(&told), [over, back]);
    assert_eq!(place.run(&["outbox", "watch", "--once"]).code, Some(2), "nothing to watch for");
}
