//! Nodes of one user on one machine: an advert file each, in a directory that nobody else can write to.
//!
//! ```text
//! $XDG_RUNTIME_DIR/ripstop/default/          0700, ours
//!     4f0c…9a.lock     held by a file lock for as long as the process lives; the kernel lets go, however it dies
//!     4f0c…9a.toml     the advert, replaced as a whole
//! ```
//! The lock has a file of its own, because the advert's file is replaced with each change. A free lock means that the process is
//! dead, and whoever notices removes its files. The directory is watched; that a killed process's lock file is closed is an event too.

mod files;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};

use super::{Advert, BoxFuture, Change, Changes, DiscoveryError, Key, Source};
use crate::sync::lock;
use files::{Held, Scanner};

/// Changes that may wait for the directory.
const CHANNEL: usize = 1024;
/// Locks are looked at this often, in case an event was lost.
const LOOK: Duration = Duration::from_secs(1);
/// The same where nothing can be watched.
const LOOK_WITHOUT_WATCH: Duration = Duration::from_millis(200);
/// The whole directory is listed this often.
const LIST: Duration = Duration::from_secs(5);
/// The kernel reports that a dead process's file is closed just before it lets go of the lock.
const LET_GO: Duration = Duration::from_millis(10);

/// Finds the nodes of this user on this machine, with no configuration.
///
/// They meet in `$RIPSTOP_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/ripstop`, else `ripstop-UID` in the directory for temporary
/// files; it has to be private (0700). A process that is killed is noticed within milliseconds, 2 s at most.
///
/// ```no_run
/// # async fn example(directory: ripstop::discovery::Directory) {
/// directory.add_source(std::sync::Arc::new(ripstop::discovery::Local::new("default")));
/// # }
/// ```
#[derive(Debug)]
pub struct Local {
    dir: PathBuf,
    /// What is announced; its drop takes it back.
    own: Arc<Mutex<Option<Held>>>,
    look: Arc<Notify>,
}

impl Local {
    /// The nodes of this fabric. Nothing is created before the first announcement or watch.
    ///
    /// ```
    /// use ripstop::discovery::{Local, Source};
    /// assert_eq!(Local::new("default").name(), "local");
    /// ```
    pub fn new(fabric: impl Into<String>) -> Self {
        Self::in_dir(files::runtime_dir(), fabric)
    }

    /// The same, in a directory of choice. It is created with mode 0700, and refused if others could write to it.
    ///
    /// ```
    /// use ripstop::discovery::Local;
    /// let source = Local::in_dir("/run/shop", "default");
    /// assert_eq!(source.directory(), std::path::Path::new("/run/shop/default"));
    /// ```
    pub fn in_dir(dir: impl Into<PathBuf>, fabric: impl Into<String>) -> Self {
        let dir = dir.into().join(files::file_name(&fabric.into()));
        Self { dir, own: Arc::default(), look: Arc::default() }
    }

    /// Where the adverts of this fabric are.
    ///
    /// ```
    /// assert!(ripstop::discovery::Local::new("shop").directory().ends_with("shop"));
    /// ```
    pub fn directory(&self) -> &Path {
        &self.dir
    }
}

impl Source for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn announce(&self, advert: Advert) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move {
            files::private_dir(&self.dir)?;
            let held =
                lock(&self.own).take().filter(|held| Some(held.node) == advert.node && held.is_in_place());
            let held = match (held, advert.node) {
                (Some(held), _) => held,
                (None, Some(node)) => files::hold(&self.dir, node).await?,
                // Nothing to file it under, and nobody to be found.
                (None, None) => return Ok(()),
            };
            let written = held.write(advert);
            // Kept even if it could not be written: the next announcement tries again.
            *lock(&self.own) = Some(held);
            written
        })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        drop(lock(&self.own).take());
        Box::pin(async { Ok(()) })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Changes, DiscoveryError>> {
        Box::pin(async {
            files::private_dir(&self.dir)?;
            let (touched, touches) = mpsc::channel(1);
            let watcher = watch_directory(&self.dir, touched);
            let (sender, changes) = mpsc::channel(CHANNEL);
            let scanner = Scanner::new(self.dir.clone());
            tokio::spawn(follow(
                scanner,
                watcher,
                touches,
                self.look.clone(),
                Arc::downgrade(&self.own),
                sender,
            ));
            Ok(changes)
        })
    }

    fn verify(&self, _: &Key) {
        self.look.notify_one();
    }
}

/// `None` where nothing can be watched (the system's number of watches is used up, an exotic file system): then polling has to do.
fn watch_directory(dir: &Path, touched: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let ours = match event {
            Ok(event) if event.need_rescan() => true,
            Ok(event) => {
                // Opening and reading are events too, and our own: heeding them would never end.
                let counts = match event.kind {
                    EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
                    _ => true,
                };
                let named =
                    |path: &PathBuf| path.extension().is_some_and(|ext| ext == "toml" || ext == "lock");
                counts && event.paths.iter().any(named)
            }
            Err(_) => true,
        };
        if ours {
            // One waiting touch is enough.
            let _ = touched.try_send(());
        }
    });
    let watching = watcher.and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(|error| {
            tracing::warn!(dir = %dir.display(), %error, "cannot watch the directory; looking five times a second instead");
        })
        .ok()
}

async fn follow(
    mut scanner: Scanner,
    watcher: Option<notify::RecommendedWatcher>,
    mut touches: mpsc::Receiver<()>,
    look: Arc<Notify>,
    own: Weak<Mutex<Option<Held>>>,
    sender: mpsc::Sender<Change>,
) {
    let mut list = true;
    let mut listed = Instant::now();
    let mut pause = LET_GO;
    loop {
        // Few and small files, but a file system can be slow.
        let scanned = tokio::task::spawn_blocking(move || {
            let outcome = scanner.scan(list);
            (scanner, outcome)
        });
        let (back, outcome) = match scanned.await {
            Ok(scanned) => scanned,
            // The runtime is being shut down; ending the channel would be told as if something had gone wrong.
            Err(error) if error.is_cancelled() => return sender.closed().await,
            Err(_) => return,
        };
        scanner = back;
        match outcome {
            Ok(changes) => {
                for change in changes {
                    if sender.send(change).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                // The directory is gone: ending the channel has it made anew.
                tracing::warn!(%error, "cannot list the local nodes");
                return;
            }
        }
        if list {
            listed = Instant::now();
            // A cleaner of temporary files may have taken our own.
            if let Some(own) = own.upgrade()
                && let Some(held) = lock(&own).as_ref().filter(|held| !held.is_written())
            {
                held.write_again();
            }
        }
        list = tokio::select! {
            touch = touches.recv(), if watcher.is_some() => {
                pause = LET_GO;
                if touch.is_none() {
                    return;
                }
                true
            }
            () = look.notified() => true,
            () = tokio::time::sleep(pause) => {
                pause = if watcher.is_some() { LOOK } else { LOOK_WITHOUT_WATCH };
                watcher.is_none() || listed.elapsed() >= LIST
            }
            () = sender.closed() => return,
        };
    }
}

#[cfg(test)]
mod tests;
