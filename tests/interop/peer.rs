//! The other side: a pyzmq socket in a process of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::python::python;

/// Fails the test instead of hanging it.
pub(crate) async fn soon<F: Future>(what: &str, work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), work).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// `peer.py`, told what to do line by line. Killed when dropped.
pub(crate) struct Peer {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    /// Where it has bound, or whom it has dialled.
    pub(crate) url: String,
}

impl Peer {
    /// Binds at `url`, of which the port may be `*`. `None` where there is no Python: the test is skipped.
    pub(crate) async fn bound(kind: &str, url: &str, more: Value) -> Option<Self> {
        Self::start(kind, "bind", url, more).await
    }

    pub(crate) async fn connected(kind: &str, url: &str, more: Value) -> Option<Self> {
        Self::start(kind, "connect", url, more).await
    }

    async fn start(kind: &str, how: &str, url: &str, mut more: Value) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/peer.py");
        more["type"] = kind.into();
        more[how] = url.into();
        // The environment may have to be made first, which is no matter for this test's clock.
        let python = tokio::task::spawn_blocking(|| python("pyzmq as a peer")).await.unwrap()?;
        let mut child = Command::new(python)
            .arg(script)
            .arg(more.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut peer = Self { child, commands, answers, url: String::new() };
        peer.url = peer.answer().await;
        Some(peer)
    }

    /// Begins; [`answer`](Self::answer) tells when it is done.
    pub(crate) async fn tell(&mut self, what: &str, mut more: Value) {
        more["what"] = what.into();
        self.commands.as_mut().unwrap().write_all(format!("{more}\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> String {
        soon("pyzmq", self.answers.next_line()).await.unwrap().expect("pyzmq has failed; its error is above")
    }

    /// Does it, and gives the answer.
    pub(crate) async fn ask(&mut self, what: &str, more: Value) -> String {
        self.tell(what, more).await;
        self.answer().await
    }

    /// Does it.
    pub(crate) async fn run(&mut self, what: &str, more: Value) {
        assert_eq!(self.ask(what, more).await, "done", "{what}");
    }

    /// Closes the socket, which flushes it, and waits for the end of the process.
    pub(crate) async fn end(mut self) {
        self.commands = None;
        assert!(soon("pyzmq's end", self.child.wait()).await.unwrap().success());
    }

    /// Kills it without a word to anybody.
    pub(crate) async fn kill(mut self) -> String {
        self.child.kill().await.unwrap();
        self.url
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
    }
}

/// `count` messages from the first on.
pub(crate) fn count(count: usize) -> Value {
    json!({ "count": count })
}
