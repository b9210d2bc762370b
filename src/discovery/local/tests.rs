use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::discovery::NodeId;

fn advert(node: NodeId, root: &str) -> Advert {
    Advert::new(node, "default", "pricing").endpoint("tcp://127.0.0.1:5555".parse().unwrap()).root(root)
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

async fn next(changes: &mut Changes) -> Change {
    tokio::time::timeout(Duration::from_secs(10), changes.recv())
        .await
        .expect("a change in time")
        .expect("an open channel")
}

async fn nothing(changes: &mut Changes) {
    let more = tokio::time::timeout(Duration::from_millis(50), changes.recv()).await;
    assert!(more.is_err(), "{more:?}");
}

fn files(source: &Local) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(source.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn two_nodes_of_one_process_meet_change_and_part() {
    let dir = place();
    let (one, two) = (Local::in_dir(dir.path(), "default"), Local::in_dir(dir.path(), "default"));
    let (a, b) = (NodeId::random(), NodeId::random());
    one.announce(advert(a, "a")).await.unwrap();
    let mut seen = two.watch().await.unwrap();
    assert_eq!(next(&mut seen).await, Change::Up(advert(a, "a")));
    two.announce(advert(b, "b")).await.unwrap();
    assert_eq!(next(&mut seen).await, Change::Up(advert(b, "b")));
    one.announce(advert(a, "c")).await.unwrap();
    assert_eq!(next(&mut seen).await, Change::Up(advert(a, "c")));
    nothing(&mut seen).await;
    one.withdraw().await.unwrap();
    assert_eq!(next(&mut seen).await, Change::Down(a.into()));
    drop(two);
    assert_eq!(next(&mut seen).await, Change::Down(b.into()));
    assert!(files(&one).is_empty(), "{:?}", files(&one));
}

#[tokio::test]
async fn the_dead_are_noticed_and_cleared_away() {
    let dir = place();
    let source = Local::in_dir(dir.path(), "default");
    let mut seen = source.watch().await.unwrap();
    // What a killed process leaves: an advert, and a lock that nobody holds.
    let (killed, unlocked) = (NodeId::random(), NodeId::random());
    let write = |node: NodeId| {
        let text = toml::to_string(&advert(node, "a")).unwrap();
        std::fs::write(source.directory().join(format!("{node}.toml")), text).unwrap();
    };
    std::fs::write(source.directory().join(format!("{killed}.lock")), "").unwrap();
    write(killed);
    write(unlocked);
    let start = Instant::now();
    while !files(&source).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", files(&source));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    nothing(&mut seen).await;
}

#[tokio::test]
async fn a_node_runs_only_once() {
    let dir = place();
    let (one, two) = (Local::in_dir(dir.path(), "default"), Local::in_dir(dir.path(), "default"));
    let node = NodeId::random();
    one.announce(advert(node, "a")).await.unwrap();
    let error = two.announce(advert(node, "a")).await.unwrap_err();
    assert!(error.to_string().contains("already running"), "{error}");
    drop(one);
    two.announce(advert(node, "a")).await.unwrap();
}

#[tokio::test]
async fn a_broken_advert_is_skipped() {
    let dir = place();
    let (one, two) = (Local::in_dir(dir.path(), "default"), Local::in_dir(dir.path(), "default"));
    let (broken, good) = (NodeId::random(), NodeId::random());
    one.announce(advert(broken, "a")).await.unwrap();
    let path = one.directory().join(format!("{broken}.toml"));
    std::fs::write(&path, "node = 'what'").unwrap();
    let mut seen = two.watch().await.unwrap();
    two.announce(advert(good, "b")).await.unwrap();
    assert_eq!(next(&mut seen).await, Change::Up(advert(good, "b")));
    one.announce(advert(broken, "c")).await.unwrap();
    assert_eq!(next(&mut seen).await, Change::Up(advert(broken, "c")));
}

#[tokio::test]
async fn what_a_cleaner_took_is_written_again() {
    let dir = place();
    let source = Local::in_dir(dir.path(), "default");
    let node = NodeId::random();
    source.announce(advert(node, "a")).await.unwrap();
    let mut seen = source.watch().await.unwrap();
    assert_eq!(next(&mut seen).await, Change::Up(advert(node, "a")));
    std::fs::remove_file(source.directory().join(format!("{node}.toml"))).unwrap();
    assert_eq!(next(&mut seen).await, Change::Down(node.into()));
    assert_eq!(next(&mut seen).await, Change::Up(advert(node, "a")));
}

#[tokio::test]
async fn a_removed_directory_ends_the_channel_and_is_made_anew() {
    let dir = place();
    let source = Local::in_dir(dir.path(), "default");
    let mut seen = source.watch().await.unwrap();
    std::fs::remove_dir_all(source.directory()).unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), seen.recv()).await.unwrap(), None);
    source.announce(advert(NodeId::random(), "a")).await.unwrap();
    assert!(matches!(next(&mut source.watch().await.unwrap()).await, Change::Up(_)));
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_that_others_can_enter_is_refused() {
    let dir = place();
    let source = Local::in_dir(dir.path(), "default");
    drop(source.watch().await.unwrap());
    set_mode(source.directory(), 0o755);
    let error = source.watch().await.unwrap_err();
    assert!(matches!(error, DiscoveryError::NotPrivate { .. }), "{error}");
    assert!(error.to_string().contains("chmod 700"), "{error}");
    set_mode(source.directory(), 0o700);
    set_mode(dir.path(), 0o777);
    let error = source.announce(advert(NodeId::random(), "a")).await.unwrap_err();
    assert!(error.to_string().contains("chmod go-w"), "{error}");

    // A link to a directory of somebody's choice.
    let other = place();
    std::os::unix::fs::symlink(other.path(), dir.path().join("linked")).unwrap();
    set_mode(dir.path(), 0o700);
    let error = Local::in_dir(dir.path(), "linked").watch().await.unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
}

#[test]
fn fabric_names_stay_inside_the_directory() {
    for (fabric, wanted) in
        [("shop", "shop"), ("../../etc", "%2E%2E%2F.%2Fetc"), ("..", "%2E."), ("a.b", "a.b"), ("", "")]
    {
        let name = files::file_name(fabric);
        assert!(!name.contains('/') && name != ".." && name != ".", "{name}");
        if !wanted.contains("%2F") {
            assert_eq!(name, wanted);
        }
    }
}

/// The other process of the next test: this test binary, started again with a directory to announce in.
#[tokio::test]
async fn helper_process() {
    let Some(dir) = std::env::var_os("RIPSTOP_TEST_LOCAL_DIR") else { return };
    let source = Local::in_dir(dir, "default");
    source.announce(advert(NodeId::random(), "a")).await.unwrap();
    println!("announced");
    tokio::time::sleep(Duration::from_secs(60)).await;
}

struct Other(Child);

impl Other {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "discovery::local::tests::helper_process", "--nocapture"])
            .env("RIPSTOP_TEST_LOCAL_DIR", dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("announced")));
        Self(child)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn another_process_is_found_at_once_and_missed_when_killed() {
    let dir = place();
    let source = Local::in_dir(dir.path(), "default");
    let mut early = source.watch().await.unwrap();
    let mut other = Other::start(dir.path());
    let start = Instant::now();
    let Change::Up(found) = next(&mut early).await else { panic!("not up") };
    println!("found after {:?} by one who watches", start.elapsed());
    let start = Instant::now();
    let mut late = source.watch().await.unwrap();
    assert!(matches!(next(&mut late).await, Change::Up(_)));
    println!("found after {:?} by one who comes", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());

    other.0.kill().unwrap();
    other.0.wait().unwrap();
    let start = Instant::now();
    assert_eq!(next(&mut early).await, Change::Down(found.node.unwrap().into()));
    println!("missed {:?} after it was killed", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(files(&source).is_empty());
}
