//! Durable work against SIGKILL, in the manner of Jepsen's total queue: a sender that numbers its items and says which of them
//! are kept, a worker that writes down which of them it has done, both of them killed at random moments, and a checker.
//!
//! `RIPSTOP_KILLS=500 cargo test --release --test crash` for more than the 50 of each run.

#![allow(clippy::unwrap_used, clippy::expect_used)] // the helpers too are tests

#[cfg(target_os = "linux")]
mod full;
#[path = "../common/ledger.rs"]
mod ledger;
#[cfg(target_os = "linux")]
mod many;
#[cfg(target_os = "linux")]
mod power;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use ledger::{Balance, log, note, numbers};
use ripstop::Node;

const KILLS: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a role finds its files; without it `role` is no test.
const DIR: &str = "RIPSTOP_CRASH_DIR";
const ROLE: &str = "RIPSTOP_CRASH_ROLE";

/// What the processes do that are killed.
#[test]
fn role() {
    let (Some(dir), Ok(role)) = (std::env::var_os(DIR), std::env::var(ROLE)) else { return };
    let dir = PathBuf::from(dir);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = Node::builder(&role).fabric("crash").mdns(false).data_dir(dir.join(&role)).start().await;
        let node = node.unwrap();
        match role.as_str() {
            "sender" => send(&node, &dir).await,
            #[cfg(target_os = "linux")]
            "asker" => full::ask(&node, &dir).await,
            _ => {
                let path = dir.clone();
                let worker = node.work("items", move |item: Item, _| {
                    let (Item::Small(number) | Item::Large(number, _)) = item;
                    let path = path.clone();
                    async move {
                        note(&mut log(&path, "done"), number)?;
                        Ok(())
                    }
                });
                worker.await.unwrap();
                std::future::pending().await
            }
        }
    });
}

/// A number, alone or with something that makes it large.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Item {
    Small(u64),
    Large(u64, serde::de::IgnoredAny),
}

async fn send(node: &Node, dir: &Path) {
    let (mut asked, mut kept) = (log(dir, "asked"), log(dir, "kept"));
    let mut next = numbers(dir, "asked").last_key_value().map_or(0, |(last, _)| last + 1);
    loop {
        // Said before, so that one of which nothing is known counts as neither lost nor invented.
        let numbers: Vec<u64> = (next..next + 8).collect();
        next += 8;
        for number in &numbers {
            note(&mut asked, *number).unwrap();
        }
        let pushes: Vec<_> = numbers
            .iter()
            .map(|number| {
                let (node, number) = (node.clone(), *number);
                tokio::spawn(async move { node.push("items", &number).durable().await.map(|_| number) })
            })
            .collect();
        for push in pushes {
            note(&mut kept, push.await.unwrap().unwrap()).unwrap();
        }
        if dir.join("enough").exists() {
            std::future::pending::<()>().await;
        }
    }
}

struct Role {
    name: &'static str,
    child: Child,
}

impl Role {
    fn start(name: &'static str, dir: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["role", "--exact", "--nocapture"])
            .env(DIR, dir)
            .env(ROLE, name)
            .env("XDG_RUNTIME_DIR", dir)
            .stdout(Stdio::null())
            .stderr(log(dir, "stderr"))
            .spawn()
            .unwrap();
        Self { name, child }
    }

    #[cfg(target_os = "linux")]
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn kill(&mut self, dir: &Path) {
        assert!(self.child.try_wait().unwrap().is_none(), "{} has ended by itself", self.name);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        *self = Self::start(self.name, dir);
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nothing_that_was_kept_is_lost() {
    let kills = std::env::var("RIPSTOP_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (mut sender, mut worker) = (Role::start("sender", dir), Role::start("worker", dir));
    for kill in 0..kills {
        let before = numbers(dir, "done").len();
        let by = Instant::now() + PATIENCE;
        // Something happens between two kills, else they would only test the start.
        while kill % 5 == 0 && numbers(dir, "done").len() <= before {
            assert!(Instant::now() < by, "nothing is done any more: {}", told(dir));
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(fastrand::u64(0..150)));
        match fastrand::u8(0..3) {
            0 => sender.kill(dir),
            1 => worker.kill(dir),
            _ => {
                sender.kill(dir);
                worker.kill(dir);
            }
        }
    }
    fs::write(dir.join("enough"), "").unwrap();
    let by = Instant::now() + PATIENCE;
    let balance = loop {
        let balance = Balance::of(dir);
        if balance.lost.is_empty() || Instant::now() > by {
            break balance;
        }
        sleep(Duration::from_millis(50));
    };
    let Balance { kept, done, lost, invented, again } = balance;
    let known = numbers(dir, "kept");
    let recovered = numbers(dir, "done").keys().filter(|number| !known.contains_key(number)).count();
    println!(
        "{kills} kills: {kept} kept, {done} done, {} lost, {} invented, {} done more than once, {recovered} done whose \
         sender did not live to hear that they were kept",
        lost.len(),
        invented.len(),
        again.len(),
    );
    assert!(kept > 100, "hardly anything happened: {}", told(dir));
    assert!(lost.is_empty() && invented.is_empty(), "lost {lost:?}, invented {invented:?}: {}", told(dir));
}

/// What the processes have said.
fn told(dir: &Path) -> String {
    fs::read_to_string(dir.join("stderr")).unwrap_or_default()
}
