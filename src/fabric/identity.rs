//! Who this node is: a random id for each start, or one kept in `data_dir` with a counter of its starts.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::Path,
    sync::Mutex,
};

use serde::Deserialize;

use crate::{discovery::NodeId, fabric::error::StartError, sync::lock};

/// Id and epoch, and the lock that keeps another process from being the same node.
pub(crate) struct Identity {
    pub(crate) id: NodeId,
    pub(crate) epoch: u64,
    lock: Mutex<Option<File>>,
}

impl Identity {
    /// Another process may be this node from here on.
    pub(crate) fn release(&self) {
        lock(&self.lock).take();
    }
}

#[derive(Deserialize)]
struct Kept {
    id: NodeId,
    epoch: u64,
}

/// Takes the identity kept in `dir`, counting this start, or makes a random one that lasts as long as the process.
pub(crate) fn take(dir: Option<&Path>) -> Result<Identity, StartError> {
    let Some(dir) = dir else {
        return Ok(Identity { id: NodeId::random(), epoch: 0, lock: Mutex::default() });
    };
    kept(dir).map_err(|error| StartError::DataDir { path: dir.to_owned(), reason: error.to_string() })
}

fn kept(dir: &Path) -> io::Result<Identity> {
    fs::create_dir_all(dir)?;
    let held = File::create(dir.join("node.lock"))?;
    match held.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(io::Error::other("another process uses it; give each node a data_dir of its own"));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let path = dir.join("node.toml");
    let Kept { id, epoch } = match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|error| {
            io::Error::other(format!(
                "{} is damaged: {}; restore it, or remove it for a new id",
                path.display(),
                error.message()
            ))
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Kept { id: NodeId::random(), epoch: 0 },
        Err(error) => return Err(error),
    };
    let epoch = epoch + 1;
    // On disk before it is used: an epoch is never seen twice, whenever the power goes.
    let next = dir.join("node.toml.new");
    let mut file = File::create(&next)?;
    writeln!(file, "id = \"{id}\"\nepoch = {epoch}")?;
    file.sync_all()?;
    fs::rename(&next, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(Identity { id, epoch, lock: Mutex::new(Some(held)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_the_epoch_rises() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(Some(dir.path())).unwrap();
        assert!(take(Some(dir.path())).is_err(), "two nodes with one identity");
        let (id, epoch) = (first.id, first.epoch);
        drop(first);
        let second = take(Some(dir.path())).unwrap();
        assert_eq!((second.id, second.epoch), (id, epoch + 1));
        assert_ne!(take(None).unwrap().id, id);
    }

    #[test]
    fn a_damaged_file_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.toml"), "id = 7").unwrap();
        let error = take(Some(dir.path())).err().unwrap().to_string();
        assert!(error.contains("node.toml is damaged") && error.contains("remove it"), "{error}");
    }
}
