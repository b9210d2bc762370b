//! Runs the program in a fabric of the test's own.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// Nothing here should take longer; a test that hangs is to fail.
const LIMIT: Duration = Duration::from_secs(60);

/// One test's directory: working directory and runtime directory of all its processes, so that they meet nobody else.
pub(crate) struct Place(tempfile::TempDir);

/// What a process that has ended left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
        command.args(args).current_dir(self.path()).env("RIPSTOP_RUNTIME_DIR", self.path());
        command.env("XDG_STATE_HOME", self.path().join("state"));
        command
            .env_remove("RUST_LOG")
            .env_remove("RIPSTOP_PYTHON")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, "")
    }

    /// Runs to the end, with this on standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Ended {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // A program that ends without reading is no failure of the test's.
        thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        finish(child)
    }

    /// Starts one that stays, and waits for the first line it prints.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let running = self.begin(args);
        running.line();
        running
    }

    /// Starts one that stays.
    pub(crate) fn begin(&self, args: &[&str]) -> Running {
        Running::of(self.command(args))
    }
}

/// A process that stays; killed at the end of the test.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Running {
    pub(crate) fn of(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let (sender, errors) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let stdin = child.stdin.take();
        Self { child, stdin, lines, errors }
    }

    /// The next line it prints.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no output; stderr: {:?}", self.errors()))
    }

    /// The next line on its standard error.
    pub(crate) fn error_line(&self) -> String {
        self.errors.recv_timeout(LIMIT).unwrap()
    }

    pub(crate) fn errors(&self) -> Vec<String> {
        self.errors.try_iter().collect()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("still running; stderr: {:?}", self.errors());
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// The lines it prints until its end.
    pub(crate) fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.recv_timeout(LIMIT).ok()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process leaves behind at its end.
pub(crate) fn finish(child: Child) -> Ended {
    let pid = child.id().to_string();
    let (sender, done) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = done.recv_timeout(LIMIT) else {
        let _ = Command::new("kill").args(["-s", "KILL", &pid]).status();
        panic!("still running after {LIMIT:?}: {:?}", done.recv_timeout(LIMIT));
    };
    let Output { status, stdout, stderr } = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: status.code(), out: text(stdout), err: text(stderr) }
}
