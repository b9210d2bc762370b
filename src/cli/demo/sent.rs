//! The mail server, as it were: it takes each mail once, whoever brings it however often.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fs,
    hash::{Hash, Hasher},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::exit::Failure;

fn place(dir: &Path) -> PathBuf {
    dir.join("sent")
}

pub(super) fn prepare(dir: &Path) -> Result<(), Failure> {
    fs::create_dir(place(dir)).map_err(|error| Failure::failed(format!("cannot prepare the mails: {error}")))
}

/// Sends the mail about an order; `false`: it was sent before.
pub(super) fn send(dir: &Path, order: &str, by: &str) -> io::Result<bool> {
    // An order may be called anything; its file may not.
    let mut hasher = DefaultHasher::new();
    order.hash(&mut hasher);
    // A link to whoever has sent it: made as a whole or not at all, and only once.
    match symlink(by, place(dir).join(format!("{:016x}", hasher.finish()))) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// How many mails were sent, by who sent them.
pub(super) fn count(dir: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for mail in fs::read_dir(place(dir))? {
        let by = fs::read_link(mail?.path())?;
        *counts.entry(by.to_string_lossy().into_owned()).or_default() += 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mail_is_sent_once() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path()).unwrap();
        assert!(send(dir.path(), "a/b", "one").unwrap());
        assert!(!send(dir.path(), "a/b", "two").unwrap());
        assert!(send(dir.path(), "c", "two").unwrap());
        let counts = count(dir.path()).unwrap();
        assert_eq!(counts, [("one".to_owned(), 1), ("two".to_owned(), 1)].into());
    }
}
