use std::time::Duration;

use super::*;

fn peer(service: &str, port: u16) -> String {
    format!("[[peers]]\nservice = '{service}'\nendpoint = 'tcp://127.0.0.1:{port}'\n")
}

async fn next(changes: &mut Changes) -> String {
    let change =
        tokio::time::timeout(Duration::from_secs(15), changes.recv()).await.expect("in time").expect("open");
    match change {
        Change::Up(advert) => format!("up {} {}", advert.key().unwrap(), advert.roots.join(",")),
        Change::Down(key) => format!("down {key}"),
    }
}

async fn nothing(changes: &mut Changes) {
    let more = tokio::time::timeout(Duration::from_millis(200), changes.recv()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn the_file_is_followed_through_edits_breaks_and_renames() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ripstop.toml");
    std::fs::write(&path, peer("a", 1) + &peer("b", 2)).unwrap();
    let source = StaticFile::new(&path, "default");
    let mut changes = source.watch().await.unwrap();
    assert_eq!(next(&mut changes).await, "up tcp://127.0.0.1:1 a");
    assert_eq!(next(&mut changes).await, "up tcp://127.0.0.1:2 b");

    // Edited in place.
    std::fs::write(&path, peer("a", 1) + &peer("c", 3)).unwrap();
    assert_eq!(next(&mut changes).await, "down tcp://127.0.0.1:2");
    assert_eq!(next(&mut changes).await, "up tcp://127.0.0.1:3 c");

    // Broken: what was read before stays.
    std::fs::write(&path, peer("a", 1) + "[[peers]]\nservice = ").unwrap();
    nothing(&mut changes).await;

    // Written beside it and renamed, as editors do.
    let draft = dir.path().join(".ripstop.toml.swp");
    std::fs::write(&draft, peer("a", 1) + &peer("c", 3) + &peer("d", 4)).unwrap();
    std::fs::rename(&draft, &path).unwrap();
    assert_eq!(next(&mut changes).await, "up tcp://127.0.0.1:4 d");

    // Removed, and there again.
    std::fs::remove_file(&path).unwrap();
    nothing(&mut changes).await;
    std::fs::write(&path, peer("d", 4)).unwrap();
    assert_eq!(next(&mut changes).await, "down tcp://127.0.0.1:1");
    assert_eq!(next(&mut changes).await, "down tcp://127.0.0.1:3");
    nothing(&mut changes).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_mounted_file_behind_a_link_is_followed() {
    // As Kubernetes does it: the file is a link into a directory that is itself a link, and that one is replaced.
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (version, text) in [("v1", peer("a", 1)), ("v2", peer("b", 2))] {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("ripstop.toml"), text).unwrap();
    }
    std::os::unix::fs::symlink("v1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/ripstop.toml", at("ripstop.toml")).unwrap();
    let mut changes = StaticFile::new(at("ripstop.toml"), "default").watch().await.unwrap();
    assert_eq!(next(&mut changes).await, "up tcp://127.0.0.1:1 a");
    std::os::unix::fs::symlink("v2", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    assert_eq!(next(&mut changes).await, "down tcp://127.0.0.1:1");
    assert_eq!(next(&mut changes).await, "up tcp://127.0.0.1:2 b");
}

#[tokio::test]
async fn one_address_may_provide_several_services() {
    let peers = vec![
        PeerConfig::new("a", "tcp://127.0.0.1:1".parse().unwrap()),
        PeerConfig::new("b", "tcp://127.0.0.1:1".parse().unwrap()),
    ];
    let mut changes = Static::new(peers, "default").watch().await.unwrap();
    assert_eq!(next(&mut changes).await, "up tcp://127.0.0.1:1 a,b");
    nothing(&mut changes).await;
}

#[tokio::test]
async fn a_file_in_a_directory_that_is_not_there_is_an_error() {
    let error = StaticFile::new("/nonexistent/ripstop.toml", "default").watch().await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/ripstop.toml") && error.is_retryable(), "{error}");
}
