//! Durable work against power cuts: the disk is a file, which is copied while a sender writes; what is found in the copy is what a
//! machine would find that had lost its power then.
//!
//! `RIPSTOP_CUTS=100 cargo test --release --test crash power` for more than the 5 of each run. It takes root and a loop device.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use ripstop::{Node, durable::StoreFile};

use super::{PATIENCE, Role, ledger::numbers, told};

const CUTS: u32 = 5;
const IMAGE: u64 = 192 << 20;

/// Whether a command succeeds.
pub(crate) fn done(command: &str, args: &[&str]) -> bool {
    Command::new(command).args(args).output().is_ok_and(|output| output.status.success())
}

/// A file that is a disk, and the place where it is mounted.
struct Disk(PathBuf);

impl Disk {
    /// `None`: not here.
    fn mount(image: &Path, at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        done("mount", &["-o", "loop", image.to_str()?, at.to_str()?]).then_some(Self(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever was killed may not have let go of it yet.
        let by = Instant::now() + PATIENCE;
        while !done("umount", &[self.0.to_str().unwrap()]) && Instant::now() < by {
            sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn nothing_that_was_kept_is_lost_by_a_power_cut() {
    let cuts = std::env::var("RIPSTOP_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(CUTS);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (image, cut) = (dir.join("disk.img"), dir.join("cut.img"));
    fs::File::create(&image).unwrap().set_len(IMAGE).unwrap();
    let disk = done("mkfs.ext4", &["-q", image.to_str().unwrap()])
        .then(|| Disk::mount(&image, dir.join("sender")))
        .flatten();
    let Some(_disk) = disk else {
        let required =
            std::env::var("REQUIRE_RIPSTOP").is_ok_and(|list| list.split(',').any(|one| one == "power"));
        assert!(!required, "power cuts take root, mkfs.ext4 and a loop device");
        eprintln!("no power cuts here: they take root, mkfs.ext4 and a loop device");
        return;
    };
    let sender = Role::start("sender", dir);
    let mut least = 0;
    for _ in 0..cuts {
        let by = Instant::now() + PATIENCE;
        while numbers(dir, "kept").len() < least + 50 {
            assert!(Instant::now() < by, "nothing is kept any more: {}", told(dir));
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(fastrand::u64(0..100)));
        // It stands still while the disk is copied, so that the copy is of one moment; what it has not synchronised is in the
        // system's memory, and not in the copy.
        sender.signal("STOP");
        let kept = numbers(dir, "kept");
        assert!(done(
            "cp",
            &["--reflink=auto", "--sparse=always", image.to_str().unwrap(), cut.to_str().unwrap()]
        ));
        sender.signal("CONT");
        least = kept.len();
        let after = Disk::mount(&cut, dir.join("after")).expect("the copy is a file system");
        let store = StoreFile::open(&after.0).unwrap().check().unwrap();
        assert!(store.is_whole() && store.put_aside == 0, "{store:?}");
        let found = waiting(&after.0);
        let asked = numbers(dir, "asked");
        let lost: Vec<_> = kept.keys().filter(|number| !found.contains(number)).collect();
        let invented: Vec<_> = found.iter().filter(|number| !asked.contains_key(number)).collect();
        assert!(lost.is_empty() && invented.is_empty(), "lost {lost:?}, invented {invented:?}");
    }
    println!("{cuts} power cuts: {least} kept at the last one, 0 lost, 0 invented");
}

/// The numbers that a node with this directory owes.
fn waiting(data_dir: &Path) -> BTreeSet<u64> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let builder = Node::builder("after").fabric("after").local(false).mdns(false);
        let node = builder.data_dir(data_dir).start().await.unwrap();
        let (mut found, mut last) = (BTreeSet::new(), 0);
        loop {
            let page = node.kept().list("items", last, 1000).await.unwrap();
            let Some(item) = page.last() else { break };
            last = item.id;
            found.extend(page.iter().map(|item| item.body::<u64>().unwrap()));
        }
        node.drain().await;
        found
    })
}
