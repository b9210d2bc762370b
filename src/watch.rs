//! When files may have changed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Editors write, rename and set modes in quick succession; one look afterwards is enough.
const SETTLE: Duration = Duration::from_millis(20);
/// A look without any word of the system, which network file systems don't give.
const LOOK: Duration = Duration::from_secs(5);

/// Tells when some files may have changed. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Touches {
    touches: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl Touches {
    /// Watches the directories of these files: a file is often replaced by renaming another one, and a symbolic link
    /// changes under another name, which a watch on the file itself would not survive.
    pub(crate) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> notify::Result<Self> {
        let (touched, touches) = mpsc::channel(1);
        let (mut names, mut directories) = (BTreeSet::<OsString>::new(), BTreeSet::<PathBuf>::new());
        for path in paths {
            names.extend(path.file_name().map(ToOwned::to_owned));
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            directories.insert(parent.unwrap_or(Path::new(".")).to_owned());
        }
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let ours = match event {
                Ok(event) if event.kind.is_access() => false,
                Ok(event) => match event.kind {
                    // Of links, as Kubernetes mounts have: any new name counts.
                    EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                        true
                    }
                    _ => event
                        .paths
                        .iter()
                        .any(|path| path.file_name().is_some_and(|name| names.contains(name))),
                },
                // An overflow: look.
                Err(_) => true,
            };
            if ours {
                // One waiting touch is enough.
                let _ = touched.try_send(());
            }
        })?;
        for directory in &directories {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { touches, _watcher: watcher })
    }

    /// Waits until it is time for a look: something was touched and has settled, or nothing was for 5 s. Cancel safe,
    /// but for the settling.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            Some(()) = self.touches.recv() => {
                tokio::time::sleep(SETTLE).await;
                while self.touches.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_replaced_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut touches = Touches::of([path.as_path()]).unwrap();
        std::fs::write(dir.path().join("new"), "1").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        let touched = async {
            touches.next().await;
            std::fs::write(&path, "2").unwrap();
            touches.next().await;
        };
        tokio::time::timeout(Duration::from_secs(5), touched).await.unwrap();
    }
}
