//! The files of the source `local`: who holds them, who reads them, who removes those of the dead.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};

use crate::discovery::{Advert, Change, DiscoveryError, Key, NodeId};
use crate::sync::lock;

/// The largest advert that is read.
const MAX_ADVERT: u64 = 256 << 10;
/// The most nodes that are read.
const MAX_NODES: usize = 4096;
/// Others look at a lock for a moment, and it seems taken; this often and this long it is tried again.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(2);

/// Where the fabrics of this user are.
pub(super) fn runtime_dir() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("RIPSTOP_RUNTIME_DIR") {
        return dir;
    }
    // The specification says to ignore relative paths; and a login that is over leaves a path that is gone.
    if let Some(dir) = set("XDG_RUNTIME_DIR").filter(|dir| dir.is_absolute() && dir.is_dir()) {
        return dir.join("ripstop");
    }
    let temporary = std::env::temp_dir();
    match user(&temporary) {
        Some(user) => temporary.join(format!("ripstop-{user}")),
        None => temporary.join("ripstop"),
    }
}

/// A fabric's name as a file name: what could mean something in a path is written in hex.
pub(super) fn file_name(fabric: &str) -> String {
    let mut name = String::new();
    for byte in fabric.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            b'.' if !name.is_empty() => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

/// Makes the directory, and makes sure that only this user can write to it.
pub(super) fn private_dir(dir: &Path) -> Result<(), DiscoveryError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(0o700);
    builder.create(dir).map_err(|error| failed("create", dir, error))?;
    #[cfg(unix)]
    {
        let user = user(dir);
        // Not followed: a link would be somebody's choice of another place.
        let found = fs::symlink_metadata(dir).map_err(|error| failed("read", dir, error))?;
        let refuse = |path: &Path, reason: String, hint: String| {
            Err(DiscoveryError::NotPrivate { path: path.to_path_buf(), reason, hint })
        };
        let elsewhere = "set RIPSTOP_RUNTIME_DIR to a directory of your own".to_owned();
        if !found.is_dir() {
            return refuse(dir, "it is not a directory".into(), elsewhere);
        }
        if user.is_some_and(|user| user != found.uid()) {
            return refuse(dir, format!("it belongs to user {}", found.uid()), elsewhere);
        }
        if found.mode() & 0o077 != 0 {
            let reason = format!("its mode is {:03o}", found.mode() & 0o777);
            return refuse(dir, reason, format!("run: chmod 700 {}", dir.display()));
        }
        // Whoever can write to the parent could put another directory in its place, unless it is sticky, like /tmp.
        if let Some(parent) = dir.parent() {
            let found = fs::metadata(parent).map_err(|error| failed("read", parent, error))?;
            if found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0 {
                let reason = format!("others can write to it (mode {:03o})", found.mode() & 0o777);
                return refuse(parent, reason, format!("run: chmod go-w {}", parent.display()));
            }
        }
    }
    Ok(())
}

/// This user's number: the owner of our own process entry, else of a file that we make.
#[cfg(unix)]
fn user(near: &Path) -> Option<u32> {
    if let Ok(found) = fs::metadata("/proc/self") {
        return Some(found.uid());
    }
    let probe = near.join(format!(".ripstop-{}", NodeId::random()));
    let file = OpenOptions::new().write(true).create_new(true).open(&probe).ok()?;
    let user = file.metadata().ok().map(|found| found.uid());
    let _ = fs::remove_file(&probe);
    user
}

#[cfg(not(unix))]
fn user(_: &Path) -> Option<u32> {
    None
}

/// A node's lock, held until dropped; then its files go.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) node: NodeId,
    dir: PathBuf,
    lock: File,
    written: Mutex<Option<Advert>>,
}

/// Takes the node's lock.
pub(super) async fn hold(dir: &Path, node: NodeId) -> Result<Held, DiscoveryError> {
    let path = dir.join(format!("{node}.lock"));
    for _ in 0..TRIES {
        let mut options = OpenOptions::new();
        // Open for writing: that is what makes its closing an event.
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        options.mode(0o600);
        let lock = options.open(&path).map_err(|error| failed("create", &path, error))?;
        match lock.try_lock() {
            // Somebody may have cleared the file away between its opening and its locking.
            Ok(()) if is_at(&lock, &path) => {
                return Ok(Held { node, dir: dir.to_path_buf(), lock, written: Mutex::default() });
            }
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => tokio::time::sleep(BETWEEN_TRIES).await,
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path, error)),
        }
    }
    Err(DiscoveryError::Source {
        source_name: "local",
        reason: format!("node {node} is already running on this machine: two processes share one data_dir"),
    })
}

impl Held {
    /// Replaces the advert as a whole: readers see the old one or the new one.
    pub(super) fn write(&self, advert: Advert) -> Result<(), DiscoveryError> {
        let (path, draft) = (self.path("toml"), self.path("tmp"));
        let text = toml::to_string(&advert).map_err(|error| DiscoveryError::Source {
            source_name: "local",
            reason: format!("the advert can't be written: {error}"),
        })?;
        *lock(&self.written) = Some(advert);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        options.mode(0o600);
        options
            .open(&draft)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(|error| failed("write", &path, error))
    }

    pub(super) fn write_again(&self) {
        let advert = lock(&self.written).clone();
        if let Some(Err(error)) = advert.map(|advert| self.write(advert)) {
            tracing::warn!(%error, "the advert of this node is gone and can't be written again");
        }
    }

    /// Whether the lock file is still the one that others look at.
    pub(super) fn is_in_place(&self) -> bool {
        is_at(&self.lock, &self.path("lock"))
    }

    pub(super) fn is_written(&self) -> bool {
        lock(&self.written).is_none() || self.path("toml").exists()
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.node))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_in_place() {
            remove(&self.dir, self.node);
        }
    }
}

/// What tells one version of an advert file from the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        #[cfg(unix)]
        let inode = found.ino();
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Self { len: found.len(), modified: found.modified().ok(), inode })
    }
}

/// Reads the directory and knows what it has read.
#[derive(Debug)]
pub(super) struct Scanner {
    dir: PathBuf,
    known: HashMap<NodeId, Known>,
    /// Adverts that could not be read, so that each is complained of once.
    bad: HashMap<NodeId, Stamp>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// Kept open: opening is an event for everybody who watches.
    lock: File,
}

impl Scanner {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, known: HashMap::new(), bad: HashMap::new() }
    }

    /// Looks at the locks of those known, and, with `list`, at the whole directory.
    pub(super) fn scan(&mut self, list: bool) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        let dead: Vec<NodeId> =
            self.known.iter().filter(|(_, k)| is_free(&k.lock)).map(|(n, _)| *n).collect();
        for node in dead {
            self.known.remove(&node);
            changes.push(Change::Down(Key::Node(node)));
            clear(&self.dir, node);
        }
        if !list {
            return Ok(changes);
        }
        let mut listed = HashSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let node = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            match (node, path.extension().and_then(|ext| ext.to_str())) {
                (Some(node), Some("toml")) if listed.len() < MAX_NODES => {
                    if let Some(advert) = self.look_at(node, &path) {
                        changes.push(Change::Up(advert));
                    }
                    listed.insert(node);
                }
                (Some(node), Some("lock"))
                    if !self.known.contains_key(&node) && !path.with_extension("toml").exists() =>
                {
                    clear(&self.dir, node);
                }
                _ => {}
            }
        }
        let gone: Vec<NodeId> = self.known.keys().filter(|node| !listed.contains(*node)).copied().collect();
        for node in gone {
            self.known.remove(&node);
            changes.push(Change::Down(Key::Node(node)));
        }
        self.bad.retain(|node, _| listed.contains(node));
        Ok(changes)
    }

    /// The advert, if it is new and its node is alive.
    fn look_at(&mut self, node: NodeId, path: &Path) -> Option<Advert> {
        // Gone since it was listed: the next look will say so.
        let stamp = Stamp::of(path).ok()?;
        if self.known.get(&node).is_some_and(|known| known.stamp == stamp)
            || self.bad.get(&node) == Some(&stamp)
        {
            return None;
        }
        let lock = match File::open(path.with_extension("lock")) {
            Ok(lock) if !is_free(&lock) => lock,
            Ok(_) => {
                clear(&self.dir, node);
                return None;
            }
            Err(error) => {
                // An advert that nobody holds.
                if error.kind() == ErrorKind::NotFound {
                    clear(&self.dir, node);
                }
                return None;
            }
        };
        match read(path, node) {
            Ok(advert) => {
                self.known.insert(node, Known { stamp, lock });
                Some(advert)
            }
            // It left between the two looks.
            Err(_) if !path.exists() => None,
            Err(reason) => {
                tracing::warn!(file = %path.display(), reason, "a local advert can't be read");
                self.bad.insert(node, stamp);
                None
            }
        }
    }
}

fn read(path: &Path, node: NodeId) -> Result<Advert, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(MAX_ADVERT + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if read as u64 > MAX_ADVERT {
        return Err(format!("more than {MAX_ADVERT} bytes"));
    }
    let advert: Advert = toml::from_str(&text).map_err(|error| error.message().to_owned())?;
    if advert.node == Some(node) { Ok(advert) } else { Err("its node is not the one in its name".into()) }
}

/// Whether nobody holds this lock.
fn is_free(lock: &File) -> bool {
    match lock.try_lock_shared() {
        Ok(()) => {
            let _ = lock.unlock();
            true
        }
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => {
            tracing::debug!(%error, "cannot look at a lock");
            false
        }
    }
}

/// Removes a dead node's files, unless it has come back meanwhile: only the holder of the lock may.
fn clear(dir: &Path, node: NodeId) {
    let path = dir.join(format!("{node}.lock"));
    match OpenOptions::new().write(true).open(&path) {
        Ok(lock) => {
            if lock.try_lock().is_ok() && is_at(&lock, &path) {
                remove(dir, node);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let _ = fs::remove_file(dir.join(format!("{node}.toml")));
        }
        Err(_) => {}
    }
}

/// The lock last: as long as it is there, it is held.
fn remove(dir: &Path, node: NodeId) {
    for extension in ["toml", "tmp", "lock"] {
        let _ = fs::remove_file(dir.join(format!("{node}.{extension}")));
    }
}

/// Whether this open file is the one at this path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => open.ino() == there.ino() && open.dev() == there.dev(),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> DiscoveryError {
    DiscoveryError::Io { action, path: path.to_path_buf(), error }
}
