//! `ripstop socket` and pyzmq: 100,000 messages for each socket pair and direction, in order, none lost.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::peer::{Peer, soon};

const MANY: usize = 100_000;

/// The program, with its standard output and error by line.
struct Cli {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Cli {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ripstop"))
            .arg("socket")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let errors = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, errors }
    }

    /// Where it listens: it says so.
    async fn url(&mut self) -> String {
        let said = soon("the endpoint", self.errors.next_line()).await.unwrap().unwrap();
        said.strip_prefix("listening at ").unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    /// Writes a line for each message to its standard input, and ends that.
    fn feed(&mut self, prefix: &str) {
        let mut stdin = self.child.stdin.take().unwrap();
        let text: String = (0..MANY).map(|n| format!("{prefix}t{n}\n")).collect();
        tokio::spawn(async move { stdin.write_all(text.as_bytes()).await });
    }

    async fn expect(&mut self, prefix: &str) {
        let mut next = 0;
        while next < MANY {
            let line = soon("a line", self.lines.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("{next} lines and no more"));
            if line == "probe" {
                continue;
            }
            assert_eq!(line, format!("{prefix}t{next}"));
            next += 1;
        }
    }

    async fn end(mut self) {
        let ended = soon("its end", self.child.wait()).await.unwrap();
        assert!(ended.success(), "{ended}: {:?}", self.errors.next_line().await);
    }
}

fn plain(mut more: Value) -> Value {
    more["plain"] = true.into();
    more
}

/// The program sends, bound; pyzmq sends, bound, to the program.
async fn one_way(sender: &str, receiver: &str) {
    let (cli_sender, cli_receiver) = (sender.to_lowercase(), receiver.to_lowercase());
    let subscribes = receiver.ends_with("SUB");
    let more = if subscribes { json!({"subscribe": ["t"]}) } else { json!({}) };

    let mut cli = Cli::start(&[&cli_sender, "--bind", "tcp://127.0.0.1:0", "--hwm", "0"]);
    let url = cli.url().await;
    let Some(mut peer) = Peer::connected(receiver, &url, plain(more)).await else { return };
    peer.tell("receive", json!({"count": MANY})).await;
    cli.feed("");
    assert_eq!(peer.answer().await, "done");
    cli.end().await;
    peer.end().await;

    let mut peer = Peer::bound(sender, "tcp://127.0.0.1:*", plain(json!({}))).await.unwrap();
    let url = peer.url.clone();
    let mut args = vec![cli_receiver.as_str(), "--connect", url.as_str(), "--hwm", "0"];
    let count = MANY.to_string();
    if subscribes {
        args.extend(["--subscribe", "t", "--subscribe", "probe"]);
    } else {
        args.extend(["--count", &count]);
    }
    let mut cli = Cli::start(&args);
    if subscribes {
        peer.tell("probe", json!({})).await;
        assert_eq!(soon("a probe", cli.lines.next_line()).await.unwrap().as_deref(), Some("probe"));
    }
    peer.tell("send", json!({"count": MANY})).await;
    cli.expect("").await;
    if !subscribes {
        cli.end().await;
    }
    peer.end().await;
}

/// The program asks, connected, and pyzmq echoes; pyzmq asks, connected, and the program echoes.
async fn there_and_back(asker: &str, answerer: &str, prefix: &[&str], window: usize) {
    let line_prefix: String = prefix.iter().flat_map(|frame| [frame, "\t"]).collect();
    let (cli_asker, cli_answerer) = (asker.to_lowercase(), answerer.to_lowercase());
    let named = |name: &str| plain(json!({"options": {"IDENTITY": name}}));

    let Some(mut peer) = Peer::bound(answerer, "tcp://127.0.0.1:*", named("answerer")).await else { return };
    peer.tell("echo", json!({"count": MANY})).await;
    let (url, count) = (peer.url.clone(), MANY.to_string());
    let mut cli = Cli::start(&[&cli_asker, "--connect", &url, "--count", &count, "--identity", "asker"]);
    cli.feed(&line_prefix);
    cli.expect(&line_prefix).await;
    cli.end().await;
    assert_eq!(peer.answer().await, "done");
    peer.end().await;

    // REP, ROUTER, DEALER and PAIR can echo.
    let mut cli = Cli::start(&[
        &cli_answerer,
        "--bind",
        "tcp://127.0.0.1:0",
        "--count",
        &count,
        "--echo",
        "--identity",
        "answerer",
    ]);
    let url = cli.url().await;
    let mut peer = Peer::connected(asker, &url, {
        let mut more = named("asker");
        if asker == "ROUTER" {
            more["options"]["ROUTER_MANDATORY"] = 1.into();
        }
        more
    })
    .await
    .unwrap();
    peer.tell("ask", json!({"count": MANY, "prefix": prefix, "window": window})).await;
    let printed = match answerer {
        "ROUTER" => "asker\t".to_owned() + if asker == "REQ" { "\t" } else { "" },
        "REP" => String::new(),
        _ => line_prefix,
    };
    cli.expect(&printed).await;
    assert_eq!(peer.answer().await, "done");
    cli.end().await;
    peer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn req_rep() {
    there_and_back("REQ", "REP", &[], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn req_router() {
    there_and_back("REQ", "ROUTER", &[], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dealer_rep() {
    there_and_back("DEALER", "REP", &[""], 256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dealer_router() {
    there_and_back("DEALER", "ROUTER", &[], 256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dealer_dealer() {
    there_and_back("DEALER", "DEALER", &[], 256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn router_router() {
    there_and_back("ROUTER", "ROUTER", &["answerer"], 256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pair_pair() {
    there_and_back("PAIR", "PAIR", &[], 256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn push_pull() {
    one_way("PUSH", "PULL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pub_sub() {
    one_way("PUB", "SUB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pub_xsub() {
    one_way("PUB", "XSUB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xpub_sub() {
    one_way("XPUB", "SUB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xpub_xsub() {
    one_way("XPUB", "XSUB").await;
}
