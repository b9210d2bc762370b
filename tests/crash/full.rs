//! Durable work on a disk that is full: a file system of a few megabytes, and a sender that goes on asking.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use ripstop::{Node, durable::StoreError, fabric::PushError};

use super::{
    PATIENCE, Role,
    ledger::{Balance, log, note, numbers},
    told,
};

const SIZE: &str = "size=8m";
/// What is taken away when the disk is to have room again.
const BALLAST: usize = 4 << 20;
/// With each number, up to that, so that the disk is full soon, and to the last page.
const BODY: usize = 16 << 10;

/// Pushes one after the other, and notes which of them were refused, and why.
pub(crate) async fn ask(node: &Node, dir: &Path) {
    let (mut asked, mut kept, mut refused) = (log(dir, "asked"), log(dir, "kept"), log(dir, "refused"));
    for number in 0u64.. {
        if dir.join("enough").exists() {
            break;
        }
        note(&mut asked, number).unwrap();
        match node.push("items", &(number, "x".repeat(fastrand::usize(..BODY)))).durable().await {
            Ok(_) => note(&mut kept, number).unwrap(),
            Err(error) => {
                let PushError::Store(StoreError::Disk { reason }) = &error else { panic!("{error}") };
                assert!(error.is_retryable() && reason.contains("full"), "{error}");
                note(&mut refused, number).unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    std::future::pending().await
}

/// A small disk; unmounted when dropped.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever was killed may not have let go of it yet.
        let by = Instant::now() + PATIENCE;
        while !super::power::done("umount", &[self.0.to_str().unwrap()]) && Instant::now() < by {
            sleep(Duration::from_millis(20));
        }
    }
}

/// `None`, said loudly: a disk cannot be made here.
fn disk(at: PathBuf) -> Option<Disk> {
    fs::create_dir_all(&at).unwrap();
    if super::power::done("mount", &["-t", "tmpfs", "-o", SIZE, "tmpfs", at.to_str().unwrap()]) {
        return Some(Disk(at));
    }
    let required = std::env::var("REQUIRE_RIPSTOP").unwrap_or_default();
    assert!(!required.split(',').any(|what| what.trim() == "hosts"), "no tmpfs can be mounted");
    // Past the capture of the test harness: a skip that nobody sees is a lie.
    let _ = writeln!(std::io::stderr(), "SKIPPED: no tmpfs can be mounted (root is needed)");
    None
}

fn until(dir: &Path, what: &str, is: impl Fn() -> bool) {
    let by = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < by, "not {what}: {:?}: {}", Balance::of(dir), told(dir));
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let Some(disk) = disk(dir.join("asker")) else { return };
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1; BALLAST]).unwrap();
    let count = |name| numbers(dir, name).len();
    let mut asker = Role::start("asker", dir);
    until(dir, "full", || count("refused") > 20);
    let kept = count("kept");
    assert!(kept > 10, "hardly anything fitted: {}", told(dir));

    // What is on it can be worked on all the same.
    let _worker = Role::start("worker", dir);
    until(dir, "working", || count("done") > 0);

    fs::remove_file(&ballast).unwrap();
    until(dir, "going on", || count("kept") > kept + 20);
    fs::write(dir.join("enough"), "").unwrap();
    until(dir, "done", || Balance::of(dir).lost.is_empty());
    assert!(asker.child.try_wait().unwrap().is_none(), "it was another process: {}", told(dir));
    let balance = Balance::of(dir);
    let refused: BTreeSet<_> = numbers(dir, "refused").into_keys().collect();
    let taken: Vec<_> = numbers(dir, "done").into_keys().filter(|number| refused.contains(number)).collect();
    println!("{} kept, {kept} of them before the disk was full, {} refused", balance.kept, refused.len());
    assert!(taken.is_empty(), "refused, and done all the same: {taken:?}");
    assert!(balance.invented.is_empty() && balance.again.is_empty(), "{balance:?}");
}
