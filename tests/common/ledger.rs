//! Who has said what of which item, in the manner of Jepsen's total queue: a sender that numbers its items notes which it has
//! asked to be kept and which are, a worker notes which it has done, and a checker holds them against each other.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// A file to note numbers in.
pub(crate) fn log(dir: &Path, name: &str) -> File {
    OpenOptions::new().create(true).append(true).open(dir.join(name)).unwrap()
}

/// One line, in one write: a kill cuts none in two.
pub(crate) fn note(log: &mut File, number: u64) -> io::Result<()> {
    log.write_all(format!("{number}\n").as_bytes())
}

/// The numbers in a log, and how often each is there.
pub(crate) fn numbers(dir: &Path, name: &str) -> BTreeMap<u64, u32> {
    let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        *counts.entry(line.parse().unwrap()).or_default() += 1;
    }
    counts
}

/// How it came out.
#[derive(Debug)]
pub(crate) struct Balance {
    pub(crate) kept: usize,
    pub(crate) done: usize,
    /// Kept, and not done.
    pub(crate) lost: Vec<u64>,
    /// Done, and never asked for.
    pub(crate) invented: Vec<u64>,
    /// Done more than once, and how often.
    pub(crate) again: Vec<(u64, u32)>,
}

impl Balance {
    pub(crate) fn of(dir: &Path) -> Self {
        // In the order against that of the writing: what is there of the later ones is there of the earlier ones.
        let (done, kept, asked) = (numbers(dir, "done"), numbers(dir, "kept"), numbers(dir, "asked"));
        Self {
            kept: kept.len(),
            done: done.len(),
            lost: kept.keys().filter(|number| !done.contains_key(number)).copied().collect(),
            invented: done.keys().filter(|number| !asked.contains_key(number)).copied().collect(),
            again: done.iter().filter(|(_, times)| **times > 1).map(|(n, times)| (*n, *times)).collect(),
        }
    }
}
