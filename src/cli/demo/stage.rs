//! The demo's processes: started, listened to, and ended whatever happens.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::timeout,
};

use super::{
    sent,
    talk::{Ask, Say, decode, encode},
};
use crate::{args::Role, exit::Failure};

/// How long a process may take to end by itself.
const TO_END: Duration = Duration::from_secs(3);

/// A fabric of its own with the processes in it.
pub(super) struct Stage {
    pub(super) fabric: String,
    pub(super) actors: Vec<Actor>,
    heard: mpsc::Receiver<Heard>,
    ear: mpsc::Sender<Heard>,
    /// Dropped last, when nobody uses it any more.
    runtime_dir: TempDir,
    /// Whether everyone has keys: in directories named after the services.
    pub(super) secure: bool,
    verbose: u8,
}

/// One process.
pub(super) struct Actor {
    pub(super) name: String,
    pub(super) role: Role,
    /// Its node, once it has said it.
    pub(super) node: Option<String>,
    pub(super) done: u64,
    pub(super) killed: bool,
    child: Child,
    stdin: Option<ChildStdin>,
}

/// What an actor (by its place in `actors`) let us know.
pub(super) struct Heard {
    pub(super) from: usize,
    pub(super) what: What,
}

pub(super) enum What {
    Said(Say),
    /// A line of its standard error.
    Complained(String),
    Ended,
}

impl Stage {
    pub(super) fn open(verbose: u8, secure: bool) -> Result<Self, Failure> {
        let fabric = format!("demo-{}", std::process::id());
        let runtime_dir = TempDir::new(&fabric)?;
        if secure {
            issue_keys(&fabric, runtime_dir.path())?;
        }
        sent::prepare(runtime_dir.path())?;
        let (ear, heard) = mpsc::channel(256);
        Ok(Self { fabric, actors: Vec::new(), heard, ear, runtime_dir, secure, verbose })
    }

    /// Writes a file that lasts as long as the stage.
    pub(super) fn keep(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.runtime_dir.path().join(name);
        let written = fs::write(&path, bytes);
        written.map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
        Ok(path)
    }

    /// What outlives a process, but not the stage.
    pub(super) fn dir(&self) -> &Path {
        self.runtime_dir.path()
    }

    /// Starts a process, which says `Ready` when it is.
    pub(super) fn start(&mut self, role: Role, name: &str, input: Option<&Path>) -> Result<(), Failure> {
        let failed = |error| Failure::failed(format!("cannot start {name}: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["demo-role", service(role), "--name", name, "--fabric", &self.fabric]);
        if let Some(input) = input {
            command.arg("--input").arg(input);
        }
        command.arg("--dir").arg(self.dir());
        if self.secure {
            command.arg("--keys").arg(self.runtime_dir.path().join(service(role)));
        }
        if self.verbose == 0 && std::env::var_os("RUST_LOG").is_none() {
            // Deaths are part of the play: a handshake that one of them cuts short is none of the audience's concern.
            command.env("RUST_LOG", "warn,ripstop::fabric::link=error,ripstop::fabric::hub=error");
        }
        if self.verbose > 0 {
            command.arg(format!("-{}", "v".repeat(self.verbose.into())));
        }
        let mut child = command
            .env("RIPSTOP_RUNTIME_DIR", self.runtime_dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for us; we end the others.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let from = self.actors.len();
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ear = self.ear.clone();
        tokio::spawn(async move {
            if let Some(stdout) = stdout {
                listen(stdout, |line| {
                    let what = match decode(line.as_bytes()) {
                        Ok(say) => What::Said(say),
                        Err(error) => What::Complained(error.to_string()),
                    };
                    ear.send(Heard { from, what })
                })
                .await;
            }
            // Nobody listens at the very end only.
            let _ = ear.send(Heard { from, what: What::Ended }).await;
        });
        let ear = self.ear.clone();
        tokio::spawn(async move {
            if let Some(stderr) = stderr {
                listen(stderr, |line| ear.send(Heard { from, what: What::Complained(line) })).await;
            }
        });
        let name = name.to_owned();
        self.actors.push(Actor { name, role, node: None, done: 0, killed: false, child, stdin });
        Ok(())
    }

    /// What is heard next.
    pub(super) async fn hear(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            // We hold a sender ourselves: the channel never closes.
            None => std::future::pending().await,
        }
    }

    /// Asks one of them something. One that has ended does not answer, and that is heard as `Ended`.
    pub(super) async fn ask(&mut self, actor: usize, ask: &Ask) -> Result<(), Failure> {
        let mut line = encode(ask)?;
        line.push('\n');
        if let Some(stdin) = self.actors.get_mut(actor).and_then(|actor| actor.stdin.as_mut()) {
            let _ = stdin.write_all(line.as_bytes()).await;
        }
        Ok(())
    }

    /// SIGKILL, and when this returns it is gone, so that another can take its place.
    pub(super) async fn kill(&mut self, actor: usize) -> Result<(), Failure> {
        if let Some(actor) = self.actors.get_mut(actor) {
            actor.killed = true;
            actor
                .child
                .kill()
                .await
                .map_err(|error| Failure::failed(format!("cannot kill {}: {error}", actor.name)))?;
        }
        Ok(())
    }

    /// Lets all of them end, and ends those that do not. Dropping the stage instead kills all of them at once.
    pub(super) async fn close(mut self) {
        for actor in &mut self.actors {
            actor.stdin = None;
        }
        let Self { mut actors, mut heard, .. } = self;
        let ends = async {
            for actor in &mut actors {
                // An error means that it is gone already.
                let _ = actor.child.wait().await;
            }
        };
        // Their pipes are emptied meanwhile, so that nobody waits to write.
        let drain = async { while heard.recv().await.is_some() {} };
        tokio::select! {
            _ = timeout(TO_END, ends) => {}
            () = drain => {}
        }
    }
}

async fn listen<F: Future>(stream: impl AsyncRead + Unpin, mut heard: impl FnMut(String) -> F) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        heard(line).await;
    }
}

/// What a role is called, and the service that it is.
pub(super) fn service(role: Role) -> &'static str {
    match role {
        Role::Pricing => "pricing",
        Role::Orders => "orders",
        Role::Mailer => "mailer",
        Role::Ledger => "ledger",
    }
}

/// Keys for everyone, from a CA that nobody keeps.
#[cfg(feature = "tls")]
fn issue_keys(fabric: &str, dir: &Path) -> Result<(), Failure> {
    use std::time::SystemTime;

    let now = SystemTime::now();
    let mut ca = ripstop::security::Ca::new(fabric, now, 30)?;
    for role in [Role::Pricing, Role::Orders, Role::Mailer, Role::Ledger] {
        let issued = ca.issue(service(role), now - ripstop::security::Ca::SKEW, ca.expires())?;
        issued.write(&dir.join(service(role)))?;
    }
    Ok(())
}

#[cfg(not(feature = "tls"))]
fn issue_keys(_: &str, _: &Path) -> Result<(), Failure> {
    Ok(())
}

/// A directory of this user's only, removed when dropped.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Result<Self, Failure> {
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |t| t.subsec_nanos());
        let path = std::env::temp_dir().join(format!("ripstop-{name}-{nanos:08x}"));
        // 0700, and it must not exist: another user cannot have laid it out for us.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| Failure::failed(format!("cannot create {}: {error}", path.display())))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Left behind, it is only clutter in the temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}
