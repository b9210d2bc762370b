//! The fuzz corpora, replayed without a fuzzer. A crash that fuzzing finds goes into its corpus and stays fixed.

#![allow(clippy::expect_used)]

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub)]
mod fuzz;

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display()); // shown when it fails
        run(&std::fs::read(&path).expect("a readable file"));
        replayed += 1;
    }
    assert!(replayed >= 10, "{replayed} inputs in {}", folder.display());
}

#[test]
fn connection() {
    replay("connection", fuzz::connection);
}

#[test]
fn frames() {
    replay("frames", fuzz::frames);
}

#[test]
fn greeting() {
    replay("greeting", fuzz::greeting);
}

#[test]
fn commands() {
    replay("commands", fuzz::commands);
}

#[test]
fn envelope() {
    replay("envelope", fuzz::envelope);
}

#[cfg(feature = "curve")]
#[test]
fn curve_server() {
    replay("curve_server", fuzz::curve_server);
}

#[cfg(feature = "curve")]
#[test]
fn curve_client() {
    replay("curve_client", fuzz::curve_client);
}

#[test]
fn config() {
    replay("config", fuzz::config);
}
