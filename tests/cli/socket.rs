//! `ripstop socket` with itself on the other side; `tests/interop/` has libzmq there.

use std::{
    io::{Read, Write},
    process::Stdio,
    thread,
};

use crate::run::{Place, Running};

const MANY: usize = 100_000;

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("message {n}\n")).collect()
}

/// Runs to the end and gives the lines that it printed.
fn lines_of(running: &mut Running) -> Vec<String> {
    let lines = running.rest();
    assert_eq!(running.end(), Some(0), "{:?}", running.errors());
    lines
}

/// Feeds standard input and closes it.
fn feed(running: &mut Running, text: String) {
    let mut stdin = running.stdin.take().unwrap();
    thread::spawn(move || drop(stdin.write_all(text.as_bytes())));
}

/// A sender binds, a receiver connects, everything arrives in order.
fn one_way(sender: &str, receiver: &str) {
    let place = Place::new();
    let count = MANY.to_string();
    let mut send = place.begin(&["socket", sender, "--bind", "ipc://pipe", "--hwm", "0"]);
    let mut receive =
        place.begin(&["socket", receiver, "--connect", "ipc://pipe", "--hwm", "0", "--count", &count]);
    feed(&mut send, lines(MANY));
    assert!(
        lines_of(&mut receive).iter().map(String::as_str).eq(lines(MANY).lines()),
        "{sender} to {receiver}"
    );
    assert_eq!(send.end(), Some(0));
}

#[test]
fn push_to_pull() {
    one_way("push", "pull");
}

#[test]
fn pub_to_sub() {
    one_way("pub", "sub");
}

#[test]
fn xpub_to_xsub() {
    one_way("xpub", "xsub");
}

#[test]
fn dealer_to_dealer() {
    one_way("dealer", "dealer");
}

#[test]
fn pair_to_pair() {
    one_way("pair", "pair");
}

/// Everything that is sent comes back, in order.
fn round_trip(asker: &str, echo: &str, count: usize) {
    let place = Place::new();
    let text = count.to_string();
    let echo = place.begin(&["socket", echo, "--bind", "ipc://pipe", "--echo", "--hwm", "0"]);
    let mut ask = place.begin(&["socket", asker, "--connect", "ipc://pipe", "--hwm", "0", "--count", &text]);
    feed(&mut ask, lines(count));
    assert!(
        lines_of(&mut ask).iter().map(String::as_str).eq(lines(count).lines()),
        "{asker} and {:?}",
        echo.errors()
    );
}

#[test]
fn req_and_rep() {
    round_trip("req", "rep", 5_000);
}

#[test]
fn dealer_and_router() {
    round_trip("dealer", "router", MANY);
}

#[test]
fn pair_and_pair() {
    round_trip("pair", "pair", MANY);
}

#[test]
fn a_router_addresses_its_peers_by_line() {
    let place = Place::new();
    let mut router = place.begin(&["socket", "router", "--bind", "ipc://r", "--count", "2"]);
    let mut named =
        place.begin(&["socket", "dealer", "--connect", "ipc://r", "--identity", "ada", "--count", "1"]);
    named.stdin.as_mut().unwrap().write_all(b"hello\tworld\n").unwrap();
    assert_eq!(router.line(), "ada\thello\tworld");
    let mut nameless = place.begin(&["socket", "dealer", "--connect", "ipc://r", "--count", "1"]);
    nameless.stdin.as_mut().unwrap().write_all(b"hi\n").unwrap();
    let line = router.line();
    let (id, text) = line.split_once('\t').unwrap();
    assert!(id.starts_with("0x00") && text == "hi", "{line}");
    router.stdin.as_mut().unwrap().write_all(format!("ada\tone\n{id}\ttwo\n").as_bytes()).unwrap();
    router.stdin = None;
    assert_eq!((named.line(), nameless.line()), ("one".to_owned(), "two".to_owned()));
    assert_eq!((named.end(), nameless.end()), (Some(0), Some(0)));
}

#[test]
fn subscriptions_filter_and_binary_frames_stay_on_their_line() {
    let place = Place::new();
    let mut sub = place.begin(&[
        "socket",
        "sub",
        "--bind",
        "ipc://s",
        "--subscribe",
        "a",
        "--subscribe",
        "b",
        "--count",
        "3",
    ]);
    let mut publish = place.begin(&["socket", "pub", "--connect", "ipc://s"]);
    let mut stdin = publish.stdin.take().unwrap();
    stdin.write_all(b"a1\nc2\nb3\tx\n\nab\xff\x01\n").unwrap();
    drop(stdin);
    assert_eq!(lines_of(&mut sub), ["a1", "b3\tx", "0x6162ff01"]);
    assert_eq!(publish.end(), Some(0));
}

#[test]
fn a_free_port_is_told() {
    let place = Place::new();
    let pull = place.begin(&["socket", "pull", "--bind", "tcp://127.0.0.1:0", "--count", "1", "--json"]);
    let told = pull.error_line();
    let address = told.strip_prefix("listening at ").unwrap();
    assert_eq!(place.run_with(&["socket", "push", "--connect", address], "a\tb\n").code, Some(0));
    assert_eq!(pull.line(), r#"{"frames":["a","b"]}"#);
}

#[test]
fn what_cannot_be_bound_is_an_error() {
    let place = Place::new();
    let _first = {
        let first = place.begin(&["socket", "pull", "--bind", "ipc://taken", "-v"]);
        first.error_line();
        first
    };
    let second = place.run(&["socket", "pull", "--bind", "ipc://taken"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.err.contains("ipc://taken"), "{second:?}");
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let place = Place::new();
    let mut push = place.begin(&["socket", "push", "--bind", "ipc://p"]);
    feed(&mut push, lines(MANY));
    let args = ["socket", "pull", "--connect", "ipc://p"];
    let mut pull = place.command(&args).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 20];
    pull.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert_eq!(&some, b"message 0\nmessage 1\n");
    let ended = pull.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn it_gives_up_in_time() {
    let place = Place::new();
    let ended = place.run_with(&["socket", "push", "--connect", "ipc://nobody", "--timeout", "300ms"], "1\n");
    assert_eq!(ended.code, Some(4), "{ended:?}");
}
